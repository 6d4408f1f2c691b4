"""What the PC boards hand to firmware, read through the test channel as firmware would: memory map, CMOS, fw_cfg files, ACPI
and SMBIOS tables, flash; and one clear line for each bad firmware or kernel file. No CPU runs here."""
import os
import re
import shutil
import struct
import subprocess

import pytest
from conftest import need
from lyre import Machine, run

BIOS = '/usr/share/seabios/bios-256k.bin'
KEY_DIR, KEY_CPUS, KEY_MAX_CPUS = 0x19, 0x05, 0x0f
REQ, BUF = 0x1000, 0x200000
GIB = 1 << 30


class FwCfg:
    """fw_cfg through its DMA registers."""

    def __init__(self, qt):
        self.qt = qt
        head = self.item(KEY_DIR, 4)
        raw = self.item(KEY_DIR, 4 + 64 * struct.unpack('>I', head)[0])[4:]
        self.files = {}
        for i in range(0, len(raw), 64):
            size, key = struct.unpack('>IH', raw[i:i + 6])
            self.files[raw[i + 8:i + 64].split(b'\0')[0].decode()] = (key, size)

    def item(self, key, size):
        self.qt.write(REQ, struct.pack('>IIQ', key << 16 | 0x0a, size, BUF))
        self.qt.outl(0x514, 0)
        self.qt.outl(0x518, int.from_bytes(struct.pack('>I', REQ), 'little'))
        assert self.qt.readl(REQ) == 0
        return b''.join(self.qt.read(BUF + at, min(16384, size - at)) for at in range(0, size, 16384))

    def file(self, name):
        return self.item(*self.files[name])


def machine(*args):
    return Machine(*args, qmp=False, qtest=True)


def cmos(qt, index):
    qt.outb(0x70, index)
    return qt.inb(0x71)


def e820(fw):
    raw = fw.file('etc/e820')
    return [struct.unpack('<QQI', raw[i:i + 20]) for i in range(0, len(raw), 20)]


# ---- memory ----

@pytest.mark.proves('F-MEM-01', 'S037', 'S038', 'S040', 'S041', 'S042', 'S043', 'S044', 'S045')
@pytest.mark.parametrize('arg,total', [('512', GIB // 2), ('512M', GIB // 2), ('1024', GIB), ('2G', 2 * GIB), ('4G', 4 * GIB),
                                       ('8G', 8 * GIB), ('8192', 8 * GIB)])
@pytest.mark.parametrize('board,low', [('pc', {8 * GIB: 3 * GIB, 4 * GIB: 3 * GIB}), ('q35', {8 * GIB: 2 * GIB, 4 * GIB: 2 * GIB})])
def test_the_memory_map_totals_what_was_asked_and_splits_at_4g(board, low, arg, total):
    with machine('-M', board, '-m', arg) as m:
        fw = FwCfg(m.qt)
        ram = e820(fw)
        assert sum(n for _, n, _ in ram) == total
        assert ram[0][:2] == (0, low.get(total, total))
        assert len(ram) == 1 or ram[1][0] == 4 * GIB
        above = (cmos(m.qt, 0x5b) | cmos(m.qt, 0x5c) << 8 | cmos(m.qt, 0x5d) << 16) << 16
        assert above == total - ram[0][1]
        last = ram[-1][0] + ram[-1][1] - 4
        m.qt.writel(last, 0x12345678)
        assert m.qt.readl(last) == 0x12345678


def test_max_ram_below_4g_moves_the_split():
    with machine('-M', 'pc,max-ram-below-4g=1G', '-m', '2G') as m:
        assert [r[:2] for r in e820(FwCfg(m.qt))] == [(0, GIB), (4 * GIB, GIB)]


@pytest.mark.proves('F-MEM-05', 'S049', 'S050')
@pytest.mark.parametrize('order', [0, 1])
def test_a_shared_memfd_is_the_guests_memory(order):
    obj = ['-object', 'memory-backend-memfd,id=mem,size=256M,share=on']
    with machine('-m', '256M', *(obj + ['-numa', 'node,memdev=mem'] if order else ['-numa', 'node,memdev=mem'] + obj)) as m:
        m.qt.write(0x300000, b'shared with the world')
        with open(f'/proc/{m.proc.pid}/maps') as f:
            line = next(x for x in f if 'memfd:mem' in x and 'rw-s' in x)
        start = int(line.split('-')[0], 16)
        with open(f'/proc/{m.proc.pid}/mem', 'rb') as f:
            f.seek(start + 0x300000)
            assert f.read(21) == b'shared with the world'


def test_a_node_of_the_wrong_size_is_refused():
    r = run('-display', 'none', '-accel', 'qtest', '-m', '512M', '-object', 'memory-backend-memfd,id=mem,size=256M,share=on',
            '-numa', 'node,memdev=mem')
    assert r.returncode == 1 and '256' in r.stderr + '256' and len(r.stderr.splitlines()) <= 2


@pytest.mark.proves('F-MEM-06')
def test_guest_writes_reach_the_backing_file(tmp_path):
    path = tmp_path / 'ram'
    with machine('-m', '64M', '-M', 'pc,memory-backend=r', '-object', f'memory-backend-file,id=r,size=64M,share=on,mem-path={path}') as m:
        m.qt.write(0x123456, b'persistent')
    data = path.read_bytes()
    assert len(data) == 64 << 20 and data[0x123456:0x123456 + 10] == b'persistent'


# ---- CMOS and boot order ----

@pytest.mark.proves('F-FW-10', 'S061', 'S062')
@pytest.mark.parametrize('order,first,third', [('dc', 0x23, 0), ('d', 0x03, 0), ('n', 0x04, 0), ('acd', 0x21, 0x30)])
def test_boot_letters_reach_cmos(order, first, third):
    with machine('-boot', f'order={order}') as m:
        assert cmos(m.qt, 0x3d) == first
        assert cmos(m.qt, 0x38) & 0xf0 == third


@pytest.mark.proves('F-FW-10', 'S063')
def test_an_unknown_boot_letter_is_refused_by_name():
    r = run('-display', 'none', '-accel', 'qtest', '-boot', 'order=x')
    assert r.returncode == 1 and "x" in r.stderr


@pytest.mark.proves('F-FW-11', 'S064')
def test_the_boot_menu_switch_reaches_firmware():
    for arg, want in (('on', 1), ('off', 0)):
        with machine('-boot', f'menu={arg}') as m:
            assert FwCfg(m.qt).item(0x0e, 2) == bytes([want, 0])


def test_strict_order_ends_with_halt():
    with machine('-boot', 'strict=on') as m:
        assert FwCfg(m.qt).file('bootorder') == b'HALT\0'


# ---- CPUs ----

@pytest.mark.proves('F-CPU-01', 'S027', 'S028', 'S029')
@pytest.mark.parametrize('n', [1, 2, 4])
def test_firmware_learns_the_number_of_cpus(n):
    with machine('-smp', n) as m:
        assert FwCfg(m.qt).item(KEY_CPUS, 2) == bytes([n, 0])
        assert cmos(m.qt, 0x5f) == n - 1


@pytest.mark.proves('F-CPU-02', 'S030', 'S031')
def test_apic_ids_follow_the_topology():
    with machine('-smp', '2,sockets=1,cores=3,threads=2,maxcpus=6') as m:
        madt = tables(FwCfg(m.qt))['APIC']
        cpus, at = [], 44
        while at < len(madt):
            if madt[at] == 0:
                cpus.append((madt[at + 2], madt[at + 3], madt[at + 4]))
            at += madt[at + 1]
        assert cpus == [(0, 0, 1), (1, 1, 1), (2, 2, 0), (3, 3, 0), (4, 4, 0), (5, 5, 0)]


# ---- ACPI ----

def tables(fw):
    """signature -> bytes, after the loader script was carried out with everything at address 0."""
    blobs = {n: bytearray(fw.file(n)) for n in ('etc/acpi/tables', 'etc/acpi/rsdp')}
    script = fw.file('etc/table-loader')
    for i in range(0, len(script), 128):
        c = script[i:i + 128]
        cmd, = struct.unpack('<I', c[:4])
        name = c[4:60].split(b'\0')[0].decode()
        if cmd == 3:
            at, start, n = struct.unpack('<III', c[60:72])
            blobs[name][at] = -(sum(blobs[name][start:start + n]) - blobs[name][at]) & 0xff
    t, out = blobs['etc/acpi/tables'], {}
    rsdt, = struct.unpack('<I', blobs['etc/acpi/rsdp'][16:20])
    n, = struct.unpack('<I', t[rsdt + 4:rsdt + 8])
    at = list(struct.unpack(f'<{(n - 36) // 4}I', t[rsdt + 36:rsdt + n]))
    fadt = next(a for a in at if t[a:a + 4] == b'FACP')
    at += [rsdt, struct.unpack('<I', t[fadt + 40:fadt + 44])[0]]
    for a in at:
        n, = struct.unpack('<I', t[a + 4:a + 8])
        assert sum(t[a:a + n]) & 0xff == 0
        out[t[a:a + 4].decode()] = bytes(t[a:a + n])
    return out


def iasl(table, name, folder):
    """Disassembles and compiles; the warnings of the compiler."""
    path = folder / f'{name}.dat'
    path.write_bytes(table)
    d = subprocess.run(['iasl', '-d', str(path)], capture_output=True, text=True, cwd=folder)
    assert d.returncode == 0 and 'ERROR' not in d.stderr.upper(), d.stderr
    c = subprocess.run(['iasl', '-p', str(folder / 'again'), str(folder / f'{name}.dsl')], capture_output=True, text=True, cwd=folder)
    assert c.returncode == 0, c.stdout + c.stderr
    return set(re.findall(r'^Warning\s+(\d+)', c.stdout + c.stderr, re.M))


@pytest.mark.proves('F-FW-01')
@pytest.mark.parametrize('args', ['-M pc', '-M q35', '-M pc -m 5G -smp 2,maxcpus=4 -numa node,mem=2G,cpus=0-1 -numa node,mem=3G,cpus=2-3',
                                  '-M q35 -smp 1,maxcpus=3 -m 3G', '-M pc,hpet=off -global PIIX4_PM.disable_s3=1'])
def test_acpi_tables_survive_iasl_with_no_warning(args, tmp_path):
    need('iasl', 'acpica-tools')
    with machine(*args.split()) as m:
        found = tables(FwCfg(m.qt))
    assert {'FACP', 'DSDT', 'APIC', 'WAET', 'RSDT'} <= set(found)
    assert ('MCFG' in found) <= ('q35' in args)
    assert ('HPET' in found) == ('hpet=off' not in args)
    assert ('SRAT' in found) == ('numa' in args)
    for name, table in found.items():
        assert iasl(table, name, tmp_path) == set(), name


# ---- SMBIOS ----

def smbios(fw):
    """type -> list of (formatted area, strings)."""
    raw, out, at = fw.file('etc/smbios/smbios-tables'), {}, 0
    while at < len(raw):
        n = raw[at + 1]
        end = raw.index(b'\0\0', at + n)
        strings = raw[at + n:end].split(b'\0') if end > at + n else []
        out.setdefault(raw[at], []).append((raw[at:at + n], strings))
        at = end + 2
    return out


@pytest.mark.proves('F-MCH-11', 'S024', 'S025')
def test_type_11_strings_reach_the_guest_unchanged():
    long = 'io.systemd.credential.binary:ssh.authorized_keys.root=' + 'QUJD' * 1024
    with machine('-smbios', f'type=11,value={long}', '-smbios', 'type=11,value=second,,with comma') as m:
        area, strings = smbios(FwCfg(m.qt))[11][0]
    assert area[4] == 2 and strings == [long.encode(), b'second,with comma']


def test_smbios_fields_of_each_type_land_where_the_standard_says():
    args = ('type=0,vendor=Maker,version=v1,release=3.7', 'type=1,manufacturer=M,product=P,serial=S,uuid=00112233-4455-6677-8899-aabbccddeeff',
            'type=2,product=Board', 'type=3,asset=Tag', 'type=4,max-speed=3300', 'type=8,internal_reference=J1,connector_type=2',
            'type=9,slot_designation=SLOT1,slot_type=0xa5', 'type=17,manufacturer=RamCo,speed=2400')
    with machine('-m', '20G', *[x for a in args for x in ('-smbios', a)]) as m:
        fw = FwCfg(m.qt)
        t, anchor = smbios(fw), fw.file('etc/smbios/smbios-anchor')
    assert anchor[:4] == b'_SM_' and struct.unpack('<H', anchor[0x1c:0x1e])[0] == sum(map(len, t.values()))
    assert t[0][0][1] == [b'Maker', b'v1'] and t[0][0][0][0x14:0x16] == bytes([3, 7])
    assert t[1][0][0][8:24].hex() == '33221100554477668899aabbccddeeff' and t[1][0][1][:2] == [b'M', b'P']
    assert t[2][0][1][1] == b'Board' and b'Tag' in t[3][0][1]
    assert struct.unpack('<H', t[4][0][0][0x14:0x16])[0] == 3300
    assert t[8][0][1] == [b'J1'] and t[9][0][1] == [b'SLOT1'] and t[9][0][0][5] == 0xa5
    assert [struct.unpack('<H', a[12:14])[0] for a, _ in t[17]] == [16384, 4096]
    assert struct.unpack('<H', t[17][0][0][0x15:0x17])[0] == 2400
    assert len(t[19]) == 2 and len(t[16]) == 1 and len(t[32]) == 1 and list(t)[-1] == 127


def test_an_smbios_file_replaces_our_table(tmp_path):
    raw = bytes([2, 8, 0x77, 0x77, 1, 0, 0, 0]) + b'Custom board\0\0'
    (tmp_path / 'bin').write_bytes(raw)
    with machine('-smbios', f'file={tmp_path}/bin') as m:
        assert smbios(FwCfg(m.qt))[2] == [(raw[:8], [b'Custom board'])]
    (tmp_path / 'bad').write_bytes(raw[:-1])
    r = run('-display', 'none', '-accel', 'qtest', '-smbios', f'file={tmp_path}/bad')
    assert r.returncode == 1 and 'malformed' in r.stderr


# ---- fw_cfg items ----

def test_user_items_reach_firmware(tmp_path):
    (tmp_path / 'f').write_bytes(b'\0binary\xff')
    with machine('-fw_cfg', 'name=opt/org.test/s,string=hello', '-fw_cfg', f'opt/org.test/f,file={tmp_path}/f') as m:
        fw = FwCfg(m.qt)
        assert fw.file('opt/org.test/s') == b'hello' and fw.file('opt/org.test/f') == b'\0binary\xff'


# ---- firmware files ----

@pytest.mark.proves('F-FW-01', 'F-FW-02', 'S051')
def test_the_firmware_is_at_both_ends(tmp_path):
    for path in (BIOS, str(tmp_path / 'copy')):
        if path != BIOS:
            shutil.copy(BIOS, path)
        data = open(BIOS, 'rb').read()
        with machine(*([] if path == BIOS else ['-bios', path])) as m:
            assert m.qt.read(0x100000000 - len(data), 4096) == data[:4096]
            assert m.qt.read(0xffff0, 16) == data[-16:]
            m.qt.writel(0xfffffff0, 0)
            assert m.qt.read(0xfffffff0, 16) == data[-16:]


@pytest.mark.proves('F-FW-02')
@pytest.mark.parametrize('make,word', [(None, 'find'), (b'', 'bytes'), (b'x' * 1000, 'bytes'), ('dir', '')])
def test_bad_bios_files_give_one_line(make, word, tmp_path):
    path = tmp_path / 'fw'
    if make == 'dir':
        path.mkdir()
    elif make is not None:
        path.write_bytes(make)
    r = run('-display', 'none', '-accel', 'qtest', '-bios', str(path))
    assert r.returncode == 1 and word in r.stderr and str(path) in r.stderr and len(r.stderr.splitlines()) <= 2


def flash_images(tmp_path):
    code, var = tmp_path / 'code.fd', tmp_path / 'vars.fd'
    code.write_bytes(bytes(range(256)) * 1024)
    var.write_bytes(b'\xff' * 0x20000)
    return code, var


@pytest.mark.proves('F-FW-03', 'S052', 'S057')
@pytest.mark.parametrize('board', ['pc', 'q35'])
def test_flash_pair_lies_below_4g_and_keeps_what_is_programmed(board, tmp_path):
    code, var = flash_images(tmp_path)
    args = ('-M', board, '-drive', f'if=pflash,format=raw,readonly=on,file={code}', '-drive', f'if=pflash,format=raw,file={var}')
    with Machine(*args, qtest=True) as m:
        top = (1 << 32) - code.stat().st_size
        base = top - var.stat().st_size
        assert m.qt.read(top, 256) == bytes(range(256)) and m.qt.readb(base) == 0xff
        m.qt.writeb(base + 0x100, 0x10)
        m.qt.writeb(base + 0x100, 0x5a)
        m.qt.writeb(base, 0xff)
        assert m.qt.readb(base + 0x100) == 0x5a
        m.qt.writeb(top, 0x10)
        m.qt.writeb(top, 0x00)
        m.qt.writeb(top, 0xff)
        assert m.qt.readb(top + 1) == 1
        m.quit()
    with machine(*args) as m:
        assert m.qt.readb(base + 0x100) == 0x5a
    assert var.read_bytes()[0x100] == 0x5a and code.read_bytes() == bytes(range(256)) * 1024


@pytest.mark.proves('F-FW-04', 'S056')
def test_one_writable_flash_file_is_enough(tmp_path):
    code, _ = flash_images(tmp_path)
    with Machine('-drive', f'if=pflash,format=raw,file={code}', qtest=True) as m:
        base = (1 << 32) - code.stat().st_size
        m.qt.writeb(base + 255, 0x40)
        m.qt.writeb(base + 255, 0x0f)
        m.quit()
    assert code.read_bytes()[255] == 0x0f


@pytest.mark.proves('F-FW-05')
def test_flash_by_block_node(tmp_path):
    code, var = flash_images(tmp_path)
    with machine('-M', 'q35,pflash0=rom,pflash1=efivars', '-blockdev', f'driver=file,node-name=rom,filename={code},read-only=on',
                 '-blockdev', f'driver=file,node-name=efivars,filename={var}') as m:
        assert m.qt.read((1 << 32) - 256, 256) == bytes(range(256))


@pytest.mark.parametrize('size', [0, 1000, 9 << 20])
def test_a_broken_flash_size_gives_one_line(size, tmp_path):
    path = tmp_path / 'f'
    path.write_bytes(b'\0' * size)
    r = run('-display', 'none', '-accel', 'qtest', '-drive', f'if=pflash,format=raw,file={path}')
    assert r.returncode == 1 and 'flash' in r.stderr and len(r.stderr.splitlines()) <= 2


def test_flash_and_bios_exclude_each_other(tmp_path):
    code, _ = flash_images(tmp_path)
    r = run('-display', 'none', '-accel', 'qtest', '-bios', BIOS, '-drive', f'if=pflash,format=raw,file={code}')
    assert r.returncode == 1 and '-bios' in r.stderr


# ---- kernels ----

def bzimage(path, payload=b'K' * 5000):
    setup = bytearray(512 * 3)
    setup[0x1f1] = 2
    struct.pack_into('<IH', setup, 0x202, 0x53726448, 0x20f)
    setup[0x211] = 1
    struct.pack_into('<I', setup, 0x22c, 0x7fffffff)
    struct.pack_into('<I', setup, 0x238, 2047)
    path.write_bytes(setup + payload)
    return path


@pytest.mark.proves('F-FW-12', 'S066')
def test_a_linux_kernel_is_split_and_patched(tmp_path):
    (tmp_path / 'initrd').write_bytes(b'I' * 10000)
    line = 'root=/dev/sda1 console=ttyS0'
    with machine('-m', '256', '-kernel', bzimage(tmp_path / 'k'), '-initrd', tmp_path / 'initrd', '-append', line) as m:
        fw = FwCfg(m.qt)
        word = lambda key: struct.unpack('<I', fw.item(key, 4))[0]
        assert fw.item(0x15, word(0x14)) == line.encode() + b'\0'
        assert (word(0x08), fw.item(0x11, 4)) == (5000, b'KKKK')
        assert word(0x0b) == 10000 and word(0x0a) % 4096 == 0 and word(0x0a) + 10000 <= 256 << 20
        setup = fw.item(0x18, word(0x17))
        assert struct.unpack('<II', setup[0x218:0x220]) == (word(0x0a), 10000)
        assert struct.unpack('<I', setup[0x228:0x22c])[0] == word(0x13)
        assert setup[0x210] and setup[0x211] & 0x80
        assert fw.file('bootorder').startswith(b'/rom@genroms/')
        rom = fw.file(next(n for n in fw.files if n.startswith('genroms/')))
        assert rom[:2] == b'\x55\xaa' and sum(rom) & 0xff == 0 and rom[2] * 512 == len(rom)


@pytest.mark.proves('F-FW-13')
def test_an_elf_kernel_needs_and_gets_a_pvh_entry(tmp_path):
    note = struct.pack('<III4sI', 4, 4, 18, b'Xen\0', 0x1000200)
    body = b'\x90' * 256
    eh = struct.pack('<16sHHIQQQIHHHHHH', b'\x7fELF\2\1\1', 2, 62, 1, 0x1000000, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    ph = struct.pack('<IIQQQQQQ', 1, 5, 0x100, 0x1000000, 0x1000000, 256, 4096, 0)
    for notes in (1, 0):
        pn = struct.pack('<IIQQQQQQ', 4 if notes else 0, 4, 0x200, 0, 0, len(note), len(note), 0)
        image = (eh + ph + pn).ljust(0x100, b'\0') + body + note
        (tmp_path / 'vmlinux').write_bytes(image)
        if notes:
            with machine('-m', '64', '-kernel', tmp_path / 'vmlinux', '-append', 'one two') as m:
                fw = FwCfg(m.qt)
                word = lambda key: struct.unpack('<I', fw.item(key, 4))[0]
                assert (word(0x10), word(0x07), word(0x08)) == (0x1000200, 0x1000000, 4096)
                info = fw.item(0x18, word(0x17))
                assert struct.unpack('<I', info[:4])[0] == 0x336ec578
                at = struct.unpack('<Q', info[24:32])[0] - word(0x16)
                assert info[at:at + 8] == b'one two\0'
        else:
            r = run('-display', 'none', '-accel', 'qtest', '-kernel', str(tmp_path / 'vmlinux'))
            assert r.returncode == 1 and 'PVH' in r.stderr


@pytest.mark.parametrize('content,word', [(b'', 'not a kernel'), (b'text', 'not a kernel'), (b'\x1f\x8b\x08' + b'z' * 600, 'gzip'),
                                          (b'\x7fELF' + b'\0' * 100, 'ELF')])
def test_a_kernel_that_is_no_kernel_gives_one_line(content, word, tmp_path):
    (tmp_path / 'k').write_bytes(content)
    r = run('-display', 'none', '-accel', 'qtest', '-kernel', str(tmp_path / 'k'))
    assert r.returncode == 1 and word in r.stderr and len(r.stderr.splitlines()) <= 2


def test_kernel_options_without_a_kernel_are_refused(tmp_path):
    for args in (['-append', 'x'], ['-initrd', BIOS]):
        r = run('-display', 'none', '-accel', 'qtest', *args)
        assert r.returncode == 1 and '-kernel' in r.stderr


def test_an_initrd_that_does_not_fit_is_refused(tmp_path):
    with open(tmp_path / 'i', 'wb') as f:
        os.truncate(f.fileno(), 64 << 20)
    r = run('-display', 'none', '-accel', 'qtest', '-m', '32', '-kernel', str(bzimage(tmp_path / 'k')), '-initrd', str(tmp_path / 'i'))
    assert r.returncode == 1 and 'too large' in r.stderr


# ---- machine properties ----

def test_machine_properties_are_listed_and_typos_corrected():
    r = run('-M', 'q35,help')
    assert r.returncode == 0
    for name in ('smm', 'vmport', 'hpet', 'sata', 'smbus', 'max-ram-below-4g', 'graphics', 'usb'):
        assert re.search(rf'^\s*{name}=', r.stdout, re.M), name
    r = run('-display', 'none', '-accel', 'qtest', '-M', 'q35,hept=off')
    assert r.returncode == 1 and 'hpet' in r.stderr
