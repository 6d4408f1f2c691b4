#!/usr/bin/env python3
"""Where the time in translated code goes: the hottest blocks with their guest code, the IR where there is one, and their host code.

By samples (how often each host instruction was seen):
  qemu-system-x86_64 -accel tcg -d in_asm,out_asm -D LOG ...    perf record -o DATA -p PID sleep 5
  tools/jit_report.py LOG DATA [--top N] [--all-lines]
By counts (how often each block was entered), when the program has ended:
  qemu-system-x86_64 -accel tcg,count=blocks -d in_asm,out_asm -D LOG ...
  qemu-aarch64 -count-blocks -d in_asm,op,op_opt,out_asm -D LOG PROGRAM ...
  tools/jit_report.py LOG [--top N] [--objdump aarch64-linux-gnu-objdump]
Both together: give DATA and log counts.

Samples outside translated code are summed up by symbol. With samples, host instructions without one are left out, but for --all-lines.
--objdump names the objdump of the guest, for guests whose code the log shows as bytes only."""
import argparse
import bisect
import collections
import os
import re
import subprocess
import sys
import tempfile


class Block:
    def __init__(self, head, size, at):
        self.head, self.size, self.at, self.guest, self.ir, self.host, self.entered = head, size, at, [], [], [], 0

    def insns(self):
        m = self.guest and re.search(r'(\d+) instructions', self.guest[0])
        return int(m[1]) if m else 1


def read_log(path):
    """All blocks in the order they were made."""
    blocks, here, guest, ir, into = [], {}, [], [], None
    with open(path, encoding='utf-8', errors='replace') as f:
        for line in f:
            line = line.rstrip('\n')
            if line.startswith('IN: '):
                guest = into = [line[4:]]
            elif line.startswith('IR '):  # again, when less of the block was tried
                into = [line]
                ir = [p for p in ir if p[0] != line] + [into]
            elif line.startswith('OUT: '):
                m = re.match(r'OUT: block at ([0-9a-f]+), (\d+) bytes at 0x([0-9a-f]+)', line)
                b = Block(m[1], int(m[2]), int(m[3], 16))
                b.guest, b.ir, into = guest, ir, b.host
                blocks.append(b)
                here[b.at] = b
                guest, ir = [], []
            elif line.startswith('COUNT: '):
                m = re.match(r'COUNT: block at [0-9a-f]+, entered (\d+) times, at 0x([0-9a-f]+)', line)
                if int(m[2], 16) in here:
                    here[int(m[2], 16)].entered += int(m[1])
            elif into is not None and re.match(r' |\d{4,}\w? ', line):
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


def disassembled(lines, objdump):
    """Guest code as objdump shows it, where the log has bytes only."""
    code = [re.match(r'  ([0-9a-f]{16})  ([0-9a-f]+)$', l.rstrip()) for l in lines]
    if not objdump or not code or not all(code):
        return lines
    with tempfile.NamedTemporaryFile(delete=False) as f:
        f.write(b''.join(bytes.fromhex(m[2]) for m in code))
    arch = {'aarch64': 'aarch64', 'riscv64': 'riscv:rv64', 'arm': 'arm'}[os.path.basename(objdump).split('-')[0]]
    p = subprocess.run([objdump, '-D', '-b', 'binary', '-m', arch, '--adjust-vma=0x' + code[0][1], f.name], stdout=subprocess.PIPE, text=True)
    os.unlink(f.name)
    return [l for l in p.stdout.splitlines() if re.match(r' *[0-9a-f]+:\t', l)] or lines


def show(b, hits, share, args):
    print(f'\n== {b.guest[0] if b.guest else "block at " + b.head}: {share}, {b.size} bytes of host code')
    print('\n'.join(disassembled(b.guest[1:], args.objdump)))
    for part in b.ir:
        print('-- ' + part[0])
        print('\n'.join(part[1:]))
    print('-- host code')
    heading = None
    for line in b.host:
        m = re.match(r'  ([0-9a-f]{16}) ', line)
        if not m:
            heading = line
            continue
        k = hits.get(int(m[1], 16), 0)
        if k or args.all_lines or not hits:
            if heading:
                print(f'        {heading}')
            heading = None
            print(f'{k or "":>7} {line}')


def by_counts(blocks, args):
    entered = [b for b in blocks if b.entered]
    total = sum(b.entered * b.insns() for b in entered)
    if not total:
        sys.exit('jit_report: the log has no counts (count=blocks, -d out_asm) and there are no samples')
    print(f'{sum(b.entered for b in entered)} blocks entered, of {total} instructions: {len(entered)} blocks of {len(blocks)}')
    for b in sorted(entered, key=lambda x: -x.entered * x.insns())[:args.top]:
        show(b, {}, f'entered {b.entered} times, {100 * b.entered * b.insns() / total:.1f} % of the instructions', args)


def by_samples(all_blocks, args):
    blocks = {b.at: b for b in all_blocks}
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
        n = sum(inside[at].values())
        entered = f', entered {blocks[at].entered} times' if blocks[at].entered else ''
        show(blocks[at], inside[at], f'{n} samples, {100 * n / total:.1f} %{entered}', args)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('log')
    ap.add_argument('data', nargs='?')
    ap.add_argument('--top', type=int, default=10)
    ap.add_argument('--all-lines', action='store_true')
    ap.add_argument('--objdump')
    args = ap.parse_args()
    (by_samples if args.data else by_counts)(read_log(args.log), args)


if __name__ == '__main__':
    main()
