"""Boot matrix: each board by each road to a shell on the serial line, then a clean power-off.

Roads: -kernel under SeaBIOS, GRUB from an MBR disk, GRUB from a CD, GRUB from an EFI disk under OVMF, -kernel under OVMF.
LYREBIRD_QEMU names another emulator to try the images with."""
import os
import shutil

import pytest

import guest
from conftest import need, program
from run import accel, Failed, PROMPT, Session

CMDLINE = 'console=ttyS0 panic=-1 quiet'
CODE, VARS = '/usr/share/OVMF/OVMF_CODE_4M.fd', '/usr/share/OVMF/OVMF_VARS_4M.fd'
BOARDS = ('pc', 'q35')
ROADS = {'kernel': ('F-FW-01', 'F-FW-12', 'F-DSP-08'), 'disk': ('F-DEV-06',), 'cd': ('F-BLK-03',), 'efi-disk': ('F-FW-03',), 'efi-kernel': ('F-FW-03', 'F-FW-12')}


@pytest.fixture(scope='session')
def files(tmp_path_factory):
    """kernel and a small initramfs; disks are made on demand and kept for the session."""
    folder = tmp_path_factory.mktemp('boot')
    kernel = guest.Kernel()
    initrd = guest.initramfs(str(folder / 'initrd.cpio'), kernel, modules=('button',), start='')
    return {'folder': folder, 'kernel': kernel.image, 'initrd': initrd, 'release': kernel.release}


def made(files, name, make):
    path = str(files['folder'] / name)
    if not os.path.exists(path):
        make(path, files['kernel'], files['initrd'], CMDLINE)
    return path


def arguments(road, files, tmp_path):
    """Emulator arguments of a road."""
    if road == 'disk':
        need('grub-mkimage', 'grub-common')
        return ['-drive', f"file={made(files, 'mbr.img', guest.grub_disk)},format=raw"]
    if road == 'cd':
        need('grub-mkrescue', 'grub-common')
        need('xorriso')
        return ['-cdrom', made(files, 'grub.iso', guest.grub_iso)]
    out = []
    if road.startswith('efi'):
        if not os.path.exists(CODE):
            pytest.skip('OVMF is missing (package ovmf)')
        shutil.copy(VARS, tmp_path / 'vars.fd')
        out += ['-drive', f'if=pflash,format=raw,readonly=on,file={CODE}', '-drive', f'if=pflash,format=raw,file={tmp_path}/vars.fd']
    if road == 'efi-disk':
        need('mcopy', 'mtools')
        return out + ['-drive', f"file={made(files, 'efi.img', guest.grub_efi_disk)},format=raw"]
    return out + ['-kernel', files['kernel'], '-initrd', files['initrd'], '-append', CMDLINE]


def boot(cmd, release, limit):
    """To the shell and out again; the serial text."""
    s = Session(cmd)
    try:
        s.expect(PROMPT, limit, 'boot to a shell')
        assert release in s.line('uname -r', 30, 'uname')
        s.p.stdin.write(b'poweroff\n')
        s.p.stdin.flush()
        assert s.end(60, 'poweroff') == 0
        return s.seen
    except Failed as e:
        pytest.fail(f'{e}\n{s.seen[-2500:]}')
    finally:
        s.p.kill()
        s.p.wait()
        s.p.stdout.close()
        s.p.stdin.close()


def cases():
    for board in BOARDS:
        for road, ids in ROADS.items():
            marks = [pytest.mark.proves(*ids)] if ids else []
            yield pytest.param(board, road, id=f'{board}-{road}', marks=marks)


@pytest.mark.limit(400)
@pytest.mark.parametrize('board, road', cases())
def test_boots_to_a_shell(board, road, files, tmp_path):
    exe = os.environ.get('LYREBIRD_QEMU') or program('qemu-system-x86_64')
    cmd = [exe, '-M', board, '-m', '512', '-nographic', '-no-reboot', '-net', 'none', *accel(), *arguments(road, files, tmp_path)]
    seen = boot(cmd, files['release'], 300)
    if road in ('disk', 'cd', 'efi-disk'):
        assert 'GRUB is here' in seen
