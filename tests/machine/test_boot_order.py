"""Which medium the firmware starts: tiny boot sectors that print the name of their medium on the debug port and end."""
import re
import subprocess
import time

import pytest

import seeds
from conftest import need
from lyre import Machine, run
from test_pc_small_guests import ACCEL, EXIT

SAY = """
.code16
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw $text, %si
1:  lodsb
    testb %al, %al
    jz 2f
    outb %al, $0xe9
    jmp 1b
2:  movl $1, %eax
    movw $0xf4, %dx
    outl %eax, %dx
3:  hlt
    jmp 3b
text: .asciz "NAME"
.org 510
.word 0xaa55
"""


@pytest.fixture(scope='module')
def media(tmp_path_factory):
    """disk.img, disk2.img, floppy.img, cd.iso, blank.iso, net/boot.0"""
    need('as', 'binutils')
    need('xorriso')
    d = tmp_path_factory.mktemp('media')

    def sector(name, path):
        (d / 's.S').write_text(SAY.replace('NAME', name))
        subprocess.run(['as', '--32', '-o', d / 's.o', d / 's.S'], check=True)
        subprocess.run(['ld', '-m', 'elf_i386', '-Ttext=0x7c00', '-e', '0', '--oformat', 'binary', '-o', path, d / 's.o'], check=True)

    for name in ('disk', 'disk2'):
        sector(name, d / f'{name}.img')
        with open(d / f'{name}.img', 'r+b') as f:
            f.truncate(1 << 20)
    sector('floppy', d / 'floppy.img')
    with open(d / 'floppy.img', 'r+b') as f:
        f.truncate(1440 << 10)
    (d / 'tree').mkdir()
    sector('cd', d / 'tree' / 'boot.bin')
    subprocess.run(['xorriso', '-as', 'mkisofs', '-quiet', '-b', 'boot.bin', '-no-emul-boot', '-boot-load-size', '1', '-o', d / 'cd.iso', d / 'tree'],
                   check=True, capture_output=True)
    with open(d / 'blank.iso', 'wb') as f:
        f.truncate(1 << 20)
    (d / 'net').mkdir()
    sector('network', d / 'net' / 'boot.0')
    return d


def boots(media, tmp_path, *args, cd='cd.iso'):
    log = tmp_path / 'said'
    # The order of the boards' own devices: disk first, CD second, then the card.
    r = run('-nodefaults', '-display', 'none', *ACCEL, *EXIT, '-debugcon', f'file:{log}', '-drive', f'file={media}/disk.img,format=raw',
            '-cdrom', f'{media}/{cd}', '-nic', f'user,model=e1000,tftp={media}/net,bootfile=boot.0', *args, timeout=100)
    assert r.returncode == 3, r.stderr
    return log.read_text()


@pytest.mark.parametrize('name', [pytest.param(('nvme,drive=n,serial=1,bootindex=0',), id='controller', marks=pytest.mark.proves('F-BLK-10', 'F-FW-10')),
                                  pytest.param(('nvme,id=c0,serial=1', 'nvme-ns,bus=c0,drive=n,nsid=1,bootindex=0'), id='namespace',
                                               marks=pytest.mark.proves('F-BLK-10', 'F-FW-10'))])
@pytest.mark.parametrize('board', ['pc', 'q35'])
def test_an_nvme_disk_is_started(name, board, media, tmp_path):
    devices = [x for d in name for x in ('-device', d)]
    assert boots(media, tmp_path, '-M', board, '-drive', f'file={media}/disk2.img,format=raw,if=none,id=n', *devices) == 'disk2'


@pytest.mark.proves('F-USB-04', 'F-FW-10')
@pytest.mark.parametrize('controller', ['qemu-xhci', 'nec-usb-xhci,p3=0', 'ich9-usb-uhci1'])
@pytest.mark.parametrize('board', ['pc', 'q35'])
def test_a_disk_on_usb_is_started(board, controller, media, tmp_path):
    assert boots(media, tmp_path, '-M', board, '-drive', f'file={media}/disk2.img,format=raw,if=none,id=n', '-device', f'{controller},id=c', '-device',
                 'usb-storage,drive=n,bus=c.0,port=2,bootindex=0') == 'disk2'


@pytest.mark.parametrize('args', [
    pytest.param(('-M', 'pc', '-fda', '{}'), id='fda', marks=pytest.mark.proves('F-FW-09', 'F-MCH-02', 'S059')),
    pytest.param(('-M', 'pc', '-drive', 'file={},if=floppy,format=raw,index=0'), id='drive', marks=pytest.mark.proves('F-FW-09', 'F-MCH-02')),
    pytest.param(('-M', 'q35', '-fda', '{}'), id='q35', marks=pytest.mark.proves('F-FW-09')),
    pytest.param(('-M', 'q35', '-device', 'isa-fdc,id=fdc', '-drive', 'file={},if=none,id=f,format=raw', '-device',
                  'floppy,bus=fdc.0,unit=0,drive=f,drive-type=144'), id='device', marks=pytest.mark.proves('F-FW-09')),
])
def test_a_floppy_is_started(args, media, tmp_path):
    assert boots(media, tmp_path, *[a.format(f'{media}/floppy.img') for a in args], *seeds.words('S059', 0)[1]) == 'floppy'


@pytest.mark.proves('F-FW-10')
def test_bootindex_chooses_a_floppy(media, tmp_path):
    assert boots(media, tmp_path, '-M', 'pc', '-device', 'isa-fdc,id=fdc', '-drive', f'file={media}/floppy.img,if=none,id=f,format=raw', '-device',
                 'floppy,bus=fdc.0,drive=f,bootindex=0') == 'floppy'


@pytest.mark.parametrize('seed, alt, corrected, cd, want', [
    pytest.param('S059', 1, {}, 'cd.iso', 'disk', id='S059-c', marks=pytest.mark.proves('F-FW-09', 'S059')),
    pytest.param('S059', 2, {}, 'cd.iso', 'cd', id='S059-d', marks=pytest.mark.proves('F-FW-09', 'S059')),
    pytest.param('S059', 3, {}, 'cd.iso', 'network', id='S059-n', marks=pytest.mark.proves('F-FW-09', 'F-FW-15', 'F-NET-06', 'F-NET-34', 'S059')),
    pytest.param('S060', 0, {}, 'cd.iso', 'cd', id='S060', marks=pytest.mark.proves('F-FW-09', 'S060')),
    pytest.param('S061', 0, {}, 'cd.iso', 'cd', id='S061', marks=pytest.mark.proves('F-FW-10', 'S061')),
    pytest.param('S061', 0, {}, 'blank.iso', 'disk', id='S061-no-system-on-the-cd', marks=pytest.mark.proves('F-FW-10', 'S061')),
    pytest.param('S062', 0, {}, 'cd.iso', 'cd', id='S062', marks=pytest.mark.proves('F-FW-10', 'S062', 'S090')),
    pytest.param('S063', 0, {'order=x': 'order=cnd'}, 'cd.iso', 'disk', id='S063-string', marks=pytest.mark.proves('F-FW-10', 'S063')),
])
def test_the_letters_choose_the_medium(seed, alt, corrected, cd, want, media, tmp_path):
    assert boots(media, tmp_path, *seeds.words(seed, alt, put=corrected)[1], cd=cd) == want


@pytest.mark.proves('F-FW-11', 'S064')
def test_the_menu_lists_the_media_and_a_key_picks_one(media, tmp_path):
    bios, said = tmp_path / 'bios', tmp_path / 'said'
    with Machine(*seeds.words('S064')[1], *ACCEL, *EXIT, '-debugcon', f'file:{bios}', '-global', 'isa-debugcon.iobase=0x402',
                 '-device', 'isa-debugcon,iobase=0xe9,chardev=e9', '-chardev', f'file,id=e9,path={said}',
                 '-drive', f'file={media}/disk.img,format=raw', '-cdrom', f'{media}/cd.iso') as m:
        def until(text):
            end = time.monotonic() + 60
            while text not in (bios.read_text(errors='replace') if bios.exists() else ''):
                assert time.monotonic() < end and m.alive(), bios.read_text(errors='replace')[-800:]
                time.sleep(0.05)
        until('for boot menu')
        m.hmp('sendkey esc')
        until('Select boot device')
        until('. DVD')
        m.hmp('sendkey ' + re.search(r'(\d)\. DVD', bios.read_text(errors='replace')).group(1))
        assert m.wait(60) == 3
    assert said.read_text() == 'cd'
