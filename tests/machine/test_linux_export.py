"""A Linux guest of the distribution's emulator on a disk that our storage daemon exports over vhost-user."""
import hashlib
import os
import subprocess
import time

import pytest

from conftest import need, program
from linux import Linux

DAEMON = ['--blockdev', 'driver=qcow2,node-name=q,file.driver=file,file.filename={img}', '--export',
          'type=vhost-user-blk,id=e,node-name=q,addr.type=unix,addr.path={sock},writable=on,num-queues=2']


@pytest.mark.long
@pytest.mark.limit(400)
@pytest.mark.proves('F-PRG-12', 'S088')
def test_a_guest_of_the_distribution_s_emulator_uses_a_vhost_user_export(tmp_path, monkeypatch):
    theirs = need('qemu-system-x86_64', 'qemu-system-x86')
    img, sock = tmp_path / 'd.qcow2', tmp_path / 'vu'
    subprocess.run([program('qemu-img'), 'create', '-q', '-f', 'qcow2', img, '64M'], check=True)
    d = subprocess.Popen([program('qemu-storage-daemon'), *(a.format(img=img, sock=sock) for a in DAEMON)])
    try:
        while not os.path.exists(sock):
            time.sleep(0.05)
        monkeypatch.setenv('LYREBIRD_QEMU', theirs)
        with Linux(['-M', 'q35', '-smp', '2', '-accel', 'tcg', '-object', 'memory-backend-memfd,id=m,size=256M,share=on', '-numa', 'node,memdev=m',
                    '-chardev', f'socket,id=c,path={sock}', '-device', 'vhost-user-blk-pci,chardev=c,num-queues=2'],
                   ('virtio_pci', 'virtio_blk', 'ext4')) as g:
            assert g.sh('cat /sys/block/vda/size').strip() == str(64 << 11)
            g.sh('head -c 8000000 /dev/urandom >/tmp/r; dd if=/tmp/r of=/dev/vda bs=64k seek=16 conv=fsync 2>/dev/null')
            want = g.sh('sha256sum </tmp/r').split()[0]
            g.sh('echo 3 >/proc/sys/vm/drop_caches')
            assert g.sh('dd if=/dev/vda bs=64k skip=16 2>/dev/null | head -c 8000000 | sha256sum').split()[0] == want
            g.poweroff()
    finally:
        d.terminate()
        assert d.wait(30) == 0
    out = subprocess.run([program('qemu-img'), 'dd', '-f', 'qcow2', '-O', 'raw', 'bs=64k', 'skip=16', f'if={img}', f'of={tmp_path}/raw'],
                         capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    with open(tmp_path / 'raw', 'rb') as f:
        assert hashlib.sha256(f.read(8000000)).hexdigest() == want
    subprocess.run([program('qemu-img'), 'check', img], check=True, capture_output=True)
