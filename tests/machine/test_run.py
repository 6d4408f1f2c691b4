"""make run, as a script plays it: Debian's kernel to a shell, disk, network both ways of a fetch, clean power-off."""
import os
import subprocess
import sys

import pytest

from conftest import ROOT, program


@pytest.mark.limit(500)
@pytest.mark.proves('F-PRG-01', 'F-PRG-18', 'F-ACC-02')
def test_scripted_session_passes():
    env = {**os.environ, 'LYREBIRD_QEMU': program('qemu-system-x86_64')}
    p = subprocess.run([sys.executable, os.path.join(ROOT, 'tools', 'run.py'), '--script'], stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    print(p.stdout)
    assert p.returncode == 0, p.stdout.strip().split('\n')[-1]
