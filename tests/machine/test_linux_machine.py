"""The machine as Linux sees it: PCI functions, processors, memory, power, clock."""
import re
import subprocess
import time

import pytest

import seeds
from conftest import need
from linux import Linux
from run import PROMPT

PC = {'00:00.0': '8086:1237', '00:01.0': '8086:7000', '00:01.1': '8086:7010', '00:01.3': '8086:7113', '00:02.0': '1234:1111'}
Q35 = {'00:00.0': '8086:29c0', '00:01.0': '1234:1111', '00:1f.0': '8086:2918', '00:1f.2': '8086:2922', '00:1f.3': '8086:2930'}


@pytest.mark.limit(300)
@pytest.mark.parametrize('board, want', [
    pytest.param('pc', PC, id='pc', marks=pytest.mark.proves('F-MCH-02')),
    pytest.param('q35', Q35, id='q35', marks=pytest.mark.proves('F-MCH-01', 'S001', 'S023')),
])
def test_lspci_lists_the_board(board, want):
    with Linux(['-M', board, '-net', 'none'], cmdline='loglevel=7') as g:
        out = g.sh('for d in /sys/bus/pci/devices/*; do echo ${d##*/} $(cat $d/vendor $d/device); done')
        seen = {a: f'{v}:{d}' for a, v, d in re.findall(r'0000:(\S+) 0x(\w+) 0x(\w+)', out)}
        assert {k: seen.get(k) for k in want} == want
        kernel = g.sh('dmesg')
        assert ('PCI: MMCONFIG for domain' in kernel) == (board == 'q35')
        for line in ('ACPI: RSDP', 'IOAPIC', 'Standard PC .i440FX . PIIX' if board == 'pc' else 'Standard PC .Q35 . ICH9', 'i8042: .*KBD', 'ttyS0 at I/O 0x3f8'):
            assert re.search(line, kernel), line
        g.poweroff()


@pytest.mark.limit(300)
@pytest.mark.proves('F-CPU-01', 'F-CPU-02', 'F-MCH-11', 'S024', 'S025', 'S028', 'S030')
def test_cpus_memory_and_clock():
    with Linux([*seeds.words('S030')[1], *seeds.words('S024')[1], *seeds.words('S025')[1], '-cpu', 'qemu64,+ssse3,-sse3', '-rtc', 'base=utc'], memory='1G') as g:
        assert g.sh('grep -c ^processor /proc/cpuinfo') == '4'
        info = g.sh('cat /proc/cpuinfo')
        assert 'Virtual CPU version' in info
        flags = re.search(r'^flags\s*: (.*)$', info, re.M).group(1).split()
        assert 'ssse3' in flags and 'pni' not in flags and 'lm' in flags and 'cx16' in flags
        assert re.findall(r'^physical id\s*: (\d)', info, re.M) == ['0', '0', '1', '1']
        assert set(re.findall(r'^cpu cores\s*: (\d)', info, re.M)) == set(re.findall(r'^siblings\s*: (\d)', info, re.M)) == {'2'}
        for seed in ('S024', 'S025'):
            value = seeds.words(seed)[1][1].split('value=')[1]
            assert g.sh(f"tr '\\0' '\\n' </sys/firmware/dmi/tables/DMI | grep -a -c -F '{value}'") == '1'
        assert 900000 < int(re.search(r'MemTotal:\s*(\d+)', g.sh('cat /proc/meminfo')).group(1)) < 1 << 20
        assert abs(int(g.sh('date +%s')) - time.time()) < 5
        a = g.sh('cut -d. -f1 /proc/uptime')
        time.sleep(4)
        assert 3 <= int(g.sh('cut -d. -f1 /proc/uptime')) - int(a) <= 9
        g.poweroff()


@pytest.mark.limit(300)
def test_rtc_starts_where_it_is_told():
    with Linux(['-rtc', 'base=2021-03-04T05:06:07']) as g:
        assert g.sh('date -u +%Y-%m-%dT%H').startswith('2021-03-04T05')
        g.poweroff()


@pytest.mark.limit(300)
@pytest.mark.proves('F-MON-11', 'S301', 'S326')
@pytest.mark.parametrize('board', ['pc', 'q35'])
def test_the_power_button_reaches_the_guest(board, tmp_path):
    need('nc', 'netcat-openbsd')
    with Linux(['-M', board, '-monitor', f'unix:{tmp_path}/mon,server,nowait'], ('button', 'evdev')) as g:
        dev = g.sh("grep -l PNP0C0C /sys/class/input/event*/device/phys /sys/class/input/event*/device/name "
                   "/sys/class/input/event*/device/device/path 2>/dev/null | head -n1; grep -H . /sys/class/input/event*/device/name")
        n = re.search(r'event(\d+)/device/name:Power Button', dev).group(1)
        # What acpid does: the button's event turns the machine off.
        g.sh(f"(head -c 24 /dev/input/event{n} >/tmp/ev; hexdump -s 16 -n 8 -e '4/2 \"%x \"' /tmp/ev >/dev/console; poweroff) & sleep 1")
        line = seeds.ROWS['S326']['command'].replace('localhost 7100', f'-U -N {tmp_path}/mon')
        assert subprocess.run(['bash', '-c', line], capture_output=True, timeout=30).returncode == 0
        g.s.expect('1 74 1', 60, 'EV_KEY, KEY_POWER, down')
        assert g.s.end(60, 'power-off') == 0


@pytest.mark.limit(400)
@pytest.mark.parametrize('how', ['acpi', 'kbd', 'triple'])
def test_reboot_comes_back(how):
    with Linux(['-M', 'pc'], cmdline=f'reboot={how}', no_reboot=False) as g:
        g.send('reboot\n')
        g.s.expect('BusyBox v', 240, 'the second boot')
        g.s.expect(PROMPT, 60, 'the second shell')
        assert float(g.sh('cut -d" " -f1 /proc/uptime')) < 200
        g.poweroff()


@pytest.mark.limit(400)
@pytest.mark.parametrize('exe, args', [
    pytest.param('qemu-system-i386', seeds.words('S004')[1], id='S004', marks=pytest.mark.proves('F-PRG-02', 'F-MCH-06', 'S004')),
    pytest.param('qemu-system-x86_64', [], id='x86_64'),
])
def test_the_i386_kernel_boots(exe, args, tmp_path):
    (tmp_path / 'disk').write_bytes(b'lyrebird' + bytes((4 << 20) - 8))
    with Linux([*args, '-hda', f'{tmp_path}/disk'], ('ata_piix', 'sd_mod') if args else (), exe=exe, arch='i386') as g:
        assert g.sh('uname -m') == 'i686'
        if args:
            assert 'N270' in g.sh('grep "model name" /proc/cpuinfo')
            assert '8086:7010' in g.sh("sed 's/0x//' /sys/bus/pci/drivers/ata_piix/*/vendor /sys/bus/pci/drivers/ata_piix/*/device | paste -sd:")
            assert g.sh('head -c 8 /dev/sda') == 'lyrebird'
            assert 'AT Translated Set 2 keyboard' in g.sh('cat /sys/class/input/input*/name')
        g.poweroff()
