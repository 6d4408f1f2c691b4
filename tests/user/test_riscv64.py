"""RISC-V programs under qemu-riscv64 of ours and of Debian: same output, same status."""
import os
import subprocess

import pytest
from conftest import need, program

HERE = os.path.dirname(os.path.abspath(__file__))
# What the oracle does otherwise for reasons of its own: forks (it cannot execute itself), faults (its stack guard).
SAME = ['progs/files.c', 'progs/float.c', 'progs/signals.c', 'progs/smc.c', 'progs/threads.c', 'progs/loops.c',
        'rv/calls.c', 'rv/edge.c', 'rv/fp.c']


def build(tmp_path, source, *flags):
    out = str(tmp_path / 'prog')
    cc = need('riscv64-linux-gnu-gcc', 'gcc-riscv64-linux-gnu')
    subprocess.run([cc, '-O2', '-pthread', *flags, '-o', out, os.path.join(HERE, source), '-lm'], check=True)
    return out


def outcome(cmd, cwd):
    r = subprocess.run(cmd, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False)
    return r.returncode, r.stdout.decode(errors='replace')


def debian_qemu():
    """The peer, not a program of ours that may come first on the path."""
    if not os.access('/usr/bin/qemu-riscv64', os.X_OK):
        pytest.skip('/usr/bin/qemu-riscv64 is missing (package qemu-user)')
    return '/usr/bin/qemu-riscv64'


@pytest.mark.proves('F-USR-13')
@pytest.mark.limit(240)
@pytest.mark.parametrize('source', SAME)
def test_static_program_does_what_the_oracle_says(tmp_path, source):
    prog = build(tmp_path, source, '-static')
    assert outcome([program('qemu-riscv64'), prog], tmp_path) == outcome([debian_qemu(), prog], tmp_path)


@pytest.mark.proves('F-USR-13', 'F-USR-01')
@pytest.mark.limit(240)
def test_dynamic_program_finds_its_libraries_untold(tmp_path):
    if not os.path.isdir('/usr/riscv64-linux-gnu/lib'):
        pytest.skip('/usr/riscv64-linux-gnu is missing (package libc6-dev-riscv64-cross)')
    prog = build(tmp_path, 'rv/fp.c')
    want = outcome([debian_qemu(), '-L', '/usr/riscv64-linux-gnu', prog], tmp_path)
    assert outcome([program('qemu-riscv64'), prog], tmp_path) == want


@pytest.mark.proves('F-USR-13')
@pytest.mark.parametrize('arch', ['riscv64', 'aarch64'])
def test_rings_are_refused_and_code_is_fetched_where_the_guest_has_some(tmp_path, arch):
    """What node met: epoll_event in a ring is the guest's, and the host's kernel took it for its own."""
    src = tmp_path / 'ring.c'
    src.write_text('#include <errno.h>\n#include <signal.h>\n#include <stdio.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n'
                   'static void on(int s, siginfo_t *i, void *c) { printf("%d %d %p\\n", s, i->si_code, i->si_addr); fflush(stdout); _exit(3); }\n'
                   'int main(void) { char p[256] = {0}; struct sigaction a = {.sa_sigaction = on, .sa_flags = SA_SIGINFO};\n'
                   'printf("%d\\n", syscall(SYS_io_uring_setup, 8, p) == -1 && errno == ENOSYS); sigaction(SIGSEGV, &a, NULL);\n'
                   '((void (*)(void))16)(); return 0; }\n')
    exe = str(tmp_path / 'ring')
    subprocess.run([need(f'{arch}-linux-gnu-gcc'), '-O1', '-w', '-static', '-o', exe, str(src)], check=True)
    assert outcome([program('qemu-' + arch), exe], tmp_path) == (3, '1\n11 1 0x10\n')
