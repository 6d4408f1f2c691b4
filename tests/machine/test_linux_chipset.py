"""The chipset as Linux drives it: hot-plug on both boards, sleep to RAM, the serial and parallel ports, time sources, the TCO watchdog."""
import subprocess
import time

import pytest

from conftest import program
from linux import Linux

LIST = "ls /sys/bus/pci/devices | tr '\\n' ' '"


def until(g, line, want, present=True, seconds=40):
    end = time.time() + seconds
    while time.time() < end:
        if (want in g.sh(line)) == present:
            return True
        time.sleep(0.5)
    return False


@pytest.mark.limit(300)
@pytest.mark.proves('F-MON-19')
@pytest.mark.parametrize('board, extra, bus, where', [
    ('pc', [], 'pci.0', '0000:00:0b.0'),
    ('q35', ['-device', 'pcie-root-port,id=rp,addr=4,chassis=1,slot=1'], 'rp', ':00.0'),
])
def test_a_nic_comes_and_goes_while_linux_runs(board, extra, bus, where):
    place = {'addr': '0xb'} if board == 'pc' else {}
    with Linux(['-M', board, '-net', 'none', *extra], ('virtio_pci', 'virtio_net')) as g:
        before = g.sh(LIST)
        g.qmp.call('device_add', driver='virtio-net-pci', id='hot0', bus=bus, mac='52:54:00:ab:cd:ef', **place)
        assert until(g, 'cat /sys/class/net/*/address', '52:54:00:ab:cd:ef'), g.sh('dmesg | tail -n 20')
        new = set(g.sh(LIST).split()) - set(before.split())
        assert len(new) == 1 and new.pop().endswith(where)
        g.qmp.call('device_del', id='hot0')
        assert g.qmp.wait_event('DEVICE_DELETED')['data']['device'] == 'hot0'
        assert g.sh(LIST) == before
        g.poweroff()


@pytest.mark.limit(300)
@pytest.mark.proves('F-MON-19')
@pytest.mark.parametrize('board, extra, place', [
    ('pc', [], {'bus': 'pci.0', 'addr': '0xb'}),
    ('q35', ['-device', 'pcie-root-port,id=rp,addr=4,chassis=1,slot=1'], {'bus': 'rp'}),
])
def test_a_disk_comes_and_goes_while_linux_runs(board, extra, place, tmp_path):
    """What Linux wrote is in the image when the disk is gone, the image's file is closed clean, and the node takes a second disk."""
    image = tmp_path / 'hot.qcow2'
    subprocess.run([program('qemu-img'), 'create', '-q', '-f', 'qcow2', image, '64M'], check=True)
    with Linux(['-M', board, '-net', 'none', *extra], ('virtio_pci', 'virtio_blk', 'ext4', 'crc32c_generic')) as g:
        g.qmp.call('blockdev-add', driver='qcow2', node_name='hot', file={'driver': 'file', 'filename': str(image)})
        for i in range(2):
            g.qmp.call('device_add', driver='virtio-blk-pci', id='disk0', drive='hot', serial='warm', **place)
            assert until(g, 'cat /sys/block/vda/serial 2>/dev/null || true', 'warm'), g.sh('dmesg | tail -n 20')
            if i == 0:
                g.sh('mke2fs -q /dev/vda && mount -t ext4 /dev/vda /data && yes written | head -c 3000000 >/data/file && umount /data')
            else:
                assert g.sh('mount -t ext4 -o ro /dev/vda /data && sort -u /data/file && wc -c </data/file; umount /data').split() == ['written', '3000000']
            g.qmp.call('device_del', id='disk0')
            assert g.qmp.wait_event('DEVICE_DELETED')['data']['device'] == 'disk0'
            assert g.sh('ls /sys/block').split().count('vda') == 0
        g.qmp.call('blockdev-del', node_name='hot')
        check = subprocess.run([program('qemu-img'), 'check', image], capture_output=True, text=True)
        assert check.returncode == 0 and 'No errors' in check.stdout, check.stdout + check.stderr
        assert g.sh("dmesg | grep -c 'I/O error' || true") == '0'
        g.poweroff()


@pytest.mark.limit(300)
@pytest.mark.parametrize('board', ['pc', 'q35'])
def test_sleep_to_ram_and_back(board):
    with Linux(['-M', board, '-net', 'none']) as g:
        assert 'mem' in g.sh('cat /sys/power/state')
        g.sh('echo deep >/sys/power/mem_sleep; echo kept >/tmp/note')
        g.send('echo mem >/sys/power/state; echo awa""ke\n')
        g.qmp.wait_event('SUSPEND')
        assert g.qmp.call('query-status')['status'] == 'suspended'
        g.qmp.call('system_wakeup')
        g.qmp.wait_event('WAKEUP')
        g.s.expect('awake', 120, 'the shell after the wake-up')
        assert g.sh('cat /tmp/note') == 'kept'
        g.poweroff()


@pytest.mark.limit(300)
def test_time_sources_and_interrupt_counts():
    with Linux(['-M', 'q35', '-net', 'none', '-smp', '2']) as g:
        sources = g.sh('cat /sys/devices/system/clocksource/clocksource0/available_clocksource').split()
        assert {'hpet', 'acpi_pm'} <= set(sources)
        for name in ('hpet', 'acpi_pm'):
            g.sh(f'echo {name} >/sys/devices/system/clocksource/clocksource0/current_clocksource')
            a, t = float(g.sh('cut -d" " -f1 /proc/uptime')), time.time()
            time.sleep(3)
            b, u = float(g.sh('cut -d" " -f1 /proc/uptime')), time.time()
            assert abs((b - a) - (u - t)) < 1.5, name
        loc = g.sh('grep LOC: /proc/interrupts').split()
        assert int(loc[1]) > 50 and int(loc[2]) > 50
        assert 'IO-APIC' in g.sh('grep ttyS0 /proc/interrupts')
        g.poweroff()


@pytest.mark.limit(300)
def test_second_serial_port_and_printer_reach_their_files(tmp_path):
    with Linux(['-M', 'pc', '-net', 'none', '-serial', f'file:{tmp_path}/com2', '-parallel', f'file:{tmp_path}/lpt'], ('parport_pc', 'lp')) as g:
        g.sh('stty -F /dev/ttyS1 115200 raw; seq 1 2000 >/dev/ttyS1; sleep 1')
        assert (tmp_path / 'com2').read_text() == ''.join(f'{i}\n' for i in range(1, 2001))
        if g.sh('ls /dev/lp0 2>/dev/null'):
            g.sh('printf printed >/dev/lp0; sleep 1')
            assert (tmp_path / 'lpt').read_text() == 'printed'
        g.poweroff()


@pytest.mark.limit(300)
def test_the_tsc_deadline_timer_keeps_time_after_a_reboot():
    """The deadline is in the guest's time stamps, which start anew with each reset."""
    with Linux(['-M', 'q35', '-cpu', 'max', '-net', 'none'], no_reboot=False) as g:
        g.send('reboot\n')
        g.s.expect('BusyBox v', 240, 'the second boot')
        g.s.expect('# ', 60, 'the second shell')
        assert 'tsc_deadline_timer' in g.sh('grep -m1 flags /proc/cpuinfo')
        count = "awk '/LOC:/ {print $2}' /proc/interrupts"
        a = int(g.sh(count))
        t = time.time()
        g.sh('sleep 3')
        assert 2 < time.time() - t < 10
        assert int(g.sh(count)) - a < 3000
        g.poweroff()
