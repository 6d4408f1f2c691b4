"""The seed lines about disks, CDs and throwaway runs with a Linux guest behind them. One boot serves as many lines as fit."""
import hashlib
import os
import re
import shutil
import subprocess

import pytest

import guest
import seeds
from conftest import host_lacks, need, program
from linux import CMDLINE, Linux, initramfs, kernel, vmlinux
from lyre import run
from run import accel, Failed, PROMPT, Session

MIB = 1 << 20
BLOCKS = 'for b in /sys/block/[vs]*; do echo ${b##*/} $(($(cat $b/size) / 2048)); done'


def raw(folder, name, mib, data=b''):
    with open(folder / name, 'wb') as f:
        f.write(data)
        f.truncate(mib * MIB)


def qcow2(folder, name, mib, *base):
    subprocess.run([program('qemu-img'), 'create', '-q', '-f', 'qcow2', *base, name, *([] if base else [f'{mib}M'])], cwd=folder, check=True)


def pattern(folder, name, offset, byte):
    """Whether our block exerciser finds these 512 bytes."""
    r = subprocess.run([program('qemu-io'), '-r', '-c', f'read -P {byte:#x} {offset} 512', name], cwd=folder, capture_output=True, text=True)
    return r.returncode == 0 and 'verification failed' not in r.stdout


def args_of(*lines):
    """Arguments of several seed lines: 'S069' or ('S084', {put})."""
    out = []
    for line in lines:
        out += seeds.words(line)[1] if isinstance(line, str) else seeds.words(line[0], put=line[1], **(line[2] if len(line) > 2 else {}))[1]
    return out


def digest(path):
    with open(path, 'rb') as f:
        return hashlib.sha256(f.read()).hexdigest()


FILL = "tr '\\0' '\\{:o}' </dev/zero | dd of=/dev/{} bs=512 seek={} count=1 conv=fsync 2>/dev/null"


@pytest.mark.limit(300)
@pytest.mark.proves('F-BLK-01', 'F-BLK-02', 'F-STO-01', 'S068', 'S069')
def test_four_drives_on_pc_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(4):
        raw(tmp_path, f'my-vm-disk{i}.img', 4 + i)
    with Linux(['-M', 'pc', *args_of('S069')], ('ata_piix', 'sd_mod')) as g:
        # By their places on the two cables: Linux probes those at once and may letter them in either order.
        place = dict(line.split() for line in g.sh('for b in /sys/block/sd*; do echo $(basename $(readlink $b/device)) ${b##*/}; done').split('\n'))
        size = {d: int(mib) for d, mib in (line.split() for line in g.sh(BLOCKS).split('\n'))}
        disks = [place[p] for p in sorted(place)]
        assert [p[1:] for p in sorted(place)] == [':0:0:0', ':0:1:0', ':0:0:0', ':0:1:0'] and [size[d] for d in disks] == [4, 5, 6, 7]
        for i, d in enumerate(disks):
            g.sh(FILL.format(0x41 + i, d, 7))
        g.poweroff()
    for i in range(4):
        assert (tmp_path / f'my-vm-disk{i}.img').read_bytes()[3584:4096] == bytes([0x41 + i]) * 512


@pytest.mark.limit(300)
@pytest.mark.proves('F-BLK-01', 'F-BLK-04', 'F-BLK-06', 'F-BLK-07', 'F-BLK-08', 'F-BLK-09', 'F-BLK-11', 'F-BLK-12', 'F-BLK-13', 'F-BLK-14', 'F-BLK-18', 'F-BLK-29',
                    'F-DEV-05', 'F-DEV-06', 'F-VIO-01', 'F-VIO-02', 'F-VIO-12', 'F-STO-03', 'F-STO-04', 'F-GST-01', 'S068', 'S071', 'S073', 'S078', 'S083', 'S090', 'S091',
                    'S097', 'S266', 'S267', 'S268', 'S272', 'S335')
def test_every_way_to_plug_a_disk_on_q35(tmp_path, monkeypatch):
    """name of the file -> how Linux must see it; sizes tell them apart."""
    monkeypatch.chdir(tmp_path)
    raws = {'my-vm-disk.img': 4, 'disk_image': 5, 'my-mpio.img': 6, 'native': 7, 'node': 8, 'ncq': 9}
    qcows = {'disk1.qcow2': 20, 'storagedisk1.img': 21, 'diskimg.qcow': 22}
    for name, mib in raws.items():
        raw(tmp_path, name, mib)
    for name, mib in qcows.items():
        qcow2(tmp_path, name, mib)
    args = ['-M', 'q35', *args_of('S068', ('S090', {'-cdrom iso_image -boot order=d ': ''}), ('S097', {'disk_image': 'ncq'}), 'S071', 'S083',
                                  ('S096', {'disk_image': 'native'}), ('S073', {}), ('S267', {'-device virtio-scsi ': '', 'hd0': 'hd1'}),
                                  ('S268', {'hd0': 'hd2'}), ('S272', {'-device virtio-scsi-pci ': ''})),
            '-drive', 'file=storagedisk1.img,if=none,id=hd2', '-blockdev', 'driver=raw,node-name=hd,file.driver=file,file.filename=node']
    modules = ('ahci', 'sd_mod', 'virtio_pci', 'virtio_blk', 'virtio_scsi')
    with Linux(args, modules) as g:
        seen = {}
        for line in g.sh(BLOCKS).split('\n'):
            dev, mib = line.split()
            seen.setdefault(int(mib), []).append(dev)
        assert sorted(seen) == sorted([*raws.values(), *qcows.values()])
        where = {mib: g.sh(f'readlink /sys/block/{devs[0]}') for mib, devs in seen.items()}
        assert all('/ata' in where[n] for n in (4, 5, 9))  # board's own AHCI, and the added one
        assert where[9].split('/')[3] != where[4].split('/')[3]
        assert all('/virtio' in where[n] and '/vd' in where[n] for n in (7, 20, 21))
        assert all('/virtio' in where[n] and '/sd' in where[n] for n in (6, 8, 22))
        # One serial number twice: what multipath folds into one.
        assert len(seen[6]) == 2
        assert [g.sh(f'tail -c +5 /sys/block/{d}/device/vpd_pg80') for d in seen[6]] == ['MPIO', 'MPIO']
        # NCQ: a deep queue, and requests that overlap.
        ncq = seen[9][0]
        assert g.sh(f'cat /sys/block/{ncq}/device/queue_depth') in ('31', '32')
        g.sh(f'for i in 1 2 3 4 5 6 7 8; do dd if=/dev/{ncq} of=/dev/null bs=256k iflag=direct 2>/dev/null & done; wait')
        assert (tmp_path / 'ncq').exists()
        # Statistics and details of each drive, by the names people use.
        blocks = {b['device'] or b['qdev']: b for b in g.qmp.call('query-block')}
        assert blocks['ide0-hd0']['inserted']['image']['virtual-size'] == 4 * MIB and blocks['hd1']['inserted']['drv'] == 'qcow2'
        for i, mib in enumerate((4, 5, 7, 8, 9, 20, 21, 22)):
            g.sh(FILL.format(0x50 + i, seen[mib][0], 9))
        stats = {s['device'] or s.get('qdev'): s['stats'] for s in g.qmp.call('query-blockstats')}
        assert all(stats[d]['wr_operations'] > 0 and stats[d]['rd_bytes'] > 0 and stats[d]['flush_operations'] > 0 for d in ('ide0-hd0', 'virtio0', 'hd1', 'hd2'))
        assert stats['disk']['rd_bytes'] >= 9 * MIB
        # What would make another format of a raw disk goes into sector 0 only when the format was said.
        magic = "printf 'QFI\\373\\0\\0\\0\\003' | dd of=/dev/{} bs=512 conv=sync,fsync 2>/dev/null"
        g.sh(magic.format(seen[5][0]))
        assert 'refused' in g.sh(f'{magic.format(seen[4][0])} || echo refused')
        g.poweroff()
    for i, name in enumerate(('my-vm-disk.img', 'disk_image', 'native', 'node', 'ncq')):
        assert (tmp_path / name).read_bytes()[9 * 512:10 * 512] == bytes([0x50 + i]) * 512, name
    for i, name in enumerate(('disk1.qcow2', 'storagedisk1.img', 'diskimg.qcow')):
        assert pattern(tmp_path, name, 9 * 512, 0x55 + i), name
    assert (tmp_path / 'disk_image').read_bytes()[:8] == b'QFI\xfb\0\0\0\3'
    assert (tmp_path / 'my-vm-disk.img').read_bytes()[:512] == bytes(512)


@pytest.fixture
def isos(tmp_path):
    need('xorriso')
    for name in ('windows.iso', 'virtio-win.iso', 'new.iso'):
        tree = tmp_path / f'tree-{name}'
        tree.mkdir()
        (tree / 'name.txt').write_text(f'{name}\n')
        guest.sh('xorriso', '-as', 'mkisofs', '-quiet', '-o', str(tmp_path / name), str(tree))


@pytest.mark.limit(300)
@pytest.mark.proves('F-BLK-03', 'F-BLK-28', 'F-MON-06', 'F-MON-09', 'S070', 'S085', 'S092', 'S302', 'S303')
def test_cds_are_read_and_changed_while_linux_runs(tmp_path, isos, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw(tmp_path, 'disk_image', 5)
    with Linux(['-M', 'pc', *args_of('S092')], ('ata_piix', 'sr_mod', 'isofs', 'virtio_pci', 'virtio_blk')) as g:
        def hmp(line):
            return g.qmp.call('human-monitor-command', command_line=line)

        def name(dev):
            return g.sh(f'mount -t iso9660 -o ro /dev/{dev} /data && cat /data/[nN]*; umount /data')
        assert g.sh('cat /sys/block/vda/size') == str(5 * 2048)
        assert (name('sr0'), name('sr1')) == ('windows.iso', 'virtio-win.iso')
        assert 'cannot' in g.sh('dd if=/dev/zero of=/dev/sr0 bs=2048 count=1 2>/dev/null || echo cannot')
        assert re.search(r'^ide1-cd0 .*windows\.iso \(raw, read-only\)', hmp('info block'), re.M)
        hmp('change ide1-cd0 new.iso')
        assert re.search(r'^ide1-cd0 .*new\.iso \(raw, read-only\)', hmp('info block'), re.M)
        assert name('sr0') == 'new.iso'
        assert [e['data']['tray-open'] for e in g.qmp.events if e['event'] == 'DEVICE_TRAY_MOVED'] == [True, False]
        hmp('eject ide1-cd1')
        assert 'ide1-cd1: [not inserted]' in hmp('info block')
        assert 'empty' in g.sh('mount -t iso9660 -o ro /dev/sr1 /data 2>/dev/null || echo empty')
        g.poweroff()


@pytest.mark.limit(300)
@pytest.mark.proves('F-PRG-20', 'F-BLK-23', 'F-BLK-24', 'F-SNP-03', 'F-SNP-07', 'S020', 'S089', 'S343')
def test_overlay_and_throwaway_run_leave_what_is_below_alone(tmp_path, monkeypatch):
    """A disk with a system boots by its bare name; the overlay takes the guest's writes, a throwaway run takes none."""
    need('grub-mkimage', 'grub-common')
    monkeypatch.chdir(tmp_path)
    initrd = initramfs(('ata_piix', 'sd_mod'))
    guest.grub_disk('img1.raw', kernel().image, initrd, CMDLINE)
    qcow2(tmp_path, 'img1.cow', 0, '-b', 'img1.raw', '-F', 'raw')
    base = digest('img1.raw')
    last = os.path.getsize('img1.raw') // 512 - 1
    temp = tmp_path / 'tmp'
    temp.mkdir()
    monkeypatch.setenv('TMPDIR', str(temp))

    def session(byte, *more):
        """Boots and fills the last sector with the byte; what it held before."""
        prog, args = seeds.words('S089')
        s = Session([program(prog), *accel(), '-m', '256', '-display', 'none', '-serial', 'mon:stdio', '-no-reboot', *args, *more])
        try:
            s.expect(PROMPT, 240, 'boot to a shell')
            before = s.line(f"dd if=/dev/sda bs=512 skip={last} count=1 2>/dev/null | hexdump -n 1 -e '1/1 \"%x\"'", 30, 'read')
            s.line(FILL.format(byte, 'sda', last), 30, 'write')
            s.line('echo 3 >/proc/sys/vm/drop_caches', 30, 'caches')
            after = s.line(f"dd if=/dev/sda bs=512 skip={last} count=1 2>/dev/null | hexdump -n 1 -e '1/1 \"%x\"'", 30, 'read')
            assert after == f'{byte:x}'
            s.p.stdin.write(b'poweroff\n')
            s.p.stdin.flush()
            assert s.end(60, 'poweroff') == 0
            return before
        except Failed as e:
            pytest.fail(f'{e}\n{s.seen[-2500:]}')
        finally:
            s.p.kill()
            s.p.wait()
            s.p.stdout.close()
            s.p.stdin.close()

    assert session(0x41) == '0'
    overlay = digest('img1.cow')
    assert pattern(tmp_path, 'img1.cow', last * 512, 0x41)
    assert session(0x42, *seeds.words('S343')[1], '-kernel', kernel().image, '-initrd', initrd, '-append', CMDLINE) == '41'
    assert digest('img1.cow') == overlay and not list(temp.iterdir())
    assert digest('img1.raw') == base
    # Roll back: a new overlay on the same base.
    os.unlink('img1.cow')
    qcow2(tmp_path, 'img1.cow', 0, '-b', 'img1.raw', '-F', 'raw')
    assert pattern(tmp_path, 'img1.cow', last * 512, 0)


# Finds the root as a distribution's RAM disk does, and ends in a program of that root with the process id 1.
TO_ROOT = '''#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for m in $(cat /etc/modules); do insmod /lib/modules/$m; done
root=$(sed 's/.*root=\\([^ ]*\\).*/\\1/' /proc/cmdline)
until mount $root /data; do sleep 0.2; done
umount /proc
mount --move /dev /data/dev
exec switch_root /data /sbin/init
'''


@pytest.mark.limit(300)
@pytest.mark.proves('F-FW-12', 'F-FW-14', 'S065', 'S066')
def test_a_kernel_from_the_host_finds_its_root_on_an_unpartitioned_disk(tmp_path):
    """The whole disk is one file system: the RAM disk switches to it and its own init, shell and programs take over."""
    tree, disk = tmp_path / 'tree', tmp_path / 'root'
    for folder in ('bin', 'sbin', 'etc', 'proc', 'dev', 'root'):
        (tree / folder).mkdir(parents=True)
    shutil.copy(guest.busybox(), tree / 'bin/busybox')
    for name in ('bin/sh', 'bin/cat', 'bin/echo', 'bin/mount', 'bin/umount', 'bin/poweroff', 'bin/sync', 'bin/ls', 'sbin/init'):
        (tree / name).symlink_to('/bin/busybox')
    (tree / 'bin/hello').write_text('#!/bin/sh\necho $0 of the root file system\n')
    (tree / 'bin/hello').chmod(0o755)
    (tree / 'etc/profile').write_text("export PS1='lyrebird# '\n")
    (tree / 'etc/inittab').write_text('::sysinit:/bin/mount -t proc proc /proc\nttyS0::respawn:-/bin/sh\n::shutdown:/bin/umount -a -r\n')
    guest.ext4_tree(str(disk), 16 * MIB, str(tree))
    initrd = initramfs(('ata_piix', 'sd_mod', 'ext4', 'crc32c_generic'), files={'init': (TO_ROOT, 0o755)})
    line = seeds.words('S065', put={'/boot/vmlinuz-linux': kernel().image, '/boot/initramfs-linux.img': initrd, '/dev/sda3': str(disk),
                                    '-append root=/dev/sda ': '-append "root=/dev/sda console=ttyS0 panic=-1 quiet" '})[1]
    with Linux(line, boot=False) as g:
        assert g.sh('cat /proc/cmdline') == 'root=/dev/sda console=ttyS0 panic=-1 quiet'
        mounts = [m.split() for m in g.sh('cat /proc/mounts').split('\n')]
        assert [m[:3] for m in mounts if m[1] == '/'][-1] == ['/dev/sda', '/', 'ext4']
        assert 'lib' not in g.sh('ls /').split()
        assert g.sh('hello') == '/bin/hello of the root file system'
        g.sh('echo kept >/root/note')
        g.poweroff()
    guest.sh('fsck.ext4', '-fn', str(disk))
    assert guest.sh('debugfs', '-R', 'cat /root/note', str(disk)).endswith('kept\n')
    line = seeds.words('S066')[1]
    with Linux(['-kernel', kernel().image, '-initrd', initramfs(), *line], boot=False) as g:
        assert g.sh('cat /proc/cmdline') == seeds.ROWS['S066']['command'].split("'")[1]
        g.poweroff()


@pytest.mark.limit(300)
@pytest.mark.proves('F-FW-13')
@pytest.mark.parametrize('board', ['pc', 'q35'])
def test_linux_starts_from_an_uncompressed_kernel(board):
    """By the PVH entry: there the kernel itself fills in what a boot loader would have said of its setup code, and says 2.12."""
    args = ['-M', board, '-smp', '2', '-kernel', vmlinux(), '-initrd', initramfs(), '-append', CMDLINE + ' pvh.test=1']
    with Linux(args, boot=False) as g:
        assert g.sh('cat /proc/cmdline') == CMDLINE + ' pvh.test=1'
        assert g.sh('uname -r') == kernel().release
        assert g.sh('cat /sys/kernel/boot_params/version') == '0x020c'
        assert g.sh('ls /sys/firmware/acpi/tables/DSDT && nproc').split() == ['/sys/firmware/acpi/tables/DSDT', '2']
        assert 240000 > int(g.sh("awk '/MemTotal/ {print $2}' /proc/meminfo")) > 150000
        g.poweroff()


@pytest.fixture
def loop():
    """Makes loop devices of files; gone afterwards."""
    need('losetup', 'util-linux')
    made = []

    def make(path):
        r = subprocess.run(['losetup', '--show', '-f', str(path)], capture_output=True, text=True)
        if r.returncode:
            host_lacks('loop devices: ' + r.stderr.strip())
        made.append(r.stdout.strip())
        return made[-1]
    yield make
    for dev in made:
        subprocess.run(['losetup', '-d', dev])


@pytest.mark.limit(300)
@pytest.mark.proves('F-BLK-18', 'F-BLK-19', 'F-DEV-09', 'S072', 'S082', 'S095', 'S098')
def test_block_devices_of_the_host_are_disks_of_the_guest(tmp_path, loop):
    for i in range(4):
        raw(tmp_path, f'd{i}', 4 + i, b'disk %d' % i)
    dev = [loop(tmp_path / f'd{i}') for i in range(4)]
    args = ['-M', 'pc', *seeds.words('S072', put={'/dev/sdX#': dev[0]}, corrected=True)[1], *seeds.words('S095', put={'/dev/disk': dev[1]})[1],
            *seeds.words('S098', put={'/dev/md0': dev[2]})[1], *seeds.words('S082', put={'/dev/lvm-disk/debian-bullseye-arm64': dev[3]})[1],
            '-device', 'virtio-blk-pci,drive=hd']
    with Linux(args, ('ata_piix', 'sd_mod', 'virtio_pci', 'virtio_blk')) as g:
        seen = {int(mib): d for d, mib in (line.split() for line in g.sh(BLOCKS).split('\n'))}
        assert sorted(seen) == [4, 5, 6, 7] and seen[6] == 'sda'
        for i in range(4):
            assert g.sh(f'head -c 6 /dev/{seen[4 + i]}') == f'disk {i}'
            g.sh(FILL.format(0x70 + i, seen[4 + i], 7))
        g.poweroff()
    for i in range(4):
        subprocess.run(['blockdev', '--flushbufs', dev[i]])
        assert (tmp_path / f'd{i}').read_bytes()[3584:4096] == bytes([0x70 + i]) * 512
    r = run(*seeds.words('S082', put={'/dev/lvm-disk/debian-bullseye-arm64': str(tmp_path / 'd0')})[1], '-M', 'none', '-accel', 'qtest', '-display', 'none')
    assert r.returncode == 1 and 'host_device' in r.stderr and len(r.stderr.splitlines()) <= 2, r.stderr


@pytest.mark.limit(420)
@pytest.mark.proves('F-BLK-04', 'F-BLK-11', 'S093', 'S094')
def test_a_disk_moves_from_ide_to_virtio(tmp_path, monkeypatch):
    """First the IDE disk boots with an empty virtio disk and the driver CD beside it; then the same disk boots from virtio."""
    need('grub-mkimage', 'grub-common')
    need('xorriso')
    monkeypatch.chdir(tmp_path)
    guest.grub_disk('disk_image', kernel().image, initramfs(('ata_piix', 'sd_mod', 'sr_mod', 'isofs', 'virtio_pci', 'virtio_blk')), CMDLINE)
    qcow2(tmp_path, 'dummy.qcow2', 1024)
    (tmp_path / 'tree').mkdir()
    (tmp_path / 'tree' / 'driver.inf').write_text('signed\n')
    guest.sh('xorriso', '-as', 'mkisofs', '-quiet', '-o', 'virtio-win.iso', 'tree')
    sectors = os.path.getsize('disk_image') // 512

    def session(line, fn):
        prog, args = seeds.words(line)
        s = Session([program(prog), *accel(), '-display', 'none', '-serial', 'mon:stdio', '-no-reboot', *args])
        try:
            s.expect(PROMPT, 240, 'boot to a shell')
            fn(s)
            s.p.stdin.write(b'poweroff\n')
            s.p.stdin.flush()
            assert s.end(60, 'poweroff') == 0
        except Failed as e:
            pytest.fail(f'{e}\n{s.seen[-2500:]}')
        finally:
            s.p.kill()
            s.p.wait()
            s.p.stdout.close()
            s.p.stdin.close()

    def first(s):
        assert s.line('cat /sys/block/sda/size', 30, 'ide') == str(sectors)
        assert s.line('cat /sys/block/vda/size', 30, 'virtio') == str((1 << 30) // 512)
        s.line('mkdir -p /cd', 30, 'mkdir')
        s.line('mount -t iso9660 -o ro /dev/sr0 /cd', 30, 'mount')
        assert s.line('cat /cd/[dD]*', 30, 'cd') == 'signed'

    def second(s):
        assert s.line('cat /sys/block/vda/size', 30, 'virtio') == str(sectors)
        assert s.line('ls -d /sys/block/sd* 2>/dev/null | wc -l', 30, 'no other disk') == '0'

    session('S093', first)
    session('S094', second)
