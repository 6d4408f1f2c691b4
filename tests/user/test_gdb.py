"""-g: gdb stops, steps, watches and reads a program under the translator."""
import os
import subprocess
import sys
import time

import pytest

from conftest import need

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from progs import M32, translator  # noqa: E402

SRC = '''#include <stdio.h>
int v;
__attribute__((noinline)) int f(int x) { v += x; return x * 2; }
int main(void) { int s = 0; for (int i = 0; i < 5; i++) s += f(i); *(volatile int *)8 = s; return s; }
'''


@pytest.mark.proves('F-PRG-15')
@pytest.mark.parametrize('arch,cc,flags,vec', [('x86_64', 'gcc', [], '$xmm5.v2_int64[1]'), ('i386', 'gcc', M32, '$xmm5.v2_int64[1]'),
                                               ('arm', 'arm-linux-gnueabihf-gcc', ['-static', '-marm'], '$d9'),
                                               ('aarch64', 'aarch64-linux-gnu-gcc', ['-static'], '$v9.d.u[1]'),
                                               ('riscv64', 'riscv64-linux-gnu-gcc', ['-static'], '$fs3.double')])
def test_gdb_breaks_watches_steps_and_sees_the_fault(tmp_path, arch, cc, flags, vec):
    gdb = need('gdb' if arch in ('x86_64', 'i386') else 'gdb-multiarch')
    need(cc)
    (tmp_path / 'g.c').write_text(SRC)
    exe, sock = str(tmp_path / 'g'), str(tmp_path / 's')
    if subprocess.run([cc, '-g', '-O0', *flags, '-o', exe, str(tmp_path / 'g.c')], capture_output=True).returncode:
        pytest.skip(f'{cc} cannot build for {arch}')
    p = subprocess.Popen([translator(arch), '-g', sock, exe], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            if os.path.exists(sock):
                break
            time.sleep(0.1)
        cmds = ['set confirm off', f'file {exe}', f'target remote {sock}', 'break f', 'continue', 'print x', 'backtrace', 'continue',
                'print x', 'delete', 'watch v', 'continue', 'print v', f'set var {vec} = 77', 'stepi', f'print {vec}', 'delete', 'set var v=100', 'continue',
                'print v', 'print $_siginfo', 'info threads']
        out = subprocess.run([gdb, '-q', '-batch', '-nx'] + [a for c in cmds for a in ('-ex', c)], capture_output=True, text=True,
                             timeout=100).stdout
    finally:
        p.kill()
        p.wait()
    for want in ('$1 = 0', '#1  0x', 'in main ()', '$2 = 1', 'Old value = 0', 'New value = 1', '$3 = 1', '$4 = 77', 'SIGSEGV', '$5 = 109', 'Thread'):
        assert want in out, (want, out)
