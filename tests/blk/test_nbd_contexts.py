"""What NBD says beside the data: allocation, depth of layers, dirty bitmaps; ours and the distribution's at either end. And
qemu-nbd without the kernel's client: a raw file by FUSE, partitions, snapshots."""
import json
import os
import random
import socket
import struct
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from blktool import Tool  # noqa: E402
from conftest import need, program
from lyre import Machine, QmpError
from test_exports import needs_fuse


@pytest.fixture
def t(tmp_path):
    return Tool(str(tmp_path))


class Nbd:
    """A qemu-nbd, ours or theirs."""

    def __init__(self, t, *args, theirs=False):
        self.sock = t.path('sock')
        exe = need('qemu-nbd', 'qemu-utils') if theirs else program('qemu-nbd')
        self.p = subprocess.Popen([exe, '-t', '-k', self.sock, *args], cwd=t.cwd)
        end = time.monotonic() + 30
        while not os.path.exists(self.sock):
            assert self.p.poll() is None and time.monotonic() < end
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.p.terminate()
        self.p.wait(20)
        if os.path.exists(self.sock):
            os.unlink(self.sock)


def chain(t):
    """Three layers with random data, a bitmap on the topmost one that saw the last writes."""
    rng = random.Random(3)
    for i, name in enumerate(('base', 'mid', 'top')):
        t.run(f'create -f qcow2 {name} 8M' if not i else f'create -f qcow2 -b {("base", "mid")[i - 1]} -F qcow2 {name}')
        t.io(*(f'write -P {i * 16 + k + 1} {rng.randrange(120) * 65536} {rng.choice([65536, 131072])}' for k in range(6)),
             f'write -z {rng.randrange(100) * 65536} 65536', image=name, fmt='qcow2')
    t.run('bitmap --add top b0')
    t.run('bitmap --add --disable top b1')
    t.io('write -P 9 1M 128k', 'write -P 9 5M 64k', image='top', fmt='qcow2')


def maps(t, context='', theirs=False):
    more = f',x-dirty-bitmap={context}' if context else ''
    out = t.run(['map', '--output=json', '--image-opts', f'driver=nbd,server.type=unix,server.path={t.path("sock")}{more}'], theirs=theirs)
    return json.loads(out)


@pytest.mark.proves('F-PRG-11')
@pytest.mark.parametrize('server, client', [('ours', 'theirs'), ('theirs', 'ours'), ('ours', 'ours')])
def test_contexts_are_the_oracle_s(t, server, client):
    chain(t)
    with Nbd(t, '-r', '-A', '-f', 'qcow2', 'top', theirs=True):
        want = {c: maps(t, c, theirs=True) for c in ('', 'qemu:allocation-depth')}
    with Nbd(t, '-B', 'b0', '-B', 'b1', '-f', 'qcow2', 'top', theirs=True):
        want['qemu:dirty-bitmap:b0'] = maps(t, 'qemu:dirty-bitmap:b0', theirs=True)
        want['qemu:dirty-bitmap:b1'] = maps(t, 'qemu:dirty-bitmap:b1', theirs=True)
    assert len(want['qemu:dirty-bitmap:b0']) > 3 and want['qemu:dirty-bitmap:b0'] != want['qemu:dirty-bitmap:b1']
    with Nbd(t, '-B', 'b0', '-B', 'b1', '-A', '-f', 'qcow2', 'top', theirs=server == 'theirs'):
        for context, is_ in want.items():
            assert maps(t, context, theirs=client == 'theirs') == is_, context
        said = t.run(['map', '--image-opts', f'driver=nbd,server.type=unix,server.path={t.path("sock")},x-dirty-bitmap=qemu:dirty-bitmap:nosuch'],
                     ok=1, theirs=client == 'theirs')
        assert client == 'theirs' or ('requested x-dirty-bitmap' in said and 'not found' in said)
        t.run(f'convert -O raw nbd+unix:///?socket={t.path("sock")} out', theirs=client == 'theirs')
    t.run('convert -O raw top want')
    assert open(t.path('out'), 'rb').read() == open(t.path('want'), 'rb').read()
    t.run('check top')


@pytest.mark.proves('F-PRG-11')
def test_holes_stay_holes_over_nbd(t):
    t.run('create -f raw a 1G')
    t.io('write -P 5 300M 1M', image='a', fmt='raw')
    with Nbd(t, '-r', '-f', 'raw', 'a'):
        start = time.monotonic()
        t.run(f'convert -O raw nbd+unix:///?socket={t.path("sock")} b')
        assert time.monotonic() - start < 20
    assert os.stat(t.path('b')).st_blocks * 512 < 8 << 20
    t.run('compare -f raw -F raw a b')


def test_mistakes_are_named(t):
    chain(t)
    for args, text in ((['-B', 'nosuch'], "Bitmap 'nosuch' is not found"), (['-B', 'b1', '-B', 'b1'], 'in use')):
        p = subprocess.run([program('qemu-nbd'), '-k', t.path('sock'), *args, '-f', 'qcow2', 'top'], cwd=t.cwd, capture_output=True, text=True,
                           timeout=30)
        assert p.returncode == 1 and text in p.stderr, p.stderr


@pytest.mark.proves('F-PRG-11')
def test_a_running_machine_offers_bitmaps(t):
    chain(t)
    nbd = ['--image-opts', f'driver=nbd,server.type=unix,server.path={t.path("sock")},export=e,x-dirty-bitmap=qemu:dirty-bitmap:']
    with Machine('-M', 'pc', '-blockdev', f'driver=qcow2,node-name=d,file.driver=file,file.filename={t.path("top")}', qtest=True) as m:
        m.qmp('nbd-server-start', addr={'type': 'unix', 'data': {'path': t.path('sock')}})
        with pytest.raises(QmpError, match='incompatible with readonly'):
            m.qmp('block-export-add', type='nbd', id='x', node_name='d', name='e', bitmaps=['b0'])
        assert m.qmp('query-block-exports') == []
        m.qmp('block-export-add', type='nbd', id='x', node_name='d', name='e', writable=True, allocation_depth=True,
              bitmaps=['b1', {'node': 'd', 'name': 'b0'}])
        for name, dirty in (('b0', 3), ('b1', 0)):
            got = json.loads(t.run(['map', '--output=json', *nbd[:1], nbd[1] + name]))
            assert sum(x['length'] for x in got if not x['data']) == dirty * 65536
        with pytest.raises(QmpError, match='in use'):
            m.qmp('block-dirty-bitmap-remove', node='d', name='b0')
        m.qmp('block-export-del', id='x', mode='hard')
        m.qmp('block-dirty-bitmap-remove', node='d', name='b0')
        m.qmp('nbd-server-add', device='d', name='f', bitmap='b1', writable=True)


def options(s, *opts):
    """A raw negotiation: what the server answers to each option."""
    s.recv(18)
    s.sendall(struct.pack('>I', 3))
    for opt, data in opts:
        s.sendall(b'IHAVEOPT' + struct.pack('>II', opt, len(data)) + data)
        got = []
        while True:
            h = s.recv(20, socket.MSG_WAITALL)
            kind, n = struct.unpack('>II', h[12:])
            got.append((kind, s.recv(n, socket.MSG_WAITALL) if n else b''))
            if kind != 4:
                break
        yield got


@pytest.mark.proves('F-PRG-11')
def test_lists_and_hostile_queries(t):
    chain(t)

    def query(*names, export=b''):
        return struct.pack('>I', len(export)) + export + struct.pack('>I', len(names)) + b''.join(struct.pack('>I', len(n)) + n for n in names)

    with Nbd(t, '-B', 'b0', '-B', 'b1', '-A', '-f', 'qcow2', 'top') as n:
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(20)
        s.connect(n.sock)
        every = [b'base:allocation', b'qemu:allocation-depth', b'qemu:dirty-bitmap:b0', b'qemu:dirty-bitmap:b1']
        names = lambda got: [d[4:] for k, d in got if k == 4]
        a = list(options(s, (9, query()), (8, b''), (9, query()), (9, query(b'qemu:')), (9, query(b'qemu:dirty-bitmap:')), (9, query(b'base:')),
                         (9, query(b'qemu:dirty')), (10, query(b'qemu:dirty-bitmap:')), (10, query(*every, b'x:y')), (9, query(export=b'nosuch')),
                         (9, struct.pack('>III', 0, 5, 4000)), (9, b'\0\0\0\xff')))
        assert a[0][-1][0] == 0x80000003 and names(a[2]) == every and names(a[3]) == every[1:] and names(a[4]) == every[2:]
        assert names(a[5]) == every[:1] and names(a[6]) == [] and names(a[7]) == [] and names(a[8]) == every
        assert a[9][-1][0] == 0x80000006 and a[10][-1][0] == a[11][-1][0] == 0x80000003
        s.sendall(b'IHAVEOPT' + struct.pack('>II', 7, 6) + bytes(6))
        while True:
            kind, ln = struct.unpack('>II', s.recv(20, socket.MSG_WAITALL)[12:])
            if ln:
                s.recv(ln, socket.MSG_WAITALL)
            if kind == 1:
                break
        s.sendall(struct.pack('>IHHQQI', 0x25609513, 0, 7, 77, 0, 8 << 20))
        seen = {}
        for _ in range(4):
            magic, flags, kind, cookie, ln = struct.unpack('>IHHQI', s.recv(20, socket.MSG_WAITALL))
            d = s.recv(ln, socket.MSG_WAITALL)
            assert kind == 5 and cookie == 77
            seen[struct.unpack('>I', d[:4])[0]] = [struct.unpack('>II', d[i:i + 8]) for i in range(4, ln, 8)]
        assert flags == 1 and len(seen) == 4 and all(sum(n for n, _ in e) == 8 << 20 for e in seen.values())
        assert {f for _, f in seen[2]} == {0, 1, 2, 3} and sum(n for n, f in seen[3] if f) == 3 * 65536


# ---- without the kernel's client ----

def partitioned(path, table):
    with open(path, 'wb') as f:
        f.truncate(64 << 20)
    script = {'dos': 'label: dos\n2048,20480,83\n22528,20480,c\n43008,+,5\n45056,10240,82\n57344,8192,83\n',
              'gpt': 'label: gpt\nstart=2048, size=20480, type=L, name=first\nsize=20480, type=U\n'}[table]
    subprocess.run([need('sfdisk', 'fdisk'), '-q', path], input=script, text=True, check=True)
    out = json.loads(subprocess.run([need('sfdisk', 'fdisk'), '--json', path], capture_output=True, text=True, check=True).stdout)
    return [(int(p['node'][len(path):].lstrip('p')), p['start'] * 512, p['size'] * 512) for p in out['partitiontable']['partitions']]


@pytest.mark.proves('N-72', 'F-NBD-04')
@pytest.mark.parametrize('table', ['dos', 'gpt'])
def test_partitions_are_listed(t, table):
    want = partitioned(t.path('raw'), table)
    t.run('convert -f raw -O qcow2 raw a')
    out = t.run(['--partitions', '-f', 'qcow2', 'a'], tool='qemu-nbd')
    got = [(int(w[0]), int(w[2]), int(w[4])) for w in (ln.split() for ln in out.splitlines())]
    assert got == [w for w in want if not (table == 'dos' and w[0] == 3)] or got == want
    if table == 'gpt':
        assert 'name first' in out and '0fc63daf-8483-4772-8e79-3d69d8477de4' in out
    t.run('create -f raw none 1M')
    assert 'no partition table' in t.run(['--partitions', '-f', 'raw', 'none'], tool='qemu-nbd', ok=1)
    rng = random.Random(8)
    good = open(t.path('raw'), 'rb').read(1 << 16)
    for _ in range(60):  # tables with changed bytes
        b = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            b[rng.choice([rng.randrange(446, 510), rng.randrange(512, 1024 + 512)])] = rng.choice([0, 1, 0xff, rng.randrange(256)])
        with open(t.path('raw'), 'r+b') as f:
            f.write(b)
        t.run(['--partitions', '-f', 'raw', 'raw'], tool='qemu-nbd', ok=None)


def mount_partition(t, shown):
    """The host's kernel sees the partitions by a loop device and mounts a file system of the second."""
    p = subprocess.run([need('losetup', 'mount'), '-P', '-f', '--show', shown], capture_output=True, text=True)
    if p.returncode:
        return
    dev = p.stdout.strip()
    try:
        sys_dev = f'/sys/block/{os.path.basename(dev)}/{os.path.basename(dev)}p2/dev'
        if not os.path.exists(sys_dev):  # a kernel that does not look for partitions itself
            subprocess.run([need('partx', 'fdisk'), '-a', dev], check=True)
        with open(sys_dev) as f:  # the name in /dev is not everywhere made by itself
            subprocess.run(['mknod', t.path('p2'), 'b', *f.read().strip().split(':')], check=True)
        subprocess.run([need('mkfs.ext2', 'e2fsprogs'), '-q', t.path('p2')], check=True)
        os.mkdir(t.path('mnt'))
        subprocess.run(['mount', t.path('p2'), t.path('mnt')], check=True)
        with open(t.path('mnt/file'), 'w') as f:
            f.write('on the guest\'s disk')
        subprocess.run(['umount', t.path('mnt')], check=True)
    finally:
        subprocess.run(['losetup', '-d', dev], check=True)


@needs_fuse
@pytest.mark.proves('N-72', 'F-NBD-01', 'F-NBD-02', 'F-NBD-04', 'S123', 'S124', 'S126')
def test_an_image_is_a_raw_file_without_the_kernel_s_client(t):
    [(_, start, size), *_] = partitioned(t.path('raw'), 'gpt')
    with open(t.path('raw'), 'r+b') as f:
        f.seek(start)
        f.write(b'first partition')
    t.run('convert -f raw -O qcow2 raw a')
    shown = t.path('shown')
    open(shown, 'w').close()
    t.run([f'--fuse={shown}', '--fork', '-f', 'qcow2', 'a'], tool='qemu-nbd')
    try:
        assert os.stat(shown).st_size == 64 << 20
        t.run('compare -U -f raw -F raw shown raw')
        out = subprocess.run([need('sfdisk', 'fdisk'), '-d', shown], capture_output=True, text=True, check=True).stdout
        assert 'first' in out
        with open(shown, 'r+b') as f:
            f.seek(start)
            f.write(b'changed')
        mount_partition(t, shown)
    finally:
        t.run(['-d', shown], tool='qemu-nbd')
    assert os.stat(shown).st_size == 0
    end = time.monotonic() + 20
    while t.run(['info', 'a'], ok=None) and time.monotonic() < end:
        if 'Pattern' not in t.io(f'read -P 0x63 {start} 1', image='a', fmt='qcow2', ok=None):
            break
        time.sleep(0.1)
    t.run([f'--fuse={shown}', '--fork', '-P', '1', '-r', '-f', 'qcow2', 'a'], tool='qemu-nbd')
    try:
        assert os.stat(shown).st_size == size and open(shown, 'rb').read(7) == b'changed'
    finally:
        t.run(['-d', shown], tool='qemu-nbd')
    t.run('convert -f qcow2 -O raw a after')
    assert b"on the guest's disk" in open(t.path('after'), 'rb').read()
    assert 'regular file' in t.run([f'--fuse={t.cwd}', '-f', 'qcow2', 'a'], tool='qemu-nbd', ok=1)


@pytest.mark.proves('F-PRG-11')
def test_an_internal_snapshot_is_served(t):
    t.snapshot_between_writes('a')
    for how in ('one', 'snapshot.name=one', 'snapshot.id=1'):
        with Nbd(t, '-l', how, '-f', 'qcow2', 'a'):
            assert 'Pattern' not in t.run(['-r', '-f', 'raw', '-c', 'read -P 1 0 1M', f'nbd+unix:///?socket={t.path("sock")}'], tool='qemu-io')
    assert 'Could not open' in t.run(['-k', t.path('sock'), '-l', 'two', '-f', 'qcow2', 'a'], tool='qemu-nbd', ok=1)


@pytest.mark.proves('N-73')
def test_a_disk_in_use_is_not_served_for_writing(t):
    """Mounting what a running guest writes would ruin it: the lock says who has it, and reading works."""
    t.run('create -f qcow2 a 4M')
    with Machine('-M', 'pc', '-name', 'somebody', '-drive', f'file={t.path("a")},if=virtio', qtest=True) as m:
        for how in (['-k', t.path('sock')], ['--fuse=' + t.path('shown')]):
            open(t.path('shown'), 'w').close()
            out = t.run([*how, '-f', 'qcow2', 'a'], tool='qemu-nbd', ok=1)
            assert 'lock' in out and str(m.proc.pid) in out and 'somebody' in out, out
        assert os.stat(t.path('shown')).st_size == 0
        with Nbd(t, '-r', '-f', 'qcow2', 'a'):
            assert 'Pattern' not in t.run(['-r', '-f', 'raw', '-c', 'read -P 0 0 1M', f'nbd+unix:///?socket={t.path("sock")}'], tool='qemu-io')
