"""Disks inside a guest: Debian's fio in a guest of ours and of the peer's, the same kernel, fio, options and images."""
import hashlib
import json
import os
import shutil
import subprocess

import common
import guest

# What Debian's fio links against, directly or not.
PACKAGES = '''base-files libc6 libc-bin fio libaio1 libgfapi0 libgfrpc0 libgfxdr0 libglusterfs0 libnbd0 libibverbs1 librdmacm1 libnl-3-200
libnl-route-3-200 librados2 librbd1 libpmem1 libpmemblk1 libndctl6 libdaxctl1 libnuma1 libboost-iostreams1.74.0 libboost-thread1.74.0 libfmt9
libcryptsetup12 libdevmapper1.02.1 libargon2-1 libacl1 libattr1 libcap2 liburcu8 libcap-ng0 libgcrypt20 libgpg-error0 liblz4-1 libsystemd0 libmd0
libjson-c5 libuuid1 libblkid1 libudev1 libkmod2 libssl3 libstdc++6 libgcc-s1 libgnutls30 libnettle8 libhogweed6 libgmp10 libp11-kit0 libffi8
libidn2-0 libunistring2 libtasn1-6 libxml2 libicu72 libtirpc3 libgssapi-krb5-2 libkrb5-3 libk5crypto3 libkrb5support0 libkeyutils1 libcom-err2
libselinux1 libpcre2-8-0 libbz2-1.0 liblzma5 libzstd1 zlib1g'''.split()
LOADER = '/lib64/ld-linux-x86-64.so.2'
DISKS = ('raw', 'qcow2', 'raw, iothread')
JOBS = (('4 KiB random reads', '--rw=randread --bs=4k --iodepth=16'), ('4 KiB random writes', '--rw=randwrite --bs=4k --iodepth=16'),
        ('1 MiB sequential reads', '--rw=read --bs=1m --iodepth=4'))


def needed(root):
    """fio and the shared objects the loader wants for it, as names below root."""
    p = subprocess.run(['unshare', '-Urm' if os.geteuid() else '-m', 'chroot', root, LOADER, '--list', '/usr/bin/fio'], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True)
    if p.returncode or 'not found' in p.stdout:
        raise guest.GuestError(f'fio lacks libraries: {p.stdout.strip()[-200:]}')
    return ['/usr/bin/fio', LOADER] + [line.split('=>')[1].split()[0] for line in p.stdout.splitlines() if '=> /' in line]


def fio_image():
    """A disk with fio and just the libraries it loads, in places of their own."""
    root = guest.root_tree('fio', PACKAGES)
    with open(__file__, 'rb') as f:
        key = hashlib.sha256(f.read() + root.encode()).hexdigest()[:12]
    path = os.path.join(guest.CACHE, f'fio-{key}.img')
    with guest.locked('fio-disk'):
        if not os.path.exists(path):
            tree = path + '.tree'
            for name in needed(root):
                to = tree + name
                os.makedirs(os.path.dirname(to), exist_ok=True)
                shutil.copy(os.path.realpath(root + name), to)
            for d in ('dev', 'proc', 'sys', 'tmp'):
                os.makedirs(os.path.join(tree, d), exist_ok=True)
            guest.ext4_tree(path, 192 << 20, tree)
            shutil.rmtree(tree)
    return path


def initrd():
    k = guest.Kernel()
    start = ('mount -t ext4 -o ro /dev/vda /data && mount -t proc proc /data/proc && mount -t sysfs s /data/sys && mount --bind /dev /data/dev '
             '&& mount -t tmpfs t /data/tmp && echo "fio on /data"\n')
    with open(guest.__file__, 'rb') as f:
        recipe = hashlib.sha256(f.read() + start.encode()).hexdigest()[:8]
    path = os.path.join(guest.CACHE, f'bench-fio-{k.release}-{recipe}.cpio')
    with guest.locked('bench-fio-initrd'):
        if not os.path.exists(path):
            guest.initramfs(path, k, modules=('virtio_pci', 'virtio_blk', 'ext4', 'crc32c_generic'), start=start)
    return k.image, path


def drives(fio, raw, q, raw2):
    """Four disks: fio's own and the three that are measured. The images are each guest's own, so both may stay up."""
    def disk(n, file, fmt, dev='', opt=''):
        return ['-drive', f'file={file},format={fmt},if=none,id=d{n}{opt}', '-device', f'virtio-blk-pci,drive=d{n}{dev}']
    return ['-object', 'iothread,id=io0', *disk(0, fio, 'raw', opt=',readonly=on'), *disk(1, raw, 'raw'), *disk(2, q, 'qcow2'),
            *disk(3, raw2, 'raw', dev=',iothread=io0')]


class Guests:
    """Both machines, up as long as the block runs; raw and q are copied for each."""

    def __init__(self, tmp, raw, q, exes, accel):
        kernel, ird = initrd()
        fio = fio_image()
        self.m, self.files = {}, []
        try:
            for who, exe in exes.items():
                mine = [os.path.join(tmp, f'guest-{who}-{i}') for i in range(3)]
                for src, to in zip((raw, q, raw), mine):
                    self.files.append(to)
                    subprocess.run(['cp', '--sparse=always', src, to], check=True)
                    with open(to, 'rb') as f:  # holes too get into the page cache
                        while f.read(1 << 20):
                            pass
                self.m[who] = common.Machine(who, exe, kernel, ird, extra=drives(fio, *mine), accel=accel)
        except BaseException:
            self.close()
            raise

    def rates(self, who, disk, seconds):
        """([bytes per second of each job], emulator's CPU seconds for all) on the disk of that number, one job after the other."""
        jobs = ' '.join(f'--name=j{i} --stonewall {job}' for i, (_, job) in enumerate(JOBS))
        out = self.m[who].sh(f'chroot /data /usr/bin/fio --filename=/dev/vd{"bcd"[disk]} --direct=1 --ioengine=libaio --time_based '
                             f'--runtime={seconds} --ramp_time=500ms --randseed=7 --norandommap --output-format=json {jobs} 2>/dev/null', 300)
        found = json.loads(out[out.index('{'):out.rindex('}') + 1])['jobs']
        return [j['read']['bw_bytes'] + j['write']['bw_bytes'] for j in found], self.m[who].cpu

    def peak_kib(self, who):
        """After the job, each page once: a translator's code may be mapped at two places, which the high-water mark counts twice."""
        with open(f'/proc/{self.m[who].pid}/smaps_rollup') as f:
            return [int(line.split()[1]) for line in f if line.startswith('Pss:')][0]

    def close(self):
        for m in self.m.values():
            m.close()
        for f in self.files:
            if os.path.exists(f):
                os.unlink(f)
