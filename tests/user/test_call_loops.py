"""Loops of calls alone: translated code that never jumps back must stop for signals, too."""
import os
import subprocess

import pytest
from conftest import ROOT, need, program

WAYS = [('aarch64', 'aarch64-linux-gnu-gcc'), ('arm', 'arm-linux-gnueabihf-gcc', '-marm'), ('arm', 'arm-linux-gnueabihf-gcc', '-mthumb'),
        ('riscv64', 'riscv64-linux-gnu-gcc')]


@pytest.mark.proves('F-USR-07')
@pytest.mark.parametrize('arch,cc,flags', [(w[0], w[1], w[2:]) for w in WAYS], ids=['-'.join((w[0], *w[2:])) for w in WAYS])
def test_signals_reach_a_program_that_only_calls(tmp_path, arch, cc, flags):
    need(cc)
    exe = str(tmp_path / 'spin')
    subprocess.run([cc, '-O1', '-static', *flags, '-o', exe, os.path.join(ROOT, 'tests/user/progs/spin.c')], check=True)
    r = subprocess.run([program(f'qemu-{arch}'), exe], capture_output=True, timeout=100, text=True)
    assert r.returncode == 0
    assert r.stdout.splitlines() == [f'way {i}: out after 5' for i in range(3)] + ['deep: 394d70f1']
