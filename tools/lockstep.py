#!/usr/bin/env python3
"""Interpreter against translator, side by side: two emulators run the same deterministic guest, each writes a line per
instruction with all registers (-d exec) into a pipe, and the lines are compared as they come. Nothing is kept but the last few:
the first difference is printed with what led to it, and both are stopped.

  tools/lockstep.py [--max N] [--a ACCEL] [--b ACCEL] -- ARGUMENTS OF qemu-system-x86_64

The guest must be deterministic until the end or --max instructions: no timer, no time stamp counter, no input. Exit status: 0 same, 1 differ."""
import argparse
import collections
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Side:
    def __init__(self, accel, folder, args, exe):
        self.accel, self.path = accel, os.path.join(folder, accel.split(',')[0])
        os.mkfifo(self.path)
        self.p = subprocess.Popen([exe, '-accel', accel, '-d', 'exec', '-D', self.path, *args], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.f = open(self.path, 'rb', buffering=1 << 20)

    def lines(self):
        """Lines of instructions. One that the translator hands to the interpreter is told twice, and a REP may be told once or in
        rounds: both are made one."""
        last = b''
        for line in self.f:
            if len(line) < 22 or line[4:5] != b':' or line == last or (line[:22] == last[:22] and b' rep' in line):
                continue
            last = line
            yield line

    def stop(self):
        if self.p.poll() is None:
            self.p.kill()
        self.p.wait()
        self.f.close()


def compare(a, b, most):
    """(instructions compared, None or the two lines that differ, what came before)."""
    before, n = collections.deque(maxlen=8), 0
    left, right = a.lines(), b.lines()
    while n < most:
        x, y = next(left, None), next(right, None)
        if x != y:
            return n, (x, y), before
        if x is None:
            break
        before.append(x)
        n += 1
    return n, None, before


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--max', type=int, default=1 << 62)
    ap.add_argument('--a', default='interp')
    ap.add_argument('--b', default='tcg')
    ap.add_argument('--exe', default=os.path.join(os.environ.get('LYREBIRD_BUILD', os.path.join(ROOT, 'build')), 'bin', 'qemu-system-x86_64'))
    ap.add_argument('args', nargs=argparse.REMAINDER)
    args = ap.parse_args()
    rest = args.args[1:] if args.args[:1] == ['--'] else args.args
    with tempfile.TemporaryDirectory() as tmp:
        for side in ('a', 'b'):
            os.mkdir(os.path.join(tmp, side))
        a = Side(args.a, os.path.join(tmp, 'a'), rest, args.exe)
        b = Side(args.b, os.path.join(tmp, 'b'), rest, args.exe)
        try:
            n, found, before = compare(a, b, args.max)
        finally:
            a.stop()
            b.stop()
    if found:
        print(f'after {n} instructions:')
        for line in before:
            print('         ' + line.decode(errors='replace').rstrip())
        for name, line in ((args.a, found[0]), (args.b, found[1])):
            print(f'{name:8} {line.decode(errors="replace").rstrip() if line else "ended"}')
        return 1
    print(f'{n} instructions, the same with {args.a} and {args.b}')
    return 0 if n else 1


if __name__ == '__main__':
    sys.exit(main())
