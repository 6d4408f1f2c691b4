"""Building the C programs of tests/user/progs and running them natively and under our translators."""
import os
import re
import subprocess

from conftest import ROOT, build_dir, need, program

SRC = os.path.join(ROOT, 'tests/user/progs')
# Where Debian keeps asm/ for -m32 when only the amd64 headers are installed.
M32 = ['-m32', '-I/usr/include/x86_64-linux-gnu']


def build(tmp, name, *flags, cc='gcc'):
    need(cc)
    out = os.path.join(str(tmp), os.path.basename(name) + ''.join(re.sub(r'[^A-Za-z0-9]', '', f) for f in flags)[:40])
    run = subprocess.run([cc, '-O1', '-w', '-o', out, os.path.join(SRC, name + '.c'), *flags, '-lpthread', '-lm'],
                         capture_output=True, text=True)
    if run.returncode:
        import pytest
        pytest.skip(f'{cc} {" ".join(flags)} cannot build here: {run.stderr.splitlines()[0] if run.stderr else ""}')
    return out


def run(cmd, timeout=100, **kw):
    r = subprocess.run(cmd, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL, **kw)
    return r.returncode, r.stdout, r.stderr


def translator(arch):
    return program('qemu-' + arch)


def same(arch, exe, *args, timeout=100):
    """The program behaves under the translator as it does natively."""
    native = run([exe, *args], timeout)
    ours = run([translator(arch), exe, *args], timeout)
    assert ours == native
