"""lyrebird binfmt and the table of system calls."""
import os
import subprocess
import sys

import pytest

from conftest import ROOT, need, program

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from progs import M32, build, run, translator  # noqa: E402

MAGIC = '7f454c460201010000000000000000000200b700'
MASK = 'ffffffffffffff00fffffffffffffffffeffffff'


def in_namespace(tmp_path, script):
    """A shell with binfmt_misc of its own mounted on $D (user namespaces have had their own since Linux 6.7)."""
    need('unshare', 'util-linux')
    d = tmp_path / 'misc'
    d.mkdir(exist_ok=True)
    r = subprocess.run(['unshare', '--user', '--map-root-user', '--mount', 'sh', '-ec',
                        f'D={d}; B="{program("lyrebird")} binfmt"; mount -t binfmt_misc none $D; {script}'],
                       capture_output=True, text=True, timeout=60)
    if 'mount:' in r.stderr or 'unshare:' in r.stderr:
        pytest.skip('host: no binfmt_misc in a user namespace: ' + r.stderr.strip())
    return r


@pytest.mark.proves('F-USR-04', 'F-USR-07', 'S349', 'S350', 'S351', 'N-96')
def test_rules_have_the_magic_mask_and_flags(tmp_path):
    r = in_namespace(tmp_path, '$B register --dir=$D; ls $D; cat $D/qemu-aarch64; $B list --dir=$D; '
                               '$B remove --dir=$D aarch64; ls $D')
    assert r.returncode == 0, r.stderr
    out = r.stdout
    for want in ('enabled', 'flags: POCF', 'offset 0', 'magic ' + MAGIC,
                 'mask ' + MASK, 'qemu-riscv64', 'qemu-arm'):
        assert want in out
    assert 'interpreter ' + os.path.join(os.path.dirname(program('lyrebird')), 'qemu-aarch64-static') in out
    assert out.rstrip().split('\n')[-4:] == ['qemu-arm', 'qemu-riscv64', 'register', 'status']


@pytest.mark.proves('F-USR-04', 'F-USR-06', 'N-96')
def test_the_kernel_starts_programs_through_the_rule(tmp_path):
    src = tmp_path / 'u.c'
    src.write_text('#include <stdio.h>\n#include <sys/utsname.h>\nint main(int c, char **v) '
                   '{ struct utsname u; uname(&u); printf("%s %s %d\\n", u.machine, v[0], c); return 0; }\n')
    exe = tmp_path / 'u'
    if subprocess.run(['gcc', '-static', '-o', str(exe), str(src), *M32], capture_output=True).returncode:
        pytest.skip('gcc cannot build for i386')
    r = in_namespace(tmp_path, f'$B register --dir=$D i386; cd {tmp_path}; ./u a b; mkdir -p root; cp u root/; chroot root /u x')
    assert r.stdout == 'i686 ./u 3\ni686 /u 2\n', r.stderr


@pytest.mark.proves('F-USR-04')
def test_the_machines_own_architecture_needs_to_be_asked_for(tmp_path):
    r = in_namespace(tmp_path, '$B register --dir=$D x86_64 || :; ls $D; $B register --own --dir=$D x86_64; /bin/uname -m; '
                               'readlink /proc/self/exe; grep -c . $D/qemu-x86_64; $B remove --dir=$D x86_64; ls $D')
    assert r.stdout.split() == ['register', 'status', 'x86_64', os.path.realpath('/usr/bin/readlink'), '6', 'register', 'status'], r.stderr
    assert r.stderr.count('own architecture') == 1 and len(r.stderr.splitlines()) == 1


@pytest.mark.proves('F-USR-04', 'F-USR-05', 'S349')
def test_files_for_systemd(tmp_path):
    assert run([program('lyrebird'), 'binfmt', 'register', f'--systemd={tmp_path}', '--bin=/usr/bin', 'aarch64'])[0] == 0
    text = (tmp_path / 'qemu-aarch64-static.conf').read_text()
    assert text == (r':qemu-aarch64:M::\x7f\x45\x4c\x46\x02\x01\x01' + r'\x00' * 9 + r'\x02\x00\xb7\x00:' + r'\xff' * 7 + r'\x00' +
                    r'\xff' * 8 + r'\xfe\xff\xff\xff:/usr/bin/qemu-aarch64-static:FPC' + '\n')


@pytest.mark.proves('F-USR-04')
def test_what_cannot_be_registered_is_refused():
    b = [program('lyrebird'), 'binfmt', 'register', '--dir=/nonexistent']
    assert b'not mounted' in run(b)[2]
    assert b'mount -t binfmt_misc' in run(b)[2]
    assert b"'vax'" in run([program('lyrebird'), 'binfmt', 'show', 'vax'])[2]
    assert run([program('lyrebird'), 'binfmt', 'register', '--flags=XY'])[0] == 1


@pytest.mark.proves('F-USR-01', 'N-95')
def test_the_table_of_system_calls_is_true():
    assert subprocess.run([sys.executable, os.path.join(ROOT, 'tools/syscalls.py')], capture_output=True).returncode == 0
