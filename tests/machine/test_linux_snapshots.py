"""Overlays, merges and throwaway runs under a Linux guest that goes on writing."""
import re
import subprocess
import time

import pytest

from conftest import program
from linux import Linux

MODULES = ('virtio_pci', 'virtio_blk')
# Writes numbered records without end, each forced out: what a program with data to lose does. $1: where to start.
WRITER = ('(n=0; while [ ! -e /tmp/stop ]; do n=$((n+1)); printf "%08d" $n | dd of=/dev/vda bs=512 seek=$((4096+n)) conv=sync,fsync,notrunc 2>/dev/null; '
          'echo $n >/tmp/n.new; mv /tmp/n.new /tmp/n; done; echo >/tmp/stopped) & sleep 1')
CHECK = ('n=0; bad=0; while [ $n -lt {} ]; do n=$((n+1)); [ "$(dd if=/dev/vda bs=512 skip=$((4096+n)) count=1 2>/dev/null | head -c 8)" = '
         '"$(printf "%08d" $n)" ] || bad=$((bad+1)); done; echo bad $bad')


def img(*args):
    return subprocess.run([program('qemu-img'), *map(str, args)], check=True, capture_output=True, text=True).stdout


def written(g, more=5):
    """The guest's counter after it has grown."""
    n = int(g.sh('cat /tmp/n 2>/dev/null || echo 0'))
    limit = time.monotonic() + 120
    while int(g.sh('cat /tmp/n 2>/dev/null || echo 0')) < n + more and time.monotonic() < limit:
        time.sleep(0.1)
    m = int(g.sh('cat /tmp/n'))
    assert m >= n + more, 'the guest no longer writes'
    return m


def stopped(g):
    g.sh('touch /tmp/stop; while [ ! -e /tmp/stopped ]; do sleep 0.1; done; sync; echo 3 >/proc/sys/vm/drop_caches', 120)
    return int(g.sh('cat /tmp/n'))


def records(path, n, fmt='qcow2', tmp=None):
    raw = f'{path}.raw'
    img('convert', '-f', fmt, '-O', 'raw', path, raw)
    with open(raw, 'rb') as f:
        f.seek(4097 * 512)
        return [f.read(512)[:8] == b'%08d' % (i + 1) for i in range(n)]


@pytest.mark.long
@pytest.mark.limit(400)
@pytest.mark.proves('F-SNP-05', 'F-SNP-06', 'S333', 'S334', 'S337', 'S338')
def test_overlays_are_taken_and_merged_under_a_writing_guest(tmp_path):
    base = tmp_path / 'base.qcow2'
    img('create', '-f', 'qcow2', base, '64M')
    with Linux(['-M', 'q35', '-drive', f'file={base},if=virtio,id=d'], MODULES) as g:
        g.sh(WRITER)
        at = [written(g)]
        for name in ('one', 'two'):
            g.qmp.call('blockdev-snapshot-sync', device='d', snapshot_file=f'{tmp_path}/{name}.qcow2')
            at.append(written(g))
        assert g.qmp.call('query-block')[0]['inserted']['backing_file_depth'] == 2
        # the middle layer goes down into the base, then the active one
        g.qmp.call('block-commit', device='d', top=f'{tmp_path}/one.qcow2', job_id='lower')
        g.qmp.wait_event('BLOCK_JOB_COMPLETED')
        at.append(written(g))
        g.qmp.call('block-commit', device='d', job_id='active')
        g.qmp.wait_event('BLOCK_JOB_READY')
        at.append(written(g))
        g.qmp.call('block-job-complete', device='active')
        done = g.qmp.wait_event('BLOCK_JOB_COMPLETED')
        assert 'error' not in done['data']
        at.append(written(g))
        assert at == sorted(at)
        assert g.qmp.call('query-block')[0]['inserted']['file'] == str(base)
        n = stopped(g)
        assert g.sh(CHECK.format(n), 300) == 'bad 0'
        assert not re.search('I/O error|BUG|Oops', g.sh('dmesg'))
        g.poweroff()
    assert all(records(base, n)) and n > 25
    img('check', base)


@pytest.mark.long
@pytest.mark.limit(300)
@pytest.mark.proves('F-SNP-03', 'F-SNP-04', 'S343', 'S344')
def test_a_throwaway_run_is_kept_under_a_writing_guest(tmp_path):
    base = tmp_path / 'base.qcow2'
    img('create', '-f', 'qcow2', base, '64M')
    empty = base.read_bytes()
    with Linux(['-M', 'pc', '-drive', f'file={base},if=virtio,id=d', '-snapshot'], MODULES) as g:
        g.sh(WRITER)
        written(g)
        assert base.read_bytes() == empty  # nothing has come through yet
        assert g.qmp.call('human-monitor-command', command_line='commit all') == ''
        kept = int(g.sh('cat /tmp/n'))
        written(g)
        n = stopped(g)
        assert g.sh(CHECK.format(n), 300) == 'bad 0'
        g.poweroff()
    got = records(base, n)
    first_lost = got.index(False) if False in got else n
    assert 5 <= first_lost <= kept + 1 < n  # all that was written when the command came, nothing of what came after
    img('check', base)
