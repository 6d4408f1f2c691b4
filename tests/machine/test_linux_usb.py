"""USB input devices from inside Linux: found on the board's controller, and what they send arrives as typed and pointed."""
import hashlib
import random
import re
import struct
import subprocess
import time

import pytest

from conftest import program
from linux import Linux
from rfb import Rfb
from run import PROMPT

MODULES = ('uhci_hcd', 'usbhid', 'hid_generic', 'evdev')
USB3 = ('xhci_pci', 'usbhid', 'hid_generic', 'evdev')


def listed(g):
    """Products on the buses; waits for the last that is expected to come."""
    g.sh('for i in $(seq 40); do grep -q USB /proc/bus/input/devices && break; sleep 0.5; done; sleep 1')
    return g.sh('for d in /sys/bus/usb/devices/*; do [ -e $d/product ] && echo $(cat $d/idVendor $d/idProduct $d/speed $d/product); done; true')


def event_node(g, name):
    return g.sh(f"for d in /sys/class/input/event*; do [ \"$(cat $d/device/name)\" = '{name}' ] && echo ${{d##*/}}; done; true").strip()


def events(g, node, act, seconds=3):
    """[(type, code, value)] that the node gives while act() runs."""
    g.sh(f'(timeout {seconds} cat /dev/input/{node} >/tmp/ev) & sleep 0.5')
    act()
    text = g.sh(f"sleep {seconds}; od -An -v -tx1 /tmp/ev | tr -d ' \\n'")
    raw = bytes.fromhex(text.strip())
    return [struct.unpack('<HHi', raw[i + 16:i + 24]) for i in range(0, len(raw) - 23, 24)]


@pytest.mark.limit(300)
@pytest.mark.proves('F-USB-06', 'F-USB-07', 'S250', 'S256')
@pytest.mark.parametrize('args', [
    pytest.param(['-M', 'pc', '-usb', '-device', 'usb-tablet'], id='pc'),
    pytest.param(['-M', 'pc', '-usbdevice', 'tablet'], id='usbdevice'),
    pytest.param(['-M', 'q35', '-usb', '-device', 'usb-tablet'], id='q35'),
])
def test_the_tablet_points_where_it_is_told(args):
    with Linux(args, MODULES) as g:
        assert '0627 0001 12 QEMU USB Tablet' in listed(g)
        node = event_node(g, 'QEMU QEMU USB Tablet')

        def act():
            g.qmp.call('input-send-event', events=[{'type': 'abs', 'data': {'axis': 'x', 'value': 1000}},
                                                   {'type': 'abs', 'data': {'axis': 'y', 'value': 32767}}])
            g.qmp.call('input-send-event', events=[{'type': 'btn', 'data': {'button': 'left', 'down': True}}])
            g.qmp.call('input-send-event', events=[{'type': 'btn', 'data': {'button': 'left', 'down': False}}])
        seen = events(g, node, act)
        assert (3, 0, 1000) in seen and (3, 1, 32767) in seen
        assert [e[2] for e in seen if e[:2] == (1, 0x110)] == [1, 0]
        g.poweroff()


@pytest.mark.limit(300)
@pytest.mark.proves('F-VNC-07', 'F-USB-07', 'S256')
def test_the_tablet_is_where_a_vnc_client_points():
    """The corners of the client's screen are the corners of the tablet: no second pointer to drag along, nothing to grab."""
    with Linux(['-M', 'pc', '-vga', 'std', '-usb', '-device', 'usb-tablet', '-vnc', '127.0.0.1:40,to=99'], MODULES) as g:
        assert 'QEMU USB Tablet' in listed(g)
        assert [m['absolute'] for m in g.qmp.call('query-mice') if m['current']] == [True]
        v = g.qmp.call('query-vnc')
        c = Rfb((v['host'], int(v['service'])))
        right, bottom = c.w - 1, c.h - 1

        def act():
            for x, y, buttons in ((0, 0, 0), (right, bottom, 0), (right // 2, bottom // 4, 0), (right // 2, bottom // 4, 4), (right // 2, bottom // 4, 0),
                                  (right // 2, bottom // 4, 8), (right // 2, bottom // 4, 0)):
                c.pointer(x, y, buttons)
                g.qmp.call('query-status')
                time.sleep(0.1)
        seen = events(g, event_node(g, 'QEMU QEMU USB Tablet'), act)
        xs, ys = ([e[2] for e in seen if e[:2] == (3, axis)] for axis in (0, 1))
        assert xs[-2:] == [32767, right // 2 * 32767 // right] and ys[-2:] == [32767, bottom // 4 * 32767 // bottom], seen
        assert [e[2] for e in seen if e[:2] == (1, 0x111)] == [1, 0] and [e[2] for e in seen if e[:2] == (2, 8)] == [1], seen
        g.poweroff()


@pytest.mark.limit(300)
@pytest.mark.proves('F-USB-08', 'S246', 'S247')
def test_keyboard_and_mouse():
    with Linux(['-M', 'q35', '-usb', '-device', 'usb-kbd', '-device', 'usb-mouse'], MODULES) as g:
        found = listed(g)
        assert 'QEMU USB Keyboard' in found and 'QEMU USB Mouse' in found
        seen = events(g, event_node(g, 'QEMU QEMU USB Keyboard'), lambda: g.qmp.call('human-monitor-command', command_line='sendkey shift-a'))
        assert [e[1:] for e in seen if e[0] == 1] == [(42, 1), (30, 1), (30, 0), (42, 0)]

        def move():
            g.qmp.call('input-send-event', events=[{'type': 'rel', 'data': {'axis': 'x', 'value': 300}}, {'type': 'rel', 'data': {'axis': 'y', 'value': -20}}])
        seen = events(g, event_node(g, 'QEMU QEMU USB Mouse'), move)
        assert sum(e[2] for e in seen if e[:2] == (2, 0)) == 300 and sum(e[2] for e in seen if e[:2] == (2, 1)) == -20
        g.poweroff()


def controller(g, ident):
    """What /sys says of the PCI function with these ids: its folder, and how its interrupts come."""
    where = g.sh(f'for d in /sys/bus/pci/devices/*; do [ "$(cat $d/vendor $d/device | tr -d "\\n")" = {ident} ] && echo $d; done; true').strip()
    assert where, 'no such controller'
    return where, len(g.sh(f'ls {where}/msi_irqs 2>/dev/null; true').split()), g.sh(f'cat {where}/class').strip()


@pytest.mark.limit(300)
@pytest.mark.proves('F-USB-03', 'F-USB-04', 'F-DEV-03', 'F-DEV-04', 'F-USB-08', 'S244', 'S245', 'S258')
@pytest.mark.parametrize('args,ident,messages', [
    pytest.param(['-M', 'pc', '-device', 'qemu-xhci,id=xhci'], '0x1b360x000d', True, id='qemu-xhci'),
    pytest.param(['-M', 'q35', '-device', 'nec-usb-xhci,id=xhci'], '0x10330x0194', True, id='nec'),
    pytest.param(['-M', 'q35', '-smp', '2', '-device', 'usb-xhci,id=xhci,msix=off,msi=on,p2=8,p3=1'], '0x1b360x000d', True, id='msi'),
    pytest.param(['-M', 'pc', '-device', 'nec-usb-xhci,id=xhci,msix=off,msi=off,p3=2'], '0x10330x0194', False, id='intx'),
])
def test_the_usb_3_controller_and_what_is_behind_it(args, ident, messages):
    """Both root hubs, tablet, keyboard and mouse at high speed, and what each of them says."""
    with Linux([*args, '-device', 'usb-mouse,bus=xhci.0', '-device', 'usb-kbd,bus=xhci.0,port=3', '-device', 'usb-tablet,bus=xhci.0'], USB3) as g:
        found = listed(g)
        assert [x for x in ('Tablet', 'Keyboard', 'Mouse') if f'0627 0001 480 QEMU USB {x}' not in found] == [], found
        where, vectors, cls = controller(g, ident)
        assert bool(vectors) == messages and cls == '0x0c0330'
        assert '1d6b 0003 5000 xHCI Host Controller' in found and '1d6b 0002 480 xHCI Host Controller' in found

        def point():
            g.qmp.call('input-send-event', events=[{'type': 'abs', 'data': {'axis': 'x', 'value': 1000}},
                                                   {'type': 'abs', 'data': {'axis': 'y', 'value': 32767}}])
            g.qmp.call('input-send-event', events=[{'type': 'btn', 'data': {'button': 'left', 'down': True}}])
            g.qmp.call('input-send-event', events=[{'type': 'btn', 'data': {'button': 'left', 'down': False}}])
        seen = events(g, event_node(g, 'QEMU QEMU USB Tablet'), point)
        assert (3, 0, 1000) in seen and (3, 1, 32767) in seen
        assert [e[2] for e in seen if e[:2] == (1, 0x110)] == [1, 0]
        seen = events(g, event_node(g, 'QEMU QEMU USB Keyboard'), lambda: g.qmp.call('human-monitor-command', command_line='sendkey shift-a'))
        assert [e[1:] for e in seen if e[0] == 1] == [(42, 1), (30, 1), (30, 0), (42, 0)]
        seen = events(g, event_node(g, 'QEMU QEMU USB Mouse'), lambda: g.qmp.call('human-monitor-command', command_line='mouse_move 300 -20'))
        assert sum(e[2] for e in seen if e[:2] == (2, 0)) == 300 and sum(e[2] for e in seen if e[:2] == (2, 1)) == -20
        usb = g.qmp.call('human-monitor-command', command_line='info usb')
        assert re.search(r'Port 3, Speed 480 Mb/s, Product QEMU USB Keyboard', usb), usb
        assert 'xhci' not in g.sh('dmesg -l err,warn; true')
        g.poweroff()


@pytest.mark.limit(300)
@pytest.mark.proves('F-USB-04', 'F-DEV-03', 'S258')
def test_devices_come_and_go_on_the_usb_3_controller():
    with Linux(['-M', 'q35', '-device', 'qemu-xhci,id=xhci'], USB3) as g:
        listed(g)
        for turn in range(3):
            g.qmp.call('device_add', driver='usb-mouse', id='m', bus='xhci.0', port=str(turn + 1))
            assert 'QEMU USB Mouse' in listed(g)

            def move():
                for _ in range(100):
                    g.qmp.call('input-send-event', events=[{'type': 'rel', 'data': {'axis': 'x', 'value': 3}}, {'type': 'rel', 'data': {'axis': 'y', 'value': -2}}])
            seen = events(g, event_node(g, 'QEMU QEMU USB Mouse'), move)
            assert sum(e[2] for e in seen if e[:2] == (2, 0)) == 300 and sum(e[2] for e in seen if e[:2] == (2, 1)) == -200
            g.qmp.call('device_del', id='m')
            g.sh('for i in $(seq 40); do grep -q Mouse /proc/bus/input/devices || break; sleep 0.5; done; ! grep -q Mouse /proc/bus/input/devices')
        g.poweroff()


@pytest.mark.limit(300)
@pytest.mark.proves('F-USB-04', 'F-DEV-03')
def test_the_controller_itself_comes_and_goes():
    with Linux(['-M', 'pc'], USB3) as g:
        g.qmp.call('device_add', driver='qemu-xhci', id='h')
        g.qmp.call('device_add', driver='usb-mouse', id='m', bus='h.0')
        assert 'QEMU USB Mouse' in listed(g)
        g.qmp.call('device_del', id='h')
        g.qmp.wait_event('DEVICE_DELETED')
        g.sh('for i in $(seq 40); do grep -q Mouse /proc/bus/input/devices || break; sleep 0.5; done; ! grep -q Mouse /proc/bus/input/devices')
        assert 'not enabled' in g.qmp.call('human-monitor-command', command_line='info usb')
        g.poweroff()


@pytest.mark.limit(300)
@pytest.mark.proves('F-USB-04')
def test_the_usb_3_controller_is_saved_and_comes_back(tmp_path):
    """A snapshot with the guest's transfers waiting: after going back to it the same transfers are answered."""
    disk = tmp_path / 'd.qcow2'
    subprocess.run([program('qemu-img'), 'create', '-q', '-f', 'qcow2', str(disk), '8M'], check=True)
    with Linux(['-M', 'q35', '-drive', f'file={disk},if=virtio', '-device', 'qemu-xhci,id=xhci', '-device', 'usb-kbd,bus=xhci.0',
                '-device', 'usb-tablet,bus=xhci.0'], USB3, no_reboot=False) as g:
        listed(g)

        def hmp(line):
            out = g.qmp.call('human-monitor-command', command_line=line)
            assert 'rror' not in out, out

        def press():
            hmp('sendkey b')
        node = event_node(g, 'QEMU QEMU USB Keyboard')
        keys = [(48, 1), (48, 0)]
        assert [e[1:] for e in events(g, node, press) if e[0] == 1] == keys
        hmp('savevm one')
        assert [e[1:] for e in events(g, node, press) if e[0] == 1] == keys
        hmp('loadvm one')
        for _ in range(3):
            assert [e[1:] for e in events(g, node, press) if e[0] == 1] == keys
        g.qmp.call('system_reset')
        g.s.expect(PROMPT, 240, 'boot again')
        assert 'QEMU USB Keyboard' in listed(g)
        g.poweroff()


@pytest.mark.limit(300)
@pytest.mark.proves('F-USB-04', 'F-DEV-03')
@pytest.mark.parametrize('args,speed,megabytes', [
    pytest.param(['-device', 'qemu-xhci', '-device', 'usb-storage,drive=u,id=s'], 5000, 24, id='super'),
    pytest.param(['-device', 'nec-usb-xhci,p3=0', '-device', 'usb-storage,drive=u,id=s,removable=on'], 480, 24, id='high'),
    pytest.param(['-usb', '-device', 'usb-storage,drive=u,id=s'], 12, 1, id='full'),
])
def test_a_disk_on_usb(args, speed, megabytes, tmp_path):
    """What is on the disk is read, what is written is on it, through every kind of controller; then it is pulled out."""
    disk = tmp_path / 'u.raw'
    data = bytes(random.Random(7).randbytes(megabytes << 20))
    disk.write_bytes(data)
    with Linux(['-M', 'q35', '-drive', f'if=none,id=u,format=raw,file={disk}', *args], ('xhci_pci', 'uhci_hcd', 'usb_storage', 'sd_mod')) as g:
        g.sh('for i in $(seq 60); do [ -b /dev/sda ] && break; sleep 0.5; done; [ -b /dev/sda ]')
        assert f'46f4 0001 {speed} QEMU USB HARDDRIVE' in g.sh('for d in /sys/bus/usb/devices/*; do [ -e $d/product ] && echo $(cat $d/idVendor $d/idProduct $d/speed $d/product); done; true')
        assert int(g.sh('cat /sys/block/sda/size')) == megabytes << 11
        assert g.sh('md5sum </dev/sda', 120).split()[0] == hashlib.md5(data).hexdigest()
        g.sh('dd if=/dev/sda of=/tmp/a bs=64k count=8 2>/dev/null; dd if=/tmp/a of=/dev/sda bs=64k seek=8 conv=fsync 2>/dev/null', 120)
        assert int(g.sh('cat /sys/block/sda/removable')) == ('removable=on' in args[-1])
        assert not re.search(r'reset (full|high|Super)|I/O error|unable to get BOS|Set SEL', g.sh('dmesg'))
        g.qmp.call('device_del', id='s')
        g.sh('for i in $(seq 40); do [ -b /dev/sda ] || break; sleep 0.5; done; [ ! -b /dev/sda ]')
        g.poweroff()
    now = disk.read_bytes()
    assert now[:512 << 10] == data[:512 << 10] == now[512 << 10:1024 << 10] and now[1024 << 10:] == data[1024 << 10:]
