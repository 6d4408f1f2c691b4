"""A Linux guest whose disk another program serves: vhost-user-blk."""
import hashlib
import os
import socket
import subprocess
import time

import pytest

from conftest import need, program
from linux import Linux

MEMORY = ['-object', 'memory-backend-memfd,id=m,size=256M,share=on', '-machine', 'memory-backend=m']
MODULES = ('virtio_pci', 'virtio_blk', 'ext4')


class Serve:
    """A storage daemon with an image behind a vhost-user socket."""

    def __init__(self, img, sock, exe=None, fmt='qcow2', queues=2):
        self.sock, self.cmd = sock, [exe or program('qemu-storage-daemon'), '--blockdev', f'driver={fmt},node-name=q,file.driver=file,file.filename={img}',
                                     '--export', f'type=vhost-user-blk,id=e,node-name=q,addr.type=unix,addr.path={sock},writable=on,num-queues={queues}']
        self.start()

    def start(self):
        self.d = subprocess.Popen(self.cmd)
        while not os.path.exists(self.sock):
            assert self.d.poll() is None
            time.sleep(0.05)

    def kill(self):
        self.d.kill()
        self.d.wait()
        if os.path.exists(self.sock):
            os.unlink(self.sock)

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.d.terminate()
        assert self.d.wait(60) == 0


def image(path, size='64M'):
    subprocess.run([program('qemu-img'), 'create', '-q', '-f', 'qcow2', path, size], check=True)
    return path


def device(sock, chardev='', dev=''):
    return [*MEMORY, '-chardev', f'socket,id=c,path={sock}{chardev}', '-device', f'vhost-user-blk-pci,chardev=c,id=vu{dev}']


def raw_round(g, mib=8):
    g.sh(f'head -c {mib}000000 /dev/urandom >/tmp/r; dd if=/tmp/r of=/dev/vda bs=64k seek=16 conv=fsync 2>/dev/null', 120)
    want = g.sh('sha256sum </tmp/r').split()[0]
    g.sh('echo 3 >/proc/sys/vm/drop_caches')
    assert g.sh(f'dd if=/dev/vda bs=64k skip=16 2>/dev/null | head -c {mib}000000 | sha256sum', 120).split()[0] == want
    return want


def sum_of(img, tmp, n=8000000):
    subprocess.run([program('qemu-img'), 'dd', '-f', 'qcow2', '-O', 'raw', 'bs=64k', 'skip=16', f'if={img}', f'of={tmp}/raw'], check=True)
    with open(f'{tmp}/raw', 'rb') as f:
        return hashlib.sha256(f.read(n)).hexdigest()


@pytest.mark.long
@pytest.mark.limit(600)
@pytest.mark.parametrize('whose', ['ours', 'theirs'])
@pytest.mark.parametrize('machine', ['pc', 'q35'])
@pytest.mark.proves('F-STO-06')
def test_a_guest_s_disk_is_served_over_vhost_user(tmp_path, whose, machine):
    img, sock = image(tmp_path / 'd.qcow2'), tmp_path / 'vu'
    exe = need('qemu-storage-daemon', 'qemu-system-x86') if whose == 'theirs' else None
    with Serve(img, sock, exe):
        with Linux(['-M', machine, '-smp', '2', *device(sock)], MODULES) as g:
            assert g.sh('cat /sys/block/vda/size').strip() == str(64 << 11)
            assert len(g.sh('ls /sys/block/vda/mq').split()) == 2
            want = raw_round(g)
            g.sh('for i in 1 2 3 4 5 6; do dd if=/dev/vda of=/dev/null bs=4k count=2000 iflag=direct skip=$((i*500)) 2>/dev/null & done; wait', 120)
            g.poweroff()
    assert sum_of(img, tmp_path) == want
    subprocess.run([program('qemu-img'), 'check', img], check=True, capture_output=True)


@pytest.mark.long
@pytest.mark.limit(600)
@pytest.mark.proves('F-STO-06')
def test_a_peer_that_is_killed_is_replaced_while_the_guest_writes(tmp_path):
    img, sock = tmp_path / 'd.raw', tmp_path / 'vu'
    with open(img, 'wb') as f: # raw: a killed server has kept nothing to itself
        f.truncate(64 << 20)
    with Serve(img, sock, fmt='raw') as s:
        with Linux(['-M', 'q35', *device(sock, ',reconnect=1')], MODULES) as g:
            g.sh('head -c 30000000 /dev/urandom >/tmp/r')
            want = g.sh('sha256sum </tmp/r').split()[0]
            g.sh('(dd if=/tmp/r of=/dev/vda bs=64k seek=16 oflag=direct 2>/tmp/err; sync; echo $? >/tmp/rc) & sleep 0.3')
            for _ in range(3):
                s.kill()
                time.sleep(0.5)
                s.start()
                g.sh('sleep 2')
            g.sh('while [ ! -e /tmp/rc ]; do sleep 1; done; test $(cat /tmp/rc) = 0', 200)
            g.sh('echo 3 >/proc/sys/vm/drop_caches')
            assert g.sh('dd if=/dev/vda bs=64k skip=16 2>/dev/null | head -c 30000000 | sha256sum', 120).split()[0] == want
            g.poweroff()
    with open(img, 'rb') as f:
        f.seek(1 << 20)
        assert hashlib.sha256(f.read(30000000)).hexdigest() == want


@pytest.mark.long
@pytest.mark.limit(600)
@pytest.mark.proves('F-STO-06')
def test_a_peer_that_is_killed_gives_errors_and_a_new_disk_is_plugged(tmp_path):
    img, sock = image(tmp_path / 'd.qcow2'), tmp_path / 'vu'
    with Serve(img, sock) as s:
        args = ['-object', 'memory-backend-memfd,id=m,size=256M,share=on', '-numa', 'node,memdev=m', *device(sock)[4:]]
        with Linux(['-M', 'pc', *args], (*MODULES, 'acpiphp')) as g:
            raw_round(g, 2)
            s.kill()
            g.sh('! dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null')
            s.start()
            g.qmp.call('device_del', id='vu')
            g.qmp.wait_event('DEVICE_DELETED')
            g.qmp.call('chardev-remove', id='c')
            g.qmp.call('chardev-add', id='c2', backend={'type': 'socket', 'data': {'addr': {'type': 'unix', 'data': {'path': str(sock)}}, 'server': False}})
            g.qmp.call('device_add', driver='vhost-user-blk-pci', chardev='c2', id='vu2')
            g.sh('while [ ! -e /dev/vdb ] && [ ! -e /dev/vda ]; do sleep 0.2; done')
            g.sh('d=/dev/vda; [ -e /dev/vdb ] && d=/dev/vdb; dd if=$d of=/dev/null bs=4k count=100 iflag=direct')
            g.poweroff()


@pytest.mark.proves('F-STO-06')
def test_memory_that_is_not_shared_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / 's'
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
        s.listen(1)
        p = subprocess.run([program('qemu-system-x86_64'), '-display', 'none', '-chardev', f'socket,id=c,path={path}', '-device', 'vhost-user-blk-pci,chardev=c'],
                           capture_output=True, text=True, timeout=60)
    assert p.returncode == 1 and 'not shared' in p.stderr and 'share=on -machine memory-backend=mem' in p.stderr
