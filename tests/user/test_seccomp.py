"""Seccomp filters of guest programs: what they answer, how they are inherited, and that what cannot be honoured is refused."""
import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from progs import M32, build, run, translator  # noqa: E402

CROSS = {'aarch64': ('aarch64-linux-gnu-gcc', ()), 'arm': ('arm-linux-gnueabihf-gcc', ()), 'riscv64': ('riscv64-linux-gnu-gcc', ()),
         'x86_64': ('gcc', ()), 'i386': ('gcc', tuple(M32))}


@pytest.mark.proves('F-USR-01')
@pytest.mark.parametrize('arch', sorted(CROSS))
def test_filters_answer_as_the_kernel_does(tmp_path, arch):
    """Errors, traps, kills and strict mode; over fork, exec and all threads at once; programs that are not well formed."""
    native = run([build(tmp_path, 'seccomp')], cwd=str(tmp_path))
    cc, flags = CROSS[arch]
    exe = build(tmp_path, 'seccomp', '-static', *flags, cc=cc)
    assert native[0] == 0 and b'trap 44 1' in native[1] and b'executed: 2 getsid -1 errno 66' in native[1]
    assert run([translator(arch), exe], cwd=str(tmp_path)) == native


@pytest.mark.proves('F-USR-01')
def test_a_program_that_would_lose_its_filters_is_not_executed(tmp_path):
    src = tmp_path / 'lose.c'
    src.write_text('#include <errno.h>\n#include <linux/filter.h>\n#include <linux/seccomp.h>\n#include <stdio.h>\n#include <sys/prctl.h>\n'
                   '#include <unistd.h>\nint main(void) { struct sock_filter f[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};\n'
                   'struct sock_fprog p = {1, f}; prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); prctl(PR_SET_SECCOMP, 2, &p);\n'
                   'execl("/bin/echo", "echo", "native", (char *)0); printf("%d\\n", errno); return 0; }\n')
    exe = str(tmp_path / 'lose')
    if subprocess.run(['aarch64-linux-gnu-gcc', '-static', '-o', exe, str(src)], capture_output=True).returncode:
        pytest.skip('aarch64-linux-gnu-gcc is missing (package gcc-aarch64-linux-gnu)')
    assert run([translator('aarch64'), exe])[:2] == (0, b'1\n')


@pytest.mark.proves('F-USR-01')
def test_a_damaged_file_of_filters_is_refused(tmp_path):
    exe = build(tmp_path, 'time', '-static')
    for data in (b'', b'scc1' + b'\1\0\0\0', b'scc1' + b'\1\0\0\0\1\0\0\0' + b'\5\0\0\0\xff\0\0\0', b'abcdefgh'):
        path = tmp_path / 'filters'
        path.write_bytes(data)
        fd = os.open(path, os.O_RDONLY)
        r = subprocess.run([translator('x86_64'), '-seccomp-fd', str(fd), exe], pass_fds=(fd,), capture_output=True, timeout=60)
        os.close(fd)
        assert r.returncode == -9 and not r.stdout
    assert run([translator('x86_64'), '-seccomp-fd', '1', exe])[0] == 1
