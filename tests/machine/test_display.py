"""Adapters by their registers, and what screendump and a VNC client then show of them."""
import os
import struct
import time

import pytest
from lyre import Machine

import seeds
from linux import Linux
from picture import png, ppm
from rfb import Rfb

pytestmark = pytest.mark.limit(90)
LFB, MMIO = 0xe0000000, 0xf0000000
ID, XRES, YRES, BPP, ENABLE = range(5)


def place(q, device=0x1111):
    """Finds the adapter, maps its BARs and turns decoding on."""
    dev = q.pci_find(0x1234, device)
    dev = dev[0] if isinstance(dev, tuple) else dev
    q.pci_write(dev, 0x10, LFB)
    q.pci_write(dev, 0x18, MMIO)
    q.pci_write(dev, 0x04, 3, 2)


def dispi(q, index, value):
    q.writew(MMIO + 0x500 + index * 2, value)


def mode(q, w, h, bpp=32):
    for r, v in ((ENABLE, 0), (XRES, w), (YRES, h), (BPP, bpp), (ENABLE, 0x41)):
        dispi(q, r, v)


def paint(q, w, h):
    """A gradient, a few bars and noise: something for each encoder. Returns R, G, B bytes."""
    rgb, out = bytearray(), bytearray()
    noise = os.urandom(w * 16 * 3)
    for y in range(h):
        for x in range(w):
            r, g, b = (x * 255 // w, y * 255 // h, 128) if y < h // 2 else ((255, 0, 0) if x // 40 % 2 else (0, 0, 60))
            if y >= h - 16:
                r, g, b = noise[((y - h + 16) * w + x) * 3:][:3]
            rgb += bytes((r, g, b))
            out += bytes((b, g, r, 0))
    for at in range(0, len(out), 65536):
        q.write(LFB + at, bytes(out[at:at + 65536]))
    return bytes(rgb)


@pytest.mark.proves('F-DSP-26', 'F-DSP-10', 'N-78')
@pytest.mark.parametrize('args', [['-vga', 'std'], ['-device', 'VGA,vgamem_mb=32'], ['-device', 'bochs-display'], ['-device', 'secondary-vga']])
def test_screendump_holds_what_was_painted(args, tmp_path):
    with Machine('-M', 'pc', *args, qtest=True) as m:
        place(m.qt)
        mode(m.qt, 320, 208)
        want = paint(m.qt, 320, 208)
        m.qmp('screendump', filename=str(tmp_path / 'a.ppm'))
        m.qmp('screendump', filename=str(tmp_path / 'a.png'), format='png')
        m.hmp(f'screendump {tmp_path}/b.ppm')
        assert ppm(tmp_path / 'a.ppm') == ppm(tmp_path / 'b.ppm') == (320, 208, want)
        assert png(tmp_path / 'a.png') == (320, 208, want)


@pytest.mark.proves('F-DSP-10')
def test_the_largest_mode_of_16_mib(tmp_path):
    with Machine('-M', 'pc', '-device', 'VGA,vgamem_mb=16', qtest=True) as m:
        place(m.qt)
        mode(m.qt, 2560, 1600)
        m.qt.write(LFB + (1599 * 2560 + 2559) * 4, b'\x03\x02\x01\x00')
        m.qmp('screendump', filename=str(tmp_path / 'a.ppm'))
        w, h, data = ppm(tmp_path / 'a.ppm')
        assert (w, h) == (2560, 1600) and data[-3:] == b'\x01\x02\x03'


@pytest.mark.proves('F-DSP-22')
def test_edid_names_the_asked_resolution():
    with Machine('-M', 'pc', '-device', 'VGA,edid=on,xres=1280,yres=720', qtest=True) as m:
        place(m.qt)
        e = m.qt.read(MMIO, 128)
        assert sum(e) % 256 == 0 and e[:8] == b'\x00' + b'\xff' * 6 + b'\x00'
        assert (e[56] | (e[58] & 0xf0) << 4, e[59] | (e[61] & 0xf0) << 4) == (1280, 720)


@pytest.mark.limit(300)
@pytest.mark.proves('F-DSP-22', 'S204')
def test_linux_prefers_the_mode_of_the_edid(tmp_path):
    """The first mode of a connector is its preferred one; the console of the kernel then shows itself in it."""
    with Linux(['-M', 'pc', '-net', 'none', *seeds.words('S204')[1]], ('bochs',)) as g:
        modes = g.sh('cat /sys/class/drm/card0-*/modes').split()
        assert modes[0] == '1280x720'
        assert g.sh('cat /sys/class/graphics/fb0/virtual_size') == '1280,720'
        g.sh('printf "\\033[41m\\033[2J\\033[?25l" >/dev/tty1; sleep 1')
        g.qmp.call('screendump', filename=str(tmp_path / 'a.ppm'))
        w, h, data = ppm(tmp_path / 'a.ppm')
        assert (w, h) == (1280, 720)
        assert data[(700 * w + 1000) * 3:][:3] == bytes((0xaa, 0, 0))
        g.poweroff()


@pytest.mark.proves('F-DSP-18')
def test_ramfb_shows_guest_memory(tmp_path):
    """fw_cfg by DMA: find etc/ramfb, write the 28-byte description."""
    with Machine('-M', 'pc', '-m', '64', '-vga', 'none', '-device', 'ramfb', qtest=True) as m:
        q = m.qt

        def dma(control, length, addr):
            q.write(0x1000, struct.pack('>IIQ', control, length, addr))
            q.outl(0x514, 0)
            q.outl(0x518, int.from_bytes((0x1000).to_bytes(4, 'big'), 'little'))
            assert int.from_bytes(q.read(0x1000, 4), 'big') == 0
        dma(0x19 << 16 | 8 | 2, 4, 0x2000)
        n = int.from_bytes(q.read(0x2000, 4), 'big')
        dma(2, n * 64, 0x2000)
        entries = q.read(0x2000, n * 64)
        key = next(int.from_bytes(entries[i + 4:i + 6], 'big') for i in range(0, len(entries), 64)
                   if entries[i + 8:i + 64].rstrip(b'\0') == b'etc/ramfb')
        q.write(0x3000, struct.pack('>QIIIII', 0x100000, 0x34325258, 0, 64, 32, 256))
        dma(key << 16 | 8 | 16, 28, 0x3000)
        q.write(0x100000, bytes((9, 8, 7, 0)) * (64 * 32))
        m.qmp('screendump', filename=str(tmp_path / 'a.ppm'))
        assert ppm(tmp_path / 'a.ppm') == (64, 32, bytes((7, 8, 9)) * (64 * 32))


@pytest.mark.proves('F-VNC-01', 'F-VNC-02', 'F-DSP-05')
@pytest.mark.parametrize('encoding', [0, 5, 6, 16], ids=['raw', 'hextile', 'zlib', 'zrle'])
def test_a_vnc_client_sees_the_same_pixels(encoding):
    with Machine('-M', 'pc', '-vga', 'std', '-vnc', '127.0.0.1:50,to=99', qtest=True) as m:
        place(m.qt)
        mode(m.qt, 320, 208)
        want = paint(m.qt, 320, 208)
        v = m.qmp('query-vnc')
        c = Rfb((v['host'], int(v['service'])))
        assert (c.w, c.h) == (320, 208)
        for _ in range(2):  # the compressed streams go on
            got = c.update(encoding)
            assert got == want


@pytest.mark.proves('F-VNC-01')
def test_keys_and_pointer_of_a_vnc_client_reach_the_keyboard_controller():
    with Machine('-M', 'pc', '-vga', 'std', '-vnc', '127.0.0.1:50,to=99', qtest=True) as m:
        def drain():
            got = []
            for _ in range(100):
                m.qt.clock_step(1_000_000)
                if m.qt.inb(0x64) & 1:
                    got.append(m.qt.inb(0x60))
            return got
        m.qt.outb(0x64, 0x60)  # command byte: translate, interrupts off
        m.qt.outb(0x60, 0x40)
        m.qt.outb(0x60, 0xf4)  # keyboard: enable scanning
        drain()
        v = m.qmp('query-vnc')
        c = Rfb((v['host'], int(v['service'])))
        for down in (1, 0):
            c.s.sendall(struct.pack('>BBHI', 4, down, 0, ord('a')))
        end = time.monotonic() + 10
        got = []
        while len(got) < 2 and time.monotonic() < end:
            got += drain()
        assert got == [0x1e, 0x9e]
        m.qt.outb(0x64, 0xd4)
        m.qt.outb(0x60, 0xf4)  # mouse: enable reporting
        c.s.sendall(struct.pack('>BBHH', 5, 0, 100, 100))
        end = time.monotonic() + 1
        while drain() or time.monotonic() < end:
            pass
        c.s.sendall(struct.pack('>BBHH', 5, 1, 110, 105) + struct.pack('>BBHH', 5, 0, 110, 105))
        got, end = [], time.monotonic() + 10
        while len(got) < 6 and time.monotonic() < end:
            got += drain()
        packets = [got[i:i + 3] for i in range(0, len(got) - 2, 3)]
        assert any(p[0] & 1 for p in packets) and not packets[-1][0] & 1, got
        assert sum(p[1] - (256 if p[0] & 0x10 else 0) for p in packets) == 10, got
        assert sum(p[2] - (256 if p[0] & 0x20 else 0) for p in packets) == -5, got
