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


def waiting(arch, sock, exe):
    """The program, standing at its first instruction for gdb at sock."""
    p = subprocess.Popen([translator(arch), '-g', sock, exe], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    for _ in range(600):
        if os.path.exists(sock) or p.poll() is not None:
            break
        time.sleep(0.1)
    return p


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
    p = waiting(arch, sock, exe)
    try:
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


THREADS = '''#include <pthread.h>
volatile int v;
void *work(void *p) { for (int i = 0; i < 3; i++) v += i; return 0; }
int main(void) { pthread_t t; pthread_create(&t, 0, work, 0); pthread_join(t, 0); return v; }
'''


@pytest.mark.proves('F-PRG-15', 'N-95')
@pytest.mark.limit(300)
@pytest.mark.parametrize('arch,cc,flags', [('x86_64', 'gcc', []), ('i386', 'gcc', M32), ('arm', 'arm-linux-gnueabihf-gcc', []),
                                           ('aarch64', 'aarch64-linux-gnu-gcc', []), ('riscv64', 'riscv64-linux-gnu-gcc', [])])
def test_gdb_finds_program_libraries_and_mappings_untold(tmp_path, arch, cc, flags):
    """No file, no root is named to it: it reads them through the connection, where the program has them."""
    gdb = need('gdb-multiarch')
    need(cc)
    (tmp_path / 't.c').write_text(THREADS)
    exe, sock = str(tmp_path / 't'), str(tmp_path / 's')
    if subprocess.run([cc, '-g', '-O0', *flags, '-o', exe, str(tmp_path / 't.c'), '-lpthread'], capture_output=True).returncode:
        pytest.skip(f'{cc} cannot build for {arch}')
    p = waiting(arch, sock, exe)
    try:
        cmds = ['set confirm off', 'set debuginfod enabled off', f'target remote {sock}', 'break work', 'continue', 'info sharedlibrary', 'info threads',
                'info proc mappings', 'info auxv', 'watch v', 'continue', 'bt', 'delete', 'continue']
        r = subprocess.run([gdb, '-q', '-batch', '-nx'] + [a for c in cmds for a in ('-ex', c)], capture_output=True, text=True, timeout=200)
        p.wait(20)
    finally:
        p.kill()
        p.wait()
    out = r.stdout
    assert 'hit Breakpoint 1, work (p=0x0)' in out, out + r.stderr
    assert len([line for line in out.splitlines() if line.startswith('0x') and ' Yes ' in line and 'libc.so.6' in line]) == 1, out
    assert len([line for line in out.splitlines() if 'Thread ' in line and line[:4].strip(' *').isdigit()]) == 2, out
    for want in ('[stack]', '[vdso]', exe, 'AT_SYSINFO_EHDR', 'AT_PLATFORM' if arch != 'riscv64' else 'AT_HWCAP', 'New value = 1', 'exited with code 03'):
        assert want in out, (want, out)
