#!/usr/bin/env python3
"""make prove-diff: 10^8 instructions against the bare CPU (tests/diff/x86diff), in chunks with seeds of their own, so that what was
stopped goes on where it was. Prints one table over all chunks of its folder, with the coverage of the decode table, and
fails for a difference, for less than the total, or for a form that no chunk of its engine and mode ran. The engines are the translator as it
is (tcg), its second tier for every block (tcg,hot-tier=first) and the interpreter.

  tools/prove_diff.py [--total N] [--chunk N] [--engine E] [--mode 32|64] [--seconds S] [--table] [--folder F]
--engine and --mode: only that share; --seconds: start no chunk after that time; --table: run nothing. A chunk made by another x86diff counts
too: the table names the programs. Remove the folder (default build/prove/diff) to begin anew."""
import argparse
import hashlib
import os
import re
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get('LYREBIRD_BUILD', os.path.join(ROOT, 'build'))
FIRST = 'tcg,hot-tier=first'
# of a hundred; a new one comes last, the seeds count from its place
SHARE = {('tcg', '64'): 25, ('tcg', '32'): 15, ('interp', '64'): 13, ('interp', '32'): 7, (FIRST, '64'): 25, (FIRST, '32'): 15}
SEED = {k: 1000 * (i + 1) + 1 for i, k in enumerate(SHARE)}


class Chunk:
    """A finished log: instructions, what faulted, differences, coverage."""

    def __init__(self, path):
        with open(path, encoding='utf-8') as f:
            self.text = f.read()
        self.engine, self.mode, self.seed = os.path.basename(path)[:-4].rsplit('-', 2)
        n = re.search(r'; (\d+) instructions, (\d+) faulted on the CPU, (\d+) differences', self.text)
        c = re.search(r'coverage: (\d+) of (\d+) rows, (\d+) of (\d+) forms run; (\d+) operands crossed', self.text)
        self.done = bool(n and c)
        if self.done:
            self.insns, self.faults, self.bad = map(int, n.groups())
            self.rows, self.all_rows, self.forms, self.all_forms, self.crossed = map(int, c.groups())
            self.lacks = set(re.findall(r'form not run: (.*)', self.text))
            self.all_named = len(self.lacks) == self.all_forms - self.forms  # x86diff names ten at most
            self.unrun = [(int(k), why) for k, why in re.findall(r'rows not run: +(\d+), (.*)', self.text)]
            self.binary = (re.search(r'^binary (.*)', self.text, re.M) or ['', '?'])[1]


def chunks(folder):
    found = [Chunk(os.path.join(folder, n)) for n in sorted(os.listdir(folder)) if n.endswith('.log')] if os.path.isdir(folder) else []
    return [c for c in found if c.done]


def coverage(mine):
    """(forms that some chunk ran, forms there are). A chunk that did not name all it lacks, or does not know all forms, counts by itself only."""
    can = max(c.all_forms for c in mine)
    named = [c.lacks for c in mine if c.all_named and c.all_forms == can]
    return max([c.forms for c in mine] + ([can - len(set.intersection(*named))] if named else [])), can


def run_chunk(folder, key, seed, size):
    exe = os.path.join(BUILD, 'tests/diff/x86diff')
    with open(exe, 'rb') as f:
        binary = hashlib.sha256(f.read()).hexdigest()[:12]
    path = os.path.join(folder, f'{key[0]}-{key[1]}-{seed}.log')
    start = time.monotonic()
    p = subprocess.run([exe, '--total', str(size), '--seed', str(seed), '--mode', key[1], '--engine', key[0]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       text=True, errors='replace')
    with open(path + '.part', 'w', encoding='utf-8') as f:
        f.write(f'{p.stdout}binary {binary}\nstatus {p.returncode}, {time.monotonic() - start:.0f} s\n')
    os.rename(path + '.part', path)
    c = Chunk(path)
    if not c.done:
        sys.exit(f'prove_diff: {path}: x86diff ended with status {p.returncode}: ' + p.stdout[-400:])
    print(f'{key[0]:18} {key[1]} seed {seed}: {c.insns} instructions, {c.bad} differences, {time.monotonic() - start:.0f} s', flush=True)


def table(all_chunks, keys, total):
    """Prints it; what is missing, in words."""
    missing, sum_insns, binaries = [], 0, set()
    print('engine             mode chunks instructions  faulted  two pages differences  rows            forms')
    for key in keys:
        mine = [c for c in all_chunks if (c.engine, c.mode) == key]
        if not mine:
            missing.append(f'nothing of {key[0]} in {key[1]}-bit code')
            continue
        best = max(mine, key=lambda c: (c.forms, c.rows))
        (ran, can), insns, bad = coverage(mine), sum(c.insns for c in mine), sum(c.bad for c in mine)
        print(f'{key[0]:18} {key[1]:>4} {len(mine):6} {insns:12} {sum(c.faults for c in mine):8} {sum(c.crossed for c in mine):10} {bad:11}  '
              f'{best.rows:4} of {best.all_rows:4}    {ran:4} of {can:4}')
        sum_insns += insns
        binaries |= {c.binary for c in mine}
        if bad:
            missing.append(f'{bad} differences of {key[0]} in {key[1]}-bit code')
        if ran < can:
            missing.append(f'{can - ran} forms of {key[1]}-bit code that no chunk of {key[0]} ran')
    print(f'all                           {sum_insns:12} instructions; x86diff: {", ".join(sorted(binaries))}')
    for mode in sorted({m for _, m in keys}):
        some = [c for c in all_chunks if c.mode == mode]
        if some:
            print(f'rows without an instance in {mode}-bit user mode: ' + '; '.join(f'{n} {why}' for n, why in max(some, key=lambda c: c.rows).unrun))
    if sum_insns < total:
        missing.append(f'{total - sum_insns} instructions are missing')
    return missing


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--total', type=int, default=100_000_000)
    ap.add_argument('--chunk', type=int, default=5_000_000)
    ap.add_argument('--engine', choices=('tcg', 'interp', FIRST))
    ap.add_argument('--mode', choices=('32', '64'))
    ap.add_argument('--seconds', type=float, default=float('inf'))
    ap.add_argument('--folder', default=os.path.join(BUILD, 'prove', 'diff'))
    ap.add_argument('--table', action='store_true')
    args = ap.parse_args()
    keys = [k for k in SHARE if args.engine in (None, k[0]) and args.mode in (None, k[1])]
    os.makedirs(args.folder, exist_ok=True)
    start = time.monotonic()
    for key in keys:
        want, seed = args.total * SHARE[key] // 100, SEED[key]
        while not args.table and time.monotonic() - start < args.seconds:
            mine = [c for c in chunks(args.folder) if (c.engine, c.mode) == key]
            if sum(c.insns for c in mine) >= want:
                ran, can = coverage(mine)
                if ran == can:
                    break
            while any(int(c.seed) == seed for c in mine):
                seed += 1
            run_chunk(args.folder, key, seed, min(args.chunk, want))
    missing = table(chunks(args.folder), keys, args.total * sum(SHARE[k] for k in keys) // 100)
    for line in missing:
        print('prove_diff: ' + line)
    sys.exit(bool(missing))


if __name__ == '__main__':
    main()
