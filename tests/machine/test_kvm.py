"""The KVM accelerator with a whole board, and how it is refused."""
import os
import select
import subprocess

import pytest

import seeds
from conftest import host_lacks, need, program
from lyre import Machine, run

BIOS = '/usr/share/seabios/bios-256k.bin'


@pytest.fixture
def kvm():
    r = run('-M', 'none', '-accel', 'kvm', '-display', 'none', '-S', '-monitor', 'stdio', stdin='quit\n')
    if r.returncode:
        host_lacks('KVM cannot be used here: ' + r.stderr.strip())


@pytest.mark.proves('F-ACC-01', 'F-ACC-11', 'S355')
@pytest.mark.parametrize('args', [('-M', 'pc'), ('-M', 'q35', '-smp', '2')])
def test_seabios_starts_under_kvm(kvm, tmp_path, args):
    if not os.path.exists(BIOS):
        pytest.skip('SeaBIOS is missing (package seabios)')
    p = subprocess.Popen([program('qemu-system-x86_64'), *args, '-accel', 'kvm', '-cpu', 'host', '-m', '64', '-display', 'none', '-bios', BIOS,
                          '-nodefaults', '-chardev', 'stdio,id=d', '-device', 'isa-debugcon,iobase=0x402,chardev=d'], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    text = b''
    try:
        while b'enter handle_19' not in text:
            assert select.select([p.stdout], [], [], 60)[0], text
            got = os.read(p.stdout.fileno(), 4096)
            assert got, text
            text += got
    finally:
        p.terminate()
        p.wait(10)
    assert b'SeaBIOS (version' in text and b'Running on KVM' in text


@pytest.mark.proves('F-ACC-01', 'F-ACC-07', 'F-ACC-08', 'S003', 'S304', 'S355', 'S356', 'S357')
@pytest.mark.parametrize('args', [seeds.words('S356')[1], seeds.words('S355')[1], seeds.words('S357', corrected=True)[1], ('-M', 'accel=kvm'), seeds.words('S003')[1]])
def test_three_spellings_are_one(kvm, args):
    r = run('-nodefaults', '-S', '-display', 'none', '-cpu', 'host', *args, '-monitor', 'stdio', stdin='info kvm\nquit\n')
    assert 'kvm support: enabled' in r.stdout, r.stderr


@pytest.mark.proves('F-ACC-08', 'S304')
def test_info_kvm_without_it():
    with Machine('-accel', 'tcg', '-S') as m:
        assert 'disabled' in m.hmp('info kvm')


@pytest.mark.proves('F-ACC-09', 'S032', 'S355')
def test_without_the_device_kvm_is_refused_with_the_way_out_or_falls_back():
    need('unshare', 'util-linux')
    hide = ['unshare', '-m', 'sh', '-c', 'mount -t tmpfs none /dev && exec "$@"', 'sh']
    prog = program('qemu-system-x86_64')
    base = ['-nodefaults', '-S', '-display', 'none', '-monitor', 'stdio']
    if subprocess.run([*hide, 'true'], capture_output=True).returncode:
        host_lacks('no mount namespaces here')
    r = subprocess.run([*hide, prog, *base, '-accel', 'kvm'], input='quit\n', capture_output=True, text=True, timeout=20)
    assert r.returncode == 1 and '/dev/kvm' in r.stderr and 'tcg' in r.stderr
    r = subprocess.run([*hide, prog, *base, '-accel', 'kvm', '-accel', 'tcg'], input='info kvm\nquit\n', capture_output=True, text=True, timeout=20)
    assert r.returncode == 0 and 'disabled' in r.stdout, r.stderr
