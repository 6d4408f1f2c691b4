"""Disks of every controller from inside Linux: written, checksummed, read back, and compared on the host."""
import collections
import hashlib
import os
import re
import subprocess

import pytest

from conftest import program
from linux import Linux
from lyre import SLOW

SIZE = 24 << 20
SCSI = ('virtio_pci', 'virtio_scsi', 'sd_mod')
CASES = {
    'virtio-blk': (['-M', 'pc', '-drive', 'file={},format=raw,if=virtio'], ('virtio_pci', 'virtio_blk'), 'vda',
                   ('F-STO-03', 'F-VIO-01', 'F-BLK-11', 'S083')),
    'virtio-blk-q35': (['-M', 'q35', '-blockdev', 'driver=raw,node-name=d,file.driver=file,file.filename={}', '-device', 'virtio-blk-pci,drive=d'],
                       ('virtio_pci', 'virtio_blk'), 'vda', ('F-STO-03', 'F-BLK-11', 'F-BLK-18')),
    'virtio-blk-iothread': (['-M', 'q35', '-object', 'iothread,id=io0', '-drive', 'file={},format=raw,if=none,id=d', '-device',
                             'virtio-blk-pci,drive=d,iothread=io0,num-queues=2', '-smp', '2'], ('virtio_pci', 'virtio_blk'), 'vda', ('F-STO-03',)),
    'virtio-blk-two-iothreads': (['-M', 'q35', '-object', 'iothread,id=io0', '-object', 'iothread,id=io1', '-drive',
                                  'file={},format=raw,if=none,id=d', '-device', '{{"driver":"virtio-blk-pci","drive":"d","num-queues":2,'
                                  '"iothread-vq-mapping":[{{"iothread":"io0","vqs":[1]}},{{"iothread":"io1","vqs":[0]}}]}}', '-smp', '2'],
                                 ('virtio_pci', 'virtio_blk'), 'vda', ('F-STO-03',)),
    'virtio-scsi': (['-M', 'pc', '-device', 'virtio-scsi-pci', '-drive', 'file={},format=raw,if=none,id=d', '-device', 'scsi-hd,drive=d'],
                    SCSI, 'sda', ('F-STO-04', 'F-BLK-12', 'F-VIO-02', 'F-DEV-05')),
    'nvme': (['-M', 'pc', '-drive', 'file={},format=raw,if=none,id=d', '-device', 'nvme,drive=d,serial=S1', '-smp', '2'], ('nvme',), 'nvme0n1',
             ('F-STO-02', 'F-BLK-10')),
    'nvme-ns-q35': (['-M', 'q35', '-device', 'pcie-root-port,id=rp', '-device', 'nvme,id=nvme0,serial=S2,bus=rp', '-blockdev',
                     'driver=raw,node-name=d,file.driver=file,file.filename={}', '-device',
                     '{{"driver":"nvme-ns","bus":"nvme0","drive":"d","nsid":1,"id":"n0"}}'], ('nvme',), 'nvme0n1', ('F-STO-02', 'F-BLK-10')),
    'sd': (['-M', 'pc', '-device', 'sdhci-pci', '-drive', 'file={},format=raw,if=none,id=d', '-device', 'sd-card,drive=d'],
           ('sdhci_pci', 'mmc_block'), 'mmcblk0', ()),
    'ahci': (['-M', 'q35', '-drive', 'file={},format=raw'], ('ahci', 'sd_mod'), 'sda', ('F-STO-01', 'F-BLK-01', 'F-BLK-09', 'F-DEV-06')),
    'ide': (['-M', 'pc', '-hda', '{}'], ('ata_piix', 'sd_mod'), 'sda', ('F-STO-01', 'F-BLK-05', 'F-BLK-08', 'F-DEV-06', 'S086')),
}


@pytest.mark.limit(300)
@pytest.mark.parametrize('name', [pytest.param(n, id=n, marks=[pytest.mark.proves(*CASES[n][3])] if CASES[n][3] else []) for n in CASES])
def test_written_data_is_on_the_host(name, tmp_path):
    args, modules, dev, _ = CASES[name]
    image = tmp_path / 'disk.img'
    known = hashlib.sha256(b'lyrebird').digest() * 32768  # 1 MiB that the guest reads
    with open(image, 'wb') as f:
        f.write(known)
        f.truncate(SIZE)
    args = [a.format(image) for a in args]
    with Linux(args, modules) as g:
        # a card is looked for in the background
        g.sh(f'n=0; until [ -e /sys/block/{dev}/size ] || [ $n = 100 ]; do sleep 0.1; n=$((n + 1)); done', 60)
        assert int(g.sh(f'cat /sys/block/{dev}/size')) * 512 == SIZE
        assert hashlib.sha256(known).hexdigest() in g.sh(f'dd if=/dev/{dev} bs=64k count=16 2>/dev/null | sha256sum')
        g.sh('dd if=/dev/urandom of=/tmp/r bs=64k count=128 2>/dev/null', 120)
        g.sh(f'dd if=/tmp/r of=/dev/{dev} bs=64k seek=32 conv=fsync 2>/dev/null', 120)
        g.sh('echo 3 >/proc/sys/vm/drop_caches')
        want = g.sh('sha256sum </tmp/r').split()[0]
        assert g.sh(f'dd if=/dev/{dev} bs=64k skip=32 count=128 2>/dev/null | sha256sum', 120).split()[0] == want
        # odd sizes at odd places, without the page cache's help
        g.sh(f'dd if=/tmp/r of=/dev/{dev} bs=512 seek=40001 count=333 conv=fsync 2>/dev/null')
        # Throughput, past the page cache: said, and no crawl (on a busy host too).
        before, after = g.sh('now() { cut -d. -f1,2 /proc/uptime | cut -d" " -f1; }; now; '
                             f'dd if=/dev/{dev} of=/dev/null bs=1M count=24 iflag=direct 2>/dev/null; now', 120).split('\n')
        seconds = max(0.01, float(after) - float(before))
        print(f'{name}: {24 / seconds:.0f} MiB/s')
        assert 24 / seconds > 2 / SLOW
        g.poweroff()
    data = image.read_bytes()
    assert len(data) == SIZE
    assert hashlib.sha256(data[32 * 65536:][:128 * 65536]).hexdigest() == want
    assert data[40001 * 512:][:333 * 512] == data[32 * 65536:][:333 * 512]
    assert data[:1 << 20] == known


@pytest.mark.limit(300)
@pytest.mark.parametrize('args, modules', [
    pytest.param(['-M', 'pc', '-cdrom', '{}'], ('ata_piix', 'sr_mod', 'isofs'), id='ide'),
    pytest.param(['-M', 'q35', '-cdrom', '{}'], ('ahci', 'sr_mod', 'isofs'), id='ahci'),
    pytest.param(['-M', 'pc', '-device', 'virtio-scsi-pci', '-drive', 'file={},if=none,id=c,media=cdrom,format=raw', '-device', 'scsi-cd,drive=c'],
                 ('virtio_pci', 'virtio_scsi', 'sr_mod', 'isofs'), id='scsi'),
])
def test_a_cd_is_read(args, modules, tmp_path):
    import guest
    from conftest import need
    need('xorriso')
    tree = tmp_path / 'tree'
    tree.mkdir()
    (tree / 'hello.txt').write_bytes(b'from the CD\n' * 50000)
    iso = tmp_path / 'cd.iso'
    guest.sh('xorriso', '-as', 'mkisofs', '-quiet', '-o', str(iso), str(tree))
    with Linux([a.format(iso) for a in args], modules) as g:
        g.sh('mkdir -p /cd; mount -t iso9660 -o ro /dev/sr0 /cd')
        assert hashlib.sha256(b'from the CD\n' * 50000).hexdigest() in g.sh('sha256sum </cd/hello.txt || sha256sum </cd/HELLO.TXT')
        g.poweroff()


@pytest.mark.limit(400)
@pytest.mark.proves('F-BLK-12', 'F-BLK-22')
def test_sixty_four_disks_and_a_folder(tmp_path):
    """64 SCSI disks on one controller, each with a size of its own and written to, and a folder of the host mounted as FAT."""
    folder = tmp_path / 'folder'
    (folder / 'sub').mkdir(parents=True)
    (folder / 'readme.txt').write_bytes(b'of the host\n')
    (folder / 'sub' / 'a file with a long name.dat').write_bytes(bytes(range(256)) * 300)
    args = ['-M', 'q35', '-device', 'virtio-scsi-pci,id=s0', '-drive', f'file=fat:{folder},read-only=on,if=virtio,format=raw']
    for i in range(64):
        image = tmp_path / f'd{i}.img'
        with open(image, 'wb') as f:
            f.truncate((1 << 20) + i * 4096)
        args += ['-drive', f'file={image},format=raw,if=none,id=d{i}', '-device', f'scsi-hd,drive=d{i},bus=s0.0,scsi-id={i // 4},lun={i % 4}']
    with Linux(args, (*SCSI, 'virtio_blk', 'vfat', 'nls_cp437', 'nls_ascii')) as g:
        sizes = g.sh('cat /sys/block/sd*/size', 60).split()
        assert sorted(int(x) * 512 for x in sizes) == [(1 << 20) + i * 4096 for i in range(64)]
        g.sh('for d in /sys/block/sd*; do n=${d##*/}; cat $d/size | dd of=/dev/$n bs=512 seek=1 conv=sync,fsync 2>/dev/null; done', 120)
        g.sh('mkdir -p /f; mount -t vfat -o ro /dev/vda1 /f', 60)
        assert g.sh('cat /f/readme.txt').strip() == 'of the host'
        want = hashlib.sha256(bytes(range(256)) * 300).hexdigest()
        assert want in g.sh("sha256sum '/f/sub/a file with a long name.dat'")
        g.poweroff()
    for i in range(64):
        data = (tmp_path / f'd{i}.img').read_bytes()
        assert data[512:1024].rstrip(b'\0') == b'%d\n' % (((1 << 20) + i * 4096) // 512)


def run_times(pid):
    """{name of threads: nanoseconds they have run}; a thread that another makes has its name at first"""
    def read(t, what):
        with open(f'/proc/{pid}/task/{t}/{what}') as f:
            return f.read()
    total = collections.Counter()
    for t in os.listdir(f'/proc/{pid}/task'):
        total[read(t, 'comm').strip()] += int(read(t, 'schedstat').split()[0])
    return total


@pytest.mark.limit(300)
@pytest.mark.proves('F-STO-03')
def test_each_queue_is_handled_on_its_own_thread(tmp_path):
    """Both CPUs read and write one qcow2 disk at a time; queues are shared out by turns; the disk goes through a reset, a stop and a snapshot of
    its settings by QMP."""
    image = tmp_path / 'd.qcow2'
    subprocess.run([program('qemu-img'), 'create', '-q', '-f', 'qcow2', str(image), '64M'], check=True)
    dev = '{"driver":"virtio-blk-pci","id":"vb","drive":"d","num-queues":3,"iothread-vq-mapping":[{"iothread":"io0"},{"iothread":"io1"}]}'
    args = ['-M', 'q35', '-object', 'iothread,id=io0', '-object', 'iothread,id=io1', '-drive', f'file={image},format=qcow2,if=none,id=d',
            '-device', dev, '-smp', '2']
    with Linux(args, ('virtio_pci', 'virtio_blk')) as g:
        assert int(g.sh('ls /sys/block/vda/mq | wc -l')) >= 2
        g.sh('w() { for i in 1 2 3 4; do dd if=/tmp/r$1 of=/dev/vda bs=64k seek=$(($1 * 64)) oflag=direct; dd if=/dev/vda of=/tmp/b$1 bs=64k '
             'skip=$(($1 * 64)) count=32 iflag=direct; cmp /tmp/r$1 /tmp/b$1 && echo same; done >/tmp/o$1 2>/dev/null; }')
        g.sh('for i in 0 1 2 3; do dd if=/dev/urandom of=/tmp/r$i bs=64k count=32 2>/dev/null; done', 120)
        before = run_times(g.s.p.pid)
        g.sh('for i in 0 1 2 3; do w $i & done; wait', 200)
        assert g.sh('cat /tmp/o0 /tmp/o1 /tmp/o2 /tmp/o3 | grep -c same') == '16'
        after = run_times(g.s.p.pid)
        assert all(after[t] > before[t] for t in ('IO io0', 'IO io1')), (before, after)
        assert g.qmp.call('qom-get', path='/machine/peripheral/vb', property='iothread-vq-mapping') == [
            {'iothread': 'io0', 'vqs': [0, 2]}, {'iothread': 'io1', 'vqs': [1]}]
        g.qmp.call('stop')
        g.qmp.call('cont')
        g.sh('dd if=/dev/vda of=/dev/null bs=1M count=16 iflag=direct 2>/dev/null')
        g.poweroff()


def run_time(pid, tid):
    with open(f'/proc/{pid}/task/{tid}/schedstat') as f:
        return int(f.read().split()[0])


@pytest.mark.limit(300)
@pytest.mark.proves('F-STO-04')
def test_scsi_disks_are_served_on_an_i_o_thread_while_units_come_and_go(tmp_path):
    images = [tmp_path / f'd{i}.qcow2' for i in range(3)]
    for i in images:
        subprocess.run([program('qemu-img'), 'create', '-q', '-f', 'qcow2', i, '64M'], check=True)
    (tmp_path / 'cd.iso').write_bytes(b'read me'.ljust(1 << 20, b'\0'))
    drives = [a for n, i in enumerate(images) for a in ('-drive', f'file={i},format=qcow2,if=none,id=d{n}')]
    args = ['-M', 'q35', '-object', 'iothread,id=io0', '-device', 'virtio-scsi-pci,id=s,iothread=io0,num_queues=2', *drives, '-drive',
            f'file={tmp_path}/cd.iso,if=none,id=cd,media=cdrom,format=raw', '-device', 'scsi-hd,drive=d0,serial=a,scsi-id=0', '-device',
            'scsi-hd,drive=d1,scsi-id=1', '-device', 'scsi-cd,drive=cd,scsi-id=2', '-smp', '2']
    with Linux(args, (*SCSI, 'sr_mod')) as g:
        g.sh('w() { for i in 1 2 3 4; do dd if=/tmp/r$1 of=/dev/sd$2 bs=64k seek=$(($1 * 64)) oflag=direct; dd if=/dev/sd$2 of=/tmp/b$1 bs=64k '
             'skip=$(($1 * 64)) count=32 iflag=direct; cmp /tmp/r$1 /tmp/b$1 && echo same; sync; done >/tmp/o$1 2>/dev/null; }')
        g.sh('for i in 0 1 2 3; do dd if=/dev/urandom of=/tmp/r$i bs=64k count=32 2>/dev/null; done', 120)
        tid = g.qmp.call('query-iothreads')[0]['thread-id']
        before = run_time(g.s.p.pid, tid)
        g.sh('(w 0 a & w 1 b & w 2 a & w 3 b & wait; echo >/tmp/done) >/dev/null 2>&1 & true')
        for _ in range(2):
            g.qmp.call('device_add', driver='scsi-hd', drive='d2', id='third', bus='s.0', **{'scsi-id': 5})
            g.sh('while [ ! -b /dev/sdc ]; do sleep 0.1; done; dd if=/dev/sdc of=/dev/null bs=64k count=20 iflag=direct 2>/dev/null; '
                 'head -c 7 /dev/sr0 | grep "read me"')
            g.qmp.call('stop')
            g.qmp.call('cont')
            g.qmp.call('device_del', id='third')
            g.sh('while [ -b /dev/sdc ]; do sleep 0.1; done')
        g.sh('while [ ! -e /tmp/done ]; do sleep 0.2; done', 200)
        assert g.sh('cat /tmp/o0 /tmp/o1 /tmp/o2 /tmp/o3 | grep -c same') == '16'
        assert run_time(g.s.p.pid, tid) > before + 1000000
        g.poweroff()
    for i in images:
        subprocess.run([program('qemu-img'), 'check', '-q', i], check=True)


@pytest.mark.proves('F-STO-03')
@pytest.mark.parametrize('more,text', [
    ('"iothread-vq-mapping":[{"iothread":"no"}]', "can't find value 'no'"),
    ('"iothread-vq-mapping":[{"iothread":"io0"},{"iothread":"io0"}]', 'stands there twice'),
    ('"iothread-vq-mapping":[{"iothread":"io0","vqs":[0]}],"num-queues":2', 'no iothread is given queue 1'),
    ('"iothread-vq-mapping":[{"iothread":"io0","vqs":[0,2]}],"num-queues":2', 'given queue 2 of a device with 2 queues'),
    ('"iothread-vq-mapping":[{"iothread":"io0","vqs":[0]},{"iothread":"io1"}]', 'to every iothread or to none'),
    ('"iothread-vq-mapping":[{"iothread":"io0","vqs":[0]},{"iothread":"io1","vqs":[0]}]', 'given to two iothreads'),
    ('"iothread-vq-mapping":[{"iothread":"io0","vqs":[0,0]}]', 'assigned twice'),
    ('"iothread-vq-mapping":[{"vqs":[0]}]', 'is missing'),
    ('"iothread-vq-mapping":[{"iothread":"io0","cpu":1}]', 'is unexpected'),
    ('"iothread-vq-mapping":"io0"', 'expected: array'),
    ('"iothread-vq-mapping":[{"iothread":"io0"}],"iothread":"io1"', 'exclude each other'),
    ('"iothread-vq-mapping":[{"iothread":"io0"}],"ioeventfd":false', 'ioeventfd is required'),
])
def test_a_mapping_that_cannot_be_is_refused(tmp_path, more, text):
    p = subprocess.run([program('qemu-system-x86_64'), '-M', 'pc', '-display', 'none', '-object', 'iothread,id=io0', '-object', 'iothread,id=io1',
                        '-drive', 'driver=null-co,size=1M,if=none,id=d', '-device', '{"driver":"virtio-blk-pci","drive":"d",' + more + '}'],
                       capture_output=True, text=True, timeout=60)
    assert p.returncode == 1 and text in p.stderr, p.stderr


@pytest.mark.parametrize('drive,device,text', [('driver=null-co,size=1000k', 'sd-card,drive=d', 'Invalid SD card size'), ('', 'sd-card', 'drive property is not set'),
                                               ('driver=null-co,size=1M', 'sd-card,drive=d,bus=pci.0', 'sd-bus')])
def test_a_card_that_cannot_be_is_refused(drive, device, text):
    p = subprocess.run([program('qemu-system-x86_64'), '-M', 'pc', '-display', 'none', '-device', 'sdhci-pci',
                        *(['-drive', drive + ',if=none,id=d'] if drive else []), '-device', device], capture_output=True, text=True, timeout=60)
    assert p.returncode == 1 and text in p.stderr, p.stderr


@pytest.mark.proves('F-STO-04')
@pytest.mark.parametrize('more,text', [('iothread=no', "can't find value 'no'"), ('iothread=io0,ioeventfd=off', 'ioeventfd is required')])
def test_an_i_o_thread_that_cannot_be_is_refused(more, text):
    p = subprocess.run([program('qemu-system-x86_64'), '-M', 'pc', '-display', 'none', '-object', 'iothread,id=io0', '-device', 'virtio-scsi-pci,' + more],
                       capture_output=True, text=True, timeout=60)
    assert p.returncode == 1 and text in p.stderr, p.stderr
