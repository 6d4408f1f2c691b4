"""Exports over vhost-user-blk and FUSE, from the storage daemon and from a running machine."""
import errno
import os
import random
import socket
import struct
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import vhost_user as vu  # noqa: E402
from conftest import program
from lyre import Machine, QmpError
from test_storage_daemon import Daemon, img
from vhost_user import GPA, UADDR, Peer

SECTORS = 8192


@pytest.fixture
def disk(tmp_path):
    p = tmp_path / 'a.qcow2'
    img('create', '-f', 'qcow2', p, '4M')
    return p


def vhost(tmp, disk, *more, ro=False):
    return Daemon(tmp, '--blockdev', f'driver=qcow2,node-name=q,file.driver=file,file.filename={disk}', '--export',
                  f'type=vhost-user-blk,id=e,node-name=q,addr.type=unix,addr.path={tmp}/vu,writable={"off" if ro else "on"}{"".join(more)}')


@pytest.mark.proves('F-PRG-12', 'S088')
def test_a_vhost_user_disk_is_read_and_written(tmp_path, disk):
    with vhost(tmp_path, disk, ',num-queues=2,logical-block-size=4096') as d:
        assert d.q.cmd('query-block-exports') == [{'id': 'e', 'type': 'vhost-user-blk', 'node-name': 'q', 'shutting-down': False}]
        with Peer(f'{tmp_path}/vu') as p:
            p.negotiate()
            assert p.u64(17) == 2
            c = p.config()
            assert struct.unpack_from('<Q', c)[0] == SECTORS and struct.unpack_from('<I', c, 20)[0] == 4096
            assert struct.unpack_from('<H', c, 34)[0] == 2 and p.config(20, 4) == c[20:24]
            p.memory()
            p.ring()
            assert p.request(vu.IN, 0, want=4096) == (0, bytes(4096))
            rng, shadow = random.Random(5), bytearray(SECTORS * 512)
            for n in range(60):
                at, size = rng.randrange(SECTORS - 600), rng.choice([1, 8, 130, 600])
                data = rng.randbytes(size * 512)
                assert p.request(vu.OUT, at, out=data, indirect=n % 2, split=1 + n % 5)[0] == 0
                shadow[at * 512:at * 512 + len(data)] = data
                at = rng.randrange(SECTORS - 600)
                got = p.request(vu.IN, at, want=size * 512, indirect=n % 3 == 0, split=1 + n % 4)
                assert got == (0, bytes(shadow[at * 512:(at + size) * 512]))
            assert p.request(vu.FLUSH)[0] == 0
            assert p.request(vu.GET_ID, want=20) == (0, b'e'.ljust(20, b'\0'))
            assert p.request(vu.WRITE_ZEROES, out=struct.pack('<QII', 8, 16, 1))[0] == 0
            shadow[8 * 512:24 * 512] = bytes(16 * 512)
            assert p.request(vu.IN, 0, want=32 * 512) == (0, bytes(shadow[:32 * 512]))
            assert p.request(vu.DISCARD, out=struct.pack('<QII', 4096, 128, 0))[0] == 0
            for kind, sector, kw, st in ((vu.IN, SECTORS, dict(want=512), 1), (vu.OUT, SECTORS - 1, dict(out=bytes(1024)), 1),
                                         (vu.IN, 2**63, dict(want=512), 1), (vu.IN, 0, dict(want=100), 1), (99, 0, dict(want=512), 2),
                                         (vu.WRITE_ZEROES, 0, dict(out=struct.pack('<QII', SECTORS, 1, 0)), 1),
                                         (vu.DISCARD, 0, dict(out=struct.pack('<QII', 0, 1, 4)), 2),
                                         (vu.DISCARD, 0, dict(out=bytes(48)), 2)):
                assert p.request(kind, sector, **kw)[0] == st, (kind, sector)
            assert struct.unpack('<II', p.ask(11, struct.pack('<II', 0, 0))) == (0, p.at)
        with Peer(f'{tmp_path}/vu') as p:  # the next one
            p.ready()
            assert p.request(vu.IN, 100, want=51200)[1] == bytes(shadow[51200:102400])
        d.q.cmd('block-export-del', id='e')
        d.q.event('BLOCK_EXPORT_DELETED', id='e')
        assert not os.path.exists(f'{tmp_path}/vu')
        d.q.cmd('quit')
        assert d.p.wait(20) == 0
    subprocess.run([program('qemu-img'), 'check', disk], check=True, capture_output=True)


@pytest.mark.proves('F-PRG-12')
def test_a_read_only_vhost_user_disk_refuses_writes(tmp_path, disk):
    with vhost(tmp_path, disk, ro=True), Peer(f'{tmp_path}/vu') as p:
        p.ready()
        assert p.features & 1 << 5 and not p.features & (1 << 13 | 1 << 14)
        assert p.request(vu.OUT, 0, out=bytes(512))[0] == 1 and p.request(vu.IN, 0, want=512)[0] == 0


def bad_descs(d):
    def act(p):
        p.ready()
        p.descs(d)
        p.offer()
        p.wait()
    return act


def shrunk(p):
    p.ready()
    os.ftruncate(p.fd, 0)
    os.eventfd_write(p.kicks[0], 1)
    p.exact(1)


def rings_outside(p):
    p.negotiate()
    p.memory()
    p.ring(addr=(UADDR + vu.MEM - 8, UADDR + vu.MEM, UADDR - 1))


def too_many(p):
    p.ready()
    struct.pack_into('<H', p.m, p.avail + 2, 4000)
    os.eventfd_write(p.kicks[0], 1)
    p.wait()


def raw(*msgs):
    def act(p):
        p.negotiate()
        for req, payload, fds in msgs:
            p.send(req, payload, fds)
        p.exact(1)
    return act


def not_an_eventfd(p):
    p.negotiate()
    p.memory()
    r, w = os.pipe()
    try:
        p.send(12, struct.pack('<Q', 0), [r])
        p.exact(1)
    finally:
        os.close(r)
        os.close(w)


H = (GPA + 0x100000, 16, 1, 1)
HOSTILE = {
    'loop': bad_descs([H, (GPA, 512, 1, 1)]),
    'loop of two': bad_descs([H, (GPA, 512, 3, 0)]),
    'next beyond the ring': bad_descs([(GPA, 16, 1, 900)]),
    'out after in': bad_descs([H, (GPA, 512, 3, 2), (GPA, 512, 0, 0)]),
    'no status': bad_descs([(GPA, 16, 0, 0)]),
    'short header': bad_descs([(GPA, 8, 1, 1), (GPA, 1, 2, 0)]),
    'status outside': bad_descs([H, (GPA + vu.MEM, 1, 2, 0)]),
    'wrapping address': bad_descs([H, (2**64 - 4, 513, 2, 0)]),
    'indirect outside': bad_descs([(GPA + vu.MEM - 8, 32, 4, 0)]),
    'indirect of odd size': bad_descs([(GPA, 17, 4, 0)]),
    'indirect in indirect': lambda p: (p.ready(), p.descs([(GPA, 32, 4, 0)], 0x108000), p.descs([(GPA + 0x108000, 16, 4, 0)]), p.offer(), p.wait()),
    'huge indirect': bad_descs([(GPA, 0xfffffff0, 4, 0)]),
    'head beyond the ring': lambda p: (p.ready(), p.offer(head=500), p.wait()),
    'more than the ring holds': too_many,
    'memory shrunk': shrunk,
    'rings outside memory': rings_outside,
    'kick is no eventfd': not_an_eventfd,
    'unknown message': raw((77, b'', [])),
    'ring number': raw((8, struct.pack('<II', 5, 8), [])),
    'ring of 3': raw((8, struct.pack('<II', 0, 3), [])),
    'short payload': raw((9, b'abcd', [])),
    'large payload': lambda p: (p.s.sendall(struct.pack('<III', 1, 1, 1 << 30)), p.exact(1)),
    'other version': lambda p: (p.s.sendall(struct.pack('<III', 1, 2, 0)), p.exact(1)),
    'no memory descriptor': raw((5, struct.pack('<IIQQQQ', 1, 0, 0, 4096, 0, 0), [])),
    'memory that wraps': lambda p: (p.negotiate(), p.send(5, struct.pack('<IIQQQQ', 1, 0, 2**64 - 4096, 8192, 0, 0), [p.fd]), p.exact(1)),
    'memory is a socket': lambda p: (p.negotiate(), p.send(5, struct.pack('<IIQQQQ', 1, 0, 0, 4096, 0, 0), [p.s.fileno()]), p.exact(1)),
    'features not offered': raw((2, struct.pack('<Q', 1 << 40), [])),
    'config beyond its end': raw((24, struct.pack('<III', 300, 4, 0) + bytes(4), [])),
    'half a message': lambda p: (p.s.sendall(b'\1\0\0'), p.s.shutdown(socket.SHUT_WR), p.exact(1)),
}


@pytest.mark.proves('F-PRG-12')
def test_a_hostile_vhost_user_peer_only_loses_its_connection(tmp_path, disk):
    with vhost(tmp_path, disk) as d:
        before = len(os.listdir(f'/proc/{d.p.pid}/fd'))
        for name, act in HOSTILE.items():
            with Peer(f'{tmp_path}/vu') as p:
                with pytest.raises((ConnectionError, BrokenPipeError)):
                    act(p)
                    raise AssertionError(name)
            assert d.p.poll() is None, name
        rng = random.Random(int(os.environ.get('SEED', 1)))
        for _ in range(int(os.environ.get('VU_ROUNDS', 60))):  # changed bytes of sound messages and rings
            with Peer(f'{tmp_path}/vu') as p:
                try:
                    p.s.settimeout(0.3)
                    if rng.random() < 0.6:
                        p.ready()
                        p.descs([H, (GPA + 0x110000, 512, 3, 2), (GPA + 0x10f000, 1, 2, 0)])
                        for _ in range(rng.randrange(1, 5)):
                            p.m[rng.choice([rng.randrange(64), p.avail + rng.randrange(20), p.used + rng.randrange(8)])] = rng.randrange(256)
                        p.offer(rng.randrange(8))
                    for _ in range(rng.randrange(1, 6)):
                        p.send(rng.randrange(40), rng.randbytes(rng.choice([0, 4, 8, 12, 40])),
                               [p.fd] * rng.choice([0, 0, 1, 3]), rng.choice([1, 1, 9, rng.randrange(16)]))
                    p.exact(1)
                except (ConnectionError, BrokenPipeError, TimeoutError, socket.timeout, AssertionError):
                    pass
            assert d.p.poll() is None
        with Peer(f'{tmp_path}/vu') as p:
            p.ready()
            assert p.request(vu.IN, 0, want=512)[0] == 0
        end = time.monotonic() + 20
        while len(os.listdir(f'/proc/{d.p.pid}/fd')) > before and time.monotonic() < end:
            time.sleep(0.05)
        assert len(os.listdir(f'/proc/{d.p.pid}/fd')) <= before


# ---- FUSE ----

def fuse_works():
    return os.access('/dev/fuse', os.R_OK | os.W_OK) and os.geteuid() == 0


needs_fuse = pytest.mark.skipif(not fuse_works(), reason='no /dev/fuse that this user may mount with')


def fuse(tmp, disk, more=''):
    (tmp / 'shown').touch()
    return Daemon(tmp, '--blockdev', f'driver=qcow2,node-name=q,file.driver=file,file.filename={disk}', '--export',
                  f'type=fuse,id=e,node-name=q,mountpoint={tmp}/shown{more}')


@needs_fuse
@pytest.mark.proves('F-PRG-12')
def test_an_image_is_shown_as_a_raw_file(tmp_path, disk):
    shown = tmp_path / 'shown'
    with fuse(tmp_path, disk, ',writable=on') as d:
        assert d.q.cmd('query-block-exports')[0]['type'] == 'fuse'
        st = os.stat(shown)
        assert st.st_size == 4 << 20 and st.st_mode & 0o777 == 0o600
        rng, shadow = random.Random(7), bytearray(4 << 20)
        with open(shown, 'r+b', buffering=0) as f:
            for _ in range(60):
                at, n = rng.randrange(4 << 20), rng.choice([1, 511, 4096, 200000])
                n = min(n, (4 << 20) - at)
                data = rng.randbytes(n)
                f.seek(at)
                assert f.write(data) == n
                shadow[at:at + n] = data
                at = rng.randrange(4 << 20)
                f.seek(at)
                assert f.read(n) == shadow[at:at + n]
            f.seek(4 << 20)
            assert f.read(10) == b''
            with pytest.raises(OSError) as e:
                f.write(b'x')
            assert e.value.errno == errno.ENOSPC
            subprocess.run(['fallocate', '-p', '-o', '1M', '-l', '64K', str(shown)], check=True)
            shadow[1 << 20:(1 << 20) + 65536] = bytes(65536)
            os.fsync(f.fileno())
        assert shown.read_bytes() == shadow
        out = subprocess.run([program('qemu-img'), 'compare', '-U', '-f', 'raw', '-F', 'qcow2', shown, disk], capture_output=True, text=True)
        assert 'identical' in out.stdout, out
        f = os.open(shown, os.O_RDONLY)
        assert os.lseek(f, 1 << 20, os.SEEK_HOLE) == 1 << 20 and os.lseek(f, (1 << 20) + 100, os.SEEK_DATA) == (1 << 20) + 65536
        os.close(f)
        d.q.cmd('block-export-del', id='e')
        assert shown.stat().st_size == 0  # what lies below shows again
        d.q.cmd('block-export-add', type='fuse', id='r', node_name='q', mountpoint=str(shown))
        with pytest.raises(OSError):
            open(shown, 'r+b')
        assert shown.read_bytes() == shadow
        subprocess.run(['umount', str(shown)], check=True)
        assert d.q.cmd('query-block-exports')[0]['id'] == 'r'
        d.q.cmd('block-export-add', type='fuse', id='g', node_name='q', mountpoint=str(shown), writable=True, growable=True)
        with open(shown, 'r+b') as f:
            f.seek(5 << 20)
            f.write(b'grown')
        assert shown.stat().st_size == (5 << 20) + 512
        os.truncate(shown, 6 << 20)
        assert shown.stat().st_size == 6 << 20
        for args, text in ((dict(id='g'), 'in use'), (dict(mountpoint=str(tmp_path)), 'regular file'), (dict(mountpoint='/nosuch'), 'Failed to stat'),
                           (dict(allow_other='perhaps'), 'allow-other'), (dict(node_name='z'), 'Cannot find')):
            with pytest.raises(QmpError, match=text):
                d.q.cmd('block-export-add', **{'type': 'fuse', 'id': 'h', 'node_name': 'q', 'mountpoint': str(shown), **args})
        d.q.cmd('quit')
        assert d.p.wait(20) == 0
    assert shown.stat().st_size == 0
    assert 'fuse.lyrebird' not in open('/proc/mounts').read() or str(shown) not in open('/proc/mounts').read()
    subprocess.run([program('qemu-img'), 'check', disk], check=True, capture_output=True)


@pytest.mark.proves('F-PRG-12')
def test_a_machine_exports_its_disk(tmp_path, disk):
    with Machine('-M', 'pc', '-drive', f'file={disk},if=virtio,id=d', qtest=True) as m:
        m.qmp('block-export-add', type='vhost-user-blk', id='v', node_name='d', addr={'type': 'unix', 'path': f'{tmp_path}/vu'})
        with pytest.raises(QmpError, match='addr.type'):
            m.qmp('block-export-add', type='vhost-user-blk', id='w', node_name='d')
        with pytest.raises(QmpError, match='num-queues'):
            m.qmp('block-export-add', type='vhost-user-blk', id='w', node_name='d', num_queues=0, addr={'type': 'unix', 'path': f'{tmp_path}/w'})
        with Peer(f'{tmp_path}/vu') as p:
            p.ready()
            assert p.request(vu.IN, 0, want=512)[0] == 0
            m.qmp('blockdev-snapshot-sync', device='d', snapshot_file=str(tmp_path / 'o.qcow2'))
            assert p.request(vu.IN, 0, want=512)[0] == 0
            m.qmp('block-export-del', id='v', mode='hard')
            m.event('BLOCK_EXPORT_DELETED', id='v')
        if fuse_works():
            (tmp_path / 'shown').touch()
            m.qmp('block-export-add', type='fuse', id='f', node_name='d', mountpoint=str(tmp_path / 'shown'))
            out = subprocess.run(['head', '-c', '512', tmp_path / 'shown'], capture_output=True, timeout=20)
            assert out.stdout == bytes(512)
            m.qmp('block-export-del', id='f')
