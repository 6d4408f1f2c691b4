"""A foreign Debian in a chroot, its programs started by the kernel through binfmt_misc: short with a handful of packages, long
from debootstrap --foreign to databases and packages built."""
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import ROOT, program

sys.path.insert(0, os.path.join(ROOT, 'tools'))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import debian  # noqa: E402
import guest  # noqa: E402

PACKAGES = ('base-files', 'libc6', 'libc-bin', 'bash', 'dash', 'coreutils', 'libacl1', 'libattr1', 'libselinux1', 'libpcre2-8-0', 'libgmp10',
            'libtinfo6', 'grep', 'sed', 'findutils', 'perl-base', 'libcrypt1', 'python3.11-minimal', 'libpython3.11-minimal',
            'libpython3.11-stdlib', 'libexpat1', 'zlib1g', 'libgcc-s1')
SCRIPT = r'''
set -e
uname -m
for i in 1 2 3; do echo "line $i"; done | sed 's/line/row/' | grep -c row
find /etc -name 'deb*' | sort | head -1
perl -e 'print join(",", map { $_ ** 2 } 1 .. 5), "\n"'
python3.11 -S -c 'import os, sys; print(sys.byteorder, os.uname().machine, sum(range(1000)))'
x=0; for i in $(seq 40); do x=$((x + $(echo $i))); done; echo $x
(exit 7) || echo "status $?"
basename $(readlink /proc/self/exe)
'''
LONG = ('gcc', 'libc6-dev', 'python3', 'perl', 'git', 'nodejs', 'postgresql', 'systemd', 'systemd-container', 'build-essential', 'debhelper',
        'fakeroot')
JAVA = {'riscv64': 'openjdk-21-jdk-headless'}
WORK = r'''
set -e
cd /root; rm -rf t; mkdir t; cd t
printf '#include <stdio.h>\nint main(void) { printf("hello %%zu\\n", sizeof(long)); return 0; }\n' > h.c; gcc -O2 h.c -o h; ./h
python3 -c 'import json, hashlib; print(json.dumps({"a": hashlib.sha256(b"x").hexdigest()[:8]}))'
git init -q .; git config user.email a@b; git config user.name n; git add h.c; git commit -qm one; git log --format=%s
node -e 'console.log([1, 2, 3].map(x => x * 2).join())'
printf 'class A { public static void main(String[] a) { System.out.println("java " + 6 * 7); } }\n' > A.java; javac A.java; java A
perl -MList::Util=sum -e 'print "perl ", sum(1 .. 100), "\n"'
systemctl --version | cut -d' ' -f1 | head -1
cd /; v=$(pg_lsclusters -h | cut -d' ' -f1)
rm -rf /tmp/pg; mkdir /tmp/pg; chown postgres /tmp/pg; su postgres -c "/usr/lib/postgresql/$v/bin/initdb -D /tmp/pg" > /root/t/initdb
pg_ctlcluster $v main start; sleep 2
su postgres -c 'psql -Atc "select count(*), sum(x::bigint * x) from generate_series(1, 100000) x"'
pg_ctlcluster $v main stop
'''
OUT = ['hello 8', '{"a": "2d711642"}', 'one', '2,4,6', 'java 42', 'perl 5050', 'systemd', '100000|333338333350000']


def available(arch):
    if os.geteuid():
        pytest.skip('needs root: user ids are mapped into the name space')
    if not os.path.exists(program('qemu-' + debian.ARCH[arch])):
        pytest.skip('no translator for it')


def in_tree(arch, tree, *command, timeout=600, by=(), libs=''):
    q = program('qemu-' + debian.ARCH[arch])
    r = subprocess.run([sys.executable, debian.__file__, *(['--by', *by] if by else ['--enter']), debian.ARCH[arch], tree, q, '--', *command],
                       capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, env={**os.environ, 'NSPAWN_LIBS': libs})
    if 'binfmt_misc' in r.stderr and 'mount:' in r.stderr or 'unshare' in r.stderr or r.returncode == 125:
        pytest.skip('host: no binfmt_misc in a user name space: ' + (r.stderr.strip()[-200:] or 'it could not be entered'))
    return r


def short_tree(arch):
    try:
        tree = guest.root_tree(f'chroot-{arch}', PACKAGES, arch)
    except guest.GuestError as e:
        pytest.skip(f'packages: {e}')
    for d in ('proc', 'sys', 'dev', 'run', 'etc', 'tmp'):
        os.makedirs(f'{tree}/{d}', exist_ok=True)
    return tree


@pytest.mark.limit(1500)
@pytest.mark.proves('F-USR-04', 'F-USR-06', 'S346', 'S347')
@pytest.mark.parametrize('arch', ['arm64', 'armhf', 'i386', 'amd64'])
def test_programs_of_a_foreign_root_run_by_themselves(arch):
    available(arch)
    tree = short_tree(arch)
    r = in_tree(arch, tree, '/bin/bash', '-c', SCRIPT)
    machine = {'arm64': 'aarch64', 'armhf': 'armv7l', 'amd64': 'x86_64', 'i386': 'i686'}[arch]
    assert r.returncode == 0, r.stderr
    assert r.stdout.split('\n')[:-1] == [machine, '3', '/etc/debian_version', '1,4,9,16,25', f'little {machine} 499500', '820', 'status 7',
                                         'readlink']


SUID = r"""
#include <stdio.h>
#include <sys/auxv.h>
#include <unistd.h>
int main(void) { printf("%d %d %d\n", (int)getuid(), (int)geteuid(), (int)getauxval(AT_SECURE)); return 0; }
"""
CC = {'arm64': ['aarch64-linux-gnu-gcc'], 'armhf': ['arm-linux-gnueabihf-gcc'], 'i386': ['gcc', '-m32', '-I/usr/include/x86_64-linux-gnu'],
      'amd64': ['gcc']}


@pytest.mark.limit(1500)
def test_two_that_enter_a_tree_take_turns():
    """Trees are kept and shared: what installs and builds in one must have it alone."""
    available('arm64')
    tree = short_tree('arm64')
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(in_tree, 'arm64', tree, '/bin/sh', '-c', 'mkdir /root/alone && sleep 1; rmdir /root/alone') for _ in range(2)]
        for r in both:
            assert (r.result().returncode, r.result().stderr) == (0, '')


@pytest.mark.limit(1500)
def test_nothing_stays_in_a_tree_when_its_test_is_stopped():
    """Not even a program that has changed its rights, as apt-get does."""
    available('arm64')
    tree = short_tree('arm64')
    said = f'{tree}/root/stays-{os.getpid()}'
    work = f"""import os, time
os.setegid(7); os.seteuid(7); os.seteuid(0); os.setegid(0)
open('/root/{os.path.basename(said)}', 'w').close()
time.sleep(10)
os.rename('/root/{os.path.basename(said)}', '/root/{os.path.basename(said)}.late')"""
    p = subprocess.Popen([sys.executable, debian.__file__, '--enter', 'aarch64', tree, program('qemu-aarch64'), '--', '/usr/bin/python3.11', '-S', '-c', work],
                         stdout=subprocess.PIPE)
    while not os.path.exists(said) and p.poll() is None:
        time.sleep(0.1)
    p.kill()
    p.stdout.read()  # ends when nobody has it any more
    assert os.path.exists(said)
    os.unlink(said)


@pytest.mark.limit(1500)
@pytest.mark.proves('F-USR-05', 'S349', 'N-96')
@pytest.mark.parametrize('arch', ['arm64', 'armhf', 'i386', 'amd64'])
def test_set_uid_programs_get_their_rights(tmp_path, arch):
    available(arch)
    (tmp_path / 's.c').write_text(SUID)
    tree = short_tree(arch)
    name = f'/usr/local/suid-{os.getpid()}'
    exe = tree + name
    os.makedirs(os.path.dirname(exe), exist_ok=True)
    if subprocess.run([*CC[arch], '-static', '-o', exe, str(tmp_path / 's.c')], capture_output=True).returncode:
        pytest.skip(f'{CC[arch][0]} cannot build')
    os.chmod(exe, 0o4755)
    try:
        r = in_tree(arch, tree, '/usr/bin/python3.11', '-S', '-c', 'import os, sys; os.setuid(1000); os.execv(sys.argv[1], ["suid"])', name)
    finally:
        os.unlink(exe)
    assert r.stdout == '1000 0 1\n', r.stderr


@pytest.mark.limit(1500)
@pytest.mark.proves('F-USR-06')
@pytest.mark.parametrize('by,package', [('arch-chroot', 'arch-install-scripts'), ('systemd-nspawn', 'systemd-container')])
@pytest.mark.parametrize('arch', ['arm64', 'armhf'])
def test_other_programs_enter_a_foreign_root(arch, by, package):
    available(arch)
    tree = short_tree(arch)
    try:
        path = f'{guest.unpacked(package)}/usr/bin/{by}'
        libs = f'{guest.unpacked("libsystemd-shared")}/usr/lib/x86_64-linux-gnu/systemd'
    except guest.GuestError as e:
        pytest.skip(f'packages: {e}')
    r = subprocess.run(['ldd', path], capture_output=True, text=True, env={**os.environ, 'LD_LIBRARY_PATH': libs})
    if 'not found' in r.stdout:
        pytest.skip(f'{by}: libraries: {r.stdout}')
    r = in_tree(arch, tree, '/bin/sh', '-c', 'uname -m; echo $container; ls -d /proc/self', timeout=300, by=(by, path), libs=libs)
    if 'not permitted' in r.stderr or 'permission denied' in r.stderr:
        pytest.skip(f'host: {by}: ' + r.stderr.strip()[-200:])
    assert r.returncode == 0, r.stderr
    machine = {'arm64': 'aarch64', 'armhf': 'armv7l'}[arch]
    assert r.stdout.replace('\r', '').split() == [machine, {'arch-chroot': 'lxc'}.get(by, by), '/proc/self'], r.stderr


@pytest.mark.limit(1500)
@pytest.mark.proves('F-PRG-16', 'F-USR-01', 'F-USR-03', 'S346', 'S347', 'S348')
@pytest.mark.parametrize('arch', ['arm64', 'armhf'])
def test_ls_of_a_foreign_tree_lists(tmp_path, arch):
    """Outside the chroot too: its libraries are found in its own root."""
    tree = short_tree(arch)
    for name in ('b', 'a', 'c'):
        (tmp_path / name).write_text('x')
    r = subprocess.run([program(f'qemu-{debian.ARCH[arch]}-static'), f'{tree}/usr/bin/ls', str(tmp_path)], capture_output=True, text=True,
                       timeout=300)
    assert (r.returncode, r.stdout) == (0, 'a\nb\nc\n'), r.stderr


@pytest.mark.long
@pytest.mark.limit(20000)
@pytest.mark.proves('F-PRG-15', 'F-PRG-16', 'F-USR-01', 'F-USR-04', 'S346', 'S347', 'S348')
@pytest.mark.parametrize('arch', ['arm64', 'i386', 'amd64', 'armhf', 'riscv64'])
def test_a_debian_is_finished_used_and_builds(arch):
    available(arch)
    try:
        tree = debian.make(arch, (*LONG, JAVA.get(arch, 'openjdk-17-jdk-headless')))
        debian.build_tree(arch)
    except debian.NotHere as e:
        pytest.skip(str(e))
    r = in_tree(arch, tree, '/bin/sh', '-c', WORK, timeout=3000)
    assert r.returncode == 0, r.stderr[-2000:]
    want = list(OUT)
    if arch in ('i386', 'armhf'):
        want[0] = 'hello 4'
    assert [l for l in r.stdout.splitlines() if l][-len(want):] == want
    r = in_tree(arch, tree, '/bin/sh', '-c', 'cd /root/src && rm -rf run && cp -a zlib-*/ run && cd run && dpkg-buildpackage -b -uc -us -d -Pnobiarch && '
                'ls ../zlib1g_*.deb', timeout=6000)
    assert r.returncode == 0 and r.stdout.count('zlib test OK') == 1, r.stdout[-2000:]
