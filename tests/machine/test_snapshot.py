"""Snapshots of a running machine: a guest that counts goes back, in the same program and in a fresh one."""
import os
import re
import socket
import subprocess
import time

import pytest

from conftest import program
from lyre import Machine, QmpError, run
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


@pytest.mark.proves('F-SNP-03', 'F-SNP-04', 'S343', 'S344', 'N-75')
def test_a_throwaway_run_is_snapshotted_and_kept(tmp_path):
    a = image(tmp_path / 'a.qcow2')
    before = open(a, 'rb').read()
    with Machine('-M', 'pc', '-drive', f'file={a},if=virtio', '-snapshot', qtest=True) as m:
        said = m.hmp('savevm one')
        assert said.startswith('Warning') and 'vanishes' in said and "'commit all'" in said
        assert m.hmp('loadvm one') == ''
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
        arrived(m)
        assert m.qt.read(0x100000, 5) == b'moved'
        m.qt.outb(0x70, 0x34)
        assert m.qt.inb(0x71) == 0x5a


def arrived(m, state='running'):
    limit = time.monotonic() + 60
    while m.qmp('query-status')['status'] == 'inmigrate' and time.monotonic() < limit:
        time.sleep(0.02)
    assert m.qmp('query-status')['status'] == state


def job(m, name, **args):
    """The error of a job that came to its end, None when it went well."""
    m.qmp(name, job_id='j', **args)
    m.event('JOB_STATUS_CHANGE', 60, status='concluded', id='j')
    [j] = m.qmp('query-jobs')
    assert j['type'] == name and j['id'] == 'j'
    assert m.qmp('query-block-jobs') == []
    m.qmp('job-dismiss', id='j')
    return j.get('error')


@pytest.mark.proves('F-SNP-01', 'F-SNP-02')
def test_snapshots_are_jobs_of_named_nodes(tmp_path):
    a, b, c = image(tmp_path / 'a.qcow2'), image(tmp_path / 'b.qcow2'), image(tmp_path / 'c.raw', fmt='raw')
    with Machine('-M', 'q35', '-blockdev', f'driver=qcow2,node-name=a,file.driver=file,file.filename={a}', '-drive', f'file={b},id=b',
                 '-blockdev', f'driver=raw,node-name=c,file.driver=file,file.filename={c}', '-device', 'virtio-blk-pci,drive=a',
                 '-device', 'virtio-blk-pci,drive=c', qtest=True) as m:
        m.qt.write(0x100000, b'before')
        sel = dict(tag='t', vmstate='b', devices=['a', 'b'])
        assert job(m, 'snapshot-save', **sel) is None
        for e in ('STOP', 'RESUME'):
            m.event(e)
        assert "'t' already exists" in job(m, 'snapshot-save', **sel)
        m.qt.write(0x100000, b'behind')
        assert job(m, 'snapshot-load', **sel) is None
        assert m.qt.read(0x100000, 6) == b'before'
        assert m.qmp('query-status')['status'] == 'running'
        for args, text in [(dict(sel, tag='u', devices=['a', 'x', 'b']), "No block device node 'x'"),
                           (dict(sel, tag='u', vmstate='x'), "vmstate block device 'x' does not exist"),
                           (dict(sel, tag='u', vmstate='c'), "vmstate block device 'c' is not one"),
                           (dict(sel, tag='u', devices=['a', 'b', 'c']), "Device 'c' is writable but does not support snapshots"),
                           (dict(sel, tag='u', devices=[]), 'No block device was named')]:
            assert text in job(m, 'snapshot-save', **args), args
        assert "'u'" in job(m, 'snapshot-load', **dict(sel, tag='u'))
        assert m.qt.read(0x100000, 6) == b'before'
        assert job(m, 'snapshot-delete', tag='t', devices=['a']) is None
        assert "'t'" in job(m, 'snapshot-load', **sel)
        m.qmp('snapshot-save', job_id='k', **dict(sel, tag='w'))
        with pytest.raises(QmpError, match="Job ID 'k' already in use"):
            m.qmp('snapshot-save', job_id='k', **sel)
        m.event('JOB_STATUS_CHANGE', 60, status='concluded', id='k')
    for path in (a, b):
        sound(path)
    listed = [subprocess.run([program('qemu-img'), 'snapshot', '-l', p], capture_output=True, text=True, check=True).stdout
              for p in (a, b)]
    assert ' t ' not in listed[0] and ' t ' in listed[1] and all(' w ' in x for x in listed)


def watched(m):
    m.qmp('migrate-set-capabilities', capabilities=[{'capability': 'events', 'state': True}])
    assert m.qmp('query-migrate-capabilities') == [{'capability': 'events', 'state': True}]


@pytest.mark.proves('F-MIG-01')
@pytest.mark.parametrize('how', ['unix', 'tcp', 'defer'])
def test_a_machine_moves_by_qmp(how, tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as probe:
        port = probe.getsockname()[1]
    uri = f'tcp:127.0.0.1:{port}' if how == 'tcp' else f'unix:{tmp_path}/s'
    with Machine('-M', 'pc', qtest=True) as src, Machine('-M', 'pc', '-incoming', 'defer' if how == 'defer' else uri, qtest=True) as dst:
        watched(src)
        watched(dst)
        assert src.qmp('query-migrate') == {}
        assert dst.qmp('query-status')['status'] == 'inmigrate'
        with pytest.raises(QmpError, match='being moved'):
            dst.qmp('cont')
        if how == 'defer':
            with pytest.raises(QmpError, match='no place to move'):
                dst.qmp('migrate-incoming', uri='nowhere')
            dst.qmp('migrate-incoming', uri=uri)
        src.qt.write(0x100000, b'moved')
        src.qmp('migrate', uri=uri)
        for st in ('setup', 'active', 'completed'):
            src.event('MIGRATION', 60, status=st)
        src.event('STOP')
        info = src.qmp('query-migrate')
        assert info['status'] == 'completed' and info['ram']['transferred'] > 4096 and info['total-time'] >= info['downtime']
        assert src.qmp('query-status')['status'] == 'postmigrate'
        dst.event('MIGRATION', 60, status='completed')
        arrived(dst)
        dst.event('RESUME')
        assert dst.qt.read(0x100000, 5) == b'moved'
        assert dst.qmp('query-migrate')['status'] == 'completed'
        with pytest.raises(QmpError, match='previous migration'):
            src.qmp('migrate', uri=uri)


@pytest.mark.proves('F-MIG-01')
def test_a_move_is_slowed_cancelled_and_fails(tmp_path):
    s = socket.socket(socket.AF_UNIX)
    s.bind(str(tmp_path / 's'))
    s.listen()
    with Machine('-M', 'pc', '-m', '64', qtest=True) as m:
        watched(m)
        for i in range(16):
            m.qt.memset(0x100000 + (i << 20), 1 << 20, 0x55)
        m.qmp('migrate-set-parameters', max_bandwidth=1000)
        assert m.qmp('query-migrate-parameters') == {'max-bandwidth': 1000}
        m.qmp('migrate', uri=f'unix:{tmp_path}/s')
        peer = s.accept()[0]
        m.event('STOP')
        assert peer.recv(8) == b'LYRSTATE'
        assert m.qmp('query-status')['status'] == 'finish-migrate' and m.qmp('query-migrate')['status'] == 'active'
        for line in (('cont', 'being moved'), ('migrate', 'in progress')):
            with pytest.raises(QmpError, match=line[1]):
                m.qmp(line[0], **({'uri': 'file:/x'} if line[0] == 'migrate' else {}))
        m.qmp('migrate_cancel')
        m.event('MIGRATION', 60, status='cancelled')
        m.event('RESUME')
        assert m.qmp('query-status')['status'] == 'running'
        m.qmp('migrate-set-parameters', max_bandwidth=0)
        m.qmp('stop')
        m.qmp('migrate', uri=f'unix:{tmp_path}/s')
        peer = s.accept()[0]
        peer.recv(100)
        peer.close()
        m.event('MIGRATION', 60, status='failed')
        assert 'cannot send' in m.qmp('query-migrate')['error-desc'] and m.qmp('query-status')['status'] == 'paused'
        with pytest.raises(QmpError, match='nobody'):
            m.qmp('migrate', uri=f'unix:{tmp_path}/nobody')
        assert 'status 3' in m.hmp('migrate exec:exit 3') or 'cannot send' in m.hmp('info migrate')
        assert m.hmp('info migrate').startswith('Migration status: failed')


@pytest.mark.proves('F-MIG-01')
def test_a_descriptor_takes_the_machine(tmp_path):
    path = tmp_path / 'm'
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with Machine('-M', 'pc', qtest=True, pass_fds=[fd]) as m:
        m.qt.write(0x100000, b'moved')
        m.qmp('migrate', uri=f'fd:{fd}')
        while m.qmp('query-status')['status'] != 'postmigrate':
            time.sleep(0.02)
    os.lseek(fd, 0, os.SEEK_SET)
    with Machine('-M', 'pc', '-S', '-incoming', 'defer', qtest=True, pass_fds=[fd]) as m:
        m.qmp('migrate-incoming', uri=f'fd:{fd}')
        arrived(m, 'paused')
        assert m.qt.read(0x100000, 5) == b'moved'
        m.qmp('cont')
    os.close(fd)
    open(path, 'r+b').truncate(1000)
    r = run('-M', 'pc', '-display', 'none', '-accel', 'qtest', '-incoming', f'file:{path}', timeout=60)
    assert r.returncode == 1 and 'ends too early' in r.stderr


@pytest.mark.limit(600)
@pytest.mark.proves('F-MIG-01')
def test_a_counting_guest_moves_over_a_socket(tmp_path):
    img = image(tmp_path / 'd.raw', fmt='raw')
    args = ['-M', 'q35', '-drive', f'file={img},if=virtio,format=raw,file.locking=off']
    modules, uri = ('virtio_pci', 'virtio_blk'), f'unix:{tmp_path}/s'
    with Linux(args, modules) as g:
        g.sh(COUNT)
        write(g, 'vda', 'first')
        up, n = number(g, 'cat /proc/uptime'), number(g, 'cat /tmp/n')
        there = Linux([*args, '-incoming', uri], modules, boot=False)
        while not os.path.exists(f'{tmp_path}/s'):
            time.sleep(0.1)
        g.qmp.call('migrate', uri=uri)
        while g.qmp.call('query-status')['status'] != 'postmigrate':
            time.sleep(0.1)
        g.qmp.call('quit')
        g.s.end(60, 'quit')
    while there.qmp.call('query-status')['status'] != 'running':
        time.sleep(0.1)
    there.send('\n')
    with there as g:
        assert up <= number(g, 'cat /proc/uptime') < up + 2000 and number(g, 'cat /tmp/n') >= n
        assert read(g, 'vda') == 'first'
        write(g, 'vda', 'there')
        assert not re.search('BUG|Oops', g.sh('dmesg'))
        g.poweroff()
    assert open(img, 'rb').read(5) == b'there'
