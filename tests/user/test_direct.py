"""System calls that translated code makes by itself (src/user/linux/direct.h): registers, signals, buffers that are code, filters."""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from progs import build, run, translator  # noqa: E402

CROSS = {'x86_64': 'gcc', 'aarch64': 'aarch64-linux-gnu-gcc', 'riscv64': 'riscv64-linux-gnu-gcc'}
ABOUT_REGISTERS = {'aarch64': [b'equal 1'] * 3, 'riscv64': []}  # before what all of them say


@pytest.mark.limit(300)
@pytest.mark.proves('F-USR-01', 'F-USR-07', 'F-USR-13')
@pytest.mark.parametrize('arch', CROSS)
@pytest.mark.parametrize('options', [(), ('-one-insn-per-tb',), ('-strace',)])
def test_calls_do_what_they_do_natively(tmp_path, arch, options):
    """Both ways to make a call, the direct one (or with -strace: the other) and lx_syscall's, which a filter asks for."""
    native = run([build(tmp_path, 'direct', '-static')])
    assert native[0] == 0
    want = native[1].splitlines()
    if arch != 'x86_64':
        want = ABOUT_REGISTERS[arch] + want[3:]
    exe = build(tmp_path, 'direct', '-static', cc=CROSS[arch])
    rc, out, _ = run([translator(arch), *options, exe, *(['200'] if options else [])], timeout=140)
    assert (rc, out.splitlines()) == (0, want)
