"""Guest images made on the spot from Debian packages: kernel, static BusyBox, initramfs, disks.

Packages are downloaded with apt-get and unpacked, never installed; everything is kept in .cache/ (LYREBIRD_CACHE) and made
once. Used by tools/run.py and by the machine tests. Nothing here knows the emulator."""
import fcntl
import glob
import gzip
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CACHE = os.environ.get('LYREBIRD_CACHE', os.path.join(ROOT, '.cache'))
KERNELS = {'amd64': 'linux-image-amd64', 'i386': 'linux-image-686', 'arm64': 'linux-image-arm64'}
PATH = os.environ.get('PATH', '') + ':/usr/sbin:/sbin'


class GuestError(Exception):
    """What could not be had, in one line."""


def say(text):
    print(text, file=sys.stderr, flush=True)


class locked:
    """One maker at a time per cache entry: tests run side by side."""

    def __init__(self, name):
        os.makedirs(CACHE, exist_ok=True)
        self.f = open(os.path.join(CACHE, '.lock-' + name), 'w')

    def __enter__(self):
        fcntl.flock(self.f, fcntl.LOCK_EX)

    def __exit__(self, *a):
        self.f.close()


def apt(tool, *args, arch=None, **kw):
    """Runs apt-get or apt-cache. Lists of another architecture, and our own update, live in the cache: no rights needed."""
    cmd = [tool]
    own = os.path.join(CACHE, 'apt', arch or native_arch())
    if arch != native_arch() or os.path.isdir(own):
        for d in ('lists/partial', 'archives/partial'):
            os.makedirs(os.path.join(own, d), exist_ok=True)
        cmd += ['-o', f'APT::Architecture={arch}', '-o', f'APT::Architectures={arch}', '-o', f'Dir::State::lists={own}/lists',
                '-o', f'Dir::Cache={own}', '-o', 'APT::Sandbox::User=']
    return subprocess.run(cmd + list(args), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw)


def apt_update(arch):
    say(f'updating package lists for {arch}, kept in {os.path.relpath(CACHE)}')
    os.makedirs(os.path.join(CACHE, 'apt', arch), exist_ok=True)
    apt('apt-get', '-qq', 'update', arch=arch)


def deb(package, arch='amd64'):
    """Path of the package's .deb, downloaded when the cache has none."""
    folder = os.path.join(CACHE, 'deb')
    os.makedirs(folder, exist_ok=True)
    with locked(f'deb-{package}-{arch}'):
        found = glob.glob(os.path.join(folder, f'{package}_*_{arch}.deb')) + glob.glob(os.path.join(folder, f'{package}_*_all.deb'))
        if found:
            return sorted(found)[-1]
        with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
            os.chmod(tmp, 0o777)
            name = package
            say(f'downloading Debian package {name} ({arch})')
            p = apt('apt-get', '-q', 'download', name, arch=arch, cwd=tmp)
            if p.returncode:
                apt_update(arch)
                p = apt('apt-get', '-q', 'download', name, arch=arch, cwd=tmp)
            got = glob.glob(os.path.join(tmp, '*.deb'))
            if not got:
                raise GuestError(f'cannot download {name}: {p.stdout.strip().splitlines()[-1] if p.stdout.strip() else "apt-get failed"}')
            return shutil.move(got[0], folder)


def native_arch():
    return subprocess.run(['dpkg', '--print-architecture'], stdout=subprocess.PIPE, text=True).stdout.strip()


def unpacked(package, arch='amd64'):
    """Folder with the package's files."""
    path = deb(package, arch)
    folder = os.path.join(CACHE, 'tree', os.path.basename(path)[:-4])
    with locked('tree-' + os.path.basename(folder)):
        if not os.path.isdir(folder):
            tmp = folder + '.tmp'
            shutil.rmtree(tmp, ignore_errors=True)
            os.makedirs(tmp)
            if subprocess.call(['dpkg', '-x', path, tmp]):
                raise GuestError(f'cannot unpack {path}')
            os.rename(tmp, folder)
    return folder


def root_tree(name, packages, arch='amd64'):
    """Folder with the files of all these packages laid over each other, in Debian's merged-/usr layout. Nothing is
    configured: what a package's scripts would do is left to the caller. Made once per name and package versions."""
    debs = [deb(p, arch) for p in packages]
    key = hashlib.sha256('\n'.join(map(os.path.basename, debs)).encode()).hexdigest()[:12]
    folder = os.path.join(CACHE, 'root', f'{name}-{key}')
    with locked(f'root-{name}'):
        if not os.path.isdir(folder):
            tmp = folder + '.tmp'
            shutil.rmtree(tmp, ignore_errors=True)
            for d in ('bin', 'sbin', 'lib', 'lib64', 'lib32', 'libx32'):
                os.makedirs(os.path.join(tmp, 'usr', d))
                os.symlink('usr/' + d, os.path.join(tmp, d))
            for d in ('proc', 'sys', 'dev', 'tmp', 'etc', 'in', 'root'):
                os.makedirs(os.path.join(tmp, d), exist_ok=True)
            for path in debs:
                unpack = subprocess.Popen(['dpkg-deb', '--fsys-tarfile', path], stdout=subprocess.PIPE)
                status = subprocess.call(['tar', '-x', '--keep-directory-symlink', '--no-same-owner', '-C', tmp], stdin=unpack.stdout)
                if status or unpack.wait():
                    raise GuestError(f'cannot unpack {path}')
            os.rename(tmp, folder)
    return folder


class Kernel:
    """A Debian kernel: image path, release, and its modules."""

    def __init__(self, arch='amd64'):
        name = KERNELS[arch]
        note = os.path.join(CACHE, f'kernel-{arch}')  # asking apt takes longer than booting a kernel
        real = self._noted(note, arch)
        for attempt in () if real else (0, 1):
            p = apt('apt-cache', 'depends', name, arch=arch)
            m = re.search(r'Depends: (linux-image-\d\S*)', p.stdout)
            if m:
                real = m.group(1).split(':')[0]
                break
            if not attempt:
                apt_update(arch)
        if not real:  # the lists may be gone while the cache still has one
            kept = glob.glob(os.path.join(CACHE, 'deb', f'linux-image-[0-9]*_{arch}.deb'))
            if not kept:
                raise GuestError(f'apt-cache does not know {name}')
            real = os.path.basename(sorted(kept)[-1]).split('_')[0]
        self.tree = unpacked(real, arch)
        with open(f'{note}.{os.getpid()}', 'w', encoding='ascii') as f:
            f.write(real)
        os.replace(f.name, note)
        self.image = glob.glob(os.path.join(self.tree, 'boot', 'vmlinuz-*'))[0]
        self.release = os.path.basename(self.image)[len('vmlinuz-'):]
        self._files = None

    @staticmethod
    def _noted(note, arch):
        """The package an earlier run found, while the cache still holds it, or None."""
        try:
            with open(note, encoding='ascii') as f:
                real = f.read().strip()
        except OSError:
            return None
        return real if glob.glob(os.path.join(CACHE, 'deb', f'{real}_*_{arch}.deb')) else None

    def module_files(self, names):
        """Paths of the modules and of what they depend on, in an order insmod accepts. Built-in ones are left out."""
        if self._files is None:
            self._files = {}
            for folder, _, files in os.walk(os.path.join(self.tree, 'lib', 'modules')):
                for f in files:
                    if f.endswith('.ko'):
                        self._files[f[:-3].replace('-', '_')] = os.path.join(folder, f)
        out = []

        def add(name):
            path = self._files.get(name.replace('-', '_'))
            if not path or path in out:
                return
            with open(path, 'rb') as f:
                m = re.search(rb'\0depends=([^\0]*)\0', f.read())
            for dep in (m.group(1).decode().split(',') if m and m.group(1) else []):
                add(dep)
            out.append(path)
        for n in names:
            add(n)
        return out


def busybox(arch='amd64'):
    tree = unpacked('busybox-static', arch)
    for p in ('bin/busybox', 'usr/bin/busybox'):
        if os.path.exists(os.path.join(tree, p)):
            return os.path.join(tree, p)
    raise GuestError('busybox-static has no busybox')


class Cpio:
    """A newc archive (Linux initramfs buffer format), everything owned by root."""

    def __init__(self):
        self.parts, self.ino, self.dirs = [], 1, set()

    def entry(self, name, mode, data=b'', rdev=(0, 0)):
        parent = os.path.dirname(name)
        if parent and parent not in self.dirs:
            self.folder(parent)
        raw = name.encode() + b'\0'
        head = '070701' + ''.join('%08X' % v for v in (self.ino, mode, 0, 0, 1, 0, len(data), 0, 0, rdev[0], rdev[1], len(raw), 0))
        self.ino += 1
        body = head.encode() + raw
        body += b'\0' * (-len(body) % 4) + data
        self.parts.append(body + b'\0' * (-len(body) % 4))

    def folder(self, name):
        if name not in self.dirs:
            self.dirs.add(name)
            self.entry(name, stat.S_IFDIR | 0o755)

    def file(self, name, data, mode=0o644):
        self.entry(name, stat.S_IFREG | mode, data.encode() if isinstance(data, str) else data)

    def link(self, name, target):
        self.entry(name, stat.S_IFLNK | 0o777, target.encode())

    def node(self, name, major, minor):
        self.entry(name, stat.S_IFCHR | 0o600, b'', (major, minor))

    def bytes(self):
        self.ino = 0
        self.entry('TRAILER!!!', 0)
        data = b''.join(self.parts)
        return data + b'\0' * (-len(data) % 512)


RCS = '''#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /tmp /data
mount -t devpts pts /dev/pts
for m in $(cat /etc/modules); do insmod /lib/modules/$m || echo "insmod $m failed"; done
[ -x /etc/start ] && . /etc/start
'''
UDHCPC = '''#!/bin/sh
case $1 in
bound|renew)
    ip -4 addr flush dev $interface
    ip addr add $ip/${mask:-24} dev $interface
    [ -n "$router" ] && ip route add default via ${router%% *} dev $interface
    : >/etc/resolv.conf
    for d in $dns; do echo "nameserver $d" >>/etc/resolv.conf; done ;;
esac
'''
START = '''
ip link set lo up
for i in /sys/class/net/*; do
    i=${i##*/}
    [ $i = lo ] && continue
    ip link set $i up
    udhcpc -q -f -n -t 5 -T 1 -i $i -s /etc/udhcpc.sh >/dev/null 2>&1 && echo "$i: $(ip -4 -o addr show dev $i | awk '{print $4}')"
done
[ -b /dev/vda ] && mount /dev/vda /data && echo "data disk on /data"
'''
VIRTIO = ('virtio_pci', 'virtio_blk', 'virtio_net', 'ext4', 'crc32c_generic', 'af_packet', 'virtio_rng')


def initramfs(path, kernel, modules=VIRTIO, start=START, tty='ttyS0', files=None, compress=False, arch='amd64', banner=''):
    """Writes an initramfs with BusyBox init: loads modules, runs `start`, then a login-less shell on tty.

    files: {name in the archive: bytes or str or (bytes, mode)}."""
    c = Cpio()
    c.node('dev/console', 5, 1)
    c.node('dev/null', 1, 3)
    for d in ('proc', 'sys', 'tmp', 'data', 'etc', 'root', 'run'):
        c.folder(d)
    with open(busybox(arch), 'rb') as f:
        c.file('bin/busybox', f.read(), 0o755)
    listed = subprocess.run([busybox(arch), '--list'], stdout=subprocess.PIPE, text=True).stdout.split() if arch == native_arch() else []
    for applet in listed or ['sh', 'mount', 'insmod', 'cat', 'ls', 'poweroff', 'reboot', 'ip', 'udhcpc', 'wget', 'awk', 'init']:
        if applet != 'busybox':
            c.link('bin/' + applet, 'busybox')
    for d in ('sbin', 'usr/bin', 'usr/sbin'):
        if '/' in d:
            c.folder('usr')
            c.link(d, '../bin')
        else:
            c.link(d, 'bin')
    c.link('init', 'bin/busybox')
    mods = kernel.module_files(modules) if kernel else []
    for m in mods:
        with open(m, 'rb') as f:
            c.file('lib/modules/' + os.path.basename(m), f.read())
    c.file('etc/modules', ''.join(os.path.basename(m) + '\n' for m in mods))
    c.file('etc/rcS', RCS, 0o755)
    c.file('etc/start', start + (f"echo '{banner}'\n" if banner else ''), 0o755)
    c.file('etc/udhcpc.sh', UDHCPC, 0o755)
    c.file('etc/profile', "export PS1='lyrebird# ' HOME=/root\ncd /root\n")
    c.file('etc/passwd', 'root::0:0:root:/root:/bin/sh\n')
    c.file('etc/inittab', f'::sysinit:/etc/rcS\n{tty}::respawn:-/bin/sh\n::ctrlaltdel:/bin/reboot\n'
                          '::shutdown:/bin/sync\n::shutdown:/bin/umount -a -r\n')
    for name, data in (files or {}).items():
        c.file(name, *(data if isinstance(data, tuple) else (data,)))
    data = c.bytes()
    with open(path + '.tmp', 'wb') as f:
        f.write(gzip.compress(data, 1) if compress else data)
    os.replace(path + '.tmp', path)
    return path


def sh(*cmd, **kw):
    """Runs a host tool; a GuestError with its last words when it fails or is missing."""
    exe = shutil.which(cmd[0], path=PATH)
    if not exe:
        raise GuestError(f'{cmd[0]} is missing (tools/setup.sh check installs it)')
    p = subprocess.run([exe, *cmd[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw)
    if p.returncode:
        raise GuestError(f'{cmd[0]}: {p.stdout.strip()[-300:]}')
    return p.stdout


def ext4(path, size, files=None):
    """Writes an ext4 image of `size` bytes holding files {name: bytes}; needs no root."""
    mkfs = shutil.which('mkfs.ext4', path=PATH)
    if not mkfs:
        raise GuestError('mkfs.ext4 is missing (package e2fsprogs)')
    with tempfile.TemporaryDirectory() as tmp:
        for name, data in (files or {}).items():
            os.makedirs(os.path.dirname(os.path.join(tmp, name)), exist_ok=True)
            with open(os.path.join(tmp, name), 'wb') as f:
                f.write(data)
        with open(path, 'wb') as f:
            f.truncate(size)
        p = subprocess.run([mkfs, '-q', '-F', '-L', 'data', '-E', 'root_owner=0:0', '-d', tmp, path], stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True)
        if p.returncode:
            raise GuestError('mkfs.ext4: ' + p.stdout.strip())
    return path


def ext4_tree(path, size, tree):
    """Writes an ext4 image of `size` bytes with a copy of a folder in it; needs no root."""
    with open(path + '.tmp', 'wb') as f:
        f.truncate(size)
    sh('mkfs.ext4', '-q', '-F', '-E', 'root_owner=0:0', '-d', tree, path + '.tmp')
    os.replace(path + '.tmp', path)
    return path


GRUB_CFG = '''serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
set timeout=0
echo "GRUB is here"
{find}
linux {folder}/vmlinuz {cmdline}
initrd {folder}/initrd.cpio
boot
'''


def mbr(path, kind, part, boot=None, core=b'', start=2048):
    """A disk with one primary partition (file `part`) of type `kind`; boot code and core image for its gap when given."""
    size = os.path.getsize(part) // 512
    head = bytearray(512)
    if boot:
        head[:440] = boot[:440]
    head[0x1b8:0x1bc] = b'LYRE'
    head[0x1be:0x1ce] = bytes((0x80, 0xfe, 0xff, 0xff, kind, 0xfe, 0xff, 0xff)) + start.to_bytes(4, 'little') + size.to_bytes(4, 'little')
    head[510:512] = b'\x55\xaa'
    if len(core) > (start - 1) * 512:
        raise GuestError('the GRUB core image does not fit before the partition')
    with open(path, 'wb') as out, open(part, 'rb') as src:
        out.write(head)
        out.write(core)
        out.seek(start * 512)
        shutil.copyfileobj(src, out)
        out.truncate((start + size + 2048) * 512)
    return path


def grub_disk(path, kernel, initrd, cmdline):
    """An MBR disk with an ext4 partition that GRUB for PC BIOS boots."""
    with tempfile.TemporaryDirectory() as tmp:
        cfg = GRUB_CFG.format(find='', folder='', cmdline=cmdline)
        size = os.path.getsize(kernel) + os.path.getsize(initrd) + (16 << 20) & ~0xfffff
        files = {'grub/grub.cfg': cfg.encode(), 'vmlinuz': open(kernel, 'rb').read(), 'initrd.cpio': open(initrd, 'rb').read()}
        part, core = os.path.join(tmp, 'part'), os.path.join(tmp, 'core')
        ext4(part, size, files)
        sh('grub-mkimage', '-O', 'i386-pc', '-o', core, '-p', '(hd0,msdos1)/grub', 'biosdisk', 'part_msdos', 'ext2', 'normal',
           'linux', 'serial', 'terminal', 'echo', 'boot', 'configfile')
        with open('/usr/lib/grub/i386-pc/boot.img', 'rb') as b, open(core, 'rb') as c:
            return mbr(path, 0x83, part, b.read(), c.read())


def grub_iso(path, kernel, initrd, cmdline):
    """A CD that GRUB boots from PC BIOS and from UEFI, made by grub-mkrescue."""
    with tempfile.TemporaryDirectory() as tmp:
        os.makedirs(os.path.join(tmp, 'boot', 'grub'))
        shutil.copy(kernel, os.path.join(tmp, 'vmlinuz'))
        shutil.copy(initrd, os.path.join(tmp, 'initrd.cpio'))
        with open(os.path.join(tmp, 'boot', 'grub', 'grub.cfg'), 'w') as f:
            f.write(GRUB_CFG.format(find='', folder='', cmdline=cmdline))
        sh('grub-mkrescue', '-o', path, tmp)
    return path


def grub_efi_disk(path, kernel, initrd, cmdline):
    """An MBR disk with an EFI system partition whose BOOTX64.EFI is GRUB."""
    with tempfile.TemporaryDirectory() as tmp:
        cfg, efi, part = (os.path.join(tmp, n) for n in ('grub.cfg', 'grub.efi', 'part'))
        with open(cfg, 'w') as f:
            f.write(GRUB_CFG.format(find='search --no-floppy --file --set=root /vmlinuz', folder='', cmdline=cmdline))
        sh('grub-mkstandalone', '-O', 'x86_64-efi', '-o', efi, '--install-modules=part_msdos fat search search_fs_file normal linux '
           'serial terminal echo boot', '--modules=part_msdos fat search search_fs_file normal linux serial terminal echo boot',
           '--fonts=', '--locales=', '--themes=', f'boot/grub/grub.cfg={cfg}')
        size = os.path.getsize(kernel) + os.path.getsize(initrd) + os.path.getsize(efi) + (40 << 20) & ~0xfffff
        with open(part, 'wb') as f:
            f.truncate(size)
        sh('mkfs.vfat', '-F', '32', '-n', 'ESP', part)
        for name, src in (('::EFI', None), ('::EFI/BOOT', None), ('::EFI/BOOT/BOOTX64.EFI', efi), ('::vmlinuz', kernel),
                          ('::initrd.cpio', initrd)):
            sh(*(('mcopy', '-i', part, src, name) if src else ('mmd', '-i', part, name)))
        return mbr(path, 0xef, part)
