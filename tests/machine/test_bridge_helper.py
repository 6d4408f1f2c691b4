"""The bridge helper's access list and its work, in a network and mount namespace of its own."""
import hashlib
import os
import subprocess
import sys
import textwrap

import pytest

import guest
import seeds
from conftest import host_lacks, need, program
from linux import Linux
from netns import Net
from run import serve

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


BLOB = os.urandom(1 << 20)


def bridge(folder, i):
    """br<i> with an address, and a server of addresses on it: the process."""
    subprocess.run(f'ip link add br{i} type bridge && ip addr add 10.8.{i}.1/24 dev br{i} && ip link set br{i} up', shell=True, check=True)
    conf = folder / f'udhcpd{i}.conf'
    conf.write_text(f'start 10.8.{i}.20\nend 10.8.{i}.29\ninterface br{i}\noption subnet 255.255.255.0\nlease_file {folder}/leases{i}\npidfile {folder}/pid{i}\n')
    (folder / f'leases{i}').touch()
    return subprocess.Popen([guest.busybox(), 'udhcpd', '-f', conf], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.limit(300)
@pytest.mark.proves('F-PRG-14', 'F-NET-12', 'S150', 'S167', 'S168')
def test_linux_gets_an_address_and_downloads_over_bridges(tmp_path):
    """Two cards on br0, one on br1; each is served by its own bridge, and no TAP device is left."""
    helper = program('qemu-bridge-helper')
    need('ip', 'iproute2')
    net = Net()
    if not net.own or not os.path.exists('/dev/net/tun'):
        host_lacks('root and /dev/net/tun')
    (tmp_path / 'bridge.conf').write_text('allow br0\nallow br1\n')
    (tmp_path / 'etc').mkdir()
    own_etc = (f'cd {tmp_path} && mount -t tmpfs none etc && cp -a /etc/. etc/ && rm -rf etc/qemu && mkdir etc/qemu && cp bridge.conf etc/qemu/'
               ' && mount --bind etc /etc && mount -t sysfs none /sys && exec "$@"')
    subprocess.run([program('qemu-img'), 'create', '-q', '-f', 'qcow2', tmp_path / 'disk1.qcow2', '4M'], check=True)
    put = {'disk1.qcow2': str(tmp_path / 'disk1.qcow2'), 'bridge': f'bridge,helper={helper}'}
    args = ['-M', 'pc', *seeds.words('S150', put=put)[1], *seeds.words('S167', put=put)[1], *seeds.words('S168', put=put)[1]]
    with net:
        if subprocess.run(['ip', 'link', 'add', 'probe', 'type', 'bridge'], capture_output=True).returncode:
            host_lacks('the host kernel has no bridges')
        served = []
        try:
            served = [bridge(tmp_path, i) for i in range(2)]
            web = serve(BLOB, '0.0.0.0', 8000)
            with Linux(args, ('virtio_pci', 'virtio_net', 'e1000', 'af_packet'), guest.START, wrap=('unshare', '-m', 'sh', '-c', own_etc, 'x')) as g:
                cards = dict(line.split() for line in g.sh('for n in /sys/class/net/eth*; do echo $(cat $n/address) ${n##*/}; done').split('\n'))
                assert sorted(cards) == [f'52:54:00:12:34:{n}' for n in (56, 57, 58)]
                for mac, i in zip(sorted(cards), (0, 1, 0)):  # the cards of -nic come first
                    card = cards[mac]
                    assert f'inet 10.8.{i}.2' in g.sh(f'ip -4 addr show {card}'), g.sh('ip addr')
                    # The cards of one network answer for each other: only the one asked stays up.
                    g.sh(f'for c in {" ".join(cards.values())}; do ip link set $c down; done; ip link set {card} up')
                    assert hashlib.sha256(BLOB).hexdigest() in g.sh(f'wget -q -O - http://10.8.{i}.1:8000/ | sha256sum', 60)
                taps = {i: len(os.listdir(f'/proc/{g.s.p.pid}/root/sys/class/net/br{i}/brif')) for i in range(2)}
                assert taps == {0: 2, 1: 1}
                g.poweroff()
            assert 'tap' not in subprocess.run(['ip', 'link'], capture_output=True, text=True).stdout
            web.shutdown()
        finally:
            for p in served:
                p.kill()
                p.wait()
