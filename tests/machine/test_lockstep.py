"""Lockstep: interpreter and translator run every block on the same state in one process (src/accel/dbt/lockstep.c). The first
difference stops the machine with the block's text on stderr. Links and guards are off in it; tests/machine run with
tools/check.py --accel-set see to those."""
import os
import re
import socket
import subprocess

import pytest

from conftest import ROOT, program
from linux import Linux
from run import Failed
from test_debian import Debian

SRC = os.path.join(ROOT, 'tests', 'guest', 'x86')


def agreed(text):
    """Blocks compared, after `info jit`."""
    m = re.search(r'Lockstep: (\d+) blocks agree, (\d+) instructions', text)
    assert m and 'lockstep: block at' not in text, text[-3000:]
    print(m.group(0))
    return int(m.group(1)), int(m.group(2))


def ask(path, line, upto):
    """What a human monitor on a socket answers, until it has said upto."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(60)
        s.connect(path)
        s.sendall(line.encode() + b'\n')
        text = ''
        while upto not in text:
            data = s.recv(65536)
            assert data, text
            text += data.decode()
        return text


@pytest.mark.limit(240)
@pytest.mark.parametrize('props', ['lockstep=on', 'lockstep=on,one-insn-per-tb=on', 'lockstep=on,tlb-size=4,slots=512',
                                   'lockstep=on,hot-tier=first', 'lockstep=on,hot-tier=off'])
@pytest.mark.parametrize('image, cpu', [('prot', 'qemu64'), ('long', 'max')])
def test_every_trap_and_transfer_is_the_same_on_both_sides(images, tmp_path, image, cpu, props):
    """Firmware images that fault in every way: the log they write must be the manual's too."""
    log = tmp_path / 'log'
    p = subprocess.run([program('qemu-system-x86_64'), '-accel', f'tcg,{props}', '-cpu', cpu, '-m', '64', '-display', 'none', '-net', 'none', '-vga', 'none',
                        '-bios', str(images / f'{image}.bin'), '-debugcon', f'file:{log}', '-global', 'isa-debugcon.iobase=0x402', '-device',
                        'isa-debug-exit,iobase=0xf4', '-no-reboot'], timeout=200, stderr=subprocess.PIPE, text=True)
    assert p.returncode == 1 and 'lockstep' not in p.stderr, p.stderr[-3000:]  # isa-debug-exit: 0 << 1 | 1
    assert log.read_text().splitlines() == open(os.path.join(SRC, f'{image}.expect')).read().splitlines()


def test_more_than_one_cpu_is_refused():
    p = subprocess.run([program('qemu-system-x86_64'), '-accel', 'tcg,lockstep=on', '-smp', '2', '-display', 'none'], timeout=60, stderr=subprocess.PIPE, text=True)
    assert p.returncode == 1 and 'one CPU' in p.stderr


@pytest.mark.long
@pytest.mark.limit(7000)
@pytest.mark.parametrize('sample', ['', ',lockstep-sample=64'])
def test_linux_boots_to_a_shell_in_lockstep(sample):
    with Linux(['-accel', f'tcg,lockstep=on{sample}', '-cpu', 'max'], limit=6000) as g:
        assert '6.1' in g.sh('uname -r', 600)
        g.sh('cat /proc/cpuinfo | sha256sum', 600)
        text = g.qmp.call('human-monitor-command', command_line='info jit')
        assert agreed(text)[0] > 1_000_000


@pytest.mark.long
@pytest.mark.limit(7100)
@pytest.mark.parametrize('sample', [',lockstep-sample=64'])
def test_debian_boots_to_a_login_in_lockstep(sample, tmp_path):
    g = Debian('-accel', f'tcg,lockstep=on{sample}', '-cpu', 'max', '-monitor', f'unix:{tmp_path}/hmp,server=on,wait=off', boot_limit=7000)
    try:
        g.s.expect('lyrebird login: ', 7000, 'boot to a login')
        assert 'lockstep: block at' not in g.s.seen
        assert agreed(ask(f'{tmp_path}/hmp', 'info jit', 'dead flags'))[0] > 10_000_000
    except Failed as e:
        pytest.fail(f'{e}\n{g.s.seen[-4000:]}')
    finally:
        g.__exit__(None, None, None)
