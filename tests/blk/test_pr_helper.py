"""qemu-pr-helper: persistent reservations over its socket, ours and the distribution's against one made-up device."""
import array
import os
import random
import socket
import struct
import subprocess
import time

import pytest
from conftest import need, program

HERE = os.path.dirname(os.path.abspath(__file__))


class Helper:
    def __init__(self, tmp, exe, *more):
        shim = f'{tmp}/shim.so'
        subprocess.run([need('gcc'), '-shared', '-fPIC', '-o', shim, f'{HERE}/pr_shim.c', '-ldl'], check=True)
        self.sock = f'{tmp}/pr.sock'
        self.p = subprocess.Popen([exe, '-k', self.sock, *more], env={**os.environ, 'LD_PRELOAD': shim})
        end = time.monotonic() + 20
        while not os.path.exists(self.sock):
            assert self.p.poll() is None and time.monotonic() < end
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.p.terminate()
        assert self.p.wait(20) in (0, -15)

    def client(self, answer=0):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(20)
        s.connect(self.sock)
        assert s.recv(4, socket.MSG_WAITALL) == bytes(4)
        s.sendall(struct.pack('>I', answer))
        return s


def command(s, dev, cdb, data=b''):
    """Status, sense, data."""
    s.sendmsg([bytes(cdb).ljust(16, b'\0')], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [dev]))])
    if data:
        s.sendall(data)
    h = s.recv(104, socket.MSG_WAITALL)
    if len(h) < 104:
        raise ConnectionError('hung up')
    status, n = struct.unpack('>iI', h[:8])
    return status, h[8:26], s.recv(n, socket.MSG_WAITALL) if n else b''


def read_keys(length=1024):
    return bytes([0x5e, 0, 0, 0, 0, 0, 0]) + struct.pack('>H', length)


def register(action=0, length=24):
    return bytes([0x5f, action, 0, 0, 0]) + struct.pack('>I', length)


@pytest.fixture
def dev(tmp_path):
    fd = os.open(tmp_path / 'dev', os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def exe(who):
    return program('qemu-pr-helper') if who == 'ours' else need('qemu-pr-helper', 'qemu-system-common')


@pytest.mark.proves('S087', 'F-PRG-13', 'F-BLK-26')
@pytest.mark.parametrize('who', ['ours', 'theirs'])
def test_keys_are_registered_and_read(tmp_path, dev, who):
    with Helper(tmp_path, exe(who)) as h:
        s = h.client()
        assert command(s, dev, read_keys())[::2] == (0, bytes(8))
        for key in (b'key-one!', b'key-two!'):
            assert command(s, dev, register(), bytes(8) + key + bytes(8))[0] == 0
        other = h.client()
        assert command(other, dev, read_keys())[::2] == (0, struct.pack('>II', 2, 16) + b'key-one!key-two!')
        assert command(other, dev, read_keys(12))[::2] == (0, struct.pack('>II', 2, 16) + b'key-')
        status, sense, data = command(s, dev, register(action=7), bytes(24))
        assert status == 2 and sense[2] & 15 == 5 and sense[12] == 0x24 and not data
        r, w = os.pipe()
        assert command(s, r, read_keys())[0] == 2  # no SCSI device at all
        os.close(r)
        os.close(w)
        assert command(s, dev, read_keys())[0] == 0


@pytest.mark.proves('S087', 'F-PRG-13')
def test_other_commands_and_hostile_clients_get_nowhere(tmp_path, dev):
    with Helper(tmp_path, exe('ours')) as h:
        status, sense, _ = command(h.client(), dev, [0x12, 0, 0, 0, 36])  # INQUIRY
        assert status == 2 and sense[2] == 5 and sense[12] == 0x20
        assert command(h.client(), dev, read_keys(60000))[0] == 2
        for act in (lambda s: command(s, dev, register(length=1 << 20)), lambda s: s.sendall(bytes(16)) or command(s, dev, read_keys()),
                    lambda s: s.sendall(b'\x5e') or s.shutdown(socket.SHUT_WR) or command(s, dev, read_keys())):
            with pytest.raises((ConnectionError, BrokenPipeError, OSError)):
                act(h.client())
        s = h.client(answer=1)  # a feature that does not exist
        assert s.recv(1) == b''
        rng = random.Random(4)
        for _ in range(100):
            s = h.client()
            s.settimeout(0.05)
            try:
                command(s, dev, bytes([rng.choice([0x5e, 0x5f, rng.randrange(256)])]) + rng.randbytes(15), rng.randbytes(rng.randrange(40)))
            except OSError:
                pass
            s.close()
        assert command(h.client(), dev, read_keys())[0] == 0
        many = [h.client() for _ in range(60)]
        assert all(command(s, dev, read_keys())[0] == 0 for s in many)


@pytest.mark.proves('S087', 'F-PRG-13')
def test_it_runs_in_the_background_as_another_user(tmp_path, dev):
    if os.geteuid():
        pytest.skip('host: needs root')
    os.chmod(tmp_path, 0o755)
    shim = f'{tmp_path}/shim.so'
    subprocess.run([need('gcc'), '-shared', '-fPIC', '-o', shim, f'{HERE}/pr_shim.c', '-ldl'], check=True)
    sock, pid = tmp_path / 'sock', tmp_path / 'pid'
    subprocess.run([exe('ours'), '-d', '-k', sock, '-f', pid, '-u', 'nobody', '-g', 'nogroup'], check=True, env={**os.environ, 'LD_PRELOAD': shim})
    end = time.monotonic() + 20
    while not pid.exists() or not pid.read_text().strip():
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.2)
    n = int(pid.read_text())
    try:
        status = open(f'/proc/{n}/status').read()
        assert 'Uid:\t65534' in status and 'CapEff:\t0000000000020000' in status and 'NoNewPrivs:\t1' in status
    finally:
        os.kill(n, 15)
    for args, text in ((['-u', 'no-such-user'], 'unknown user'), (['x'], 'Unexpected argument'), (['-k', '/nosuch/dir/s'], '/nosuch/dir/s')):
        p = subprocess.run([exe('ours'), *(['-k', sock] if '-k' not in args else []), *args], capture_output=True, text=True, timeout=20)
        assert p.returncode == 1 and text in p.stderr, p.stderr
