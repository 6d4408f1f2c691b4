"""Network cards from inside Linux on the user-mode network: DHCP, DNS address, TCP out and in, both large enough to wrap rings."""
import hashlib
import http.server
import os
import socket
import threading

import pytest

from guest import START
from linux import Linux

CARDS = {
    'virtio': (['-M', 'pc', '-nic', 'user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:{}-:9999'], ('virtio_pci', 'virtio_net')),
    'e1000': (['-M', 'pc', '-netdev', 'user,id=n,hostfwd=tcp:127.0.0.1:{}-:9999', '-device', 'e1000,netdev=n,mac=52:54:00:aa:bb:cc'], ('e1000',)),
    'rtl8139': (['-M', 'pc', '-net', 'nic,model=rtl8139', '-net', 'user,hostfwd=tcp:127.0.0.1:{}-:9999'], ('8139cp',)),
    'virtio-q35': (['-M', 'q35', '-device', 'virtio-net-pci,netdev=n', '-netdev', 'user,id=n,hostfwd=tcp:127.0.0.1:{}-:9999'],
                   ('virtio_pci', 'virtio_net')),
}
BLOB = os.urandom(1 << 20) * 3


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Files(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', str(len(BLOB)))
        self.end_headers()
        self.wfile.write(BLOB)

    def log_message(self, *a):
        pass


@pytest.mark.limit(300)
@pytest.mark.parametrize('card', CARDS)
def test_dhcp_and_tcp_both_ways(card):
    args, modules = CARDS[card]
    port = free_port()
    web = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Files)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        with Linux([a.format(port) for a in args], (*modules, 'af_packet'), START) as g:
            assert '10.0.2.15/24' in g.sh('ip -4 addr show')
            assert 'nameserver 10.0.2.3' in g.sh('cat /etc/resolv.conf')
            assert 'default via 10.0.2.2' in g.sh('ip route')
            got = g.sh(f'wget -q -O - http://10.0.2.2:{web.server_address[1]}/ | sha256sum', 120)
            assert hashlib.sha256(BLOB).hexdigest() in got
            g.sh('(sleep 300 | nc -l -p 9999 >/tmp/in) & sleep 1')
            with socket.create_connection(('127.0.0.1', port), timeout=60) as s:
                s.sendall(BLOB)
            g.sh(f'while [ $(stat -c %s /tmp/in) -lt {len(BLOB)} ]; do sleep 0.2; done', 60)
            assert hashlib.sha256(BLOB).hexdigest() in g.sh('sha256sum </tmp/in')
            if card == 'e1000':
                assert '52:54:00:aa:bb:cc' in g.sh('cat /sys/class/net/eth0/address')
            g.poweroff()
    finally:
        web.shutdown()
