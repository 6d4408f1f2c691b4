"""The bridge helper's access list and its work, in a network and mount namespace of its own."""
import os
import subprocess
import sys
import textwrap

import pytest

from conftest import host_lacks, need, program

CHILD = textwrap.dedent('''
    import array, fcntl, os, socket, struct, subprocess, sys
    helper, bridge = sys.argv[1:3]
    ctl = socket.socket(socket.AF_INET)
    for name in ('br0', 'br1'):
        fcntl.ioctl(ctl, 0x89a0, name.encode() + b'\\0')   # SIOCBRADDBR
    a, b = socket.socketpair()
    os.set_inheritable(b.fileno(), True)
    r = subprocess.run([helper, '--use-vnet', f'--br={bridge}', f'--fd={b.fileno()}'], close_fds=False,
                       stderr=subprocess.PIPE, text=True)
    print(r.returncode, r.stderr.strip())
    if r.returncode == 0:
        _, anc, _, _ = a.recvmsg(1, socket.CMSG_SPACE(4))
        fd = struct.unpack('i', anc[0][2])[0]
        name = fcntl.ioctl(fd, 0x800454d2, b'\\0' * 40)[:16].split(b'\\0')[0].decode()   # TUNGETIFF
        print('tap', name, os.path.exists(f'/sys/class/net/{bridge}/brif/{name}'))
''')


def run(tmp_path, acl, bridge):
    helper = program('qemu-bridge-helper')
    need('unshare', 'util-linux')
    if not os.path.exists('/dev/net/tun') or os.geteuid() != 0:
        host_lacks('needs root and /dev/net/tun')
    (tmp_path / 'child.py').write_text(CHILD)
    (tmp_path / 'etc').mkdir()
    script = (f'cd {tmp_path} && mount -t tmpfs none etc && cp -a /etc/. etc/ && rm -rf etc/qemu && mkdir etc/qemu && mount --bind etc /etc'
              ' && mount -t sysfs none /sys')
    if acl is not None:
        (tmp_path / 'bridge.conf').write_text(acl)
        script += f' && cp {tmp_path}/bridge.conf /etc/qemu/bridge.conf'
    script += f' && exec {sys.executable} {tmp_path}/child.py {helper} {bridge}'
    r = subprocess.run(['unshare', '-nm', 'sh', '-c', script], capture_output=True, text=True, timeout=20)
    if not r.stdout and 'ermitted' in r.stderr + r.stdout:
        host_lacks('namespaces are not permitted here: ' + r.stderr.strip())
    return r.stdout


@pytest.mark.proves('F-PRG-14', 'F-NET-12', 'F-NET-14', 'S147', 'S166')
def test_an_allowed_bridge_gets_a_tap(tmp_path):
    out = run(tmp_path, '# comment\nallow br0\nallow br1\n', 'br1')
    if 'peration not' in out:
        host_lacks('the host kernel has no bridges: ' + out)
    assert out.startswith('0'), out
    assert 'tap tap0 True' in out


@pytest.mark.proves('F-PRG-14', 'F-NET-14', 'S147')
@pytest.mark.parametrize('acl,word', [
    ('allow br0\n', 'not allowed'), ('', 'not allowed'), (None, 'cannot read'), ('allow all\ndeny br1\n', 'not allowed'),
    ('permit br1\n', 'unknown word'), ('allow\n', 'expected'), ('include /etc/qemu/bridge.conf\n', 'cannot read'),
])
def test_others_are_refused_with_the_reason(tmp_path, acl, word):
    out = run(tmp_path, acl, 'br1')
    assert out.startswith('1') and word in out, out
    assert out.count('\n') == 1
