"""The kernel's NBD client and its device mapper, which the host may lack: our tools run inside a Linux guest of our machine,
whose kernel has both. What the tools do there they do on any host with these modules."""
import glob
import os
import re
import shutil
import subprocess

import pytest

import guest
from conftest import need, program
from linux import Linux

MB = 1 << 20


def add_program(root, exe):
    """Copies a program and the libraries it is linked with to where it finds them."""
    os.makedirs(f'{root}/bin', exist_ok=True)
    shutil.copy(exe, f'{root}/bin/')
    for lib in re.findall(r'(?:=> )?(/\S+) \(0x', subprocess.run(['ldd', exe], capture_output=True, text=True, check=True).stdout):
        os.makedirs(root + os.path.dirname(lib), exist_ok=True)
        shutil.copy(lib, root + lib)


def tools_disk(tmp, programs, files=()):
    """An ext4 image with these programs and files of the host in /, which the guest enters by chroot."""
    root = str(tmp / 'root')
    for d in ('bin', 'dev', 'proc', 'sys', 'tmp', 'run', 'var/lock', 'mnt', 'path/to'):
        os.makedirs(f'{root}/{d}')
    for p in programs:
        add_program(root, p)
    for src, dst in files:
        os.makedirs(os.path.dirname(root + dst), exist_ok=True)
        shutil.copy(src, root + dst)
    need('mkfs.ext4', 'e2fsprogs')
    return guest.ext4_tree(str(tmp / 'tools.img'), 256 * MB, root)


ENTER = ('mount /dev/vda /data && mount --bind /dev /data/dev && mount --bind /sys /data/sys && mount -t proc p /data/proc && '
         'inside() { chroot /data "$@"; }')


def partitioned_image(tmp):
    """A qcow2 image with one ext4 partition holding a file; returns path and the raw contents' path."""
    part = guest.ext4(str(tmp / 'part'), 32 * MB, {'hello.txt': b'hello from the image\n'})
    raw = guest.mbr(str(tmp / 'disk.raw'), 0x83, part)
    subprocess.run([program('qemu-img'), 'convert', '-f', 'raw', '-O', 'qcow2', raw, tmp / 'disk1.qcow2'], check=True)
    return tmp / 'disk1.qcow2'


@pytest.mark.long
@pytest.mark.limit(300)
@pytest.mark.proves('F-PRG-11', 'F-NBD-01', 'F-NBD-02', 'F-NBD-03', 'F-NBD-04', 'S123', 'S124', 'S125', 'S126')
def test_the_kernel_s_client_shows_the_image_as_a_device(tmp_path):
    img = partitioned_image(tmp_path)
    disk = tools_disk(tmp_path, [program('qemu-nbd'), program('qemu-img'), program('qemu-io')],
                      [(img, '/disk1.qcow2'), (img, '/path/to/image.qcow2')])
    with Linux(['-M', 'q35', '-drive', f'file={disk},format=raw,if=virtio'], ('virtio_pci', 'virtio_blk', 'ext4', 'crc32c_generic', 'nbd')) as g:
        g.sh(ENTER)
        size = str(os.path.getsize(tmp_path / 'disk.raw') // 512)
        # -c: the device is there when the command returns, with the partitions; a partition is mounted, read and written
        assert '/dev/nbd0 is now connected' in g.sh('inside qemu-nbd -c /dev/nbd0 disk1.qcow2')
        assert g.sh('cat /sys/block/nbd0/size').strip() == size
        assert re.search(r'/dev/nbd0p1 .*83 Linux', g.sh('fdisk -l /dev/nbd0'))
        assert g.sh('cat /sys/block/nbd0/nbd0p1/start').strip() == '2048'
        g.sh('mount -t ext4 /dev/nbd0p1 /data/mnt')
        assert g.sh('cat /data/mnt/hello.txt').strip() == 'hello from the image'
        g.sh('head -c 3000000 /dev/urandom >/data/mnt/new; sync')
        want = g.sh('sha256sum </data/mnt/new').split()[0]
        # a second user of the same device or the same image is told so, and nothing breaks
        assert 'lock' in g.sh('inside qemu-nbd -c /dev/nbd1 disk1.qcow2 2>&1; true')
        assert 'busy' in g.sh('inside qemu-nbd -c /dev/nbd0 path/to/image.qcow2 2>&1; true').lower()
        g.sh('umount /data/mnt')
        # -d: released, the server gone, the image closed clean
        assert '/dev/nbd0 disconnected' in g.sh('inside qemu-nbd -d /dev/nbd0')
        g.sh('while [ -e /sys/block/nbd0/pid ] || pidof qemu-nbd >/dev/null; do sleep 0.1; done')
        assert g.sh('cat /sys/block/nbd0/size').strip() == '0'
        assert 'No errors' in g.sh('inside qemu-img check disk1.qcow2')
        # -r: writes fail, the image is what it was
        before = g.sh('sha256sum /data/disk1.qcow2')
        g.sh('inside qemu-nbd -r -c /dev/nbd0 disk1.qcow2')
        assert g.sh('cat /sys/block/nbd0/ro').strip() == '1'
        assert g.sh('printf x | dd of=/dev/nbd0 bs=512 conv=sync,fsync 2>&1; echo status $?').split()[-1] != '0'
        g.sh('mount -t ext4 -o ro,noload /dev/nbd0p1 /data/mnt')
        assert g.sh('sha256sum </data/mnt/new').split()[0] == want
        g.sh('umount /data/mnt; inside qemu-nbd -d /dev/nbd0; while pidof qemu-nbd >/dev/null; do sleep 0.1; done')
        assert g.sh('sha256sum /data/disk1.qcow2') == before
        # by full path, and by a snapshot of it (-s): writes go to a temporary overlay
        before = g.sh('sha256sum /data/path/to/image.qcow2')
        g.sh('inside qemu-nbd -s -c /dev/nbd2 /path/to/image.qcow2')
        assert re.search(r'/dev/nbd2p1 .*83 Linux', g.sh('fdisk -l /dev/nbd2'))
        g.sh('dd if=/dev/urandom of=/dev/nbd2 bs=4k seek=1000 count=100 conv=fsync 2>/dev/null')
        g.sh('inside qemu-nbd -d /dev/nbd2; while pidof qemu-nbd >/dev/null; do sleep 0.1; done')
        assert g.sh('sha256sum /data/path/to/image.qcow2') == before
        assert not re.search('I/O error, dev nbd[12]|BUG|Oops', g.sh('dmesg'))
        g.sh('umount -a -r 2>/dev/null; true')
        g.poweroff()


# Boots from the disk and tells on the serial line: the first bytes of the partition at LBA 2048, whether the last sector is
# zeros; then writes into the partition's second sector.
BOOT = '''
.code16
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7c00, %sp
    mov %dl, drive
    mov $0x42, %ah
    call disk
    mov $0x8000, %si
    mov $16, %cx
1:  lodsb
    call put
    loop 1b
    movl $(2048 + {size} + 4095), lba
    mov $0x42, %ah
    call disk
    mov $0x8000, %si
    mov $512, %cx
    xor %bl, %bl
1:  lodsb
    or %al, %bl
    loop 1b
    mov $'Z', %al
    test %bl, %bl
    jz 1f
    mov $'N', %al
1:  call put
    mov $text, %si
    mov $0x8000, %di
    mov $7, %cx
    rep movsb
    movl $2049, lba
    mov $0x4300, %ax
    call disk
    mov $'!', %al
    call put
2:  hlt
    jmp 2b
disk:
    mov drive, %dl
    mov $dap, %si
    int $0x13
    jc 3f
    ret
3:  mov $'E', %al
    call put
    jmp 2b
put:
    mov $0x3f8, %dx
    out %al, %dx
    ret
text: .ascii "written"
drive: .byte 0
    .balign 4
dap: .byte 16, 0, 1, 0
    .word 0x8000, 0
lba: .long 2048, 0
'''


def assembled(tmp, source):
    (tmp / 'boot.s').write_text(source)
    subprocess.run([need('as', 'binutils'), '--32', '-o', tmp / 'boot.o', tmp / 'boot.s'], check=True)
    subprocess.run([need('ld', 'binutils'), '-m', 'elf_i386', '-Ttext', '0x7c00', '--oformat', 'binary', '-o', tmp / 'boot.bin', tmp / 'boot.o'],
                   check=True, stderr=subprocess.DEVNULL)
    code = (tmp / 'boot.bin').read_bytes()
    assert len(code) <= 440
    return code


@pytest.mark.long
@pytest.mark.limit(500)
@pytest.mark.proves('S099', 'F-BLK-19')
def test_a_device_mapper_disk_and_a_partition_are_disks_of_a_machine(tmp_path):
    size = 32768 - 5
    boot = bytearray(2048 * 512)
    code = assembled(tmp_path, BOOT.format(size=size))
    boot[:len(code)] = code
    boot[0x1be:0x1ce] = bytes((0x80, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff)) + (2048).to_bytes(4, 'little') + size.to_bytes(4, 'little')
    boot[510:512] = b'\x55\xaa'
    (tmp_path / 'mbr').write_bytes(boot)
    part = tmp_path / 'part'
    with open(part, 'wb') as f:
        f.write(b'in the partition')
        f.truncate(size * 512)
    host = guest.mbr(str(tmp_path / 'host.raw'), 0x83, str(part), start=63)  # an odd start, as old partitions have
    firmware = glob.glob('/usr/share/seabios/bios-256k.bin')
    if not firmware:
        pytest.skip('/usr/share/seabios/bios-256k.bin is missing (package seabios)')
    disk = tools_disk(tmp_path, [program('qemu-system-x86_64'), program('qemu-img'), program('qemu-io'), need('dmsetup')],
                      [(tmp_path / 'mbr', '/mbr'), (firmware[0], firmware[0])])
    with Linux(['-M', 'q35', '-drive', f'file={disk},format=raw,if=virtio', '-drive', f'file={host},format=raw,if=virtio'],
               ('virtio_pci', 'virtio_blk', 'ext4', 'crc32c_generic', 'loop', 'dm_mod', 'dm_zero'), memory='512') as g:
        g.sh(ENTER)
        g.sh('losetup /dev/loop0 /data/mbr')
        g.sh(f'printf "0 2048 linear /dev/loop0 0\\n2048 {size} linear /dev/vdb1 0\\n{2048 + size} 4096 zero\\n" >/tmp/table')
        g.sh('mkdir -p /dev/mapper; DM_DISABLE_UDEV=1 inside dmsetup create qemu </tmp/table')
        assert 'block' in g.sh('ls -lL /dev/mapper/qemu | sed "s/^b.*/block/"')
        assert f'virtual size: {(2048 + size + 4096) * 512} ' in re.sub(r'(virtual size: )\S+ \S+ \((\d+) bytes\)', r'\1\2 ',
                                                                       g.sh('inside qemu-img info -f raw /dev/mapper/qemu'))
        g.sh('(inside qemu-system-x86_64 -M pc -accel interp -nodefaults -display none -vga none -m 32 -monitor none '
             '-drive file=/dev/mapper/qemu,format=raw -serial file:/tmp/out >/data/tmp/log 2>&1 &) ; true')
        assert g.sh('n=0; while [ $n -lt 300 ] && ! grep -q "[!E]" /data/tmp/out 2>/dev/null; do sleep 1; n=$((n+1)); done; '
                    'cat /data/tmp/out /data/tmp/log', 350).strip().endswith('in the partitionZ!')
        g.sh('kill $(pidof qemu-system-x86_64); while pidof qemu-system-x86_64 >/dev/null; do sleep 0.1; done; sync')
        assert g.sh('dd if=/dev/vdb1 bs=512 skip=1 count=1 2>/dev/null | head -c 7').strip() == 'written'
        # the partition alone is a disk, too; while it is mounted it is not given away for writing
        assert 'in the partition' in g.sh('inside qemu-io -r -f raw -c "read -v 0 16" /dev/vdb1').replace('.', ' ') or \
            '69 6e 20 74 68 65' in g.sh('inside qemu-io -r -f raw -c "read -v 0 16" /dev/vdb1')
        g.sh('umount -a -r 2>/dev/null; true')
        g.poweroff()
