"""The machine as Linux sees it: PCI functions, processors, memory, power, clock."""
import os
import re
import subprocess
import time

import pytest

import seeds
from conftest import host_lacks, need
from linux import Linux
from run import PROMPT

# The whole default machine: place, class, vendor, device, revision; the subsystem is 1af4:1100 everywhere.
PC = """
00:00.0 060000 8086 1237 02
00:01.0 060100 8086 7000 00
00:01.1 010180 8086 7010 00
00:01.3 068000 8086 7113 03
00:02.0 030000 1234 1111 02
00:03.0 020000 8086 100e 03
"""
Q35 = """
00:00.0 060000 8086 29c0 02
00:01.0 030000 1234 1111 02
00:02.0 020000 8086 100e 03
00:1f.0 060100 8086 2918 02
00:1f.2 010601 8086 2922 02
00:1f.3 0c0500 8086 2930 02
"""
LSPCI = 'cd /sys/bus/pci/devices; for d in *; do echo ${d#0000:} $(cd $d; cat class vendor device revision subsystem_vendor subsystem_device); done'
# class, in the words of lspci
HOST_BRIDGE, ISA_BRIDGE, VGA = 'Host bridge [0600]', 'ISA bridge [0601]', 'VGA compatible controller [0300]'
NAMES = {'pc': (HOST_BRIDGE, ISA_BRIDGE, 'IDE interface [0101]', 'Bridge [0680]', VGA, 'Ethernet controller [0200]'),
         'q35': (HOST_BRIDGE, VGA, 'Ethernet controller [0200]', ISA_BRIDGE, 'SATA controller [0106]', 'SMBus [0c05]')}


@pytest.mark.limit(300)
@pytest.mark.parametrize('board, want', [
    pytest.param('pc', PC, id='pc', marks=pytest.mark.proves('F-MCH-02')),
    pytest.param('q35', Q35, id='q35', marks=pytest.mark.proves('F-MCH-01', 'S001', 'S023')),
])
def test_lspci_lists_the_whole_board(board, want, tmp_path):
    """What Linux found, and what lspci reads out of the configuration space that Linux sees."""
    lspci = need('lspci', 'pciutils')
    with Linux(['-M', board]) as g:
        seen = [line.replace('0x', '').split() for line in g.sh(LSPCI).splitlines()]
        assert [line[:5] for line in seen] == [line.split() for line in want.split('\n') if line]
        assert all(line[5:] == ['1af4', '1100'] for line in seen)
        dump = g.sh("for d in *; do echo ${d#0000:} dump; hexdump -v -e '\"%02_ax:\" 16/1 \" %02x\" \"\\n\"' $d/config; echo; done")
        kernel = g.sh('dmesg')
        assert ('PCI: MMCONFIG for domain' in kernel) == (board == 'q35')
        for line in ('ACPI: RSDP', 'IOAPIC', 'Standard PC .i440FX . PIIX' if board == 'pc' else 'Standard PC .Q35 . ICH9', 'i8042: .*KBD', 'ttyS0 at I/O 0x3f8'):
            assert re.search(line, kernel), line
        g.poweroff()
    (tmp_path / 'dump').write_text(dump + '\n')
    text = subprocess.run([lspci, '-nn', '-F', str(tmp_path / 'dump')], capture_output=True, text=True, check=True).stdout
    lines = text.strip().split('\n')
    assert len(lines) == len(seen), text
    for line, got, name in zip(lines, seen, NAMES[board]):
        assert line.startswith(f'{got[0]} {name}') and f'[{got[2]}:{got[3]}]' in line, line


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


class HugePages:
    """Pages of 2 MiB that the host sets aside while a test runs, and the command that mounts a file system of them for one program."""
    COUNT = '/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages'
    FREE = COUNT.replace('nr_', 'free_')

    def __init__(self, folder, pages):
        if os.geteuid():
            host_lacks('the right to mount hugetlbfs and to set huge pages aside')
        self.before, self.pages = self.number(self.COUNT), pages
        self.wrap = ('unshare', '-m', 'sh', '-c', f'mount -t hugetlbfs -o pagesize=2M none {folder} && exec "$@"', 'x')
        if subprocess.run([*self.wrap, 'true'], capture_output=True).returncode:
            host_lacks('hugetlbfs')

    @staticmethod
    def number(path):
        try:
            with open(path, encoding='ascii') as f:
                return int(f.read())
        except OSError:
            host_lacks('huge pages of 2 MiB')

    def want(self, count):
        try:
            with open(self.COUNT, 'w', encoding='ascii') as f:
                f.write(str(count))
        except OSError as e:
            host_lacks(f'the right to set huge pages aside: {e.strerror}')

    def __enter__(self):
        self.want(self.before + self.pages)
        if self.number(self.FREE) < self.pages:
            self.want(self.before)
            host_lacks(f'{self.pages} huge pages to give')
        return self

    def __exit__(self, *a):
        self.want(self.before)


@pytest.mark.limit(300)
@pytest.mark.proves('F-MEM-04', 'S048')
def test_linux_runs_in_huge_pages(tmp_path):
    """All of the RAM is one mapping of 2 MiB pages, which the host has fewer of meanwhile; none stay taken."""
    line = seeds.words('S048', put={'/dev/hugepages': str(tmp_path)})[1]
    with HugePages(tmp_path, 128) as pages:
        free = pages.number(pages.FREE)
        with Linux(line, memory='256', wrap=pages.wrap) as g:
            with open(f'/proc/{g.s.p.pid}/smaps', encoding='utf-8') as f:
                ram = [m for m in re.split(r'^(?=[0-9a-f]+-[0-9a-f]+ )', f.read(), flags=re.M) if f' {tmp_path}/' in m.split('\n', 1)[0]]
            value = [{k: int(v) for k, v in re.findall(r'^(\w+): +(\d+) kB$', m, re.M)} for m in ram]
            assert sum(v['Size'] for v in value) == 256 << 10 and {v['KernelPageSize'] for v in value} == {2048}, ram
            assert sum(v['Private_Hugetlb'] + v['Shared_Hugetlb'] for v in value) > 32 << 10
            used = free - pages.number(pages.FREE)
            assert 16 < used <= 128
            g.sh('dd if=/dev/urandom of=/tmp/a bs=1M count=40 2>/dev/null && cp /tmp/a /tmp/b && cmp /tmp/a /tmp/b')  # much of it is written to
            assert pages.number(pages.FREE) < free - used
            g.poweroff()
        assert pages.number(pages.FREE) == free
        short = [*pages.wrap, g.s.p.args[len(pages.wrap)], '-display', 'none', '-accel', 'qtest', *line, '-m']
        for size, word in (('255', '2048 KiB'), (str(free * 2 + 64), 'of huge pages')):
            r = subprocess.run([*short, size], capture_output=True, text=True, timeout=20)
            assert r.returncode == 1 and word in r.stderr and len(r.stderr.splitlines()) <= 2, r.stderr
