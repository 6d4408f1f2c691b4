"""Network boot: firmware runs the NIC's iPXE ROM, which fetches a script, a kernel and a RAM disk from the built-in TFTP server."""
import os
import shutil

import guest
import pytest
from lyre import Machine

ACCEL = ('-accel', os.environ.get('LYREBIRD_ACCEL', 'tcg'))


@pytest.mark.limit(400)
@pytest.mark.proves('F-FW-09', 'F-FW-15', 'F-FW-16', 'S059', 'S129')
@pytest.mark.parametrize('model, arch', [('e1000', 'amd64'), ('virtio-net-pci', 'amd64'), ('e1000', 'i386')])
def test_a_kernel_comes_over_tftp(model, arch, tmp_path):
    if not os.path.isdir('/usr/lib/ipxe/qemu'):
        pytest.skip('iPXE option ROMs are missing (package ipxe-qemu)')
    try:
        kernel = guest.Kernel(arch)
    except guest.GuestError as e:
        pytest.skip(str(e))
    shutil.copy(kernel.image, tmp_path / 'vmlinuz')
    guest.initramfs(str(tmp_path / 'initrd'), kernel, modules=(), start='', arch=arch)
    (tmp_path / 'boot.ipxe').write_text('#!ipxe\nkernel vmlinuz initrd=initrd console=ttyS0 quiet netbooted=yes\ninitrd initrd\nboot\n')
    with Machine(*ACCEL, '-m', '512', '-boot', 'n', '-nic', f'user,model={model},tftp={tmp_path},bootfile=boot.ipxe', serial=True) as m:
        m.serial.expect(rb'lyrebird# |/ # ', 300)
        m.serial.send('cat /proc/cmdline\n')
        m.serial.expect(rb'\n[^\n]*netbooted=yes', 60)
        m.serial.send('uname -m\n')
        m.serial.expect({'amd64': rb'\nx86_64', 'i386': rb'\ni686'}[arch], 60)
