"""virtio devices beyond disks and cards, from inside Linux: entropy, console and ports, balloon, packed rings, hot-plug."""
import socket
import time

import pytest

from linux import Linux

MODULES = ('virtio_pci', 'virtio_console', 'virtio_balloon', 'virtio_rng', 'virtio_net', 'virtio_blk')


@pytest.mark.limit(200)
@pytest.mark.proves('F-DEV-08', 'F-VIO-04', 'S269', 'S270', 'S271')
@pytest.mark.parametrize('source', ['rng-random,filename=/dev/urandom', 'rng-builtin', None])
def test_the_guest_gets_entropy(source):
    args = ['-object', f'{source},id=rng0', '-device', 'virtio-rng-pci,rng=rng0'] if source else ['-device', 'virtio-rng-pci']
    with Linux(args, MODULES) as g:
        assert 'virtio_rng' in g.sh('cat /sys/class/misc/hw_random/rng_current')
        assert len(set(g.sh('head -c 512 /dev/hwrng | od -An -v -tx1').split())) > 100
        g.poweroff()


@pytest.mark.limit(200)
@pytest.mark.proves('F-VIO-06')
@pytest.mark.parametrize('packed', ['off', 'on'])
def test_ports_and_console_carry_data(packed, tmp_path):
    args = ['-device', f'virtio-serial-pci,packed={packed},ioeventfd=on', '-chardev', f'socket,id=p,path={tmp_path}/p,server=on,wait=off',
            '-device', 'virtserialport,chardev=p,name=org.test.0,id=port', '-chardev', f'file,id=c,path={tmp_path}/c',
            '-device', 'virtconsole,chardev=c']
    with Linux(args, MODULES) as g:
        assert 'org.test.0' in g.sh('cat /sys/class/virtio-ports/*/name')
        s = socket.socket(socket.AF_UNIX)
        s.connect(str(tmp_path / 'p'))
        s.settimeout(10)
        g.sh('P=$(ls /dev/vport*p1); exec 7<>$P; echo from the guest >&7')
        assert s.recv(100) == b'from the guest\n'
        s.sendall(b'from the host\n')
        assert 'from the host' in g.sh('read -r line <&7; echo $line')
        big = bytes(range(33, 127)) * 700 + b'\n'
        s.sendall(big)
        assert str(len(big)) in g.sh('read -r line <&7; echo "$line" | wc -c')
        assert any(e['event'] == 'VSERPORT_CHANGE' and e['data'] == {'id': 'port', 'open': True} for e in _events(g))
        g.sh('echo on the console >/dev/hvc0')
        assert (tmp_path / 'c').read_text().strip() == 'on the console'
        g.poweroff()


def _events(g):
    g.sh('exec 7>&-; exec 7<>$P')
    g.qmp.call('query-status')
    time.sleep(0.2)
    g.sh('exec 7>&-; exec 7<>$P')
    g.qmp.call('query-status')
    return g.qmp.events


@pytest.mark.limit(200)
@pytest.mark.proves('F-MEM-08', 'F-MON-18', 'F-VIO-05')
def test_the_balloon_takes_and_gives_back(tmp_path):
    with Linux(['-device', 'virtio-balloon-pci,id=b,guest-stats-polling-interval=1'], MODULES) as g:
        def total():
            return int(g.sh('grep MemTotal /proc/meminfo').split()[1])
        before = total()
        assert g.qmp.call('query-balloon') == {'actual': 256 << 20}
        g.qmp.call('balloon', value=192 << 20)
        for _ in range(50):
            if g.qmp.call('query-balloon')['actual'] == 192 << 20:
                break
            time.sleep(0.2)
        assert before - total() in range(60 << 10, 70 << 10)
        g.qmp.wait_event('BALLOON_CHANGE')
        stats = g.qmp.call('qom-get', path='/machine/peripheral/b', property='guest-stats')
        for _ in range(50):
            if stats['last-update']:
                break
            time.sleep(0.2)
            stats = g.qmp.call('qom-get', path='/machine/peripheral/b', property='guest-stats')
        assert 0 < stats['stats']['stat-free-memory'] < 256 << 20
        g.qmp.call('balloon', value=256 << 20)
        for _ in range(50):
            if total() == before:
                break
            time.sleep(0.2)
        assert total() == before
        g.poweroff()


@pytest.mark.limit(200)
@pytest.mark.proves('F-VIO-01', 'F-VIO-03')
def test_packed_rings_and_synchronous_kicks_work(tmp_path):
    disk = tmp_path / 'd.img'
    disk.write_bytes(b'0123456789abcdef' * 65536)
    with Linux(['-drive', f'file={disk},format=raw,if=none,id=d', '-device', 'virtio-blk-pci,drive=d,packed=on,ioeventfd=off,event_idx=off',
                '-netdev', 'user,id=n', '-device', 'virtio-net,netdev=n,packed=on,indirect_desc=off'], (*MODULES, 'af_packet')) as g:
        assert g.sh('sha256sum </dev/vda').split()[0] == g.sh('yes 0123456789abcdef | tr -d "\\n" | head -c 1048576 | sha256sum').split()[0]
        g.sh('ifconfig eth0 up; udhcpc -i eth0 -n -q -t 3 -s /bin/true')
        g.poweroff()


@pytest.mark.limit(200)
@pytest.mark.proves('F-VIO-03')
def test_a_card_comes_and_goes_while_the_guest_runs():
    with Linux(['-M', 'pc', '-nic', 'none'], (*MODULES, 'af_packet')) as g:
        assert 'eth0' not in g.sh('ls /sys/class/net')
        g.qmp.call('netdev_add', type='user', id='hn')
        g.qmp.call('device_add', driver='virtio-net-pci', netdev='hn', id='hot')
        g.sh('for i in 1 2 3 4 5 6 7 8 9; do [ -e /sys/class/net/eth0 ] && break; sleep 0.5; done; ifconfig eth0 up; udhcpc -i eth0 -n -q -t 3 -s /bin/true')
        g.qmp.call('device_del', id='hot')
        assert g.qmp.wait_event('DEVICE_DELETED')['data']['device'] == 'hot'
        assert 'eth0' not in g.sh('ls /sys/class/net')
        g.qmp.call('netdev_del', id='hn')
        g.poweroff()
