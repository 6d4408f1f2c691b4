#!/usr/bin/env python3
"""Where the time in translated code goes: the hottest blocks with their guest code, their host code and how often each host instruction
was seen.

  qemu-system-x86_64 -accel tcg -d in_asm,out_asm -D LOG ...    perf record -o DATA -p PID sleep 5
  tools/jit_report.py LOG DATA [--top N] [--all-lines]

Samples outside translated code are summed up by symbol. Host instructions without a sample are left out, but for --all-lines."""
import argparse
import bisect
import collections
import re
import subprocess
import sys


class Block:
    def __init__(self, head, size, at):
        self.head, self.size, self.at, self.guest, self.host = head, size, at, [], []


def read_log(path):
    """Blocks by the host address they begin at; the newest at an address."""
    blocks, guest, into = {}, [], None
    with open(path, encoding='utf-8', errors='replace') as f:
        for line in f:
            line = line.rstrip('\n')
            if line.startswith('IN: '):
                guest = into = [line[4:]]
            elif line.startswith('OUT: '):
                m = re.match(r'OUT: block at ([0-9a-f]+), (\d+) bytes at 0x([0-9a-f]+)', line)
                b = Block(m[1], int(m[2]), int(m[3], 16))
                b.guest, into = guest, b.host
                blocks[b.at] = b
            elif line.startswith(' ') and into is not None:
                into.append(line)
    return blocks


def samples(path):
    """(address, symbol) of each sample of perf's."""
    p = subprocess.run(['perf', 'script', '-i', path, '-F', 'ip,sym'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors='replace')
    if p.returncode:
        sys.exit('jit_report: perf script: ' + p.stderr.strip()[-300:])
    for line in p.stdout.splitlines():
        f = line.split(None, 1)
        if f:
            yield int(f[0], 16), f[1] if len(f) > 1 else '[unknown]'


def show(b, hits, total, all_lines):
    n = sum(hits.values())
    print(f'\n== {b.guest[0] if b.guest else "block at " + b.head}: {n} samples, {100 * n / total:.1f} %, {b.size} bytes of host code')
    print('\n'.join(b.guest[1:]))
    print('-- host code')
    heading = None
    for line in b.host:
        m = re.match(r'  ([0-9a-f]{16}) ', line)
        if not m:
            heading = line
            continue
        k = hits.get(int(m[1], 16), 0)
        if k or all_lines:
            if heading:
                print(f'        {heading}')
            heading = None
            print(f'{k or "":>7} {line}')


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('log')
    ap.add_argument('data')
    ap.add_argument('--top', type=int, default=10)
    ap.add_argument('--all-lines', action='store_true')
    args = ap.parse_args()
    blocks = read_log(args.log)
    starts = sorted(blocks)
    inside, outside, total = collections.defaultdict(collections.Counter), collections.Counter(), 0
    for ip, sym in samples(args.data):
        total += 1
        i = bisect.bisect_right(starts, ip) - 1
        if i >= 0 and ip < starts[i] + blocks[starts[i]].size:
            inside[starts[i]][ip] += 1
        else:
            outside[sym] += 1
    if not total:
        sys.exit('jit_report: perf saw nothing')
    code = sum(sum(c.values()) for c in inside.values())
    print(f'{total} samples, {code} ({100 * code / total:.1f} %) in {len(inside)} blocks of {len(blocks)}')
    for sym, n in outside.most_common(args.top):
        print(f'{n:7}  {100 * n / total:5.1f} %  {sym}')
    for at in sorted(inside, key=lambda a: -sum(inside[a].values()))[:args.top]:
        show(blocks[at], inside[at], total, args.all_lines)


if __name__ == '__main__':
    main()
