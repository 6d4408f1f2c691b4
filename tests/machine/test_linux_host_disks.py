"""A block device of the host as the machine's disk."""
import os
import subprocess

import pytest

from conftest import host_lacks, need
from linux import Linux

START, SIZE = 2048, 32768  # sectors of the partition


def loop(path):
    p = subprocess.run([need('losetup', 'mount'), '-f', '--show', path], capture_output=True, text=True)
    if p.returncode:
        host_lacks('loop devices')
    return p.stdout.strip()


class Mapper:
    """/dev/mapper/qemu: a boot record, then a partition, then zeros. By the device mapper where the kernel has one; else a
    loop device over one file of the same contents stands in."""

    def __init__(self, tmp):
        self.loops, self.dm = [], False
        part, mbr = tmp / 'part', tmp / 'mbr'
        with open(mbr, 'wb') as f:
            f.truncate(START * 512)
        with open(part, 'wb') as f:
            f.write(b'in the partition')
            f.truncate(SIZE * 512)
        whole = tmp / 'whole'
        with open(whole, 'wb') as f:
            f.truncate((START + SIZE + 4096) * 512)
        subprocess.run([need('sfdisk', 'fdisk'), '-q', whole], input=f'label: dos\n{START},{SIZE},83\n', text=True, check=True)
        with open(whole, 'r+b') as f, open(mbr, 'r+b') as m:
            m.write(f.read(START * 512))
            f.seek(START * 512)
            f.write(b'in the partition')
        with open('/proc/misc') as f:
            self.dm = 'device-mapper' in f.read()
        if self.dm:
            self.loops = [loop(mbr), loop(part)]
            table = f'0 {START} linear {self.loops[0]} 0\n{START} {SIZE} linear {self.loops[1]} 0\n{START + SIZE} 4096 zero\n'
            subprocess.run([need('dmsetup'), 'create', 'qemu'], input=table, text=True, check=True)
        else:
            self.loops = [loop(whole)]
            os.makedirs('/dev/mapper', exist_ok=True)
            os.symlink(self.loops[0], '/dev/mapper/qemu')
        self.part = part if self.dm else whole
        self.at = 0 if self.dm else START * 512

    def __enter__(self):
        return self

    def __exit__(self, *a):
        if self.dm:
            subprocess.run(['dmsetup', 'remove', 'qemu'], check=True)
        else:
            os.unlink('/dev/mapper/qemu')
        for x in self.loops:
            subprocess.run(['losetup', '-d', x], check=True)

    def content(self, n):
        with open(self.part, 'rb') as f:
            f.seek(self.at)
            return f.read(n)


@pytest.mark.limit(200)
@pytest.mark.proves('S099')
def test_a_composed_device_of_the_host_is_the_disk(tmp_path):
    if os.geteuid():
        host_lacks('the right to make block devices')
    if os.path.lexists('/dev/mapper/qemu'):
        host_lacks('the name /dev/mapper/qemu is taken')
    with Mapper(tmp_path) as m:
        with Linux(['-M', 'pc', '-drive', 'file=/dev/mapper/qemu,format=raw'], ('ata_piix', 'sd_mod')) as g:
            assert g.sh('cat /sys/block/sda/size').strip() == str(START + SIZE + 4096)
            assert g.sh('cat /sys/block/sda/sda1/start /sys/block/sda/sda1/size').split() == [str(START), str(SIZE)]
            assert g.sh('head -c 16 /dev/sda1').strip() == 'in the partition'
            assert g.sh(f'dd if=/dev/sda bs=512 skip={START + SIZE} 2>/dev/null | tr -d "\\0" | wc -c').strip() == '0'
            g.sh('printf written | dd of=/dev/sda1 bs=512 conv=sync,fsync,notrunc 2>/dev/null')
            g.poweroff()
        assert m.content(7) == b'written'
