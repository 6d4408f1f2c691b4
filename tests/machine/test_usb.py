"""UHCI and the input devices through the register-level test channel: enumeration by hand-made transfer descriptors, reports
of what was typed and pointed, resets, and devices that do not exist."""
import struct

import pytest

from lyre import Machine

FRAMES, QH, TD, DATA = 0x10000, 0x20000, 0x21000, 0x30000
SETUP, IN, OUT = 0x2d, 0x69, 0xe1
ACTIVE, STALLED, NAK, TIMEOUT, IOC, SPD = 1 << 23, 1 << 22, 1 << 19, 1 << 18, 1 << 24, 1 << 29
IO = 0xc000
CMD, STS, INTR, FRNUM, BASE, PORT1, PORT2 = 0, 2, 4, 6, 8, 0x10, 0x12


class Uhci:
    """The controller of a machine, placed and running, port 1 reset and enabled."""

    def __init__(self, m):
        self.m, self.q = m, m.qt
        self.dev, self.fn = self.q.pci_find(0x8086, 0x7020)
        self.q.pci_write(self.dev, 0x20, IO, fn=self.fn)
        self.q.pci_write(self.dev, 4, 5, 2, fn=self.fn)
        for i in range(1024):
            self.q.writel(FRAMES + 4 * i, QH | 2)
        self.q.outl(IO + BASE, FRAMES)
        self.reset_port(PORT1)
        self.q.outw(IO + CMD, 1)

    def reset_port(self, port):
        self.q.outw(IO + port, 0x200)
        self.q.outw(IO + port, 0)
        self.q.outw(IO + port, 4)

    def run(self, tds, frames=2):
        """tds: (pid, address, endpoint, toggle, data or length); what each left: (status word, bytes)."""
        for i, (pid, addr, ep, toggle, data) in enumerate(tds):
            n = data if isinstance(data, int) else len(data)
            link = TD + 16 * (i + 1) | 4 if i + 1 < len(tds) else 1
            self.q.write(DATA + 256 * i, bytes(64) if isinstance(data, int) else data)
            self.q.write(TD + 16 * i, struct.pack('<IIII', link, ACTIVE | 3 << 27 | (IOC if i + 1 == len(tds) else 0),
                                                  ((n - 1) & 0x7ff) << 21 | toggle << 19 | ep << 15 | addr << 8 | pid, DATA + 256 * i))
        self.q.write(QH, struct.pack('<II', 1, TD))
        self.q.clock_step(frames * 1000000)
        out = []
        for i in range(len(tds)):
            ctrl = self.q.readl(TD + 16 * i + 4)
            out.append((ctrl & 0xff0000, self.q.read(DATA + 256 * i, ((ctrl & 0x7ff) + 1) & 0x7ff)))
        return out

    def control_in(self, addr, setup, length):
        tds = [(SETUP, addr, 0, 0, setup)] + [(IN, addr, 0, 1 - i % 2, 8) for i in range((length + 7) // 8)] + [(OUT, addr, 0, 1, 0)]
        done = self.run(tds)
        assert not any(status for status, _ in done), done
        return b''.join(data for _, data in done[1:-1])

    def control_out(self, addr, setup):
        assert not any(status for status, _ in self.run([(SETUP, addr, 0, 0, setup), (IN, addr, 0, 1, 0)]))


@pytest.fixture
def m():
    with Machine('-M', 'pc', '-m', '64', '-usb', '-device', 'usb-tablet', '-device', 'usb-kbd', qtest=True) as machine:
        yield machine


def req(kind, request, value=0, index=0, length=0):
    return struct.pack('<BBHHH', kind, request, value, index, length)


@pytest.mark.proves('F-USB-06', 'F-USB-07')
def test_a_tablet_is_enumerated_and_reports(m):
    u = Uhci(m)
    assert u.q.inw(IO + PORT1) & 5 == 5 and not u.q.inw(IO + STS) & 0x20
    desc = u.control_in(0, req(0x80, 6, 0x100, 0, 18), 18)
    assert desc[:2] == b'\x12\x01' and desc[8:12] == b'\x27\x06\x01\x00' and len(desc) == 18
    u.control_out(0, req(0, 5, 9))
    config = u.control_in(9, req(0x80, 6, 0x200, 0, 34), 34)
    assert len(config) == 34 and config[14] == 3 and config[29] == 0x81
    report_len = config[25]
    assert len(u.control_in(9, req(0x81, 6, 0x2200, 0, report_len), report_len)) == report_len
    assert u.run([(IN, 9, 1, 0, 8)])[0][0] == STALLED  # not configured yet
    u.control_out(9, req(0, 9, 1))
    assert u.run([(IN, 9, 1, 0, 8)])[0][0] == ACTIVE | NAK
    m.qmp('input-send-event', events=[{'type': 'abs', 'data': {'axis': 'x', 'value': 0x1234}}, {'type': 'abs', 'data': {'axis': 'y', 'value': 0x7fff}}])
    m.qmp('input-send-event', events=[{'type': 'btn', 'data': {'button': 'left', 'down': True}}])
    assert u.run([(IN, 9, 1, 0, 8)]) == [(0, b'\x00\x34\x12\xff\x7f\x00')]
    assert u.run([(IN, 9, 1, 1, 8)]) == [(0, b'\x01\x34\x12\xff\x7f\x00')]


@pytest.mark.proves('F-USB-08')
def test_the_keyboard_says_what_is_held(m):
    u = Uhci(m)
    u.control_out(0, req(0, 5, 1))
    u.reset_port(PORT2)
    u.control_out(0, req(0, 5, 2))
    u.control_out(2, req(0, 9, 1))
    m.hmp('sendkey shift-a')
    u.q.clock_step(200000000)
    seen = [u.run([(IN, 2, 1, i % 2, 8)])[0] for i in range(4)]
    assert [d for s, d in seen] == [b'\x02' + bytes(7), b'\x02\0\x04' + bytes(5), b'\x02' + bytes(7), bytes(8)]


def test_nobody_at_an_address_is_a_timeout_and_interrupts(m):
    u = Uhci(m)
    u.q.outw(IO + INTR, 5)
    assert u.run([(IN, 77, 1, 0, 8)])[0][0] == STALLED | TIMEOUT
    assert u.q.inw(IO + STS) & 3 == 3
    assert u.q.pci_read(u.dev, 6, 2, fn=u.fn) & 8  # interrupt status
    u.q.outw(IO + STS, 3)
    assert not u.q.pci_read(u.dev, 6, 2, fn=u.fn) & 8


def test_a_bad_descriptor_stops_the_controller(m):
    u = Uhci(m)
    u.run([(0x12, 0, 0, 0, 8)])
    assert u.q.inw(IO + STS) & 0x30 == 0x30 and not u.q.inw(IO + CMD) & 1


def test_a_ring_of_queues_does_not_hang_a_frame(m):
    u = Uhci(m)
    for i in range(8):
        u.q.write(QH + 0x100 * i, struct.pack('<II', QH + 0x100 * ((i + 1) % 8) | 2, 1))
    u.q.clock_step(50000000)
    assert u.q.inw(IO + FRNUM) in range(45, 60) and not u.q.inw(IO + STS) & 0x20


def test_unplug_is_seen_at_the_port():
    with Machine('-M', 'pc', '-m', '64', '-usb', '-device', 'usb-tablet,id=t', qtest=True) as m:
        u = Uhci(m)
        u.q.outw(IO + PORT1, 6)
        m.qmp('device_del', id='t')
        assert u.q.inw(IO + PORT1) & 0xf == 0xa
        m.qmp('device_add', driver='usb-mouse', id='t2')
        assert u.q.inw(IO + PORT1) & 1
        assert 'QEMU USB Mouse' in m.hmp('info usb')
