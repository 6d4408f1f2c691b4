"""NBD over TLS, with certificates and with shared keys: ours and the distribution's at either end."""
import os
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from blktool import Tool  # noqa: E402
from conftest import need, program

KEYS = 'qemu:0123456789abcdef0123456789abcdef\nother:fedcba98fedcba98fedcba98fedcba98\n'
EXT = 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=%sAuth\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n'


def certificates(folder, *parts):
    """A CA and a certificate for each of `parts` in a folder."""
    ssl = need('openssl', 'openssl')
    os.makedirs(folder)

    def run(*a):
        subprocess.run([ssl, *a], cwd=folder, check=True, capture_output=True)
    run('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', 'ca-key.pem', '-out', 'ca-cert.pem', '-days', '30', '-subj', '/CN=Test CA',
        '-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=critical,keyCertSign')
    for w in parts:
        with open(os.path.join(folder, 'ext'), 'w') as f:
            f.write(EXT % w)
        run('req', '-newkey', 'rsa:2048', '-nodes', '-keyout', f'{w}-key.pem', '-out', 'csr', '-subj', f'/CN={w}')
        run('x509', '-req', '-in', 'csr', '-CA', 'ca-cert.pem', '-CAkey', 'ca-key.pem', '-CAcreateserial', '-days', '30', '-extfile', 'ext',
            '-out', f'{w}-cert.pem')


@pytest.fixture
def t(tmp_path):
    t = Tool(str(tmp_path))
    os.makedirs(t.path('psk'))
    with open(t.path('psk/keys.psk'), 'w') as f:
        f.write(KEYS)
    return t


class Server:
    def __init__(self, t, creds, *args, theirs=False):
        self.sock = t.path('s')
        exe = need('qemu-nbd', 'qemu-utils') if theirs else program('qemu-nbd')
        self.p = subprocess.Popen([exe, '-k', self.sock, '-t', '-e', '4', '--object', creds, '--tls-creds', 'tls0', *args], cwd=t.cwd)
        for _ in range(500):
            if os.path.exists(self.sock) or self.p.poll() is not None:
                break
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.p.terminate()
        assert self.p.wait(20) == 0


def opts(s, host=''):
    return f'driver=nbd,server.type=unix,server.path={s.sock},export=x,tls-creds=tls0{host}'


@pytest.mark.proves('F-NBD-05', 'F-PRG-11')
@pytest.mark.parametrize('server,client', [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize('kind', ['psk', 'x509'])
def test_data_over_tls(t, kind, server, client):
    if kind == 'x509':
        certificates(t.path('x509'), 'server', 'client')
    t.random_raw('a.raw', 8 << 20)
    host = ',tls-hostname=localhost' if kind == 'x509' else ''
    made = f'tls-creds-{kind},id=tls0,dir={t.path(kind)},endpoint='
    with Server(t, made + 'server', '-f', 'raw', '-x', 'x', 'a.raw', theirs=server) as s:
        t.run(['convert', '--object', made + 'client', '--image-opts', '-O', 'raw', opts(s, host), 'b.raw'], theirs=client)
        t.run(['--object', made + 'client', '--image-opts', '-c', 'write -P 9 1M 3M', '-c', 'read -P 9 2M 1M', opts(s, host)], theirs=client, tool='qemu-io')
        listed = t.run(['--list', '-k', s.sock, '--object', made + 'client', '--tls-creds', 'tls0', *(['--tls-hostname', 'localhost'] if host else [])],
                       theirs=client, tool='qemu-nbd')
        assert "export: 'x'" in listed
    with open(t.path('b.raw'), 'rb') as f, open(t.path('a.raw'), 'rb') as g:
        old, new = f.read(), g.read()
    assert new == old[:1 << 20] + b'\x09' * (3 << 20) + old[4 << 20:]


@pytest.mark.proves('F-NBD-05')
def test_what_tls_keeps_out(t):
    certificates(t.path('x509'), 'server')  # a client without a certificate
    certificates(t.path('other'), 'client')  # a client of another CA
    t.run('create -f raw a.raw 1M')
    with Server(t, f'tls-creds-x509,id=tls0,dir={t.path("x509")},endpoint=server', '-f', 'raw', '-x', 'x', 'a.raw') as s:
        plain = t.run(['info', '--image-opts', f'driver=nbd,server.type=unix,server.path={s.sock},export=x'], 1)
        assert 'TLS' in plain
        for folder, why in (('x509', ''), ('other', 'handshake failed')):
            out = t.run(['info', '--object', f'tls-creds-x509,id=tls0,dir={t.path(folder)},endpoint=client', '--image-opts', opts(s, ',tls-hostname=localhost')], 1)
            assert why in out
    with Server(t, f'tls-creds-x509,id=tls0,dir={t.path("x509")},endpoint=server,verify-peer=no', '-f', 'raw', '-x', 'x', 'a.raw') as s:
        own = f'tls-creds-x509,id=tls0,dir={t.path("x509")},endpoint=client'
        t.run(['info', '--object', own, '--image-opts', opts(s, ',tls-hostname=localhost')])
        assert 'handshake failed' in t.run(['info', '--object', own, '--image-opts', opts(s, ',tls-hostname=elsewhere')], 1)
        assert 'tls-hostname' in t.run(['info', '--object', own, '--image-opts', opts(s)], 1)
    with Server(t, f'tls-creds-psk,id=tls0,dir={t.path("psk")},endpoint=server', '-f', 'raw', '-x', 'x', 'a.raw') as s:
        out = t.run(['info', '--object', f'tls-creds-psk,id=tls0,dir={t.path("psk")},endpoint=client,username=nobody', '--image-opts', opts(s)], 1)
        assert 'nobody' in out
        os.makedirs(t.path('wrong'))
        with open(t.path('wrong/keys.psk'), 'w') as f:
            f.write('qemu:00000000000000000000000000000000\n')
        t.run(['info', '--object', f'tls-creds-psk,id=tls0,dir={t.path("wrong")},endpoint=client', '--image-opts', opts(s)], 1)
    assert 'server endpoint' in t.run(['-f', 'raw', '--object', f'tls-creds-psk,id=tls0,dir={t.path("psk")},endpoint=client', '--tls-creds', 'tls0',
                                       '-k', t.path('q'), 'a.raw'], 1, tool='qemu-nbd')
