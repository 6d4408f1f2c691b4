"""Block commands on a running machine: overlays, merges, copies, bitmaps, transactions, exports. The machine stands
still; what a guest would write comes over an NBD export of the same disk, from our qemu-io."""
import json
import os
import shutil
import subprocess
import time

import pytest
from conftest import need, program
from lyre import Machine, QmpError

MB = 1 << 20


def img(*args):
    p = subprocess.run([program('qemu-img'), *map(str, args)], capture_output=True, text=True, timeout=60)
    assert p.returncode == 0, p.stderr
    return p.stdout


def io(*args):
    p = subprocess.run([program('qemu-io'), *map(str, args)], capture_output=True, text=True, timeout=60)
    assert p.returncode == 0 and 'failed' not in p.stdout + p.stderr, p.stdout + p.stderr
    return p.stdout


class Vm:
    """A machine with virtio disks and, on demand, an NBD way into each of them."""

    def __init__(self, tmp, *drives, extra=()):
        args = ['-M', 'q35', '-accel', 'qtest', '-S']
        for i, d in enumerate(drives):
            args += ['-drive', f'{d},if=none,id=d{i}', '-device', f'virtio-blk-pci,drive=d{i},id=disk{i},share-rw=on']
        self.m = Machine(*args, *extra)
        self.sock = f'{tmp}/nbd.sock'
        self.tmp = tmp
        self.serving = False

    def __enter__(self):
        self.m.__enter__()
        return self

    def __exit__(self, *a):
        if a[0] is None:
            self.m.qmp('quit')
            self.m.wait(20)
        return self.m.__exit__(*a)

    def qmp(self, cmd, **args):
        return self.m.qmp(cmd, **{k.replace('_', '-'): v for k, v in args.items()})

    def guest(self, drive, *cmds):
        """qemu-io commands against the disk as the guest would see it."""
        if not self.serving:
            self.qmp('nbd-server-start', addr={'type': 'unix', 'data': {'path': self.sock}})
            self.serving = True
        self.qmp('nbd-server-add', device=drive, writable=True)
        try:
            return io('-f', 'raw', f'nbd+unix:///{drive}?socket={self.sock}', *[x for c in cmds for x in ('-c', c)])
        finally:
            self.qmp('nbd-server-remove', name=drive)

    def file_of(self, drive):
        return next(b for b in self.qmp('query-block') if b['device'] == drive)['inserted']['file']

    def wait(self, event, timeout=30):
        return self.m.event(event, timeout)['data']


@pytest.fixture
def base(tmp_path):
    p = tmp_path / 'base.qcow2'
    img('create', '-f', 'qcow2', p, '8M')
    io(p, '-c', 'write -P 1 0 2M')
    return p


def overlay(tmp, base, name='over.qcow2'):
    p = tmp / name
    img('create', '-f', 'qcow2', '-b', base, '-F', 'qcow2', p)
    return p


@pytest.mark.proves('F-SNP-05', 'F-QMP-06', 'S337')
def test_external_snapshot_takes_further_writes(tmp_path, base):
    with Vm(tmp_path, f'file={base},format=qcow2') as vm:
        vm.guest('d0', 'write -P 2 1M 64k')
        new = tmp_path / 'new.qcow2'
        assert vm.qmp('blockdev-snapshot-sync', device='d0', snapshot_file=str(new)) == {}
        assert vm.file_of('d0') == str(new)
        before = base.read_bytes()
        vm.guest('d0', 'write -P 3 0 64k', 'read -P 2 1M 64k', 'read -P 1 128k 64k')
        assert base.read_bytes() == before
        with pytest.raises(QmpError):
            vm.qmp('blockdev-snapshot-sync', device='d0', snapshot_file=str(new))
    info = json.loads(img('info', '--output=json', new))
    assert info['backing-filename'] == str(base) and info['backing-filename-format'] == 'qcow2'
    io('-r', new, '-c', 'read -P 3 0 64k', '-c', 'read -P 2 1M 64k')


@pytest.mark.proves('N-76', 'F-SNP-06')
def test_live_commit_completes_by_itself_and_marks_the_dead_file(tmp_path, base):
    over = overlay(tmp_path, base)
    with Vm(tmp_path, f'file={over},format=qcow2') as vm:
        vm.guest('d0', 'write -P 5 1M 1M')
        vm.qmp('block-commit', device='d0', auto_complete=True)
        done = vm.wait('BLOCK_JOB_COMPLETED')
        assert 'error' not in done and vm.file_of('d0') == str(base)
        vm.guest('d0', 'write -P 7 1M 64k')
    io('-r', base, '-c', 'read -P 7 1M 64k', '-c', 'read -P 5 1088k 960k')
    # the overlay is out of date: it says so to whoever looks or writes, in the machine, too; others' tools do not mind
    assert json.loads(img('info', '--output=json', over))['format-specific']['data']['merged-into'] == str(base)
    assert 'merged into' in img('info', over)
    assert img('check', over)
    warned = f"image '{over}' was merged into '{base}' and has been out of date since"
    p = subprocess.run([program('qemu-io'), '-c', 'read 0 512', over], capture_output=True, text=True, timeout=60)
    assert p.returncode == 0 and warned in p.stderr
    p = subprocess.run([program('qemu-io'), '-r', '-c', 'read 0 512', over], capture_output=True, text=True, timeout=60)
    assert p.returncode == 0 and warned not in p.stderr
    assert subprocess.run([need('qemu-img', 'qemu-utils'), 'check', over], capture_output=True, timeout=60).returncode == 0
    # whoever gives it a base uses it anew
    img('rebase', '-u', '-b', base, '-F', 'qcow2', over)
    assert 'merged-into' not in json.loads(img('info', '--output=json', over))['format-specific']['data']


@pytest.mark.proves('F-SNP-06', 'F-QMP-07', 'F-QMP-08', 'F-QMP-09', 'S333', 'S334', 'S338')
def test_active_commit_merges_and_pivots(tmp_path, base):
    over = overlay(tmp_path, base)
    with Vm(tmp_path, f'file={over},format=qcow2') as vm:
        vm.guest('d0', 'write -P 5 1M 1M')
        assert vm.qmp('block-commit', device='d0') == {}
        ready = vm.wait('BLOCK_JOB_READY')
        assert ready['device'] == 'd0' and ready['type'] == 'commit' and ready['len'] == ready['offset'] > 0
        job = vm.qmp('query-block-jobs')[0]
        assert job['ready'] and job['status'] == 'ready' and job['device'] == 'd0'
        assert 'd0' in vm.m.hmp('info block-jobs')
        vm.guest('d0', 'write -P 6 3M 64k')  # while it is in step
        vm.qmp('block-job-complete', device='d0')
        done = vm.wait('BLOCK_JOB_COMPLETED')
        assert done['device'] == 'd0' and 'error' not in done
        assert vm.file_of('d0') == str(base) and vm.qmp('query-block-jobs') == []
        vm.guest('d0', 'read -P 5 1M 1M', 'read -P 6 3M 64k', 'write -P 7 4M 64k')
    io('-r', base, '-c', 'read -P 1 0 1M', '-c', 'read -P 5 1M 1M', '-c', 'read -P 6 3M 64k', '-c', 'read -P 7 4M 64k')
    img('check', base)


def test_commit_completes_by_itself_when_asked_to(tmp_path, base):
    over = overlay(tmp_path, base)
    with Vm(tmp_path, f'file={over},format=qcow2') as vm:
        vm.guest('d0', 'write -P 5 1M 1M')
        vm.qmp('block-commit', device='d0', auto_complete=True)
        assert 'error' not in vm.wait('BLOCK_JOB_COMPLETED')
        assert vm.file_of('d0') == str(base)
    io('-r', base, '-c', 'read -P 5 1M 1M')


@pytest.mark.proves('F-SNP-06', 'F-QMP-07')
def test_commit_of_a_middle_layer(tmp_path, base):
    mid = overlay(tmp_path, base, 'mid.qcow2')
    io(mid, '-c', 'write -P 8 2M 1M')
    top = overlay(tmp_path, mid, 'top.qcow2')
    io(top, '-c', 'write -P 9 3M 1M')
    with Vm(tmp_path, f'file={top},format=qcow2') as vm:
        vm.qmp('block-commit', device='d0', top=str(mid), base=str(base), job_id='j')
        assert 'error' not in vm.wait('BLOCK_JOB_COMPLETED')
        vm.guest('d0', 'read -P 1 0 2M', 'read -P 8 2M 1M', 'read -P 9 3M 1M')
    info = json.loads(img('info', '--output=json', top))
    assert info['backing-filename'] == str(base)
    io('-r', base, '-c', 'read -P 8 2M 1M', '-c', 'read -P 0 3M 1M')


def test_stream_makes_the_overlay_independent(tmp_path, base):
    over = overlay(tmp_path, base)
    with Vm(tmp_path, f'file={over},format=qcow2') as vm:
        vm.qmp('block-stream', device='d0', job_id='s')
        assert 'error' not in vm.wait('BLOCK_JOB_COMPLETED')
        assert 'backing_file' not in vm.qmp('query-block')[0]['inserted']
    base.unlink()
    io('-r', over, '-c', 'read -P 1 0 2M')


@pytest.mark.parametrize('how', ['complete', 'cancel'])
def test_drive_mirror(tmp_path, base, how):
    copy = tmp_path / 'copy.qcow2'
    with Vm(tmp_path, f'file={base},format=qcow2') as vm:
        vm.qmp('drive-mirror', device='d0', target=str(copy), sync='full', job_id='m')
        vm.wait('BLOCK_JOB_READY')
        vm.guest('d0', 'write -P 4 5M 1M')
        time.sleep(0.3)
        if how == 'complete':
            vm.qmp('job-complete', id='m')
        else:
            vm.qmp('block-job-cancel', device='m')
        vm.wait('BLOCK_JOB_COMPLETED')
        assert vm.file_of('d0') == str(copy if how == 'complete' else base)
    assert 'identical' in img('compare', base, copy)


def test_incremental_backups_by_bitmap(tmp_path, base):
    full, inc = tmp_path / 'full.qcow2', tmp_path / 'inc.qcow2'
    with Vm(tmp_path, f'file={base},format=qcow2,node-name=n0') as vm:
        vm.qmp('transaction', actions=[
            {'type': 'block-dirty-bitmap-add', 'data': {'node': 'n0', 'name': 'b', 'persistent': True}},
            {'type': 'drive-backup', 'data': {'device': 'd0', 'target': str(full), 'sync': 'full', 'job-id': 'f'}}])
        vm.wait('BLOCK_JOB_COMPLETED')
        vm.guest('d0', 'write -P 7 1M 128k')
        bm = vm.qmp('query-block')[0]['inserted']['dirty-bitmaps'][0]
        assert bm['name'] == 'b' and bm['count'] == 128 << 10 and bm['recording']
        img('create', '-f', 'qcow2', '-b', full, '-F', 'qcow2', inc)
        vm.qmp('drive-backup', device='d0', target=str(inc), mode='existing', sync='incremental', bitmap='b', format='qcow2')
        vm.wait('BLOCK_JOB_COMPLETED')
        assert vm.qmp('query-block')[0]['inserted']['dirty-bitmaps'][0]['count'] == 0
        with pytest.raises(QmpError, match='not found'):
            vm.qmp('block-dirty-bitmap-clear', node='n0', name='nix')
    assert 'identical' in img('compare', base, inc)
    io('-r', full, '-c', 'read -P 1 1M 128k')  # the full backup shows the moment it was asked for
    assert [b['name'] for b in json.loads(img('info', '--output=json', base))['format-specific']['data']['bitmaps']] == ['b']


def test_backup_shows_the_moment_of_the_command(tmp_path, base):
    copy = tmp_path / 'copy.qcow2'
    with Vm(tmp_path, f'file={base},format=qcow2') as vm:
        vm.qmp('drive-backup', device='d0', target=str(copy), sync='full', job_id='b', speed=65536)
        vm.guest('d0', 'write -P 99 0 2M')
        vm.qmp('block-job-set-speed', device='b', speed=0)
        assert 'error' not in vm.wait('BLOCK_JOB_COMPLETED', 60)
    io('-r', copy, '-c', 'read -P 1 0 2M')


def test_transaction_is_all_or_nothing(tmp_path, base):
    second = tmp_path / 'two.qcow2'
    img('create', '-f', 'qcow2', second, '8M')
    with Vm(tmp_path, f'file={base},format=qcow2,node-name=n0', f'file={second},format=qcow2') as vm:
        vm.qmp('block-dirty-bitmap-add', node='n0', name='keep')
        vm.guest('d0', 'write -P 3 0 64k')
        count = vm.qmp('query-block')[0]['inserted']['dirty-bitmaps'][0]['count']
        assert count
        with pytest.raises(QmpError, match='Abort'):
            vm.qmp('transaction', actions=[
                {'type': 'block-dirty-bitmap-clear', 'data': {'node': 'n0', 'name': 'keep'}},
                {'type': 'block-dirty-bitmap-remove', 'data': {'node': 'n0', 'name': 'keep'}},
                {'type': 'block-dirty-bitmap-add', 'data': {'node': 'n0', 'name': 'new'}},
                {'type': 'blockdev-snapshot-sync', 'data': {'device': 'd1', 'snapshot-file': f'{tmp_path}/s1.qcow2'}},
                {'type': 'abort', 'data': {}}])
        bms = vm.qmp('query-block')[0]['inserted']['dirty-bitmaps']
        assert [(b['name'], b['count']) for b in bms] == [('keep', count)]
        assert vm.file_of('d1') == str(second)
        vm.guest('d1', 'write -P 1 0 64k')
        vm.qmp('transaction', actions=[
            {'type': 'blockdev-snapshot-sync', 'data': {'device': d, 'snapshot-file': f'{tmp_path}/t{d}.qcow2'}} for d in ('d0', 'd1')])
        assert vm.file_of('d0').endswith('td0.qcow2') and vm.file_of('d1').endswith('td1.qcow2')
    io('-r', second, '-c', 'read -P 1 0 64k')


def backups(tmp, broken=False, **more):
    target = lambda i: {'type': 'drive-backup', 'data': {'device': f'd{i}', 'job-id': f'j{i}', 'target': f'{tmp}/b{i}.raw', 'format': 'raw',
                                                        'sync': 'full', **more}}
    return dict(properties={'completion-mode': 'grouped'}, actions=[target(0), {'type': 'blockdev-backup', 'data': {
        'device': 'd1', 'job-id': 'j1', 'target': 'bad', 'sync': 'full', **more}} if broken else target(1)])


def test_grouped_backups_end_well_together_or_not_at_all(tmp_path, base):
    second = tmp_path / 'two.qcow2'
    img('create', '-f', 'qcow2', second, '8M')
    io(second, '-c', 'write -P 5 0 8M')
    with Vm(tmp_path, f'file={base},format=qcow2,node-name=n0', f'file={second},format=qcow2') as vm:
        vm.qmp('transaction', **backups(tmp_path))
        ended = {vm.wait('BLOCK_JOB_COMPLETED')['device'] for _ in range(2)}
        assert ended == {'j0', 'j1'}
        # one cannot be written: the other, long done, is cancelled and its bitmap keeps what it had
        vm.qmp('block-dirty-bitmap-add', node='n0', name='bm')
        vm.guest('d0', 'write -P 7 0 64k')
        img('create', '-f', 'raw', tmp_path / 'x.raw', '8M')
        vm.qmp('blockdev-add', driver='blkdebug', node_name='bad', file={'driver': 'file', 'filename': str(tmp_path / 'x.raw')},
               **{'inject-error': [{'iotype': 'write', 'errno': 5, 'sector': 8192}]})
        t = backups(tmp_path, broken=True)
        t['actions'][0]['data'].update({'sync': 'incremental', 'bitmap': 'bm', 'target': f'{tmp_path}/b2.raw'})
        t['actions'][1]['data']['speed'] = 4 << 20
        vm.qmp('transaction', **t)
        assert 'error' in vm.m.event('BLOCK_JOB_COMPLETED', 30, device='j1')['data']
        vm.m.event('BLOCK_JOB_CANCELLED', 30, device='j0')
        [bm] = [b for b in vm.qmp('query-block')[0]['inserted']['dirty-bitmaps'] if b['name'] == 'bm']
        assert bm['count'] == 65536 and not bm['busy']
        # both wait to be finalized; to cancel one is to cancel both
        vm.qmp('transaction', **backups(tmp_path, **{'auto-finalize': False}))
        for _ in range(2):
            vm.wait('BLOCK_JOB_PENDING')
        assert {j['status'] for j in vm.qmp('query-jobs')} == {'pending'}
        vm.qmp('job-cancel', id='j1')
        assert {vm.wait('BLOCK_JOB_CANCELLED')['device'] for _ in range(2)} == {'j0', 'j1'}
        with pytest.raises(QmpError):
            vm.qmp('transaction', actions=[], properties={'completion-mode': 'somehow'})


@pytest.mark.proves('F-SNP-05', 'F-BLK-18')
def test_blockdev_snapshot_with_null_backing(tmp_path, base):
    over = overlay(tmp_path, base)
    with Vm(tmp_path, f'file={base},format=qcow2,node-name=n0') as vm:
        vm.qmp('blockdev-add', driver='qcow2', node_name='o', backing=None, file={'driver': 'file', 'filename': str(over)})
        vm.qmp('blockdev-snapshot', node='n0', overlay='o')
        ins = vm.qmp('query-block')[0]['inserted']
        assert ins['node-name'] == 'o' and ins['image']['backing-image']['filename'] == str(base)
        with pytest.raises(QmpError, match='already has a backing'):
            vm.qmp('blockdev-snapshot', node='o', overlay='o')
        nodes = {n['node-name'] for n in vm.qmp('query-named-block-nodes')}
        assert {'o', 'n0'} <= nodes


def test_jobs_wait_for_finalize_and_dismiss(tmp_path, base):
    copy = tmp_path / 'copy.raw'
    with Vm(tmp_path, f'file={base},format=qcow2') as vm:
        vm.qmp('drive-backup', device='d0', target=str(copy), format='raw', sync='full', job_id='j', auto_finalize=False, auto_dismiss=False)
        assert vm.wait('BLOCK_JOB_PENDING') == {'id': 'j', 'type': 'backup'}
        assert vm.qmp('query-jobs')[0]['status'] == 'pending'
        with pytest.raises(QmpError, match='pending'):
            vm.qmp('job-dismiss', id='j')
        vm.qmp('job-finalize', id='j')
        vm.wait('BLOCK_JOB_COMPLETED')
        assert vm.qmp('query-jobs')[0]['status'] == 'concluded'
        vm.qmp('job-dismiss', id='j')
        assert vm.qmp('query-jobs') == []
        states = [e['data']['status'] for e in vm.m.events('JOB_STATUS_CHANGE')] if hasattr(vm.m, 'events') else None
        assert states is None or states[-1] == 'null'


def test_pause_resume_cancel(tmp_path, base):
    with Vm(tmp_path, f'file={base},format=qcow2') as vm:
        vm.qmp('drive-backup', device='d0', target=f'{tmp_path}/x.raw', format='raw', sync='full', speed=4096)
        vm.qmp('block-job-pause', device='d0')
        with pytest.raises(QmpError, match='already paused'):
            vm.qmp('block-job-pause', device='d0')
        vm.qmp('block-job-resume', device='d0')
        vm.m.hmp('block_job_cancel d0')
        assert vm.wait('BLOCK_JOB_CANCELLED', 30)['device'] == 'd0'
        with pytest.raises(QmpError) as e:
            vm.qmp('block-job-cancel', device='d0')
        assert e.value.cls == 'DeviceNotActive'


def test_reopen_switches_read_only(tmp_path, base):
    raw = tmp_path / 'r.raw'
    raw.write_bytes(bytes(MB))
    with Vm(tmp_path) as vm:
        vm.qmp('blockdev-add', driver='raw', node_name='r', read_only=True, file={'driver': 'file', 'filename': str(raw), 'node-name': 'rf'})
        ro = lambda: next(n for n in vm.qmp('query-named-block-nodes') if n['node-name'] == 'r')['ro']
        assert ro()
        vm.qmp('blockdev-reopen', options=[{'driver': 'raw', 'node-name': 'r', 'file': 'rf'}])
        assert not ro()
        with pytest.raises(QmpError, match="Cannot change the option 'driver'"):
            vm.qmp('blockdev-reopen', options=[{'driver': 'qcow2', 'node-name': 'r'}])
        vm.qmp('blockdev-reopen', options=[{'driver': 'raw', 'node-name': 'r', 'file': 'rf', 'read-only': True}])
        assert ro()
        vm.qmp('blockdev-del', node_name='r')
        with pytest.raises(QmpError):
            vm.qmp('blockdev-del', node_name='r')


@pytest.mark.parametrize('sync', ['full', 'top'])
def test_a_full_backup_keeps_a_bitmap_in_step(tmp_path, base, sync):
    """on-success and always: what was copied is clean after it; a failed one leaves all (on-success) or the rest (always) dirty."""
    with Vm(tmp_path, f'file={base},format=qcow2,node-name=n') as vm:
        count = lambda: next(b for n in vm.qmp('query-named-block-nodes') if n['node-name'] == 'n' for b in n['dirty-bitmaps'])['count']
        size = next(n for n in vm.qmp('query-named-block-nodes') if n['node-name'] == 'n')['image']['virtual-size']
        vm.qmp('block-dirty-bitmap-add', node='n', name='b')
        vm.guest('d0', 'write -P 9 0 128k')
        assert count() == 131072
        vm.qmp('blockdev-add', driver='null-co', node_name='t', size=size)
        vm.qmp('blockdev-add', driver='blkdebug', node_name='bad', image='t', inject_error=[{'event': 'none', 'iotype': 'write', 'errno': 28}])
        back = lambda **kw: vm.qmp('blockdev-backup', device='n', job_id='j', sync=sync, bitmap='b', **kw)
        for mode, left in (('on-success', 131072), ('always', 131072)):
            back(target='bad', bitmap_mode=mode)
            assert vm.wait('BLOCK_JOB_COMPLETED', 30)['error']
            assert count() >= left if mode == 'always' else count() == left
            back(target='t', bitmap_mode=mode)
            assert 'error' not in vm.wait('BLOCK_JOB_COMPLETED', 30)
            assert count() == 0
            vm.guest('d0', 'write -P 9 0 128k')
        for kw, text in (({'bitmap_mode': 'never'}, 'no meaningful effect'), ({}, 'mode must be given')):
            with pytest.raises(QmpError, match=text):
                back(target='t', **kw)


def test_a_view_of_the_disk_as_it_was_while_it_is_written(tmp_path, base):
    """copy-before-write is put under a disk in use; snapshot-access shows what was there, the target gets only what was overwritten."""
    raw = tmp_path / 'd.raw'
    raw.write_bytes(bytes([1]) * (4 * MB))
    img('create', '-q', '-f', 'qcow2', tmp_path / 't.qcow2', '4M')
    with Vm(tmp_path) as vm:
        vm.qmp('blockdev-add', driver='file', node_name='f', filename=str(raw))
        vm.qmp('blockdev-add', driver='raw', node_name='disk', file='f')
        vm.qmp('device_add', driver='virtio-blk-pci', drive='disk', id='v', share_rw=True)
        vm.guest('disk', 'write -P 2 0 64k')
        vm.qmp('blockdev-add', driver='qcow2', node_name='t', file={'driver': 'file', 'filename': f'{tmp_path}/t.qcow2'})
        vm.qmp('blockdev-add', driver='copy-before-write', node_name='c', file='f', target='t')
        vm.qmp('blockdev-reopen', options=[{'driver': 'raw', 'node-name': 'disk', 'file': 'c'}])
        vm.qmp('blockdev-add', driver='snapshot-access', node_name='s', file='c')
        vm.guest('disk', 'write -P 3 32k 64k', 'write -z 1M 64k', 'discard 2M 64k', 'read -P 3 32k 64k')
        vm.qmp('nbd-server-add', device='s')
        then = io('-f', 'raw', f'nbd+unix:///s?socket={vm.sock}', '-r', '-c', 'read -P 2 0 64k', '-c', 'read -P 1 64k 3M', '-c', 'read -P 1 3M 1M')
        assert 'verification failed' not in then
        vm.qmp('nbd-server-remove', name='s')
        with pytest.raises(QmpError, match='needs a copy-before-write'):
            vm.qmp('blockdev-add', driver='snapshot-access', node_name='x', file='f')
        with pytest.raises(QmpError, match='smaller'):
            vm.qmp('blockdev-add', driver='copy-before-write', node_name='x', file='f', target={'driver': 'null-co', 'size': 512})
        vm.qmp('blockdev-del', node_name='s')
        vm.qmp('blockdev-reopen', options=[{'driver': 'raw', 'node-name': 'disk', 'file': 'f'}])
        vm.qmp('blockdev-del', node_name='c')
        vm.qmp('blockdev-del', node_name='t')
    got = img('map', '--output=json', '-f', 'qcow2', tmp_path / 't.qcow2')
    assert sum(e['length'] for e in json.loads(got) if e['data']) == 3 * 65536  # a discard ends above, discard=unmap was not given


def test_a_limited_drive_is_described_as_what_it_is(tmp_path, base):
    with Vm(tmp_path, f'file={base},format=qcow2,detect-zeroes=on,throttling.bps-total=1000000,throttling.iops-read=5,throttling.group=g') as vm:
        i = vm.qmp('query-block')[0]['inserted']
        assert (i['drv'], i['detect_zeroes'], i['bps'], i['iops_rd'], i['group']) == ('qcow2', 'on', 1000000, 5, 'g')
        text = vm.m.hmp('info block')
        assert '(qcow2)' in text and 'I/O throttling:   bps=1000000 bps_rd=0' in text and 'group=g' in text
        vm.m.hmp('block_set_io_throttle d0 0 0 0 0 0 0')
        assert 'group' not in vm.qmp('query-block')[0]['inserted'] and 'throttling' not in vm.m.hmp('info block')


def test_reopen_changes_children_of_several_nodes_or_nothing(tmp_path, base):
    other = tmp_path / 'other.qcow2'
    img('create', '-q', '-f', 'qcow2', other, '1M')
    small = tmp_path / 'small.raw'
    small.write_bytes(bytes(512))
    with Vm(tmp_path) as vm:
        vm.qmp('blockdev-add', driver='file', node_name='f', filename=str(base))
        vm.qmp('blockdev-add', driver='file', node_name='small', filename=str(small))
        vm.qmp('blockdev-add', driver='qcow2', node_name='q', file='f', discard='unmap')
        vm.qmp('blockdev-add', driver='qcow2', node_name='o', file={'driver': 'file', 'filename': str(other), 'node-name': 'of'}, backing=None)
        vm.qmp('object-add', qom_type='throttle-group', id='tg', limits={'iops-total': 1000})
        vm.qmp('blockdev-add', driver='throttle', node_name='t', throttle_group='tg', file='f')
        nodes = lambda: {n['node-name']: n for n in vm.qmp('query-named-block-nodes')}
        names = lambda: sorted(graph_names(vm))
        before = names()
        q = {'driver': 'qcow2', 'node-name': 'q', 'file': 'f'}
        o = {'driver': 'qcow2', 'node-name': 'o', 'file': 'of', 'backing': None}
        # a filter goes in, a backing file comes, a node becomes read-only: at once
        vm.qmp('blockdev-reopen', options=[{**q, 'file': 't', 'read-only': True}, {**o, 'backing': 'q'}])
        assert nodes()['q']['ro'] and ('q', 'file', 't') in names() and ('o', 'backing', 'q') in names() and ('t', 'file', 'f') in names()
        # the second cannot be: the first is as it was
        now = names()
        for bad, text in (({**o, 'backing': 'q', 'file': 'small'}, 'cannot change over'), ({**o, 'backing': 'o'}, 'cycle'), ({**o, 'file': 'nope', 'backing': 'q'}, 'nope'),
                          ({**q, 'file': 't'}, 'named twice')):
            with pytest.raises(QmpError, match=text):
                vm.qmp('blockdev-reopen', options=[{**q, 'detect-zeroes': 'on'}, bad])
            assert names() == now and nodes()['q']['ro'] and nodes()['q']['detect_zeroes'] == 'off'
        # and back
        vm.qmp('blockdev-reopen', options=[o, q])
        assert names() == before and not nodes()['q']['ro']
        vm.qmp('blockdev-reopen', options=[{'driver': 'file', 'node-name': 'small', 'filename': str(small), 'cache': {'direct': True}}])
        assert nodes()['small']['cache']['direct']


def graph_names(vm):
    """(parent, role, child) of edges between nodes that the test named."""
    g = vm.qmp('x-debug-query-block-graph')
    name = {n['id']: n['name'] for n in g['nodes']}
    return [(name[e['parent']], e['name'], name[e['child']]) for e in g['edges']]


def test_blockdev_create_makes_a_qcow2(tmp_path):
    p = tmp_path / 'made.qcow2'
    with Vm(tmp_path) as vm:
        vm.qmp('blockdev-create', job_id='c1', options={'driver': 'file', 'filename': str(p), 'size': 0})
        while vm.qmp('query-jobs')[0]['status'] != 'concluded':
            time.sleep(0.05)
        vm.qmp('job-dismiss', id='c1')
        vm.qmp('blockdev-add', driver='file', node_name='f', filename=str(p))
        vm.qmp('blockdev-create', job_id='c2', options={'driver': 'qcow2', 'file': 'f', 'size': 4 * MB, 'cluster-size': 4096})
        while vm.qmp('query-jobs')[0]['status'] != 'concluded':
            time.sleep(0.05)
        job = vm.qmp('query-jobs')[0]
        assert 'error' not in job, job
        vm.qmp('job-dismiss', id='c2')
        vm.qmp('blockdev-add', driver='qcow2', node_name='q', file='f')
    info = json.loads(img('info', '--output=json', p))
    assert info['virtual-size'] == 4 * MB and info['cluster-size'] == 4096


def test_resize_and_write_threshold(tmp_path, base):
    with Vm(tmp_path, f'file={base},format=qcow2,node-name=n0') as vm:
        vm.qmp('block_resize', device='d0', size=16 * MB)
        assert vm.qmp('query-block')[0]['inserted']['image']['virtual-size'] == 16 * MB
        vm.m.hmp('block_resize d0 32')
        assert vm.qmp('query-block')[0]['inserted']['image']['virtual-size'] == 32 * MB
        vm.qmp('block-set-write-threshold', node_name='n0', write_threshold=20 * MB)
        vm.guest('d0', 'write 20M 64k')
        assert vm.wait('BLOCK_WRITE_THRESHOLD') == {'node-name': 'n0', 'amount-exceeded': 65536, 'write-threshold': 20 * MB}


def test_internal_snapshot_of_one_disk(tmp_path, base):
    with Vm(tmp_path, f'file={base},format=qcow2') as vm:
        vm.qmp('blockdev-snapshot-internal-sync', device='d0', name='s')
        with pytest.raises(QmpError, match='already exists'):
            vm.qmp('blockdev-snapshot-internal-sync', device='d0', name='s')
        vm.guest('d0', 'write -P 44 0 1M')
    img('snapshot', '-a', 's', base)
    io('-r', base, '-c', 'read -P 1 0 1M')
    with Vm(tmp_path, f'file={base},format=qcow2') as vm:
        assert vm.qmp('blockdev-snapshot-delete-internal-sync', device='d0', name='s')['name'] == 's'
        with pytest.raises(QmpError, match='does not exist'):
            vm.qmp('blockdev-snapshot-delete-internal-sync', device='d0', name='s')


@pytest.mark.proves('F-SNP-03', 'F-SNP-04', 'F-BLK-24', 'F-BLK-25', 'S343', 'S344')
def test_hmp_commit_after_throwaway_run(tmp_path, base):
    before = base.read_bytes()
    with Vm(tmp_path, f'file={base},format=qcow2', extra=('-snapshot',)) as vm:
        vm.guest('d0', 'write -P 12 0 1M')
        assert base.read_bytes() == before
        assert 'Error' not in vm.m.hmp('commit all')
        assert 'Error' in vm.m.hmp('commit nix')
    io('-r', base, '-c', 'read -P 12 0 1M', '-c', 'read -P 1 1M 1M')


def test_block_exports_of_a_running_machine(tmp_path, base):
    nbdinfo = need('qemu-img')
    with Vm(tmp_path, f'file={base},format=qcow2,node-name=n0') as vm:
        with pytest.raises(QmpError, match='not running'):
            vm.qmp('block-export-add', type='nbd', id='e', node_name='n0')
        vm.qmp('nbd-server-start', addr={'type': 'unix', 'data': {'path': vm.sock}})
        vm.qmp('block-export-add', type='nbd', id='e', node_name='n0', name='x')
        exports = vm.qmp('query-block-exports')
        assert len(exports) == 1 and exports[0]['node-name'] == 'n0' and exports[0]['type'] == 'nbd'
        p = subprocess.run([nbdinfo, 'compare', '-f', 'raw', '-F', 'qcow2', '-U', f'nbd+unix:///x?socket={vm.sock}', str(base)],
                           capture_output=True, text=True, timeout=60)
        assert 'identical' in p.stdout, p.stderr
        vm.qmp('block-export-del', id='e')
        assert vm.qmp('query-block-exports') == []
        vm.qmp('nbd-server-stop')
        assert not os.path.exists(vm.sock)


def test_mirror_refuses_what_cannot_work(tmp_path, base):
    with Vm(tmp_path, f'file={base},format=qcow2') as vm:
        vm.qmp('blockdev-add', driver='null-co', node_name='t', size=4096)
        with pytest.raises(QmpError, match='smaller'):
            vm.qmp('blockdev-mirror', device='d0', target='t', sync='full', job_id='m')
        vm.qmp('blockdev-add', driver='null-co', node_name='t2', size=8 * MB)
        with pytest.raises(QmpError, match='granularity'):
            vm.qmp('blockdev-mirror', device='d0', target='t2', sync='full', job_id='m', granularity=1000)
        vm.qmp('blockdev-mirror', device='d0', target='t2', sync='full', job_id='m', granularity=1 << 20)
        vm.wait('BLOCK_JOB_READY')
        vm.qmp('job-cancel', id='m')
        vm.wait('BLOCK_JOB_CANCELLED')


@pytest.mark.parametrize('policy,action', [('stop', 'stop'), ('enospc', 'stop'), ('ignore', 'ignore'), ('report', 'report')])
def test_a_target_that_fails_does_what_the_job_was_told(tmp_path, base, policy, action):
    with Vm(tmp_path, f'file={base},format=qcow2') as vm:
        vm.qmp('blockdev-add', driver='blkdebug', node_name='t', file={'driver': 'null-co', 'size': 8 * MB},
               inject_error=[{'iotype': 'write', 'errno': 28, 'once': True}])
        vm.qmp('blockdev-mirror', device='d0', target='t', sync='full', job_id='m', on_target_error=policy)
        assert vm.wait('BLOCK_JOB_ERROR') == {'device': 'm', 'operation': 'write', 'action': action}
        if action == 'report':
            assert 'No space' in vm.wait('BLOCK_JOB_COMPLETED')['error']
            return
        if action == 'stop':
            end = time.monotonic() + 20
            while vm.qmp('query-jobs')[0]['status'] != 'paused':
                assert time.monotonic() < end
                time.sleep(0.02)
            vm.qmp('job-resume', id='m')
        vm.wait('BLOCK_JOB_READY')
        vm.qmp('job-cancel', id='m')
        vm.wait('BLOCK_JOB_CANCELLED')


def test_a_source_that_fails_under_backup(tmp_path, base):
    with Vm(tmp_path) as vm:
        vm.qmp('blockdev-add', driver='blkdebug', node_name='s', inject_error=[{'iotype': 'read', 'once': True, 'sector': 2048}],
               file={'driver': 'raw', 'file': {'driver': 'file', 'filename': str(base)}})
        vm.qmp('blockdev-add', driver='null-co', node_name='t', size=8 * MB)
        vm.qmp('block_resize', node_name='s', size=8 * MB)
        vm.qmp('blockdev-backup', device='s', target='t', sync='full', job_id='b', on_source_error='stop')
        assert vm.wait('BLOCK_JOB_ERROR')['action'] == 'stop'
        time.sleep(0.1)
        vm.qmp('job-resume', id='b')
        assert 'error' not in vm.wait('BLOCK_JOB_COMPLETED')


@pytest.mark.proves('F-BLK-28')
def test_a_medium_is_changed_in_steps_as_libvirt_does(tmp_path):
    for n, byte in (('one', 1), ('two', 2)):
        (tmp_path / n).write_bytes(bytes([byte]) * MB)
    with Machine('-M', 'q35', '-accel', 'qtest', '-S', '-drive', f'file={tmp_path}/one,format=raw,if=none,id=cd,readonly=on',
                 '-device', 'ide-cd,drive=cd,id=drv') as m:
        cd = lambda: m.qmp('query-block')[0]
        with pytest.raises(QmpError, match="Tray of device 'cd' is not open"):
            m.qmp('blockdev-remove-medium', id='drv')
        m.qmp('blockdev-open-tray', id='drv')
        moved = m.event('DEVICE_TRAY_MOVED', 20)['data']
        assert moved['tray-open'] and moved['device'] == 'cd' and cd()['tray_open'] and cd()['inserted']
        m.qmp('blockdev-open-tray', id='drv')  # open already: nothing happens
        m.qmp('blockdev-remove-medium', id='drv')
        assert 'inserted' not in cd() and cd()['tray_open']
        with pytest.raises(QmpError, match="Node 'new' not found"):
            m.qmp('blockdev-insert-medium', **{'id': 'drv', 'node-name': 'new'})
        m.qmp('blockdev-add', **{'driver': 'raw', 'node-name': 'new', 'read-only': True, 'file': {'driver': 'file', 'filename': f'{tmp_path}/two', 'read-only': True}})
        m.qmp('blockdev-insert-medium', **{'id': 'drv', 'node-name': 'new'})
        with pytest.raises(QmpError, match="Node 'new' is already in use"):
            m.qmp('blockdev-insert-medium', **{'id': 'drv', 'node-name': 'new'})
        m.qmp('blockdev-close-tray', id='drv')
        assert m.event('DEVICE_TRAY_MOVED', 20)['data']['tray-open'] is False
        assert cd()['inserted']['file'] == f'{tmp_path}/two' and cd()['inserted']['node-name'] == 'new' and not cd()['tray_open']
        m.qmp('quit')
        m.wait(20)


@pytest.mark.proves('F-BLK-28')
@pytest.mark.parametrize('bus', ['ide-cd', 'scsi-cd'])
def test_a_cd_drive_without_drive_is_an_empty_tray(tmp_path, bus):
    for n in ('one', 'two'):
        (tmp_path / n).write_bytes(bytes(MB))
    with Machine('-M', 'q35', '-accel', 'qtest', '-S', '-nodefaults', '-device', 'virtio-scsi-pci', '-device', f'{bus},id=cd0') as m:
        cd = lambda: m.qmp('query-block')[0]
        file = lambda: cd()['inserted']['file']
        assert cd()['device'] == '' and cd()['removable'] and not cd()['tray_open'] and 'inserted' not in cd()
        assert m.hmp('info block').startswith('cd0: [not inserted]')
        m.qmp('blockdev-add', **{'driver': 'raw', 'node-name': 'n', 'read-only': True, 'file': {'driver': 'file', 'filename': f'{tmp_path}/one'}})
        with pytest.raises(QmpError, match="Tray of device 'cd0' is not open"):
            m.qmp('blockdev-insert-medium', **{'id': 'cd0', 'node-name': 'n'})
        m.qmp('blockdev-open-tray', id='cd0')
        assert m.event('DEVICE_TRAY_MOVED', 20)['data']['tray-open'] and cd()['tray_open']
        m.qmp('blockdev-insert-medium', **{'id': 'cd0', 'node-name': 'n'})
        with pytest.raises(QmpError, match="Node 'n' is already in use|There already is a medium in device 'cd0'"):
            m.qmp('blockdev-insert-medium', **{'id': 'cd0', 'node-name': 'n'})
        m.qmp('blockdev-close-tray', id='cd0')
        assert file() == f'{tmp_path}/one' and not cd()['tray_open']
        m.qmp('blockdev-open-tray', id='/machine/peripheral/cd0')  # a path does as well
        m.qmp('blockdev-remove-medium', id='cd0')
        assert 'inserted' not in cd()
        m.qmp('blockdev-change-medium', id='cd0', filename=f'{tmp_path}/two', format='raw')
        assert file() == f'{tmp_path}/two' and cd()['inserted']['ro']
        m.qmp('eject', id='cd0')
        assert 'inserted' not in cd()
        assert m.hmp(f'change cd0 {tmp_path}/one raw') == '' and file() == f'{tmp_path}/one'
        with pytest.raises(QmpError, match="Device 'other' not found"):
            m.qmp('eject', id='other')
        if bus == 'scsi-cd':  # plugged and pulled: the tray goes with its device
            m.qmp('device_add', driver=bus, id='late')
            assert [b['qdev'].endswith('late') for b in m.qmp('query-block')] == [False, True]
            m.qmp('device_del', id='late')
            assert len(m.qmp('query-block')) == 1
        m.qmp('quit')
        m.wait(20)


@pytest.mark.proves('F-BLK-28')
def test_a_throttle_group_is_read_changed_and_kept_while_used(tmp_path):
    with Machine('-M', 'q35', '-accel', 'qtest', '-S', '-nodefaults', '-object', 'throttle-group,id=tg,x-bps-total=1000000',
                 '-drive', 'if=none,id=d,driver=throttle,throttle-group=tg,file.driver=null-co,file.size=1M') as m:
        get = lambda prop='limits', path='/objects/tg': m.qmp('qom-get', path=path, property=prop)
        put = lambda value, prop='limits': m.qmp('qom-set', path='/objects/tg', property=prop, value=value)
        with pytest.raises(QmpError, match="object 'tg' is in use, can not be deleted; it is used by drive 'd'"):
            m.qmp('object-del', id='tg')
        was = get()
        assert len(was) == 19 and was['bps-total'] == 1000000 and was['iops-total'] == 0 and was['bps-total-max-length'] == 1
        put({'iops-total': 5})
        assert get() == was | {'iops-total': 5} and get('x-iops-total') == 5
        assert m.qmp('query-block')[0]['inserted']['iops'] == 5  # the drive is held to it
        for value, text in (({'iops-total': 5, 'iops-read': 3}, 'cannot be used at the same time'), ({'iops-foo': 5}, "'limits.iops-foo' is unexpected"),
                            (5, "type for 'limits', expected: object"), ({'iops-total': 'x'}, "'limits.iops-total', expected: integer"),
                            ({'bps-total': 7, 'iops-total': -1}, 'within')):
            with pytest.raises(QmpError, match=text):
                put(value)
        assert get() == was | {'iops-total': 5}  # all or nothing
        with pytest.raises(QmpError, match='after initialization'):
            put(5, 'x-bps-total')
        m.qmp('object-add', **{'qom-type': 'throttle-group', 'id': 't2', 'limits': {'bps-read': 77}})
        assert get(path='/objects/t2')['bps-read'] == 77
        m.qmp('object-del', id='t2')
        m.hmp('drive_del d')
        m.qmp('object-del', id='tg')
        m.qmp('quit')
        m.wait(20)


@pytest.mark.proves('F-MON-19')
def test_drives_are_added_and_taken_away_by_hand(tmp_path, base):
    with Vm(tmp_path, f'file={base}') as vm:
        hmp, names = vm.m.hmp, lambda: [b['device'] for b in vm.qmp('query-block')]
        assert hmp('drive_add 0 if=none,id=x,file=null-co://,format=raw').strip() == 'OK' and names() == ['d0', 'x']
        assert "Duplicate ID 'x' for drive" in hmp('drive_add 0 if=none,id=x,file=null-co://')
        assert "Can't hot-add" in hmp('drive_add 0 if=ide,file=null-co://') and "Can't hot-add" in hmp('drive_add 0 file=null-co://')
        assert "Could not open '/nonexist': No such file" in hmp('drive_add 0 if=none,id=y,file=/nonexist') and names() == ['d0', 'x']
        assert hmp('drive_add 0 if=none,id=m,media=cdrom,file=null-co://,format=raw').strip() == 'OK' and vm.qmp('query-block')[2]['inserted']['ro']
        assert hmp('drive_add -n 0 driver=null-co,node-name=nn,size=1M') == ''
        assert 'node-name' in hmp('drive_add -n 0 driver=null-co,size=1M')
        vm.qmp('device_add', driver='virtio-blk-pci', drive='x', id='late')
        assert hmp('drive_del nn') == '' and 'nn' not in [n['node-name'] for n in vm.qmp('query-named-block-nodes')]
        assert "Device 'nosuch' not found" in hmp('drive_del nosuch')
        assert hmp('drive_del m') == '' and names() == ['d0', 'x']
        vm.qmp('blockdev-add', driver='null-co', node_name='to', size=8 * MB)
        vm.qmp('blockdev-mirror', job_id='j', device='d0', target='to', sync='full')
        assert 'in use by block job: j' in hmp('drive_del d0')
        vm.wait('BLOCK_JOB_READY')
        vm.qmp('block-job-cancel', device='j', force=True)
        vm.wait('BLOCK_JOB_CANCELLED')
        assert hmp('drive_del d0') == '' and names() == ['', 'x']  # its device stays, without it
        assert 'inserted' not in vm.qmp('query-block')[0]
        assert "Device 'd0' not found" in hmp('drive_del d0')
        assert hmp('drive_add 0 if=none,id=d0,file=%s' % base).strip() == 'OK'  # the image and the name are free again


def test_the_monitor_reads_and_writes_a_disk(tmp_path, base):
    with Vm(tmp_path, f'file={base}', extra=('-drive', 'if=none,id=e', '-drive', f'if=none,id=ro,file={__file__},format=raw,readonly=on',
                                             '-blockdev', 'null-co,node-name=nn,size=1048576,read-zeroes=on')) as vm:
        run = lambda where, cmd: vm.m.hmp(f'qemu-io {where} "{cmd}"')
        out = run('d0', 'read -P 1 0 4k')
        assert 'read 4096/4096 bytes at offset 0\n4 KiB, 1 ops' in out and 'Pattern' not in out
        assert 'wrote 512/512 bytes at offset 512' in run('d0', 'write -P 7 512 512')
        assert '00000200:  07 07 07 07' in run('d0', 'read -v 512 16')
        assert 'Pattern verification failed at offset 0, 1024 bytes' in run('d0', 'read -P 7 0 1k')
        assert run('d0', 'write -q -z 512 512') == '' and run('d0', 'read -q -P 0 512 512') == '' and run('d0', 'flush') == ''
        assert run('d0', 'length').strip() == run('-d disk0', 'length').strip() == '8 MiB'
        assert 'read failed: Input/output error' in run('d0', 'read 8M 512') and 'bad argument count 1' in run('d0', 'read 0')
        assert 'Parsing error' in run('d0', 'read 0 x') and 'command "foo" not found' in run('d0', 'foo') and "invalid option -- 'Z'" in run('d0', 'read -Z 0 1')
        assert 'No medium found' in run('e', 'read 0 512') and 'No medium found' in run('e', 'length')
        assert 'write failed: Operation not permitted' in run('ro', 'write 0 512')
        assert 'discard 65536/65536' in run('nn', 'discard 0 64k') and run('nn', 'read -q -P 0 0 64k') == ''
        vm.qmp('blockdev-del', node_name='nn')  # not held
        assert "'nosuch'" in run('nosuch', 'length') and 'not found' in run('-d d0', 'length')


def test_the_monitor_knows_the_tools_commands(tmp_path, base):
    """One engine is behind the program and the monitor: same commands, same words; the machine's disk grows and is told."""
    qcow = tmp_path / 'q.qcow2'
    img('create', '-q', '-f', 'qcow2', qcow, '4M')
    with Vm(tmp_path, f'file={base}', extra=('-object', 'iothread,id=t', '-drive', f'if=none,id=q,file={qcow}', '-device',
                                             'virtio-blk-pci,drive=q,iothread=t', '-drive', f'if=none,id=ro,file={qcow},readonly=on,file.locking=off')) as vm:
        run = lambda where, cmd: vm.m.hmp(f'qemu-io {where} "{cmd}"')
        names = lambda text: [x.split(' ')[0] for x in text.splitlines() if ' -- ' in x]
        tool = subprocess.run([program('qemu-io'), '-c', 'help'], capture_output=True, text=True).stdout
        assert names(run('q', 'help')) == [x for x in names(tool) if x not in ('abort', 'close', 'open', 'quit', 'reopen', 'sigraise')]
        assert run('q', 'help map') == subprocess.run([program('qemu-io'), '-c', 'help map'], capture_output=True, text=True).stdout
        assert 'wrote 66048/66048' in run('q', 'aio_write -P 3 64k 64k 512') and 'Pattern' not in run('q', 'readv -P 3 64k 64k 512')
        assert run('q', 'alloc 0 192k').strip() == '131072/196608 bytes allocated at offset 0 bytes'
        assert [x.split(' (')[0] for x in run('q', 'map').splitlines()] == ['64 KiB', '128 KiB', '3.812 MiB']
        assert 'format name: qcow2' in run('q', 'info') and 'lazy refcounts: false' in run('q', 'info')
        assert run('q', 'writev -q -P 4 0 512 512') + run('q', 'aio_read -q -P 4 0 1k') + run('q', 'aio_flush') + run('q', 'sleep 1') == ''
        assert run('q', 'write -c -q -P 5 128k 64k') + run('q', 'read -q -P 5 128k 64k') == ''
        assert run('q', 'write -b -q -P 6 0 64k') + run('q', 'read -b -q -P 6 0 64k') == ''
        (tmp_path / 'src').write_bytes(b'ab')
        assert run('q', f'write -q -s {tmp_path}/src 0 512') == '' and '61 62 61 62' in run('q', 'read -v 0 512')
        assert run('q', 'truncate -m metadata 8M') == '' and run('q', 'length').strip() == '8 MiB'
        assert [b['inserted']['image']['virtual-size'] for b in vm.qmp('query-block') if b['device'] == 'q'] == [8 * MB]
        assert 'read-only' in run('ro', 'truncate 16M') and all('not found' in run('q', x) for x in ('open x', 'quit', 'abort', 'sigraise 9'))


@pytest.mark.proves('F-SNP-06', 'S333')
def test_a_disk_that_a_job_works_on_is_left_as_it_is(tmp_path, base):
    over = overlay(tmp_path, base)
    with Vm(tmp_path, f'file={over},format=qcow2') as vm:
        with pytest.raises(QmpError, match="'backing-file' specified, but 'top' is the active layer"):
            vm.qmp('block-commit', device='d0', backing_file='x')
        with pytest.raises(QmpError, match="Device 'nix' not found"):
            vm.qmp('block-commit', device='nix')
        vm.qmp('block-commit', device='d0')
        vm.wait('BLOCK_JOB_READY')
        with pytest.raises(QmpError, match='is in use'):
            vm.qmp('block_resize', device='d0', size=16 * MB)
        with pytest.raises(QmpError, match='block device is in use by block job: d0'):
            vm.qmp('drive-mirror', device='d0', target=f'{tmp_path}/m', sync='full', job_id='other')
        vm.qmp('block-job-complete', device='d0')
        vm.wait('BLOCK_JOB_COMPLETED')
        vm.qmp('block_resize', device='d0', size=16 * MB)
    assert json.loads(img('info', '--output=json', base))['virtual-size'] == 16 * MB
