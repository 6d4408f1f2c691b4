"""qemu-nbd and the nbd driver, with ourselves and with the distribution's tools at the other end."""
import os
import signal
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from blktool import Tool  # noqa: E402
from conftest import host_lacks, need, program


@pytest.fixture
def t(tmp_path):
    return Tool(str(tmp_path))


class Server:
    def __init__(self, t, *args, theirs=False):
        self.sock = t.path('s')
        exe = need('qemu-nbd', 'qemu-utils') if theirs else program('qemu-nbd')
        self.p = subprocess.Popen([exe, '-k', self.sock, *args], cwd=t.cwd)
        for _ in range(200):
            if os.path.exists(self.sock) or self.p.poll() is not None:
                break
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *a):
        if self.p.poll() is None:
            self.p.send_signal(signal.SIGTERM)
        assert self.p.wait(10) == 0


@pytest.mark.proves('F-PRG-11', 'F-NBD-05', 'F-BLK-20', 'S123', 'S126')
@pytest.mark.parametrize('server,client', [(False, False), (False, True), (True, False)])
def test_an_export_is_written_and_read(t, server, client):
    t.random_raw('a.raw', 16 << 20)
    t.run('convert -O qcow2 a.raw d.qcow2')
    with Server(t, '-t', '-e', '4', '-f', 'qcow2', '-x', 'wrap', 'd.qcow2', theirs=server) as s:
        uri = f'nbd+unix:///wrap?socket={s.sock}'
        t.run(['compare', '-f', 'raw', '-F', 'raw', uri, 'a.raw'], theirs=client)
        t.io('write -P 3 1M 3M', 'write -z 6M 1M', 'discard 8M 1M', 'flush', image=uri, fmt='raw', theirs=client)
        t.io('read -P 3 1M 3M', 'read -P 0 6M 1M', image=uri, fmt='raw', theirs=not client and not server)
    t.io('read -P 3 1M 3M', 'read -P 0 6M 1M', image='d.qcow2', theirs=True)
    assert 'No errors' in t.oracle('check d.qcow2')
    assert not os.path.exists(t.path('s'))


@pytest.mark.proves('F-PRG-11', 'F-NBD-05')
def test_a_snapshot_export_takes_writes_and_leaves_the_image(t):
    t.run('create -f qcow2 d.qcow2 8M')
    t.io('write -P 1 0 1M', image='d.qcow2')
    with open(t.path('d.qcow2'), 'rb') as f:
        before = f.read()
    with Server(t, '-s', '-t', '-f', 'qcow2', 'd.qcow2') as s:
        uri = f'nbd+unix:///?socket={s.sock}'
        t.io('write -P 3 64k 64k', 'flush', image=uri, fmt='raw')
        t.io('read -P 1 0 64k', 'read -P 3 64k 64k', 'read -P 1 128k 64k', image=uri, fmt='raw')
    with open(t.path('d.qcow2'), 'rb') as f:
        assert f.read() == before


@pytest.mark.proves('F-NBD-06', 'S127')
def test_the_short_names_of_servers_are_understood(t):
    t.run('create -f raw d.raw 1M')
    p = subprocess.Popen([program('qemu-nbd'), '-b', '127.0.0.1', '-p', '10877', '-t', '-f', 'raw', '-x', 'wrap', 'd.raw'], cwd=t.cwd)
    try:
        for _ in range(100):
            if t.run('info -f raw nbd:127.1:10877:exportname=wrap', None).startswith('image: nbd:'):
                break
            time.sleep(0.05)
        t.io('write -P 1 0 64k', image='nbd:127.1:10877:exportname=wrap', fmt='raw')
        assert 'not available' in t.run('info -f raw nbd:127.1:10877:exportname=other', 1)
    finally:
        p.terminate()
        assert p.wait(10) == 0


@pytest.mark.proves('F-NBD-03', 'S125')
def test_a_read_only_export_refuses_writes(t):
    t.random_raw('a.raw', 1 << 20)
    with open(t.path('a.raw'), 'rb') as f:
        before = f.read()
    with Server(t, '-t', '-r', '-f', 'raw', 'a.raw') as s:
        assert 'read-only' in t.io('write 0 512', image=f'nbd:unix:{s.sock}', fmt='raw', ok=1)
        t.oracle(['compare', '-f', 'raw', '-F', 'raw', f'nbd+unix:///?socket={s.sock}', 'a.raw'])
    with open(t.path('a.raw'), 'rb') as f:
        assert f.read() == before


@pytest.mark.proves('F-NBD-04')
def test_one_partition_is_served(t):
    t.run('create -f raw d.raw 8M')
    with open(t.path('d.raw'), 'r+b') as f:
        f.seek(446)
        f.write(bytes([0, 0, 2, 0, 0x83, 0, 0, 0]) + (2048).to_bytes(4, 'little') + (4096).to_bytes(4, 'little'))
        f.seek(510)
        f.write(b'\x55\xaa')
    t.io('write -P 6 1M 2M', image='d.raw', fmt='raw')
    with Server(t, '-t', '-f', 'raw', '-P', '1', 'd.raw') as s:
        t.io('read -P 6 0 2M', image=f'nbd:unix:{s.sock}', fmt='raw')
        assert t.info(f'nbd+unix:///?socket={s.sock}', False, '-f', 'raw')['virtual-size'] == 2 << 20


@pytest.mark.proves('F-PRG-11', 'F-NBD-01', 'F-NBD-02', 'S123', 'S124')
def test_without_the_kernel_module_the_refusal_names_the_remedy(t):
    if os.path.exists('/sys/module/nbd'):
        host_lacks('the nbd module is loaded here')
    t.run('create -f qcow2 disk1.qcow2 1M')
    for line in ('-c /dev/nbd0 disk1.qcow2', '-d /dev/nbd0', '-r -c /dev/nbd0 disk1.qcow2'):
        out = t.run(line, 1, tool='qemu-nbd')
        assert '/dev/nbd0' in out and 'modprobe nbd' in out


def test_the_list_of_exports_is_the_oracle_s(t):
    t.run('create -f raw d.raw 1M')
    with Server(t, '-t', '-e', '4', '-f', 'raw', '-x', 'one', '-D', 'text', 'd.raw') as s:
        ours = t.run(['-L', '-k', s.sock], tool='qemu-nbd')
        theirs = t.run(['-L', '-k', s.sock], tool='qemu-nbd', theirs=True)
        assert theirs.startswith(ours.rstrip('\n'))


@pytest.mark.proves('F-NBD-05')
@pytest.mark.parametrize('theirs', [False, True])
def test_large_reads_of_a_plain_file_are_what_it_holds(t, theirs):
    """They leave from the page cache; the file's last page is not whole, and it is written to and cut meanwhile."""
    t.random_raw('a.raw', (9 << 20) + 1000)
    with open(t.path('a.raw'), 'rb') as f:
        data = bytearray(f.read())
    with Server(t, '-t', '-e', '4', '-f', 'raw', 'a.raw') as s:
        uri = f'nbd+unix:///?socket={s.sock}'
        for _ in range(2):  # the second time all of it is in the page cache
            t.run(['convert', '-f', 'raw', '-O', 'raw', uri, 'b.raw'], theirs=theirs)
            with open(t.path('b.raw'), 'rb') as f:
                assert f.read().rstrip(b'\0') == bytes(data).rstrip(b'\0')
        t.io('write -P 7 1M 2M', 'read -P 7 1M 2M', 'read -P 7 1047k 32k', 'write -z 2M 512k', 'read -P 0 2M 512k', 'discard 4M 1M',
             'read -P 0 4M 1M', image=uri, fmt='raw', theirs=theirs)
    with Server(t, '-t', '--image-opts', 'driver=raw,offset=512,size=4194304,file.driver=file,file.filename=a.raw') as s:
        t.run(['convert', '-f', 'raw', '-O', 'raw', f'nbd+unix:///?socket={s.sock}', 'c.raw'], theirs=theirs)
    with open(t.path('a.raw'), 'rb') as f, open(t.path('c.raw'), 'rb') as c:
        f.seek(512)
        assert c.read() == f.read(4 << 20)
