"""The chipset of whole boards through the test channel: clock base, hot-plug registers, test devices, power, random accesses."""
import datetime
import random
import time

import pytest
from lyre import Machine, QmpError, run

pytestmark = pytest.mark.limit(60)


def cmos(m, reg):
    m.qt.outb(0x70, reg)
    return m.qt.inb(0x71)


def bcd(v):
    return (v >> 4) * 10 + (v & 15)


def cmos_time(m):
    year = bcd(cmos(m, 0x32)) * 100 + bcd(cmos(m, 9))
    return datetime.datetime(year, bcd(cmos(m, 8)), bcd(cmos(m, 7)), bcd(cmos(m, 4)), bcd(cmos(m, 2)), bcd(cmos(m, 0)))


@pytest.mark.proves('F-MCH-12', 'S026')
@pytest.mark.parametrize('base,zone,hours', [('utc', 'JST-9', 0), ('localtime', 'JST-9', 9), ('localtime', 'EST5', -5)])
def test_the_clock_starts_from_the_chosen_base(base, zone, hours):
    with Machine('-M', 'pc', '-rtc', f'base={base}', qtest=True, env={'TZ': zone}) as m:
        want = datetime.datetime.utcfromtimestamp(time.time()) + datetime.timedelta(hours=hours)
        assert abs((cmos_time(m) - want).total_seconds()) <= 3


@pytest.mark.proves('F-MCH-12')
def test_a_date_as_base_starts_there_and_the_clock_runs():
    with Machine('-M', 'q35', '-rtc', 'base=2006-06-17T16:01:21', qtest=True) as m:
        t0 = cmos_time(m)
        assert abs((t0 - datetime.datetime(2006, 6, 17, 16, 1, 21)).total_seconds()) <= 2
        m.qt.clock_step(3600 * 10**9)
        assert abs((cmos_time(m) - t0).total_seconds() - 3600) <= 1


def enable_acpi_pc(m):
    m.qt.pci_write(1, 0x40, 0x601, fn=3)
    m.qt.pci_write(1, 0x80, 1, size=1, fn=3)


@pytest.mark.proves('F-MON-19')
def test_acpi_hot_plug_of_the_root_bus_asks_the_guest_and_obeys_it():
    with Machine('-M', 'pc', qtest=True) as m:
        q = m.qt
        q.outb(0xafe2, 0x02)  # enable event 1
        m.qmp('device_add', driver='virtio-rng-pci', id='r0', bus='pci.0', addr='0x9')
        assert q.inb(0xafe0) & 2
        assert q.inl(0xae00) == 1 << 9
        assert q.inl(0xae00) == 0
        assert q.pci_read(9, 0) & 0xffff == 0x1af4
        q.outb(0xafe0, 2)
        m.qmp('device_del', id='r0')
        assert q.inb(0xafe0) & 2 and q.inl(0xae04) == 1 << 9
        assert q.pci_read(9, 0) & 0xffff == 0x1af4, 'it stays until the guest agrees'
        q.outl(0xae08, 1 << 9)
        m.event('DEVICE_DELETED', device='r0')
        assert q.pci_read(9, 0) == 0xffffffff


@pytest.mark.proves('F-MON-19')
def test_a_root_port_announces_and_ejects_by_its_slot_registers():
    with Machine('-M', 'q35', '-device', 'pcie-root-port,id=rp,addr=5,chassis=1,slot=3', qtest=True) as m:
        q = m.qt
        cap = q.pci_read(5, 0x34, size=1)
        while q.pci_read(5, cap, size=1) != 0x10:
            cap = q.pci_read(5, cap + 1, size=1)
            assert cap
        assert q.pci_read(5, cap + 0x14) >> 19 == 3
        assert not q.pci_read(5, cap + 0x1a, size=2) & 0x40
        m.qmp('device_add', driver='virtio-rng-pci', id='r0', bus='rp')
        assert q.pci_read(5, cap + 0x1a, size=2) & 0x49 == 0x49
        q.pci_write(5, 0x18, 0x00010100)
        assert q.pci_read(0, 0, bus=1) & 0xffff == 0x1af4
        q.pci_write(5, cap + 0x1a, 0x1f, size=2)
        q.pci_write(5, cap + 0x18, 0x100, size=2)  # the guest powers the slot
        m.qmp('device_del', id='r0')
        assert q.pci_read(5, cap + 0x1a, size=2) & 1
        q.pci_write(5, cap + 0x18, 0x700, size=2)  # power off, indicator off
        m.event('DEVICE_DELETED', device='r0')
        assert not q.pci_read(5, cap + 0x1a, size=2) & 0x40
        m.qmp('device_add', driver='virtio-rng-pci', id='r1', bus='rp')
        m.qmp('device_del', id='r1')  # the slot is off: no need to ask
        m.event('DEVICE_DELETED', device='r1')


def test_the_root_complex_takes_no_hot_plug():
    with Machine('-M', 'q35', qtest=True) as m:
        with pytest.raises(QmpError, match='hotplug'):
            m.qmp('device_add', driver='virtio-rng-pci', id='r0', bus='pcie.0')


def test_debug_exit_decides_the_status():
    with Machine('-M', 'pc', '-device', 'isa-debug-exit,iobase=0xf4,iosize=4', qtest=True) as m:
        m.qt.outl(0xf4, 0x10)
        assert m.wait() == 0x21


def test_testdev_drives_lines_and_keeps_bytes():
    with Machine('-M', 'pc', '-device', 'pc-testdev', qtest=True) as m:
        m.qt.intercept_in('ioapic')
        m.qt.outb(0x2005, 1)
        m.qt.outb(0x2005, 0)
        assert m.qt.irq_log == [('raise', 5), ('lower', 5)]
        m.qt.outl(0xe0, 0x12345678)
        assert (m.qt.inl(0xe0), m.qt.inw(0xe2)) == (0x12345678, 0x1234)
        m.qt.writel(0xff000100, 0xcafe)
        assert m.qt.readl(0xff000100) == 0xcafe


def test_power_off_by_the_sleep_register():
    with Machine('-M', 'pc', qtest=True) as m:
        enable_acpi_pc(m)
        m.qt.outw(0x604, 0x2000)
        m.event('SHUTDOWN', guest=True)
        assert m.wait() == 0


def test_disable_s3_reaches_the_chip():
    with Machine('-M', 'pc', '-global', 'PIIX4_PM.disable_s3=1', qtest=True) as m:
        enable_acpi_pc(m)
        m.qt.outw(0x604, 1 << 10 | 0x2000)
        assert m.qmp('query-status')['status'] != 'suspended'
        assert m.alive()


def map_bars(q):
    """Gives every function on bus 0 its windows; returns the addresses of memory BARs and the ports of I/O BARs."""
    mem, io, next_mem, next_io = [], [], 0xc0000000, 0xc000
    for devfn in range(256):
        dev, fn = devfn >> 3, devfn & 7
        if q.pci_read(dev, 0, fn=fn) == 0xffffffff or q.pci_read(dev, 0x0e, size=1, fn=fn) & 0x7f:
            continue
        bar = 0x10
        while bar < 0x28:
            q.pci_write(dev, bar, 0xffffffff, fn=fn)
            v, at = q.pci_read(dev, bar, fn=fn), bar
            bar += 8 if v & 7 == 4 else 4
            if not v:
                continue
            size = -(v & (0xfffffffc if v & 1 else 0xfffffff0)) & 0xffffffff
            if v & 1:
                size &= 0xffff
                next_io = (next_io + size - 1) & -size
                q.pci_write(dev, at, next_io, fn=fn)
                io.append((next_io, size))
                next_io += size
            else:
                next_mem = (next_mem + size - 1) & -size
                q.pci_write(dev, at, next_mem, fn=fn)
                mem.append((next_mem, size))
                next_mem += size
                if v & 7 == 4:
                    q.pci_write(dev, at + 4, 0, fn=fn)
        q.pci_write(dev, 4, 7, size=2, fn=fn)
    return mem, io


def requests(rng, n, mem, io):
    """Random accesses as lines of the test channel: fixed windows, ports, configuration space and the mapped BARs."""
    windows = [0xfec00000, 0xfed00000, 0xfee00000, 0xfed1c000, 0xb0000000, 0xa0000, 0xc0000]
    size_p, size_m = ['b', 'w', 'l'], ['b', 'w', 'l', 'q']
    out = []
    while len(out) < n:
        value = rng.choice([rng.getrandbits(64), rng.getrandbits(8), 0, (1 << 64) - 1])
        if rng.random() < 0.6:
            port = rng.choice([rng.randrange(0x10000), rng.randrange(0x500), 0xcf8 + rng.randrange(8), 0x3b0 + rng.randrange(48),
                               0x1f0 + rng.randrange(8), 0x510 + rng.randrange(12), *(b + rng.randrange(size) for b, size in io)])
            s = rng.choice(size_p)
            width = {'b': 8, 'w': 16, 'l': 32}[s]
            if rng.random() < 0.05:
                out.append(f'outl 0xcf8 {0x80000000 | rng.randrange(0x10000) & 0xfffffc:#x}')
                port = 0xcfc
            out.append(f'in{s} {port:#x}' if rng.random() < 0.4 else f'out{s} {port:#x} {value & ((1 << width) - 1):#x}')
        else:
            base, size = rng.choice(mem + [(w, 1 << 20) for w in windows])
            addr = base + rng.randrange(min(size, 1 << rng.choice([8, 12, 16, 20])))
            s = rng.choice(size_m)
            width = {'b': 8, 'w': 16, 'l': 32, 'q': 64}[s]
            out.append(f'read{s} {addr:#x}' if rng.random() < 0.4 else f'write{s} {addr:#x} {value & ((1 << width) - 1):#x}')
        if len(out) % 500 == 0:
            out.append(f'clock_step {rng.randrange(5_000_000)}')
    return out


def storm(kind, count, seed):
    rng = random.Random(seed)
    args = ['-M', kind, '-m', '64', '-vga', 'std', '-no-shutdown', '-device', 'virtio-rng-pci', '-device', 'pci-bridge,id=br,chassis_nr=1',
            '-device', 'pcie-root-port,id=rp,chassis=2', '-serial', 'null', '-parallel', 'null']
    for model in ('e1000', 'rtl8139', 'virtio-net-pci', 'virtio-scsi-pci', 'virtio-serial-pci', 'ich9-ahci', 'pci-serial', 'pvpanic-pci'):
        args += ['-device', model] if f'"{model}"' in run('-device', 'help').stdout else []
    with Machine(*args, qtest=True) as m:
        mem, io = map_bars(m.qt)
        assert mem and io
        for i in range(0, count, 200):
            if i % 4_000 == 0:
                mem, io = map_bars(m.qt)  # the storm moves them
            batch = requests(rng, 200, mem, io)
            m.qt.s.send(''.join(line + '\n' for line in batch))
            for line in batch:
                answer = m.qt.s.line(timeout=30)
                while answer.startswith(b'IRQ'):
                    answer = m.qt.s.line(timeout=30)
                assert answer.startswith((b'OK', b'FAIL')), (line, answer)
        assert m.alive()
        assert m.qmp('query-version')


@pytest.mark.parametrize('kind', ['pc', 'q35'])
def test_random_accesses_neither_crash_nor_hang(kind):
    storm(kind, 20_000, seed=1)


@pytest.mark.long
@pytest.mark.limit(1800)
@pytest.mark.parametrize('kind', ['pc', 'q35'])
def test_a_million_random_accesses_neither_crash_nor_hang(kind):
    storm(kind, 1_000_000, seed=2)
