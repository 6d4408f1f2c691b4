"""Floppy disks from inside Linux: read, written, changed and taken out while the guest runs."""
import hashlib

import pytest

from linux import Linux

SIZE = 1440 << 10


def disk(path, seed, size=SIZE):
    data = (hashlib.sha256(seed).digest() * (size // 32))[:size]
    path.write_bytes(data)
    return data


def sum_of(data):
    return hashlib.sha256(data).hexdigest()


def read(g, dev='fd0'):
    return g.sh(f'echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/{dev} bs=18k 2>/dev/null | sha256sum', 240).split()[0]


@pytest.mark.limit(600)
@pytest.mark.proves('F-MCH-02')
def test_two_drives_are_read_written_and_changed(tmp_path):
    a, b, c = tmp_path / 'a.img', tmp_path / 'b.img', tmp_path / 'c.img'
    da, db, dc = disk(a, b'a'), disk(b, b'b', 720 << 10), disk(c, b'c')
    with Linux(['-M', 'pc', '-drive', f'file={a},if=floppy,format=raw,index=0,id=floppy0', '-drive', f'file={b},if=floppy,format=raw,index=1'],
               ('floppy',)) as g:
        assert read(g) == sum_of(da)
        assert read(g, 'fd1') == sum_of(db)
        g.sh('dd if=/dev/urandom of=/tmp/r bs=512 count=77 2>/dev/null; dd if=/tmp/r of=/dev/fd0 bs=512 seek=101 conv=fsync 2>/dev/null', 240)
        want = g.sh('sha256sum </tmp/r').split()[0]
        assert g.sh('echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/fd0 bs=512 skip=101 count=77 2>/dev/null | sha256sum', 240).split()[0] == want
        g.qmp.call('human-monitor-command', command_line=f'change floppy0 {c} raw')
        assert read(g) == sum_of(dc)
        g.qmp.call('eject', device='floppy0', force=True)
        assert 'No such device' in g.sh('dd if=/dev/fd0 of=/dev/null count=1 2>&1 || true', 240)
        g.qmp.call('blockdev-change-medium', device='floppy0', filename=str(a), format='raw', read_only_mode='read-only')
        assert read(g) != sum_of(dc)
        assert 'Read-only' in g.sh('dd if=/tmp/r of=/dev/fd0 count=1 conv=fsync 2>&1 || true', 240)
        g.poweroff()
    data = a.read_bytes()
    assert sum_of(data[101 * 512:][:77 * 512]) == want
    assert data[:101 * 512] == da[:101 * 512] and data[178 * 512:] == da[178 * 512:]
    assert c.read_bytes() == dc
