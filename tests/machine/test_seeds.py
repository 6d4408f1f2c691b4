"""The command lines people type (docs/seeds.tsv), started as typed in a folder that holds the files they name; what the
monitor then shows is compared with what a user must see. No guest runs: those are in the test_linux files.

A row: the ids it proves, the seed, what each monitor command must show ('!' = must not), and how the line is completed."""
import os
import re
import subprocess

import pytest

import seeds
from conftest import host_lacks, need, program
from lyre import Machine, run
from netns import Net

MIB = 1 << 20
GIB = 1 << 30
RAW = ('my-vm-disk.img', 'my-vm-disk0.img', 'my-vm-disk1.img', 'my-vm-disk2.img', 'my-vm-disk3.img', 'my-vm-cd.iso', 'my-mpio.img', 'disk_image',
       'windows.iso', 'virtio-win.iso', 'iso_image', 'ubuntu-22.04-desktop-amd64.iso', 'windows_disk_image', 'img1.raw')
QCOW2 = ('disk1.qcow2', 'disk2.qcow2', 'disk.qcow2', 'diskimg.qcow', 'storagedisk1.img', 'dummy.qcow2')


@pytest.fixture(scope='module')
def yard(tmp_path_factory):
    """The folder in which the lines are typed."""
    d = tmp_path_factory.mktemp('yard')
    img = program('qemu-img')
    for name in RAW:
        with open(d / name, 'wb') as f:
            f.truncate(8 * MIB)
    for name in QCOW2:
        subprocess.run([img, 'create', '-q', '-f', 'qcow2', name, '8M'], cwd=d, check=True)
    subprocess.run([img, 'create', '-q', '-f', 'qcow2', '-b', 'img1.raw', '-F', 'raw', 'img1.cow'], cwd=d, check=True)
    (d / 'sub').mkdir()
    (d / 'sub' / 'note.txt').write_text('shared')
    return d


@pytest.fixture(scope='module')
def net():
    n = Net()
    yield n
    n.close()


def shows(m, want):
    """Complaints about what the monitor (or 'stderr') shows."""
    bad = []
    for line, patterns in want.items():
        text = m.stderr() if line == 'stderr' else m.hmp(line)
        for p in patterns:
            if (re.search(p.lstrip('!'), text, re.M) is not None) == p.startswith('!'):
                bad.append(f'{line}: {p}\n{text}')
    return bad


class Row:
    def __init__(self, proves, seed, want, alt=0, also=(), put=None, corrected=False, accel='qtest', name=''):
        self.proves, self.seed, self.want, self.alt, self.also = proves.split(), seed, want, alt, tuple(also)
        self.put, self.corrected, self.accel, self.name = put or {}, corrected, accel, name

    def command(self):
        prog, args = seeds.words(self.seed, self.alt, put=self.put, corrected=self.corrected)
        return prog, [*args, *self.also]

    def param(self):
        name = f'{self.seed}{"abcdef"[self.alt] if self.alt else ""}{"-corrected" if self.corrected else ""}{self.name}'
        return pytest.param(self, id=name, marks=[pytest.mark.proves(*self.proves)] if self.proves else [])


def check(row, yard, net):
    prog, args = row.command()
    if row.accel:
        args += ['-accel', row.accel]
    with net:
        m = Machine(*args, prog=prog, defaults=True, cwd=yard)
    with m:
        bad = shows(m, row.want)
        assert not bad, '\n'.join(bad)
        assert m.quit() == 0


Q35 = {'info qtree': [r'bus: pcie\.0', r'dev: ich9-ahci', r'dev: ICH9-LPC', r'dev: mch\b']}
PC = {'info qtree': [r'dev: i440FX\b', r'dev: PIIX3\b', r'dev: piix3-ide', r'bus: isa\.0', r'dev: i8042', '!pcie']}


def size(n):
    return {'info memory_size_summary': [rf'^base memory: {n}$']}


def cpus(n):
    return {'info cpus': [rf'CPU #{n - 1}:', f'!CPU #{n}:']}


def nic(model, *more):
    return {'info network': [rf'model={model}\b', *more]}


MACHINE = [
    Row('', 'S001', Q35),
    Row('S002', 'S002', Q35, put={'<machine>': 'q35'}),
    Row('S002', 'S002', Q35, put={'<machine>': 'type=q35,usb=off'}, name='-list'),
    Row('', 'S023', Q35),
    Row('F-MCH-06', 'S004', PC),
    Row('', 'S005', Q35),
    Row('S008', 'S008', {**PC, 'info name': ['^alpinebootqemu1$'], 'info qtree': [*PC['info qtree'], 'dev: VGA', 'dev: e1000']}),
    Row('S014', 'S014', PC),
    Row('S015 F-PRG-06', 'S015', PC),
    Row('S016', 'S016', PC),
    Row('S019', 'S019', PC, put={'qemu-system-target_architecture': 'qemu-system-x86_64', ' (qemu-system-x86_64, qemu-system-i386, '
                                 'qemu-system-arm, qemu-system-aarch64)': ''}),
    Row('S025', 'S025', {'info status': ['VM status']}),
]
CPU = [
    Row('S027', 'S027', cpus(3), put={'<number>': '3'}),
    Row('S028', 'S028', cpus(4)),
    Row('S029', 'S029', cpus(2)),
    Row('', 'S030', cpus(4)),
    Row('', 'S031', cpus(4), corrected=True),
]
MEMORY = [
    Row('S037', 'S037', size(96 * MIB), put={'<number>': '96'}),
    Row('S038', 'S038', size(8 * GIB)),
    Row('S039', 'S039', size(4 * GIB)),
    Row('S040', 'S040', size(8 * GIB)),
    Row('S041', 'S041', size(4 * GIB)),
    Row('S042', 'S042', size(2 * GIB)),
    Row('S043', 'S043', size(512 * MIB)),
    Row('S044', 'S044', size(512 * MIB)),
    Row('S045', 'S045', size(1 * GIB)),
    Row('S046', 'S046', {**size(64 * GIB)}),
    Row('S049', 'S049', {**size(4 * GIB), 'info numa': ['^1 nodes$', 'node 0 size: 4096 MB']}, also=['-m', '4G']),
    Row('S050', 'S050', {**size(4 * GIB), 'info numa': ['^1 nodes$', 'node 0 size: 4096 MB']}, also=['-m', '4G']),
]
DRIVE = r'\(#block\d+\): \S*'
BLOCK = [
    Row('', 'S068', {'info block': [rf'^ide0-hd0 {DRIVE}my-vm-disk\.img \(raw\)'], 'stderr': ["probing guessed raw", "Specify the 'raw' format"]}),
    Row('', 'S069', {'info block': [rf'^ide0-hd0 {DRIVE}disk0', rf'^ide0-hd1 {DRIVE}disk1', rf'^ide1-hd0 {DRIVE}disk2', rf'^ide1-hd1 {DRIVE}disk3']}),
    Row('S070 F-BLK-03', 'S070', {'info block': [rf'^ide1-cd0 {DRIVE}my-vm-cd\.iso \(raw, read-only\)', 'Removable device: .*tray closed']}),
    Row('S073 F-BLK-07', 'S073', {'info block': [rf'^hd1 {DRIVE}diskimg\.qcow \(qcow2\)'], 'info qtree': ['!drive = hd1']}),
    Row('S073 F-BLK-07 S267', 'S073', {'info block': [rf'^hd1 {DRIVE}diskimg\.qcow \(qcow2\)'], 'info qtree': ['dev: scsi-hd', 'drive = hd1']},
        also=['-device', 'virtio-scsi', '-device', 'scsi-hd,drive=hd1'], name='-named'),
    Row('S074', 'S074', {'info block': [rf'^hd0 {DRIVE}storagedisk1']}, corrected=True),
    Row('S078', 'S078', {'info qtree': ['dev: ide-hd', 'drive = hd0']}, also=['-drive', 'file=storagedisk1.img,if=none,id=hd0']),
    Row('S079 F-BLK-06', 'S079', {'info qtree': ['dev: ide-hd', 'drive = hd0'], 'info block': [rf'^hd0 {DRIVE}storagedisk1']}),
    Row('S079', 'S079', {'info qtree': ['dev: ide-hd', 'drive = hd0'], 'info block': [rf'^hd0 {DRIVE}storagedisk1']}, corrected=True),
    Row('F-BLK-06', 'S083', {'info block': [rf'^virtio0 {DRIVE}disk1\.qcow2 \(qcow2\)'], 'info qtree': ['dev: virtio-blk-pci']}),
    Row('S084', 'S084', {'info qtree': ['dev: ich9-ahci, id "ahci"', 'dev: ide-hd', 'drive = d0']}, corrected=True, put={'file=...': 'file=disk.qcow2'}),
    Row('S084 F-BLK-06', 'S084', {'info block': [rf'^virtio0 {DRIVE}disk\.qcow2'], 'info qtree': ['dev: virtio-blk-pci']}, put={'...': 'disk.qcow2'}),
    Row('S084 F-BLK-06', 'S084', {'info block': [rf'^ide0-hd0 {DRIVE}disk\.qcow2']}, alt=1, put={'if=ide': '-drive file=disk.qcow2,if=ide'}),
    Row('S085 F-BLK-03', 'S085', {'info block': [rf'^ide1-cd0 {DRIVE}ubuntu-22\.04-desktop-amd64\.iso \(raw, read-only\)']}),
    Row('S086 F-BLK-05', 'S086', {'info block': [rf'^ide0-hd0 {DRIVE}disk\.qcow2 \(qcow2\)'], **size(2 * GIB)}),
    Row('', 'S089', {'info block': [rf'^ide0-hd0 {DRIVE}img1\.cow \(qcow2\)', 'Backing file: .*img1.raw']}),
    Row('F-BLK-04', 'S090', {'info block': [rf'^ide1-cd0 {DRIVE}iso_image', rf'^ide0-hd0 {DRIVE}disk_image \(raw\)'], 'stderr': ['!warning']}),
    Row('', 'S091', {'info block': [rf'^virtio0 {DRIVE}disk_image']}),
    Row('', 'S092', {'info block': [rf'^virtio0 {DRIVE}disk_image', rf'^ide1-cd0 {DRIVE}windows\.iso', rf'^ide1-cd1 {DRIVE}virtio-win\.iso']}),
    Row('S093', 'S093', {'info block': [rf'^ide0-hd0 {DRIVE}disk_image', rf'^virtio0 {DRIVE}dummy\.qcow2', rf'^ide1-cd0 {DRIVE}virtio-win\.iso']}),
    Row('', 'S094', {'info block': [rf'^virtio0 {DRIVE}disk_image'], **size(4 * GIB)}),
    Row('', 'S096', {'info block': [rf'^virtio0 {DRIVE}disk_image', 'Cache mode: .*direct']}),
    Row('F-BLK-08 F-BLK-09', 'S097', {'info qtree': ['dev: ich9-ahci, id "ahci"', 'bus: ahci.0', 'dev: ide-hd', 'drive = disk']}),
    Row('F-BLK-08 F-BLK-09', 'S097', {'info qtree': ['dev: ich9-ahci, id "ahci"', 'bus: ahci.0', 'dev: ide-hd', 'drive = disk']}, corrected=True),
    Row('S098 F-BLK-05', 'S098', {'info block': [rf'^ide1-hd0 {DRIVE}my-vm-disk\.img']}, put={'/dev/md0': 'my-vm-disk.img'}),
    Row('S276', 'S276', {'info block': [rf'^virtio0 {DRIVE}windows_disk_image', rf'^ide1-cd0 {DRIVE}virtio-win\.iso'],
                         'info network': ['model=virtio-net-pci'], **size(4 * GIB)}),
    Row('S277', 'S277', {'info block': [r'^virtio0 .*fat.*read-only']}, put={'/home/user/my-vm/share/': 'sub/'}),
    Row('S277', 'S277', {'info block': [r'^virtio0 .*fat.*read-only']}, put={'/home/user/my-vm/share/': 'sub/'}, corrected=True),
]
NETWORK = [
    Row('F-NET-02 S020', 'S020', {**nic('e1000', 'macaddr=52:54:00:12:34:56', 'type=user'), 'info qtree': ['dev: e1000'],
                                  'info block': [rf'^ide0-hd0 {DRIVE}disk_image']}, put={'options': '-m 64'}),
    Row('', 'S128', nic('virtio-net-pci', 'hostnet0: .*type=user')),
    Row('', 'S131', nic('rtl8139', 'nd1: .*type=user')),
    Row('S132 F-VIO-12 F-NET-23', 'S132', nic('virtio-net-pci', 'nd1: .*type=user')),
    Row('S133 F-PRG-22', 'S133', nic('virtio-net-pci', 'unet: .*type=user'), also=['-netdev', 'user,id=unet']),
    Row('', 'S135', nic('virtio-net-pci', 'net0: .*type=user')),
    Row('', 'S136', {'info network': ['net0: .*type=user']}),
    *[Row('S137 F-NET-23 F-NET-24 F-NET-25', 'S137', nic(model, 'net0: .*type=user'), alt=i, corrected=True, also=['-netdev', 'user,id=net0'])
      for i, model in enumerate(('virtio-net-pci', 'rtl8139', 'e1000'))],
    Row('S142 F-NET-16 F-NET-15', 'S142', {'info pci': ['!Ethernet', 'Host bridge'], 'info network': ['!model=']}),
    Row('S154 F-NET-27', 'S154', nic('e1000', 'macaddr=52:54:00:12:34:56')),
    Row('S158', 'S158', {'info network': ['type=user,net=10.0.2.0']}),
    Row('S159 F-NET-15', 'S159', nic('virtio-net-pci', 'type=user')),
    Row('S160', 'S160', nic('virtio-net-pci', 'type=user')),
    Row('F-NET-05', 'S161', {'info network': ['type=user.*restrict=on']}),
]
DISPLAY = [
    Row('S172 F-DSP-10', 'S172', {'info qtree': ['dev: VGA', 'vgamem_mb = 16'], 'info pci': ['PCI device 1234:1111']}),
    Row('S179', 'S179', {'info qtree': ['dev: ramfb', '!dev: VGA']}, corrected=True),
    Row('S179', 'S179', {'info qtree': ['dev: ramfb', 'dev: VGA']}),
    Row('S180', 'S180', {'info qtree': ['dev: bochs-display', '!dev: VGA']}, corrected=True),
    Row('S180', 'S180', {'info qtree': ['dev: bochs-display', 'dev: VGA']}),
    Row('S183 F-DSP-03', 'S183', {'info status': ['VM status']}),
    Row('S190 F-DSP-10', 'S190', {'info qtree': ['dev: VGA', 'vgamem_mb = 16']}),
    Row('S190 F-DSP-10', 'S190', {'info qtree': ['dev: VGA', 'vgamem_mb = 16']}, corrected=True),
    Row('S197 F-DSP-20', 'S197', {'info qtree': ['!dev: VGA'], 'info pci': ['!VGA|Display', 'Host bridge']}),
    Row('', 'S204', {'info qtree': ['dev: VGA', 'xres = 1280', 'yres = 720', 'edid = true']}),
]
VIRTIO = [
    Row('S266', 'S266', {'info qtree': ['dev: virtio-scsi-pci', 'dev: scsi-hd', 'drive = hd1']}, also=['-drive', 'file=diskimg.qcow,if=none,id=hd1']),
    Row('', 'S267', {'info qtree': ['dev: virtio-scsi-pci', 'dev: scsi-hd', 'drive = hd0']}, also=['-drive', 'file=storagedisk1.img,if=none,id=hd0']),
    Row('F-VIO-12', 'S268', {'info qtree': ['dev: virtio-blk-pci', 'drive = hd0']}, also=['-drive', 'file=storagedisk1.img,if=none,id=hd0']),
    Row('S270 F-DEV-08', 'S269', {'info qtree': ['dev: virtio-rng-pci', 'rng = /objects/rng0']}, also=['-object', 'rng-random,id=rng0,filename=/dev/urandom']),
    Row('S270', 'S270', {'info status': ['VM status']}),
    Row('S271', 'S271', {'info qtree': ['dev: virtio-rng-pci']}),
]
USB = [
    Row('S244 F-USB-03 F-DEV-03', 'S244', {'info qtree': ['dev: nec-usb-xhci', r'bus: usb-bus\.0'], 'info pci': ['PCI device 1033:0194']}),
    Row('S245 F-USB-04 F-DEV-03', 'S245', {'info qtree': ['dev: qemu-xhci', r'bus: usb-bus\.0'], 'info pci': ['PCI device 1b36:000d']}),
    Row('S246 F-USB-13 F-DEV-04 N-80', 'S246', {'info qtree': ['dev: qemu-xhci', 'dev: usb-mouse', 'dev: usb-tablet'],
                                                'info usb': ['Port 1, Speed 480 Mb/s, Product QEMU USB Mouse', 'Port 2, Speed 480 Mb/s, Product QEMU USB Tablet']}),
    Row('S246', 'S246', {'info qtree': ['!xhci'], 'info usb': ['Port 1, Speed 12 Mb/s, Product QEMU USB Mouse']}, corrected=True),
    Row('S247 F-USB-13 F-DEV-04 N-80', 'S247', {'info usb': ['Port 1, Speed 480 Mb/s, Product QEMU USB Keyboard']}),
    Row('S258', 'S258', {'info qtree': ['dev: qemu-xhci, id "xhci"', r'bus: xhci\.0'], 'info usb': ['Product QEMU USB Mouse']}, also=['-device', 'usb-mouse,bus=xhci.0']),
    Row('F-USB-13', 'S246', {'info qtree': ['dev: nec-usb-xhci', '!qemu-xhci'], 'info usb': ['Product QEMU USB Mouse', 'Product QEMU USB Tablet']},
        also=['-device', 'nec-usb-xhci'], name='-later'),
    Row('F-USB-12', 'S258', {'info usb': ['Port 3, Speed 480 Mb/s, Product QEMU USB Tablet', 'Port 1, Speed 480 Mb/s, Product QEMU USB Mouse']},
        also=['-device', 'usb-tablet,bus=xhci.0,port=3', '-device', 'usb-mouse'], name='-port'),
]
EVERYDAY = [
    Row('S358', 'S358', {'info kvm': ['kvm support: disabled'], 'info status': ['accelerator tcg']}, accel='', also=['-S']),
    Row('S359', 'S359', {'info kvm': ['kvm support: disabled'], 'info status': ['accelerator tcg']}, accel='', also=['-S']),
    Row('S374 F-DSP-08', 'S374', {'info name': ['^web$'], **size(512 * MIB), 'info qtree': ['dev: VGA'], 'info kvm': ['kvm support: disabled']},
        put={'%i': 'web', '-enable-kvm ': '', '$args': '-drive file=disk1.qcow2,if=virtio'}),
]


@pytest.mark.parametrize('row', [r.param() for r in (*MACHINE, *CPU, *MEMORY, *BLOCK, *NETWORK, *DISPLAY, *VIRTIO, *USB, *EVERYDAY)])
def test_the_line_gives_the_machine(row, yard, net):
    check(row, yard, net)


class No(Row):
    """A line that is refused: what the message says."""

    def __init__(self, proves, seed, says, **kw):
        super().__init__(proves, seed, {}, **kw)
        self.says = says


REFUSED = [
    No('S002', 'S002', ["unsupported machine type 'q53'", 'did you mean', 'help'], put={'<machine>': 'q53'}),
    No('S031', 'S031', ["not a number|expects a number"]),
    No('S071 F-BLK-13 F-BLK-14', 'S071', ['Failed to get "write" lock', 'my-mpio'], put={',file.locking=off': ''}),
    No('S063 F-FW-10', 'S063', ["'x' is no boot device"]),
    No('S049', 'S049', ['should equal RAM size', 'add up to -m'], also=['-m', '2G']),
    No('F-FW-02', 'S053', ['could not find firmware', '-bios']),
    No('S074', 'S074', ["unknown option 'l2_cache-size'", "Did you mean 'l2-cache-size'"]),
    *[No('S084 F-BLK-06', 'S084', ['does not support', 'if=none', '-device'], alt=i, put={f'if={bus}': f'-drive file=disk.qcow2,if={bus}'})
      for i, bus in ((2, 'scsi'), (3, 'sata'))],
    No('S078', 'S078', ["'hd0'", '-drive id=']),
    No('S138', 'S138', ['type is missing']),
    No('S138', 'S138', ['protocol must be tcp or udp', r'hostfwd=\[tcp'], corrected=True),
    No('F-NET-27', 'S155', ['is no MAC address', 'six h'], put={'-net vde ': ''}),
    No('S178', 'S178', ["unknown display 'xxx'", 'available:']),
    No('S195', 'S195', ["unknown graphics card '_type_'", 'help']),
    No('S288 F-CHR-07', 'S288', ["unknown option 'nowait;'", "Did you mean 'nowait'"], put={'<port>': '19101'}),
    No('S292 F-CHR-07', 'S292', ["unknown option 'nowait;'", "Did you mean 'nowait'"], put={'<path/to/socketname>': 'sock'}),
]


@pytest.mark.parametrize('no', [n.param() for n in REFUSED])
def test_the_line_is_refused_with_the_remedy(no, yard, net):
    prog, args = no.command()
    with net:
        r = run('-accel', 'qtest', '-display', 'none', *args, prog=prog, cwd=yard)
    lines = [line for line in r.stderr.splitlines() if 'warning' not in line and not line.startswith('   ')]
    assert r.returncode == 1 and 1 <= len(lines) <= 2, r.stderr
    for s in no.says:
        assert re.search(s, r.stderr), f'{s}: {r.stderr}'


def shell(line, cwd, timeout=20):
    return subprocess.run(['bash', '-c', line], cwd=cwd, capture_output=True, text=True, errors='replace', timeout=timeout).stdout


class Talk(Row):
    """A line that listens, and what clients get: [(seed of the client's line or its text, what it prints)]."""

    def __init__(self, proves, seed, clients, **kw):
        super().__init__(proves, seed, {}, **kw)
        self.clients = clients


def client(line):
    """The text of a client's line: a seed (corrected if it has to be), or itself."""
    if not re.fullmatch(r'S\d{3}c?', line):
        return line
    text = seeds.ROWS[line[:4]]['corrected' if line.endswith('c') else 'command']
    return 'timeout 1 ' + text if text.startswith('nc ') else text # a person ends it with Ctrl-C


STATUS, BANNER = r'VM status: paused|VM status: running', r'monitor.*type .help'
TALK = [
    Talk('S288 S290 F-MON-01 F-MON-02', 'S288', [('S290', STATUS)], corrected=True, put={'<port>': '19101', '<ip>': '127.0.0.1'}),
    Talk('S289 S291 F-MON-01 F-MON-02 F-CHR-02', 'S289', [('S291', STATUS)]),
    Talk('S292 S293 F-MON-01 F-CHR-03', 'S292', [('S293c', STATUS)], corrected=True, put={'<path/to/socketname>': 'sub/mon'}),
    Talk('S294 S295 F-MON-02', 'S294', [('S295', STATUS)]),
    Talk('S300 F-MON-01', 'S300', [('nc -N 127.0.0.1 4555 </dev/null', BANNER)], put={'port': '4555'}),
    Talk('S308', 'S308', [('nc -N 127.0.0.1 4555 </dev/null', BANNER)], corrected=True, put={'port': '4555'}),
    Talk('S311 S314 F-CHR-03', 'S311', [('nc -U -N /tmp/monitor.sock </dev/null', BANNER)], put={'/tmp/monitor.sock': 'socketfile', 'port': '1'}),
    Talk('S312 S313 F-CHR-03', 'S312', [('echo | socat - UNIX-CONNECT:/tmp/monitor.sock', BANNER)], put={'/tmp/monitor.sock': 'monitor.sock'}),
    Talk('S316 S318 F-CHR-02', 'S316', [('S318', BANNER)], put={'port': '4555'}),
    Talk('S328 S329 S330 F-QMP-01 F-QMP-02', 'S328', [('S329', r'"QMP": \{"version": \{"qemu": \{.*"capabilities": \[')]),
    Talk('S206 F-VNC-01', 'S206', [('nc -w 1 127.0.0.1 5901 </dev/null', 'RFB 003.008')]),
    Talk('S207 S211 F-VNC-01', 'S207', [('nc -w 1 127.0.0.1 5900 </dev/null', 'RFB 003.008')]),
    Talk('S208 F-VNC-01', 'S208', [('nc -w 1 127.0.0.1 5901 </dev/null', 'RFB 003.008')]),
    Talk('S208 F-VNC-01', 'S208', [('nc -w 1 127.0.0.1 5902 </dev/null', 'RFB 003.008')], alt=1),
    Talk('S209 F-VNC-02', 'S209', [('nc -w 1 127.0.0.1 5900 </dev/null', 'RFB 003.008')]),
    Talk('S210 F-VNC-01', 'S210', [('nc -w 1 127.0.0.1 5907 </dev/null', 'RFB 003.008')], put={'X': '7'}),
    Talk('S211 F-VNC-01', 'S211', [('nc -w 1 127.0.0.1 5900 </dev/null', 'RFB 003.008')]),
    Talk('S325 S375 F-CHR-02 F-CHR-06', 'S325', [('nc -w 1 localhost 7100 </dev/null', BANNER), ('nc -z localhost 7000 && echo open', 'open'),
                                              ('nc -w 1 localhost 5900 </dev/null', 'RFB')], put={'/dev/vg0/vm1': 'my-vm-disk.img'}),
    Talk('S375 F-CHR-06', 'S375', [('nc -z localhost 7001 && echo open', 'open'), ('nc -w 1 localhost 5901 </dev/null', 'RFB')],
         put={'/srv/kvm/vm2': 'my-vm-disk.img'}),
    Talk('S134 F-NET-04', 'S134', [('nc -z 127.0.0.1 2222 && echo open', 'open')]),
    Talk('S139 F-NET-04', 'S139', [('nc -z 127.0.0.1 2222 && echo open', 'open')]),
    Talk('S140 F-NET-04', 'S140', [('nc -z 127.0.0.1 2222 && echo open', 'open')]),
    Talk('S141 F-NET-04', 'S141', [('nc -z 127.0.0.1 2222 && nc -z 127.0.0.1 8080 && echo both', 'both')]),
    Talk('S152 F-NET-04 F-NET-15', 'S152', [('nc -z 127.0.0.1 60022 && echo open', 'open')]),
    Talk('S153 F-NET-04', 'S153', [('nc -z 127.0.0.1 60022 && nc -z 127.0.0.1 5900 && echo both', 'both')]),
    Talk('F-NET-04', 'S171', [('nc -z 127.0.0.1 5555 && echo open', 'open')]),
]


@pytest.mark.parametrize('talk', [t.param() for t in TALK])
def test_the_line_listens_where_it_says(talk, yard, net):
    need('nc', 'netcat-openbsd')
    need('socat')
    if not net.own:
        host_lacks('the right to make a network namespace, which lines with fixed ports need')
    prog, args = talk.command()
    with net:
        with Machine(*args, '-accel', 'qtest', prog=prog, defaults=True, cwd=yard) as m:
            for line, want in talk.clients:
                line = client(line)
                for typed, ours in talk.put.items():
                    line = line.replace(typed, ours)
                out = shell(line, yard)
                assert re.search(want, out, re.S), f'{line}: {out!r}'
            assert m.alive()


@pytest.mark.proves('F-PRG-24', 'S022', 'S370', 'S372')
def test_properties_are_listed_with_type_and_default():
    for seed, want in (('S022', [r'^  \S+=<bool>', 'pflash0=<', 'max-fw-size=<size>.*default: 8M']), ('S370', [r'^  drive=<str>', r'^  serial=<str>', r'scsi-id=<\w+>.*default'])):
        prog, args = seeds.words(seed, put={'<arch>': 'x86_64'} if seed == 'S370' else {})
        r = run(*args, prog=prog)
        assert r.returncode == 0 and not r.stderr
        for w in want:
            assert re.search(w, r.stdout, re.M), (seed, w, r.stdout)


@pytest.mark.proves('F-NET-15', 'S159', 'S142')
@pytest.mark.parametrize('short, long', [
    (['-nic', 'user,model=virtio-net-pci,mac=52:54:00:12:34:77'], ['-netdev', 'user,id=n', '-device', 'virtio-net-pci,netdev=n,mac=52:54:00:12:34:77']),
    (['-nic', 'user,model=rtl8139'], ['-netdev', 'user,id=n', '-device', 'rtl8139,netdev=n,mac=52:54:00:12:34:56']),
    (['-nic', 'none'], ['-net', 'none']),
])
def test_the_short_form_of_a_card_gives_the_same_machine(short, long):
    trees = []
    for args in (short, long):
        with Machine('-M', 'pc', '-accel', 'qtest', *args, defaults=True) as m:
            trees.append((re.sub(r'netdev = \S+', 'netdev = N', m.hmp('info qtree')), m.hmp('info pci')))
    assert trees[0] == trees[1]


@pytest.mark.proves('F-NET-09', 'F-NET-15', 'S165', 'S169', 'S170')
def test_vhost_on_a_tap_device_falls_back_with_one_line(net):
    if not net.own:
        host_lacks('root and /dev/net/tun')
    trees = []
    with net:
        for words in (seeds.words('S169')[1], seeds.words('S170')[1], seeds.words('S170', corrected=True)[1], seeds.words('S165')[1]):
            with Machine(*words, '-accel', 'qtest', defaults=True) as m:
                trees.append(re.sub(r'netdev = \S+', 'netdev = N', m.hmp('info qtree')))
                assert 'type=tap' in m.hmp('info network')
                assert re.fullmatch(r'[^\n]*warning: [^\n]*vhost[^\n]*\n', m.stderr()), m.stderr()
    assert len(set(trees)) == 1


@pytest.mark.proves('F-QMP-05', 'S335', 'S336', 'S089')
def test_query_block_tells_names_image_and_backing_chain(yard):
    with Machine(*seeds.words('S089')[1], '-accel', 'qtest', defaults=True, cwd=yard) as m:
        b = next(x for x in m.qmp('query-block') if x['device'] == 'ide0-hd0')
    assert b['io-status'] == 'ok' and b['locked'] is False and b['removable'] is False
    ins = b['inserted']
    assert {'iops_rd', 'iops_wr', 'bps', 'detect_zeroes', 'ro', 'drv', 'encrypted', 'file', 'backing_file_depth', 'cache'} <= set(ins)
    assert (ins['iops_rd'], ins['detect_zeroes'], ins['drv'], ins['backing_file_depth']) == (0, 'off', 'qcow2', 1)
    assert ins['image']['virtual-size'] == 8 * MIB and ins['image']['format'] == 'qcow2'
    base = ins['image']['backing-image']
    assert (base['filename'], base['format'], base['virtual-size']) == ('img1.raw', 'raw', 8 * MIB)


@pytest.mark.proves('F-BLK-15', 'F-BLK-16', 'S080', 'S081', 'S095', 'S096')
@pytest.mark.parametrize('words, direct', [
    (seeds.words('S096')[1], True), (seeds.words('S095', put={'/dev/disk': 'disk_image'})[1], True),
    (['-drive', f"file=disk_image,if=virtio,{seeds.ROWS['S081']['corrected']}"], True),
    (['-drive', f"file=disk_image,if=virtio,{seeds.ROWS['S080']['command']}"], False)])
def test_direct_access_opens_the_file_so(words, direct, yard):
    with Machine(*words, '-accel', 'qtest', cwd=yard) as m:
        flags = []
        for fd in os.listdir(f'/proc/{m.proc.pid}/fd'):
            if os.readlink(f'/proc/{m.proc.pid}/fd/{fd}') == str(yard / 'disk_image'):
                flags.append(int(re.search(r'flags:\s*(\d+)', open(f'/proc/{m.proc.pid}/fdinfo/{fd}').read())[1], 8) & os.O_DIRECT)
        assert flags and all(bool(f) == direct for f in flags)
    r = run('-accel', 'qtest', '-display', 'none', '-drive', f"file=disk_image,if=virtio,format=raw,{seeds.ROWS['S081']['command']}", cwd=yard, stdin='')\
        if not direct else None
    assert r is None or r.returncode == 1 and 'cache.direct=on' in r.stderr, r.stderr
