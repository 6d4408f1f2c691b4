"""Small guests on the PC boards, run by the translator (LYREBIRD_ACCEL names another accelerator): SeaBIOS's banner, kernels of each kind the loader takes (real-mode Linux
setup code, multiboot with modules, PVH), and OVMF that keeps its variables. Guests speak through debugcon (port e9h) and end
through isa-debug-exit."""
import os
import shutil
import struct
import subprocess
import time

import pytest

import seeds
from conftest import need, program
from lyre import Machine, run

ACCEL = ('-accel', os.environ.get('LYREBIRD_ACCEL', 'tcg'))
EXIT = ('-device', 'isa-debug-exit,iobase=0xf4,iosize=4')
OLD = '/usr/share/seabios/bios.bin'  # the 128 KiB build
CODE, VARS = '/usr/share/OVMF/OVMF_CODE_4M.fd', '/usr/share/OVMF/OVMF_VARS_4M.fd'

# PUTS prints the NUL-terminated string at %esi.
MACROS = r"""
.macro PUTS
1:  lodsb
    testb %al, %al
    jz 2f
    outb %al, $0xe9
    jmp 1b
2:
.endm
.macro FINISH code
    movl $\code, %eax
    outl %eax, $0xf4
9:  hlt
    jmp 9b
.endm
"""


def assemble(folder, text, base, name='k'):
    """Flat bytes of 32-bit assembly linked at base."""
    need('as', 'binutils')
    src, obj, out = folder / f'{name}.S', folder / f'{name}.o', folder / f'{name}.bin'
    src.write_text(MACROS + text)
    subprocess.run(['as', '--32', '-o', obj, src], check=True)
    subprocess.run(['ld', '-m', 'elf_i386', f'-Ttext={base:#x}', '-e', '0', '--oformat', 'binary', '-o', out, obj], check=True)
    return out.read_bytes()


def start(folder, *args, timeout=60):
    """Runs to the guest's own end; exit status and what debugcon got."""
    log = folder / 'debugcon'
    r = run('-nodefaults', '-display', 'none', *ACCEL, *EXIT, '-debugcon', f'file:{log}', *map(str, args), timeout=timeout)
    return r.returncode, log.read_bytes().decode(errors='replace'), r.stderr


@pytest.mark.proves('F-FW-01', 'F-FW-08', 'S008', 'S365', 'F-MCH-01', 'F-MCH-02')
@pytest.mark.parametrize('board,says,more', [
    ('pc', 'i440fx', ()), ('q35', 'q35', ()),
    pytest.param('pc', 'i440fx', seeds.words('S051', put={'/path/to/bios.bin': OLD})[1], id='S051', marks=pytest.mark.proves('F-FW-02', 'S051')),
])
def test_seabios_runs_through_and_finds_the_board(board, says, more, tmp_path):
    if more and not os.path.exists(OLD):
        pytest.skip('SeaBIOS is missing (package seabios)')
    log = tmp_path / 'log'
    with Machine('-M', board, *ACCEL, '-smp', '2', *more, '-debugcon', f'file:{log}', '-global', 'isa-debugcon.iobase=0x402',
                 serial=True) as m:
        assert m.alive()
        for _ in range(300):
            if log.exists() and 'No bootable device' in log.read_text(errors='replace'):
                break
            time.sleep(0.1)
        text = log.read_text(errors='replace')
    assert 'SeaBIOS (version' in text and 'No bootable device' in text
    if more:  # the smaller build says less
        return
    assert f'Running on QEMU ({says})' in text and 'fw_cfg DMA' in text
    assert 'Found 2 cpu(s) max supported 2 cpu(s)' in text and 'Copying SMBIOS' in text and 'ACPI: parse DSDT' in text


@pytest.mark.proves('F-FW-12', 'S065', 'S066')
def test_linux_setup_code_starts_with_its_command_line(tmp_path):
    setup = assemble(tmp_path, r"""
    .code16
    .org 0x1f1
    .byte 2
    .org 0x200
    jmp start
    .ascii "HdrS"
    .word 0x20f
    .org 0x211
    .byte 1
    .org 0x22c
    .long 0x7fffffff
    .org 0x238
    .long 2047
    .org 0x260
start:
    movl 0x228, %eax            /* command line: DS is the setup segment */
    shrl $4, %eax
    movw %ax, %es
    movl 0x218, %ebx            /* RAM disk, 32-bit address */
    pushw %ds
    movw %ax, %ds
    xorw %si, %si
    PUTS
    popw %ds
    movl 0x21c, %eax
    cmpl $10000, %eax
    jne fail
    movb $'|', %al
    outb %al, $0xe9
    FINISH 0x10
fail:
    FINISH 0x11
    .org 0x600
    .fill 4096, 1, 0x90
""", 0)
    (tmp_path / 'kernel').write_bytes(setup)
    (tmp_path / 'initrd').write_bytes(b'I' * 10000)
    code, text, err = start(tmp_path, '-m', '64', '-kernel', tmp_path / 'kernel', '-initrd', tmp_path / 'initrd', '-append',
                            'root=/dev/sda1 console=ttyS0 "a b"')
    assert (code, text) == (0x21, 'root=/dev/sda1 console=ttyS0 "a b"|'), err


MULTIBOOT = r"""
    .long 0x1badb002, 0x10003, -(0x1badb002 + 0x10003)
    .long 0x200000, 0x200000, 0, 0, entry
entry:
    cmpl $0x2badb002, %eax
    jne fail
    movl $0x280000, %esp
    movl 16(%ebx), %esi
    PUTS
    movl 20(%ebx), %eax         /* modules */
    addb $'0', %al
    outb %al, $0xe9
    movl 24(%ebx), %edi
    movl 8(%edi), %esi          /* text of the first */
    PUTS
    movl 16(%edi), %esi         /* contents of the second end with NUL */
    PUTS
    testl $64, (%ebx)
    jz fail
    movl 44(%ebx), %ecx
    movl 48(%ebx), %edi
    xorl %edx, %edx             /* count RAM entries; sum their sizes in MiB at the end */
1:  cmpl $20, (%edi)
    jne fail
    cmpl $1, 20(%edi)
    jne 2f
    addl 12(%edi), %edx
2:  addl $24, %edi
    subl $24, %ecx
    ja 1b
    shrl $20, %edx
    cmpl $60, %edx              /* of 64 MiB; firmware keeps some */
    jb fail
    cmpl $500, 4(%ebx)
    jb fail
    FINISH 0x10
fail:
    FINISH 0x11
"""


def test_a_multiboot_kernel_gets_command_line_modules_and_memory_map(tmp_path):
    (tmp_path / 'k').write_bytes(assemble(tmp_path, MULTIBOOT, 0x200000))
    (tmp_path / 'a').write_bytes(b'module a\0')
    (tmp_path / 'b').write_bytes(b'[module b]\0')
    code, text, err = start(tmp_path, '-m', '64', '-kernel', tmp_path / 'k', '-append', 'hello world', '-initrd',
                            f'{tmp_path}/a arg one,{tmp_path}/b')
    assert (code, text) == (0x21, f'{tmp_path}/k hello world2{tmp_path}/a arg one[module b]'), err


def test_a_missing_module_is_named(tmp_path):
    (tmp_path / 'k').write_bytes(assemble(tmp_path, MULTIBOOT, 0x200000))
    r = run('-display', 'none', *ACCEL, '-kernel', str(tmp_path / 'k'), '-initrd', f'{tmp_path}/gone')
    assert r.returncode == 1 and 'gone' in r.stderr and len(r.stderr.splitlines()) <= 2


@pytest.mark.proves('F-FW-13', 'S067')
def test_an_elf_kernel_starts_at_its_pvh_entry(tmp_path):
    code = assemble(tmp_path, r"""
    cmpl $0x336ec578, (%ebx)
    jne fail
    movl $0x1080000, %esp
    movl 24(%ebx), %esi
    PUTS
    cmpl $1, 12(%ebx)           /* one module: the RAM disk */
    jne fail
    movl 16(%ebx), %edi
    movl (%edi), %esi
    PUTS
    movl 40(%ebx), %edi         /* memory map: some RAM entry reaches above 32 MiB */
    movl 48(%ebx), %ecx
1:  movl (%edi), %eax
    addl 8(%edi), %eax
    cmpl $1, 16(%edi)
    jne 2f
    cmpl $0x2000000, %eax
    ja good
2:  addl $24, %edi
    loop 1b
fail:
    FINISH 0x11
good:
    FINISH 0x10
""", 0x1000000)
    note = struct.pack('<III4sI', 4, 4, 18, b'Xen\0', 0x1000000)
    eh = struct.pack('<16sHHIQQQIHHHHHH', b'\x7fELF\2\1\1', 2, 62, 1, 0x1000000, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    ph = struct.pack('<IIQQQQQQ', 1, 5, 0x100, 0x1000000, 0x1000000, len(code), 0x100000, 0)
    pn = struct.pack('<IIQQQQQQ', 4, 4, 0x100 + len(code), 0, 0, len(note), len(note), 0)
    (tmp_path / 'vmlinux').write_bytes((eh + ph + pn).ljust(0x100, b'\0') + code + note)
    (tmp_path / 'initrd').write_bytes(b'{initrd}\0')
    status, text, err = start(tmp_path, '-m', '64', '-kernel', tmp_path / 'vmlinux', '-initrd', tmp_path / 'initrd', '-append', 'pvh line')
    assert (status, text) == (0x21, 'pvh line{initrd}'), err


@pytest.mark.limit(400)
@pytest.mark.proves('F-FW-03', 'S052', 'S057', 'S005', 'F-MCH-07')
def test_ovmf_reaches_its_shell_and_keeps_its_variables(tmp_path):
    for path in (CODE, VARS):
        if not os.path.exists(path):
            pytest.skip('OVMF is missing (package ovmf)')
    shutil.copy(VARS, tmp_path / 'vars')
    before = open(CODE, 'rb').read()
    args = (*seeds.words('S005')[1], *ACCEL, '-drive', f'if=pflash,format=raw,readonly=on,file={CODE}', '-drive',
            f'if=pflash,format=raw,file={tmp_path}/vars')
    with Machine(*args, serial=True) as m:
        m.serial.expect(rb'Shell> ', 150)
        m.serial.send('\r\nsetvar lyrebird -guid 11111111-2222-3333-4444-555555555555 -nv -bs =0xc0ffee\r\n')
        m.serial.expect(rb'Shell> .*Shell> ', 100)
        m.quit()
    assert open(CODE, 'rb').read() == before
    assert (tmp_path / 'vars').read_bytes() != open(VARS, 'rb').read()
    with Machine(*args, serial=True) as m:
        m.serial.expect(rb'Shell> ', 150)
        m.serial.send('\r\nsetvar lyrebird -guid 11111111-2222-3333-4444-555555555555\r\n')
        m.serial.expect(rb'C0 FF EE|EE FF C0|C0FFEE|c0ffee', 100)


@pytest.mark.limit(400)
@pytest.mark.proves('F-FW-04', 'S056')
def test_ovmf_runs_from_one_writable_file(tmp_path):
    """Variable store and program in one image, as a build of OVMF leaves them beside its two parts."""
    for path in (CODE, VARS):
        if not os.path.exists(path):
            pytest.skip('OVMF is missing (package ovmf)')
    image = tmp_path / 'OVMF.4m.fd'
    store = open(VARS, 'rb').read()
    image.write_bytes(store + open(CODE, 'rb').read())
    assert image.stat().st_size == 4 << 20
    args = (*seeds.words('S056', put={'/copy/of/OVMF.4m.fd': str(image)})[1], *ACCEL)
    with Machine(*args, serial=True) as m:
        m.serial.expect(rb'Shell> ', 150)
        m.serial.send('\r\nsetvar lyrebird -guid 11111111-2222-3333-4444-555555555555 -nv -bs =0xc0ffee\r\n')
        m.serial.expect(rb'Shell> .*Shell> ', 100)
        m.quit()
    after = image.read_bytes()
    assert after[len(store):] == open(CODE, 'rb').read()
    assert 'lyrebird'.encode('utf-16le') in after[:len(store)]
    with Machine(*args, serial=True) as m:
        m.serial.expect(rb'Shell> ', 150)
        m.serial.send('\r\nsetvar lyrebird -guid 11111111-2222-3333-4444-555555555555\r\n')
        m.serial.expect(rb'C0 FF EE|EE FF C0|C0FFEE|c0ffee', 100)


@pytest.mark.limit(200)
@pytest.mark.proves('F-FW-06', 'S023', 'S058')
@pytest.mark.parametrize('form', ['raw', 'qcow2'])
def test_secure_boot_refuses_an_unsigned_program(form, tmp_path):
    """The enrolled firmware runs its variable services in SMM, with flash that takes writes from there only."""
    images = {'OVMF_CODE_4M.secboot.qcow2': '/usr/share/OVMF/OVMF_CODE_4M.secboot.fd', 'my-OVMF_VARS_4M.secboot.qcow2': '/usr/share/OVMF/OVMF_VARS_4M.ms.fd'}
    before = {}
    for name, path in images.items():
        if not os.path.exists(path):
            pytest.skip('OVMF with Secure Boot is missing (package ovmf)')
        subprocess.run([program('qemu-img'), 'convert', '-f', 'raw', '-O', form, path, tmp_path / name], check=True)
        before[name] = (tmp_path / name).read_bytes()
    args = seeds.words('S058', put={'format=qcow2': f'format={form}'}, corrected=True)[1]
    with Machine(*args, *ACCEL, '-global', 'driver=cfi.pflash01,property=secure,value=on', serial=True, cwd=tmp_path) as m:
        m.serial.expect(rb'EFI Internal Shell.*Security Violation', 150)
        m.quit()
    code, var = images
    assert (tmp_path / code).read_bytes() == before[code] and (tmp_path / var).read_bytes() != before[var]
    if form == 'qcow2':
        subprocess.run([program('qemu-img'), 'check', '-q', tmp_path / var], check=True)
        subprocess.run([program('qemu-img'), 'convert', '-f', form, '-O', 'raw', tmp_path / var, tmp_path / 'raw'], check=True)
        assert (tmp_path / 'raw').stat().st_size == os.path.getsize(images[var]) and (tmp_path / 'raw').read_bytes() != open(images[var], 'rb').read()


@pytest.mark.limit(200)
@pytest.mark.proves('F-USB-04', 'F-DEV-03', 'F-DEV-04')
@pytest.mark.parametrize('controller', ['qemu-xhci', 'nec-usb-xhci'])
def test_seabios_takes_keys_from_a_usb_3_keyboard(controller, tmp_path):
    """No PS/2 port: the key that opens the boot menu can only come by way of the controller."""
    log = tmp_path / 'log'

    def told(text):
        for _ in range(600):
            if log.exists() and text in log.read_text(errors='replace'):
                return True
            time.sleep(0.1)
        return False
    with Machine('-M', 'pc,i8042=off', *ACCEL, '-device', controller, '-device', 'usb-kbd', '-device', 'usb-mouse', '-boot', 'menu=on,splash-time=20000',
                 '-debugcon', f'file:{log}', '-global', 'isa-debugcon.iobase=0x402') as m:
        assert told('USB keyboard initialized') and told('USB mouse initialized'), log.read_text(errors='replace')
        assert told('Press ESC for boot menu')
        m.hmp('sendkey esc')
        assert told('Select boot device'), log.read_text(errors='replace')


@pytest.mark.limit(400)
@pytest.mark.proves('F-USB-04', 'F-DEV-03', 'F-MCH-07')
def test_ovmf_takes_keys_from_a_usb_3_keyboard(tmp_path):
    for path in (CODE, VARS):
        if not os.path.exists(path):
            pytest.skip('OVMF is missing (package ovmf)')
    shutil.copy(VARS, tmp_path / 'vars')
    with Machine(*seeds.words('S005')[1], *ACCEL, '-drive', f'if=pflash,format=raw,readonly=on,file={CODE}', '-drive',
                 f'if=pflash,format=raw,file={tmp_path}/vars', '-device', 'qemu-xhci', '-device', 'usb-kbd', serial=True) as m:
        m.serial.expect(rb'Shell> ', 150)
        for key in 'e c h o spc l y r e ret'.split():
            m.hmp(f'sendkey {key}')
            time.sleep(0.3)
        m.serial.expect(rb'\nlyre', 60)
