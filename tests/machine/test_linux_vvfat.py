"""A Linux guest that writes into a folder of the host."""
import hashlib
import os
import time

import pytest

from linux import Linux


@pytest.mark.limit(240)
@pytest.mark.proves('F-BLK-22')
def test_files_a_guest_writes_appear_in_the_folder(tmp_path):
    folder = tmp_path / 'share'
    os.makedirs(folder / 'old')
    (folder / 'old' / 'keep me.txt').write_text('kept')
    (folder / 'gone.txt').write_text('gone')
    with Linux(['-M', 'q35', '-drive', f'file=fat:rw:{folder},format=raw,if=virtio'], ('virtio_pci', 'virtio_blk', 'vfat', 'nls_cp437', 'nls_ascii')) as g:
        g.sh('mkdir -p /mnt; mount -t vfat -o iocharset=ascii /dev/vda1 /mnt')
        g.sh('cat "/mnt/old/keep me.txt" | grep kept')
        g.sh('mkdir -p "/mnt/New Folder"; head -c 700000 /dev/urandom >"/mnt/New Folder/some data.bin"; echo hello >/mnt/hello.txt; rm /mnt/gone.txt')
        want = g.sh('sha256sum <"/mnt/New Folder/some data.bin"').split()[0]
        g.sh('sync')
        # the folder follows while the guest has it mounted
        end = time.monotonic() + 60
        while (folder / 'gone.txt').exists() and time.monotonic() < end:
            time.sleep(0.5)
        assert (folder / 'hello.txt').read_text() == 'hello\n' and not (folder / 'gone.txt').exists()
        g.sh('mv /mnt/hello.txt "/mnt/New Folder/moved.txt"; mv "/mnt/old/keep me.txt" /mnt/kept.txt; rmdir /mnt/old; echo more >>/mnt/kept.txt; umount /mnt')
        g.sh('mount -t vfat -o iocharset=ascii /dev/vda1 /mnt; cat /mnt/kept.txt; umount /mnt; sync')
        g.poweroff()

    assert hashlib.sha256((folder / 'New Folder' / 'some data.bin').read_bytes()).hexdigest() == want
    assert (folder / 'New Folder' / 'moved.txt').read_text() == 'hello\n' and (folder / 'kept.txt').read_text() == 'keptmore\n'
    assert sorted(os.listdir(folder)) == ['New Folder', 'kept.txt'] and sorted(os.listdir(folder / 'New Folder')) == ['moved.txt', 'some data.bin']
