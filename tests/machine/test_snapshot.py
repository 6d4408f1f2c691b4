"""Snapshots of a running machine: a guest that counts goes back, in the same program and in a fresh one."""
import os
import re
import subprocess
import time

import pytest

from conftest import program
from lyre import Machine
from linux import Linux
from run import PROMPT

DISKS = {
    'virtio': (lambda f: ['-drive', f'file={f},if=virtio'], ('virtio_pci', 'virtio_blk'), 'vda'),
    'ide': (lambda f: ['-drive', f'file={f},if=ide'], ('ata_piix', 'ahci', 'sd_mod'), 'sda'),
    'scsi': (lambda f: ['-drive', f'file={f},if=none,id=d', '-device', 'virtio-scsi-pci', '-device', 'scsi-hd,drive=d'],
             ('virtio_pci', 'virtio_scsi', 'sd_mod'), 'sda'),
    'nvme': (lambda f: ['-drive', f'file={f},if=none,id=d', '-device', 'nvme,drive=d,serial=S'], ('nvme',), 'nvme0n1'),
}
COUNT = '(n=0; while :; do n=$((n+1)); echo $n >/tmp/n.new; mv /tmp/n.new /tmp/n; done) & sleep 1'


def image(path, size='64M', fmt='qcow2'):
    subprocess.run([program('qemu-img'), 'create', '-q', '-f', fmt, path, size], check=True)
    return str(path)


def sound(path):
    subprocess.run([program('qemu-img'), 'check', path], check=True, capture_output=True)


def hmp(g, line):
    return g.qmp.call('human-monitor-command', command_line=line)


def number(g, line):
    return float(g.sh(line).split()[0])


def write(g, disk, text):
    g.sh(f'echo {text} | dd of=/dev/{disk} bs=512 conv=sync,fsync 2>/dev/null; sync; echo 3 >/proc/sys/vm/drop_caches')


def read(g, disk):
    return g.sh(f'echo 3 >/proc/sys/vm/drop_caches; head -c 5 /dev/{disk}')


def woken(g):
    """The shell of a machine that was put back answers again."""
    g.send('\n')
    g.s.expect(PROMPT, 60, 'the restored shell')


@pytest.mark.limit(600)
@pytest.mark.proves('F-SNP-01', 'F-MON-16', 'S339', 'S340', 'S341', 'S342')
@pytest.mark.parametrize('board, cpus, kind', [('pc', 1, 'virtio'), ('q35', 2, 'ide'), ('pc', 2, 'ide'), ('q35', 1, 'scsi'),
                                               ('q35', 2, 'nvme')])
def test_a_counting_guest_goes_back(board, cpus, kind, tmp_path):
    make, modules, disk = DISKS[kind]
    img = image(tmp_path / 'd.qcow2')
    args = ['-M', board, '-smp', str(cpus), *make(img)]
    with Linux(args, modules) as g:
        g.sh(COUNT)
        write(g, disk, 'first')
        up, n = number(g, 'cat /proc/uptime'), number(g, 'cat /tmp/n')
        assert hmp(g, 'savevm name') == ''
        listed = hmp(g, 'info snapshots')
        assert re.search(r'^-- +name +\d+(\.\d+)? [MG]iB \d{4}-\d\d-\d\d \d\d:\d\d:\d\d 00:\d\d:\d\d\.\d{3}', listed, re.M), listed
        write(g, disk, 'other')
        g.sh('sleep 2')
        later = number(g, 'cat /tmp/n')
        assert later > n
        for _ in range(3):
            assert hmp(g, 'loadvm name') == ''
            woken(g)
            assert up <= number(g, 'cat /proc/uptime') < up + 2000
            assert number(g, 'cat /tmp/n') >= n
            assert read(g, disk) == 'first'
            clock = [float(t) for t in g.sh('for i in 1 2 3 4 5; do cat /proc/uptime; sleep 0.1; done').split()[::2]]
            assert clock == sorted(clock)
            write(g, disk, 'third')
        assert not re.search('BUG|Oops', g.sh('dmesg'))
        assert hmp(g, 'loadvm name') == ''
        assert hmp(g, 'loadvm nothing').startswith("Error: Device ")
        g.qmp.call('quit')
        g.s.end(60, 'quit')
    sound(img)
    # The same moment again, in a program that has never run this guest.
    g = Linux([*args, '-loadvm', 'name'], modules, boot=False)
    while not os.path.exists(g.qmp_path) or not g.qmp.call('query-status')['running']:
        time.sleep(0.1)
    g.send('\n')  # the restored shell says nothing before it is spoken to
    with g:
        assert up <= number(g, 'cat /proc/uptime') < up + 2000
        assert read(g, disk) == 'first'
        assert hmp(g, 'delvm name') == ''
        assert hmp(g, 'info snapshots').strip() == 'There is no snapshot available.'
        g.poweroff()
    sound(img)


@pytest.mark.proves('F-SNP-08', 'S337')
def test_a_raw_disk_is_named_with_the_remedy(tmp_path):
    raw, q = image(tmp_path / 'r.raw', fmt='raw'), image(tmp_path / 'q.qcow2')
    with Machine('-M', 'pc', '-drive', f'file={q},id=good', '-drive', f'file={raw},format=raw,id=plain', qtest=True) as m:
        said = m.hmp('savevm x')
        assert "Device 'plain' is writable but does not support snapshots" in said and 'qemu-img convert' in said
        assert 'plain' in m.hmp('loadvm x')
    with Machine('-M', 'pc', qtest=True) as m:
        assert 'No block device can accept snapshots' in m.hmp('savevm x')


@pytest.mark.proves('F-SNP-01', 'F-SNP-02', 'S339', 'S340')
def test_all_disks_go_back_together_and_a_name_is_taken_over(tmp_path):
    a, b = image(tmp_path / 'a.qcow2'), image(tmp_path / 'b.qcow2')
    with Machine('-M', 'q35', '-drive', f'file={a}', '-drive', f'file={b},if=virtio', qtest=True) as m:
        m.qt.write(0x100000, b'before')
        assert m.hmp('savevm one') == '' and m.hmp('savevm one') == ''
        m.qt.write(0x100000, b'behind')
        m.qt.write(0x300000, b'new')
        assert m.hmp('loadvm one') == ''
        assert m.qt.read(0x100000, 6) == b'before' and m.qt.read(0x300000, 3) == bytes(3)
        assert m.hmp('info snapshots').count(' one ') == 1
        assert m.hmp('loadvm two').startswith("Error: Device ") and "snapshot 'two'" in m.hmp('loadvm two')
    for path in (a, b):
        sound(path)
        listed = subprocess.run([program('qemu-img'), 'snapshot', '-l', path], capture_output=True, text=True, check=True).stdout
        assert listed.count('one') == 1


@pytest.mark.proves('F-SNP-03', 'F-SNP-04', 'S343', 'S344')
def test_a_throwaway_run_is_snapshotted_and_kept(tmp_path):
    a = image(tmp_path / 'a.qcow2')
    before = open(a, 'rb').read()
    with Machine('-M', 'pc', '-drive', f'file={a},if=virtio', '-snapshot', qtest=True) as m:
        assert m.hmp('savevm one') == '' and m.hmp('loadvm one') == ''
        assert open(a, 'rb').read() == before
        assert m.hmp('commit all') == ''
    sound(a)


@pytest.mark.parametrize('how', ['file', 'exec'])
def test_a_machine_moves_through_a_file(how, tmp_path):
    path = tmp_path / 'm'
    with Machine('-M', 'pc', qtest=True) as m:
        m.qt.write(0x100000, b'moved')
        m.qt.outb(0x70, 0x34)
        m.qt.outb(0x71, 0x5a)
        assert m.hmp(f'migrate {how}:{"cat >" if how == "exec" else ""}{path}') == ''
        assert 'postmigrate' in m.hmp('info status')
    with Machine('-M', 'pc', '-incoming', f'exec:cat {path}' if how == 'exec' else f'file:{path}', qtest=True) as m:
        assert m.qt.read(0x100000, 5) == b'moved'
        m.qt.outb(0x70, 0x34)
        assert m.qt.inb(0x71) == 0x5a
