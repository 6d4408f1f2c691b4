"""The vDSO: every guest finds one, and asks it for the time without a system call."""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from progs import M32, build, run, translator  # noqa: E402

CROSS = {'x86_64': ('gcc', ()), 'i386': ('gcc', tuple(M32)), 'aarch64': ('aarch64-linux-gnu-gcc', ()),
         'arm': ('arm-linux-gnueabihf-gcc', ()), 'riscv64': ('riscv64-linux-gnu-gcc', ())}
WANT = b'image 1\nagree 8\nday 1 1\nbad -1 1\ncpu 0 1\nback 0\ncleaned up\ncancelled 1\n'


@pytest.mark.proves('F-USR-01', 'F-PRG-15')
@pytest.mark.parametrize('how', [[], ['-static']], ids=['dynamic', 'static'])
@pytest.mark.parametrize('arch', CROSS)
def test_the_time_takes_no_system_call(tmp_path, arch, how):
    cc, flags = CROSS[arch]
    exe = build(tmp_path, 'vdso', *how, *flags, cc=cc)
    if arch in ('x86_64', 'i386'):
        assert run([exe])[1] == WANT
    assert run([translator(arch), exe]) == (0, WANT, b'')
    rc, _, err = run([translator(arch), '-strace', exe, 'once'])
    assert rc == 0 and b'exit_group(0)' in err and b'clock_gettime' not in err
