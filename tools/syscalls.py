#!/usr/bin/env python3
"""docs/syscalls.md from src/user/linux/syscalls.def and the number tables: every system call and how it is served.

Without arguments: checks that the page is up to date. --write: writes it."""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DIR = os.path.join(ROOT, 'src/user/linux')
PAGE = os.path.join(ROOT, 'docs/syscalls.md')
TABLES = [('x86_64', 'sysnr_x86_64.def'), ('i386', 'sysnr_i386.def'), ('aarch64, riscv64', 'sysnr_generic64.def'),
          ('arm', 'sysnr_arm.def')]
HOW = {'RAW': 'kernel', 'OWN': 'ours', 'W32': 'ours', 'NO': 'ENOSYS', 'OTHER': 'ours'}


def rows():
    text = open(os.path.join(DIR, 'syscalls.def')).read()
    return re.findall(r'^SYS\((\w+), (\w+), "([^"]*)", (\w+), (\w+)\)', text, re.M)


def numbers(name):
    text = open(os.path.join(DIR, name)).read()
    return {n: int(nr) for nr, n in re.findall(r'N\((\d+), (\w+)\)', text)}


def page():
    tables = [(arch, numbers(f)) for arch, f in TABLES]
    out = ['# System calls of user mode', '',
           'Made by `tools/syscalls.py --write` from `src/user/linux/syscalls.def` and the number tables beside it.', '',
           '*kernel*: the host\'s kernel gets the call (paths looked up under `-L`); *ours*: converted or emulated by us;',
           '*ENOSYS*: refused, as on a kernel built without it; *-*: the architecture has no such number.', '']
    served = [sum(1 for n, _, _, h64, h32 in rows() if n in nr and (h32 if arch in ('i386', 'arm') else h64) != 'NO')
              for arch, nr in tables]
    out += ['Served: ' + ', '.join(f'{a} {s} of {len(nr)}' for (a, nr), s in zip(tables, served)) + '.', '']
    out += ['| call | ' + ' | '.join(a for a, _ in tables) + ' |', '|---|' + '---|' * len(tables)]
    for name, _, _, h64, h32 in rows():
        cells = []
        for arch, nr in tables:
            how = h32 if arch in ('i386', 'arm') else h64
            cells.append(f'{nr[name]} {HOW[how]}' if name in nr else '-')
        if any(c != '-' for c in cells):
            out.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(out) + '\n'


def unimplemented():
    """Handlers that syscalls.def names and no file defines."""
    src = ''.join(open(os.path.join(DIR, f)).read() for f in os.listdir(DIR) if f.endswith('.c'))
    missing = []
    for name, _, _, h64, h32 in rows():
        for how, fn in (('OWN', 'lx_sys_'), ('W32', 'lx_sys32_')):
            if how in (h64, h32) and not re.search(r'\b' + fn + name + r'\b\(', src) and \
                    not re.search(r'^(PAIRS|TIMES64|VECTORED|ONE_WIDE)\(' + name + r',', src, re.M):
                missing.append(fn + name)
    return missing


def main():
    text, missing = page(), unimplemented()
    if missing:
        print('no such function: ' + ' '.join(missing))
        return 1
    if '--write' in sys.argv:
        open(PAGE, 'w').write(text)
        return 0
    if not os.path.exists(PAGE) or open(PAGE).read() != text:
        print('docs/syscalls.md is out of date: run tools/syscalls.py --write')
        return 1
    print('system calls: page up to date')
    return 0


if __name__ == '__main__':
    sys.exit(main())
