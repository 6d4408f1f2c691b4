"""A Debian 12 system disk with systemd, gcc, Python's own tests and stress-ng, made from Debian packages with mmdebstrap.

Made once per recipe into .cache/ (root, or user name spaces, needed while making: mmdebstrap picks). While the tree is still
a folder of the host, the guest's own gcc compiles a large C file natively; the checksum of that object is what the guest
must reproduce. Debian's kernel boots the disk through a small initramfs that loads the disk's modules and switches root."""
import hashlib
import os
import shutil
import subprocess
import tempfile

import guest
from guest import CACHE, GuestError

PACKAGES = ('systemd-sysv', 'dbus', 'udev', 'login', 'iproute2', 'procps', 'gcc', 'libc6-dev', 'libstb-dev', 'python3',
            'libpython3.11-testsuite', 'stress-ng')
NO_DOCS = ('/usr/share/doc/*', '/usr/share/man/*', '/usr/share/locale/*', '/usr/share/info/*')
SIZE = 2 << 30
PASSWORD = 'lyrebird'
MODULES = ('virtio_pci', 'virtio_blk', 'ext4', 'crc32c_generic', 'virtio_net', 'af_packet', 'virtio_rng', 'autofs4', 'binfmt_misc')

# Single-header libraries with their bodies switched on: 25,000 lines of C with much floating point.
LARGE_C = '''#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>
#define STB_IMAGE_RESIZE_IMPLEMENTATION
#include <stb/stb_image_resize.h>
#define STB_TRUETYPE_IMPLEMENTATION
#include <stb/stb_truetype.h>
#define STB_SPRINTF_IMPLEMENTATION
#include <stb/stb_sprintf.h>
#define STB_DXT_IMPLEMENTATION
#include <stb/stb_dxt.h>
#define STB_DIVIDE_IMPLEMENTATION
#include <stb/stb_divide.h>
'''
SMALL_C = '''#define STB_SPRINTF_IMPLEMENTATION
#include <stb/stb_sprintf.h>
'''
COMPILE = 'gcc -O2 -w -c /root/{0}.c -o /root/{0}.o && sha256sum </root/{0}.o && rm /root/{0}.o'

# Runs on the host with the tree as $1; $2 is a folder for what comes out. The image is made in a name space without the
# tree's /proc, /sys and /dev mounts.
HOOK = r'''#!/bin/sh
set -e
root=$1 out=$2
cp "$out"/large.c "$out"/small.c "$root/root/"
for f in large small; do chroot "$root" sh -c "$(cat "$out/compile-$f")" >"$out/$f.sum"; done
echo "root:$PASSWORD" | chroot "$root" chpasswd
echo lyrebird >"$root/etc/hostname"
echo "127.0.0.1 localhost lyrebird" >"$root/etc/hosts"
echo "set enable-bracketed-paste off" >>"$root/etc/inputrc"
echo "PS1='lyrebird# '" >>"$root/root/.bashrc"
: >"$root/etc/fstab"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin
if [ -d "$root/proc/1" ]; then
    exec unshare -m sh -c 'for m in dev/shm dev/pts dev/mqueue dev sys proc; do umount -l "$1/$m" 2>/dev/null || :; done
        exec mkfs.ext4 -q -F -L root -E root_owner=0:0 -d "$1" "$2/disk.img"' sh "$root" "$out"
fi
exec mkfs.ext4 -q -F -L root -E root_owner=0:0 -d "$root" "$out/disk.img"
'''
# systemd gives a terminal 90 seconds to appear, login a user 60: too few in lockstep, with a tiny code cache, or on a busy host. systemd also
# ends the login when the kernel kills one of its programs for memory, as stressors ask for.
INIT = '''#!/bin/sh
mount -t devtmpfs dev /dev
for m in $(cat /etc/modules); do insmod /lib/modules/$m; done
mkdir -p /newroot
mount -t ext4 -o rw /dev/vda /newroot && mkdir -p /newroot/etc/systemd/system.conf.d &&
    printf '[Manager]\nDefaultTimeoutStartSec=infinity\nDefaultDeviceTimeoutSec=infinity\nDefaultOOMPolicy=continue\n' >/newroot/etc/systemd/system.conf.d/slow.conf &&
    mkdir -p /newroot/etc/systemd/system/getty.target.wants &&
    ln -sf /lib/systemd/system/serial-getty@.service /newroot/etc/systemd/system/getty.target.wants/serial-getty@ttyS0.service &&
    { sed -i 's/^LOGIN_TIMEOUT.*/LOGIN_TIMEOUT 0/' /newroot/etc/login.defs || echo no login.defs; } &&
    exec switch_root /newroot /sbin/init
echo "no root file system on /dev/vda"; exec sh
'''


class Disk:
    """image: the disk (borrow it with snapshot=on); large, small: checksums of the objects that gcc makes of the two files."""

    def __init__(self, folder):
        self.image = os.path.join(folder, 'disk.img')
        self.large, self.small = (self._sum(folder, n) for n in ('large', 'small'))

    @staticmethod
    def _sum(folder, name):
        with open(os.path.join(folder, name + '.sum'), encoding='ascii') as f:
            return f.read().split()[0]


def disk():
    recipe = repr((PACKAGES, NO_DOCS, SIZE, PASSWORD, LARGE_C, SMALL_C, COMPILE, HOOK))
    folder = os.path.join(CACHE, 'debian-' + hashlib.sha256(recipe.encode()).hexdigest()[:12])
    with guest.locked('debian'):
        if not os.path.isdir(folder):
            _make(folder)
    return Disk(folder)


def _make(folder):
    tool = shutil.which('mmdebstrap')
    if not tool:
        raise GuestError('mmdebstrap is missing (tools/setup.sh check installs it)')
    guest.say(f'making a Debian system disk with {" ".join(PACKAGES)}')
    with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
        os.chmod(tmp, 0o777)
        for name, text in (('large.c', LARGE_C), ('small.c', SMALL_C), ('compile-large', COMPILE.format('large')),
                           ('compile-small', COMPILE.format('small')), ('hook', HOOK)):
            with open(os.path.join(tmp, name), 'w', encoding='ascii') as f:
                f.write(text)
        os.chmod(os.path.join(tmp, 'hook'), 0o755)
        with open(os.path.join(tmp, 'disk.img'), 'wb') as f:
            f.truncate(SIZE)
        os.chmod(os.path.join(tmp, 'disk.img'), 0o666)
        cmd = [tool, '--variant=minbase', '--include=' + ','.join(PACKAGES), *(f'--dpkgopt=path-exclude={p}' for p in NO_DOCS),
               f'--customize-hook={tmp}/hook "$1" {tmp}', 'bookworm', '/dev/null']
        p = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           env={**os.environ, 'PATH': guest.PATH, 'PASSWORD': PASSWORD})
        if p.returncode:
            said = [line for line in p.stdout.splitlines() if not line.startswith('I:')]
            raise GuestError('mmdebstrap: ' + ' '.join(said)[-400:])
        os.makedirs(folder + '.tmp', exist_ok=True)
        for name in ('disk.img', 'large.sum', 'small.sum'):
            guest.sh('cp', '--sparse=always', os.path.join(tmp, name), folder + '.tmp')
        os.rename(folder + '.tmp', folder)


def initramfs(kernel):
    key = hashlib.sha256(repr((MODULES, INIT)).encode()).hexdigest()[:12]
    path = os.path.join(CACHE, f'debian-{kernel.release}-{key}.cpio')
    with guest.locked('debian-initramfs'):
        if not os.path.exists(path):
            guest.initramfs(path, kernel, modules=MODULES, files={'switch': (INIT, 0o755)})
    return path


def arguments(memory='1G', cmdline=''):
    """Emulator arguments that boot the disk to a login on the first serial port; what the guest writes is thrown away."""
    kernel = guest.Kernel()
    words = f'console=ttyS0 rdinit=/switch panic=-1 systemd.service_watchdogs=no {cmdline}'.strip()
    return ['-m', memory, '-kernel', kernel.image, '-initrd', initramfs(kernel), '-append', words,
            '-drive', f'file={disk().image},format=raw,if=virtio,snapshot=on']
