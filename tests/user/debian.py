#!/usr/bin/env python3
"""Foreign Debian trees: made by debootstrap --foreign, finished and used by a translator that the kernel starts through
binfmt_misc, in a chroot with name spaces of its own (binfmt_misc is per user name space since Linux 6.7, so that nothing is
registered on this machine). Needs root, for the range of user ids; making a tree needs the network and debootstrap.

  debian.py --enter ARCH TREE TRANSLATOR -- COMMAND...     COMMAND in TREE (ARCH as in qemu-<arch>)
  debian.py --by arch-chroot|systemd-nspawn PROGRAM ARCH TREE TRANSLATOR -- COMMAND...    the same, entered by that program
  debian.py --make DEBIAN-ARCH [PACKAGE...]                prints the folder of a finished tree with the packages"""
import contextlib
import ctypes
import fcntl
import glob
import os
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CACHE = os.environ.get('LYREBIRD_CACHE') or os.path.join(ROOT, '.cache')
BUILD = os.environ.get('LYREBIRD_BUILD') or os.path.join(ROOT, 'build')
ARCH = {'arm64': 'aarch64', 'i386': 'i386', 'amd64': 'x86_64', 'armhf': 'arm', 'riscv64': 'riscv64'}
SUITE = {'riscv64': 'trixie'}  # the first Debian that has it; the others are Debian 12
NEWNS, NEWUSER, NEWPID = 0x20000, 0x10000000, 0x20000000
BEGIN = r'''
tree=$1 lyrebird=$2 arch=$3 bin=$4 misc=$5; shift 5
mount --make-rprivate /
mount -t binfmt_misc none $misc
HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive
export HOME PATH LC_ALL DEBIAN_FRONTEND
unset XDG_CACHE_HOME LYREBIRD_TCACHE TMPDIR
"$lyrebird" binfmt register --own --dir=$misc --bin=$bin $arch
'''
INSIDE = BEGIN + r'''
mount -t proc proc $tree/proc
mount --rbind /sys $tree/sys
mount --rbind /dev $tree/dev
mount -t tmpfs none $tree/run
mount -t tmpfs none $tree/dev/shm
cp -L /etc/resolv.conf $tree/etc/resolv.conf 2>/dev/null || true
exec chroot $tree "$@"
'''
# Programs that mount what they need themselves. sysfs wants a network of its own; arch-chroot a range of user ids; systemd-nspawn
# the unified hierarchy of control groups (another may not be mounted in a user name space).
OWN = BEGIN + r'''
by=$1 program=$2; shift 2
mount -t proc proc /proc
mount -t tmpfs none /run
export by program tree
exec unshare --net --cgroup sh -ec '
    if [ $by = arch-chroot ]; then
        echo root:0:65536 > /run/subid
        touch /etc/subuid /etc/subgid
        mount --bind /run/subid /etc/subuid
        mount --bind /run/subid /etc/subgid
        exec "$program" -N "$tree" "$@"
    fi
    mount -t cgroup2 none /sys/fs/cgroup
    LD_LIBRARY_PATH=$NSPAWN_LIBS exec "$program" -q --register=no --keep-unit -D "$tree" "$@"' sh "$@"
'''


class NotHere(Exception):
    """This machine lacks what is needed; the text says what."""


def unshare(flags):
    if ctypes.CDLL(None, use_errno=True).unshare(flags):
        raise OSError(ctypes.get_errno(), 'unshare')


def die_with_parent():
    """Nothing stays behind of a test that is stopped; to be said after the last change of ids."""
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG


def name_spaces(pipe):
    """In the child: name spaces of its own; waits for its ids. Returns in a child of process 1 of the new one."""
    unshare(NEWUSER)
    os.write(pipe[1], b'x')
    os.read(pipe[2], 1)
    os.setgid(0)
    os.setuid(0)
    unshare(NEWNS | NEWPID)
    pid = os.fork()
    die_with_parent()
    if pid:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 255)
    pid = os.fork()  # whose program may change its rights, and then no longer dies with its parent: process 1 does not
    while pid:
        done, status = os.wait()
        if done == pid:
            os._exit(os.waitstatus_to_exitcode(status) & 255)


@contextlib.contextmanager
def alone(path):
    """Nobody else has the tree, or the file, meanwhile: trees are kept, and shared by all who use one cache."""
    fd = os.open(path, os.O_RDONLY | (0 if os.path.isdir(path) else os.O_CREAT), 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def enter(arch, tree, translator, command, by=()):
    """Exit status of command in the tree; by: (name of another program to enter it, its path)."""
    if os.geteuid():
        raise NotHere('needs root: a range of user ids is mapped')
    with alone(tree):
        return enter_alone(arch, tree, translator, command, by)


def enter_alone(arch, tree, translator, command, by):
    tmp = tempfile.mkdtemp()
    try:
        os.mkdir(tmp + '/misc')
        os.symlink(os.path.realpath(translator), f'{tmp}/qemu-{arch}-static')
        a, b = os.pipe(), os.pipe()
        pid = os.fork()
        if not pid:
            try:
                name_spaces((a[0], a[1], b[0]))
                os.environ['container'] = 'lxc'  # debootstrap: do not try to make devices
                os.execvp('sh', ['sh', '-ec', OWN if by else INSIDE, 'sh', tree, f'{BUILD}/src/cmd/lyrebird', arch, tmp, tmp + '/misc', *by,
                                 *command])
            finally:
                os._exit(125)
        os.close(a[1])
        if os.read(a[0], 1):
            for kind in ('uid', 'gid'):
                with open(f'/proc/{pid}/{kind}_map', 'w', encoding='utf-8') as f:
                    f.write('0 0 65536\n')
            os.write(b[1], b'x')
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 255
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def sources():
    """(Address of Debian's archive, suite) from this machine's own lists."""
    for path in glob.glob('/etc/apt/sources.list.d/*.sources') + ['/etc/apt/sources.list', *glob.glob('/etc/apt/sources.list.d/*.list')]:
        try:
            with open(path, encoding='utf-8') as f:
                for line in f:
                    w = line.split()
                    if w[:1] == ['URIs:']:
                        return w[1]
                    if w[:1] == ['deb']:
                        return next(x for x in w[1:] if '://' in x)
        except OSError:
            continue
    raise NotHere('no list of packages')


def run(deb_arch, tree, *command):
    arch = ARCH[deb_arch]
    s = enter(arch, tree, f'{BUILD}/bin/qemu-{arch}', command)
    if s:
        raise RuntimeError(f'{deb_arch}: {" ".join(command)[:80]} ended with status {s}')


def make(deb_arch, packages=()):
    """Folder of a finished tree with the packages; kept."""
    suite = SUITE.get(deb_arch, 'bookworm')
    tree = os.path.join(CACHE, f'foreign-{deb_arch}')
    with alone(tree + '.lock'):
        return make_alone(deb_arch, suite, tree, packages)


def make_alone(deb_arch, suite, tree, packages):
    archive = sources()
    if not os.path.exists(tree + '/.finished'):
        if not shutil.which('debootstrap'):
            raise NotHere('debootstrap is not installed')
        shutil.rmtree(tree, ignore_errors=True)
        subprocess.run(['debootstrap', '--foreign', f'--arch={deb_arch}', '--variant=minbase', suite, tree, archive], check=True, stdout=sys.stderr)
        if os.path.islink(tree + '/proc'):  # debootstrap's way in some containers
            os.unlink(tree + '/proc')
            os.mkdir(tree + '/proc')
        run(deb_arch, tree, '/debootstrap/debootstrap', '--second-stage')
        with open(tree + '/etc/apt/sources.list', 'w', encoding='utf-8') as f:
            f.write(f'deb {archive} {suite} main\ndeb-src {archive} {suite} main\n')
        run(deb_arch, tree, 'apt-get', '-q', 'update')
        open(tree + '/.finished', 'w', encoding='utf-8').close()
    if packages:
        run(deb_arch, tree, 'dpkg', '--configure', '-a')  # where an earlier try was stopped
        run(deb_arch, tree, 'apt-get', '-q', '-y', '--no-install-recommends', 'install', *packages)
    return tree


def build_tree(deb_arch, source='zlib'):
    """A tree with what builds Debian packages, and the source in /root/src."""
    tree = make(deb_arch, ('build-essential', 'debhelper', 'fakeroot'))
    if not glob.glob(f'{tree}/root/src/{source}-*/debian'):
        run(deb_arch, tree, 'sh', '-c', f'mkdir -p /root/src && cd /root/src && apt-get -q source {source}')
    return tree


def main():
    die_with_parent()
    if len(sys.argv) > 6 and sys.argv[1] == '--enter' and sys.argv[5] == '--':
        return enter(sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[6:])
    if len(sys.argv) > 8 and sys.argv[1] == '--by' and sys.argv[7] == '--':
        return enter(sys.argv[4], sys.argv[5], sys.argv[6], sys.argv[8:], sys.argv[2:4])
    if len(sys.argv) > 2 and sys.argv[1] == '--make':
        print(make(sys.argv[2], sys.argv[3:]))
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == '__main__':
    sys.exit(main())
