"""Network cards from inside Linux on the user-mode network: DHCP, DNS address, TCP out and in, both large enough to wrap rings."""
import hashlib
import os
import socket
import subprocess
import threading

import pytest

import seeds
from conftest import host_lacks, need
from guest import START
from linux import Linux
from netns import Net
from run import serve

CARDS = {  # line (None: no word about networks), modules, what it proves
    'default': (None, ('e1000',), ('F-NET-01', 'F-NET-02', 'F-NET-04', 'F-NET-24', 'S020')),
    'virtio': ('S128', ('virtio_pci', 'virtio_net'), ('F-NET-01', 'F-NET-04', 'F-NET-23', 'F-VIO-03', 'F-GST-01', 'S128', 'S135')),
    'virtio-q35': ('S132', ('virtio_pci', 'virtio_net'), ('F-NET-23', 'F-VIO-03', 'F-VIO-12', 'S132')),
    'rtl8139': ('S131', ('8139cp',), ('F-NET-25', 'S131')),
    'net': ('S158', ('e1000',), ('F-NET-17', 'S154', 'S158')),
}
BLOB = os.urandom(1 << 20) * 3


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.mark.limit(300)
@pytest.mark.parametrize('card', [pytest.param(c, id=c, marks=pytest.mark.proves(*CARDS[c][2])) for c in CARDS])
def test_dhcp_and_tcp_both_ways(card):
    line, modules, _ = CARDS[card]
    port = free_port()
    web = serve(BLOB)
    args = ['-M', 'q35' if 'q35' in card else 'pc', *(seeds.words(line)[1] if line else []), *(seeds.words('S154')[1] if card == 'net' else [])]
    try:
        with Linux(args, (*modules, 'af_packet'), START) as g:
            assert g.sh('cat /sys/class/net/eth0/address') == '52:54:00:12:34:56'
            assert '10.0.2.15/24' in g.sh('ip -4 addr show')
            assert 'nameserver 10.0.2.3' in g.sh('cat /etc/resolv.conf')
            assert 'default via 10.0.2.2' in g.sh('ip route')
            got = g.sh(f'wget -q -O - http://10.0.2.2:{web.server_address[1]}/ | sha256sum', 120)
            assert hashlib.sha256(BLOB).hexdigest() in got
            assert g.qmp.call('human-monitor-command', command_line=f'hostfwd_add tcp:127.0.0.1:{port}-:9999') == ''
            g.sh('(sleep 300 | nc -l -p 9999 >/tmp/in) & sleep 1')
            with socket.create_connection(('127.0.0.1', port), timeout=60) as s:
                s.sendall(BLOB)
            g.sh(f'while [ $(stat -c %s /tmp/in) -lt {len(BLOB)} ]; do sleep 0.2; done', 150)
            assert hashlib.sha256(BLOB).hexdigest() in g.sh('sha256sum </tmp/in')
            g.poweroff()
    finally:
        web.shutdown()


@pytest.mark.limit(300)
@pytest.mark.proves('F-NET-25')
def test_a_driver_whose_interrupt_comes_again_at_once_gets_on():
    """Linux's 8139cp unmasks receive interrupts after napi_complete_done(). When the card interrupts between the two (it has sent something), the handler
    schedules the poll anew; the line then stays asserted until that poll, which the line must let run. A probe behind napi_complete_done() makes the moment long."""
    web = serve(BLOB)
    slow = 'for i in $(seq 12); do echo "r:w$i napi_complete_done" >>kprobe_events; echo stacktrace >events/kprobes/w$i/trigger; echo 1 >events/kprobes/w$i/enable; done'
    try:
        with Linux(['-M', 'pc', *seeds.words('S131')[1]], ('8139cp', 'af_packet'), START) as g:
            g.sh(f'mount -t tracefs t /sys/kernel/tracing && cd /sys/kernel/tracing && {slow}; cd /')
            before = 0
            for _ in range(100):
                got = g.sh(f'wget -q -O - http://10.0.2.2:{web.server_address[1]}/ | sha256sum', 60)
                assert hashlib.sha256(BLOB).hexdigest() in got
                now = int(g.sh("awk '/eth0/ {print $2}' /proc/interrupts"))
                if now - before > 500:  # a download takes a hundred
                    break
                before = now
            else:
                pytest.skip('the moment was never met')
            g.poweroff()
    finally:
        web.shutdown()


class Resolver(threading.Thread):
    """A name server that knows one name, on port 53 of the loopback device."""

    def __init__(self, name, addr):
        super().__init__(daemon=True)
        self.want = b''.join(bytes([len(p)]) + p.encode() for p in name.split('.')) + b'\0'
        self.addr = socket.inet_aton(addr)
        self.s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.s.bind(('127.0.0.1', 53))
        self.start()

    def run(self):
        while True:
            q, who = self.s.recvfrom(512)
            name = q[12:q.index(b'\0', 12) + 1]
            kind = q[12 + len(name):12 + len(name) + 2]
            hit = name.lower() == self.want and kind == b'\0\1'
            head = q[:2] + (b'\x85\x80' if name.lower() == self.want else b'\x85\x83') + b'\0\1' + bytes([0, hit]) + b'\0\0\0\0'
            answer = b'\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4' + self.addr if hit else b''
            self.s.sendto(head + q[12:16 + len(name)] + answer, who)


@pytest.mark.limit(300)
@pytest.mark.proves('F-NET-01', 'F-NET-04', 'F-NET-05', 'F-NET-27', 'F-PRG-22', 'S133', 'S134', 'S139', 'S141', 'S161')
def test_names_forwards_and_isolation(tmp_path):
    """First card: the name server is relayed, ports 2222 (TCP), 5300 (UDP) and 2424 (TCP over IPv6) lead to the guest. Second card: restricted, but its
    forward works."""
    net = Net()
    if not net.own:
        host_lacks('the right to make a network namespace')
    (tmp_path / 'resolv.conf').write_text('nameserver 127.0.0.1\n')
    args = ['-M', 'pc', *seeds.words('S133')[1], *seeds.words('S134')[1][:-1], seeds.words('S134')[1][-1] + ',hostfwd=udp::5300-:5300,hostfwd=tcp:[::1]:2424-[fec0::5054:ff:fe12:3456]:24',
            '-netdev', 'user,id=shut,restrict=y,net=10.9.9.0/24,ipv6-prefix=fec0:9::,hostfwd=tcp::2323-:23', '-device', 'virtio-net-pci,netdev=shut,mac=52:54:00:12:34:99']
    with net:
        Resolver('answer.lyrebird.test', '10.1.2.3')
        web = serve(BLOB, port=8000)
        with Linux(args, ('virtio_pci', 'virtio_net', 'af_packet'), START, wrap=(
                'unshare', '-m', 'sh', '-c', f'mount --bind {tmp_path}/resolv.conf /etc/resolv.conf && exec "$@"', 'x')) as g:
            a, b = ('eth0', 'eth1') if g.sh('cat /sys/class/net/eth1/address').endswith(':99') else ('eth1', 'eth0')
            assert '10.0.2.15/24' in g.sh(f'ip -4 addr show {a}') and '10.9.9.15/24' in g.sh(f'ip -4 addr show {b}')
            assert 'fe80::' in g.sh(f'ip addr show {b}')  # a lease must not take the addresses of IPv6 away, however late it comes
            assert '10.1.2.3' in g.sh('nslookup answer.lyrebird.test 10.0.2.3')
            g.sh('for p in 22 23 24; do (sleep 300 | nc -l -p $p >/tmp/in$p) & done; sleep 1')  # nc reads its input too
            for here, there in ((('127.0.0.1', 2222), 22), (('127.0.0.1', 2323), 23), (('::1', 2424), 24)):
                with socket.create_connection(here, timeout=30) as s:
                    s.sendall(b'for port %d\n' % there)
                    g.sh(f'for i in $(seq 250); do [ -s /tmp/in{there} ] && break; sleep 0.2; done', 100)
                assert g.sh(f'cat /tmp/in{there}') == f'for port {there}', g.sh('ip addr; ip neigh; netstat -ltn; ps | grep nc; grep virtio /proc/interrupts; dmesg | tail -5', 60) + \
                    g.qmp.call('human-monitor-command', command_line='info usernet')
            # BusyBox has nothing that listens for datagrams: the kernel counts those for which nobody does.
            nobody = "awk '/^Udp: [0-9]/ {print $3}' /proc/net/snmp"
            before = int(g.sh(nobody))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.sendto(b'a datagram\n', ('127.0.0.1', 5300))
            g.sh(f'for i in $(seq 250); do [ $({nobody}) != {before} ] && break; sleep 0.2; done')
            assert int(g.sh(nobody)) == before + 1
            fetch = 'timeout 5 wget -q -O /dev/null http://{}:8000/ 2>/dev/null && echo reached || echo not'
            assert g.sh(fetch.format('10.0.2.2'), 60) == 'reached'
            assert g.sh(fetch.format('10.9.9.2'), 60) == 'not'
            g.poweroff()
        web.shutdown()


@pytest.mark.limit(300)
@pytest.mark.proves('F-NET-09', 'F-NET-23', 'F-NET-24', 'S130', 'S143')
def test_tap_devices_carry_frames_both_ways():
    """A virtio card on tap0 and an e1000 on tap1, each reaching the host by TCP and reached from it."""
    need('ip', 'iproute2')
    net = Net()
    if not net.own or not os.path.exists('/dev/net/tun'):
        host_lacks('root and /dev/net/tun')
    args = ['-M', 'pc', *seeds.words('S130')[1], *seeds.words('S144')[1]]
    with net:
        with Linux(args, ('virtio_pci', 'virtio_net', 'e1000'), start='') as g:
            macs = g.sh('for n in /sys/class/net/eth*; do echo ${n##*/} $(readlink $n/device/driver); done')
            for i, driver in enumerate(('virtio_net', 'e1000')):
                card = next(line.split()[0] for line in macs.split('\n') if line.endswith(driver))
                subprocess.run(f'ip addr add 10.7.{i}.1/24 dev tap{i} && ip link set tap{i} up', shell=True, check=True)
                g.sh(f'ip addr add 10.7.{i}.2/24 dev {card}; ip link set {card} up')
                with socket.create_server((f'10.7.{i}.1', 8000)) as here:
                    def give():
                        with here.accept()[0] as s:
                            s.sendall(BLOB)
                    threading.Thread(target=give, daemon=True).start()
                    assert hashlib.sha256(BLOB).hexdigest() in g.sh(f'nc 10.7.{i}.1 8000 | sha256sum', 60)
                g.sh('(sleep 300 | nc -l -p 22 >/tmp/in) & sleep 1')
                with socket.create_connection((f'10.7.{i}.2', 22), timeout=30) as s:
                    s.sendall(b'hello\n')
                    g.sh('for i in $(seq 250); do [ -s /tmp/in ] && break; sleep 0.2; done')
                assert g.sh('cat /tmp/in; rm /tmp/in') == 'hello'
            addresses = g.sh('cat /sys/class/net/eth*/address').split()
            assert len(set(addresses)) == 2
            g.poweroff()
        assert 'tap' not in subprocess.run(['ip', 'link'], capture_output=True, text=True).stdout
