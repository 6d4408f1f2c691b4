"""Character devices: every back end, the short forms, the mux keys, and who is told what when peers come and go."""
import fcntl
import os
import pty
import re
import select
import socket
import subprocess
import termios
import time

import pytest

import seeds
from conftest import need
from lyre import Machine, QmpError, program, run

BASE = ('-M', 'none', '-accel', 'qtest')


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def read_until(sock, pattern, timeout=5):
    """What a socket (or descriptor) gives until the pattern has been seen."""
    out, end = b'', time.monotonic() + timeout
    fd = sock if isinstance(sock, int) else sock.fileno()
    while not re.search(pattern, out, re.S):
        left = end - time.monotonic()
        assert left > 0 and select.select([fd], [], [], left)[0], f'{pattern!r} not in {out!r}'
        data = os.read(fd, 4096)
        if not data:
            break
        out += data
    assert re.search(pattern, out, re.S), f'{pattern!r} not in {out!r}'
    return out


def shell(cmd, timeout=10):
    return subprocess.run(cmd, shell=True, capture_output=True, text=True, timeout=timeout).stdout


@pytest.mark.proves('F-CHR-02', 'F-MON-01', 'F-MON-02', 'S288', 'S289', 'S290', 'S291', 'S316', 'S318')
def test_monitor_on_tcp_answers_nc():
    need('nc', 'netcat-openbsd')
    port = free_port()
    with Machine(*BASE, '-monitor', f'tcp:127.0.0.1:{port},server,nowait'):
        for _ in range(2):  # the next client is served like the first
            out = shell(f"echo info status | nc -N 127.0.0.1 {port}")
            assert 'VM status: running' in out and '(qemu) ' in out and "type 'help'" in out


@pytest.mark.proves('F-CHR-02', 'S300', 'S308', 'S310')
def test_monitor_on_telnet_speaks_telnet():
    port = free_port()
    with Machine(*BASE, '-monitor', f'telnet:127.0.0.1:{port},server,nowait,nodelay'):
        with socket.create_connection(('127.0.0.1', port)) as s:
            out = read_until(s, rb'\(qemu\) ')
            assert out.startswith(bytes([255, 251, 1]))
            s.sendall(bytes([255, 253, 1]) + b'info name\r\n' + bytes([255, 250, 24, 0, 255, 240]) + b'info status\r\x00')
            assert b'VM status' in read_until(s, rb'VM status.*\(qemu\) ')


@pytest.mark.proves('F-CHR-03', 'S292', 'S293', 'S294', 'S295', 'S311', 'S312', 'S313', 'S314')
def test_monitor_on_a_unix_socket(tmp_path):
    need('socat')
    need('nc', 'netcat-openbsd')
    with Machine(*BASE, '-monitor', 'unix:qemuvm1socket,server,nowait', cwd=tmp_path) as m:
        path = tmp_path / 'qemuvm1socket'
        assert 'VM status: running' in shell(f'echo "info status" | socat - unix-connect:{path}')
        assert 'VM status: running' in shell(f'echo "info status" | nc -U -N {path}')
        m.quit()
        assert not path.exists()


@pytest.mark.proves('S315')
def test_ncat_reaches_a_unix_socket(tmp_path):
    need('ncat')
    with Machine(*BASE, '-monitor', f'unix:{tmp_path}/s,server,nowait'):
        assert 'VM status' in shell(f'echo "info status" | ncat -U --no-shutdown -i 500ms {tmp_path}/s')


@pytest.mark.proves('F-MON-20', 'S327')
def test_the_port_closes_with_the_machine():
    port = free_port()
    with Machine(*BASE, '-monitor', f'tcp:127.0.0.1:{port},server,nowait') as m:
        socket.create_connection(('127.0.0.1', port)).close()
        m.quit()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(('127.0.0.1', port))


@pytest.mark.proves('F-CHR-06', 'S325')
def test_several_consumers_on_ports_of_their_own():
    a, b = free_port(), free_port()
    with Machine(*BASE, '-chardev', f'socket,id=s,host=localhost,port={a},telnet=on,server,nowait,nodelay', '-monitor',
                 f'telnet:localhost:{b},server,nowait,nodelay') as m:
        assert f'server=on' in m.hmp('info chardev')
        for port in (a, b):
            socket.create_connection(('localhost', port), 5).close()


@pytest.mark.proves('F-CHR-07', 'S288', 'S292')
@pytest.mark.parametrize('flags', ['server,nowait', 'server=on,wait=off', 'server,wait=off', 'server=on,nowait'])
def test_boolean_spellings(tmp_path, flags):
    with Machine(*BASE, '-monitor', f'unix:{tmp_path}/s,{flags}'):
        assert (tmp_path / 's').exists()


@pytest.mark.proves('F-CHR-07', 'S288')
def test_a_stray_semicolon_is_refused_by_name(tmp_path):
    r = run(*BASE, '-display', 'none', '-monitor', f'unix:{tmp_path}/s,server,nowait;')
    assert r.returncode == 1 and "'nowait;'" in r.stderr and "did you mean 'nowait'" in r.stderr.lower()


def test_a_server_that_waits_starts_once_a_client_came(tmp_path):
    p = subprocess.Popen([program(), *BASE, '-display', 'none', '-monitor', f'unix:{tmp_path}/s,server'], stderr=subprocess.PIPE, text=True)
    try:
        assert 'waiting for a connection' in p.stderr.readline()
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(tmp_path / 's'))
            read_until(s, rb'\(qemu\) ')
            s.sendall(b'quit\n')
            assert p.wait(5) == 0
    finally:
        p.kill()
        p.wait()


def test_a_waiting_server_ends_on_a_signal(tmp_path):
    p = subprocess.Popen([program(), *BASE, '-display', 'none', '-monitor', f'unix:{tmp_path}/s,server'], stderr=subprocess.PIPE, text=True)
    p.stderr.readline()
    p.terminate()
    assert p.wait(5) == 0
    assert not (tmp_path / 's').exists()
    p.stderr.close()


def test_a_socket_of_a_dead_program_is_replaced_and_one_in_use_is_not(tmp_path):
    path = tmp_path / 's'
    s = socket.socket(socket.AF_UNIX)
    s.bind(str(path))
    s.listen()
    r = run(*BASE, '-display', 'none', '-monitor', f'unix:{path},server,nowait')
    assert r.returncode == 1 and 'Address already in use' in r.stderr
    s.close()
    with Machine(*BASE, '-monitor', f'unix:{path},server,nowait'):
        with socket.socket(socket.AF_UNIX) as c:
            c.connect(str(path))


def test_a_client_that_reconnects():
    with socket.socket() as srv:
        srv.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        srv.bind(('127.0.0.1', 0))
        port = srv.getsockname()[1]
        with Machine(*BASE, '-chardev', f'socket,id=c,host=127.0.0.1,port={port},reconnect=1', '-mon', 'c') as m:
            assert 'disconnected:tcp:' in m.hmp('info chardev')
            srv.listen()
            srv.settimeout(5)
            for _ in range(2):
                c, _a = srv.accept()
                read_until(c, rb'\(qemu\) ')
                c.close()


@pytest.mark.proves('F-CHR-04')
def test_file_truncates_or_appends(tmp_path):
    f = tmp_path / 'log'
    for append, want in (('off', 1), ('on', 2)):
        with Machine(*BASE, '-chardev', f'file,id=f,path={f},append={append}', '-mon', 'chardev=f,mode=control') as m:
            m.quit()
        assert f.read_bytes().count(b'"QMP"') == want


def test_pipe_pair(tmp_path):
    os.mkfifo(tmp_path / 'p.in')
    os.mkfifo(tmp_path / 'p.out')
    with Machine(*BASE, '-monitor', f'pipe:{tmp_path}/p'):
        w = os.open(tmp_path / 'p.in', os.O_WRONLY)
        r = os.open(tmp_path / 'p.out', os.O_RDONLY)
        os.write(w, b'info status\n')
        read_until(r, rb'VM status: running')
        os.close(w)
        os.close(r)


def test_pty_is_announced_and_works():
    with Machine(*BASE, '-chardev', 'pty,id=p', '-mon', 'p') as m:
        name = re.search(r'char device redirected to (/dev/pts/\d+) \(label p\)', m.stdout())[1]
        assert [c['filename'] for c in m.qmp('query-chardev') if c['label'] == 'p'] == [f'pty:{name}']
        for _ in range(2):  # closed and opened again
            fd = os.open(name, os.O_RDWR | os.O_NOCTTY)
            read_until(fd, rb'\(qemu\) ')
            os.write(fd, b'info status\r')
            read_until(fd, rb'VM status: running')
            os.close(fd)
            time.sleep(0.3)


def test_udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(('127.0.0.1', 0))
        port, local = s.getsockname()[1], free_port()
        with Machine(*BASE, '-monitor', f'udp:127.0.0.1:{port}@127.0.0.1:{local}'):
            s.sendto(b'info status\n', ('127.0.0.1', local))
            s.settimeout(5)
            out = b''
            while b'VM status: running' not in out:
                out += s.recv(2000)


def test_ringbuf_keeps_the_latest_bytes():
    with Machine(*BASE, '-chardev', 'ringbuf,id=r,size=8') as m:
        m.qmp('ringbuf-write', device='r', data='0123456789')
        assert m.qmp('ringbuf-read', device='r', size=100) == '23456789'
        m.qmp('ringbuf-write', device='r', data='aGk=', format='base64')
        assert m.qmp('ringbuf-read', device='r', size=100, format='base64') == 'aGk='
    r = run(*BASE, '-display', 'none', '-chardev', 'ringbuf,id=r,size=9')
    assert r.returncode == 1 and 'power of two' in r.stderr


def test_logfile_gets_a_copy(tmp_path):
    with Machine(*BASE, '-chardev', f'ringbuf,id=r,logfile={tmp_path}/l', '-mon', 'r'):
        pass
    assert b'(qemu) ' in (tmp_path / 'l').read_bytes()


class Terminal:
    """The program on a pseudo-terminal of its own."""

    def __init__(self, *args):
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self.slave = os.dup(slave)
        self.p = subprocess.Popen([program(), *args], stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)

    def send(self, text):
        os.write(self.master, text)

    def expect(self, pattern, timeout=5):
        return read_until(self.master, pattern, timeout)

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.p.kill()
        self.p.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.mark.proves('F-CHR-01', 'S299', 'F-MON-03', 'S296')
def test_monitor_on_the_terminal_edits_lines_and_restores_it():
    with Terminal(*BASE, '-display', 'none', '-monitor', 'stdio') as t:
        t.expect(rb'\(qemu\) $')
        assert not termios.tcgetattr(t.slave)[3] & termios.ICANON
        t.send(b'info stXtus\x1b[D\x1b[D\x1b[D\x1b[D\x1b[3~a\r')
        t.expect(rb'VM status: running.*\(qemu\) ')
        t.send(b'\x1b[A\r')  # history
        t.expect(rb'VM status: running.*\(qemu\) ')
        t.send(b'info vers\t')  # completion
        t.expect(rb'info version ')
        t.send(b'\x15quit\r')
        assert t.p.wait(5) == 0
        assert termios.tcgetattr(t.slave)[:4] == t.before[:4]


@pytest.mark.proves('F-CHR-01', 'S298')
def test_mux_keys_switch_help_and_exit():
    with Terminal(*BASE, '-display', 'none', '-chardev', 'stdio,mux=on,id=c,signal=off', '-mon', 'chardev=c', '-mon', 'chardev=c') as t:
        t.expect(rb'\(qemu\) $')
        t.send(b'\x01h')
        t.expect(rb'C-a x    exit the program')
        t.send(b'\x01c')
        t.expect(rb'monitor.*\(qemu\) ')
        t.send(b'info status\r')
        t.expect(rb'VM status: running')
        t.send(b'\x01x')
        t.expect(rb'terminated')
        assert t.p.wait(5) == 0
        assert termios.tcgetattr(t.slave)[:4] == t.before[:4]


@pytest.mark.proves('F-DSP-08', 'F-CHR-01', 'F-MON-01', 'S194', 'S298')
@pytest.mark.parametrize('seed', ['S194', 'S298'])
def test_one_terminal_for_serial_line_and_monitor(seed):
    with Terminal('-M', 'pc', '-accel', 'qtest', *seeds.words(seed)[1]) as t:
        t.send(b'\x01c')
        t.expect(rb'monitor.*\(qemu\) $')
        t.send(b'info qtree\r')
        t.expect(rb'dev: VGA.*\(qemu\) $')
        t.send(b'info chardev\r')
        t.expect(rb'serial0: filename=(mux|stdio).*\(qemu\) $')
        t.send(b'\x01x')
        t.expect(rb'terminated')
        assert t.p.wait(5) == 0
        assert termios.tcgetattr(t.slave)[:4] == t.before[:4]


def test_the_shells_descriptor_keeps_its_flags():
    r, w = os.pipe()
    flags = fcntl.fcntl(w, fcntl.F_GETFL)
    p = subprocess.Popen([program(), *BASE, '-display', 'none', '-monitor', 'stdio'], stdin=subprocess.PIPE, stdout=w)
    read_until(r, rb'\(qemu\) ')
    assert fcntl.fcntl(w, fcntl.F_GETFL) == flags
    p.stdin.write(b'quit\n')
    p.stdin.close()
    assert p.wait(5) == 0
    os.close(r)
    os.close(w)


def test_sigint_on_the_terminal_ends_it_unless_signal_is_off():
    with Terminal(*BASE, '-display', 'none', '-monitor', 'stdio') as t:
        t.expect(rb'\(qemu\) $')
        assert termios.tcgetattr(t.slave)[3] & termios.ISIG
    with Terminal(*BASE, '-display', 'none', '-monitor', 'none', '-chardev', 'stdio,id=c,signal=off', '-mon', 'c') as t:
        t.expect(rb'\(qemu\) $')
        assert not termios.tcgetattr(t.slave)[3] & termios.ISIG


def test_qmp_adds_and_removes_chardevs(tmp_path):
    with Machine(*BASE) as m:
        assert m.qmp_args('chardev-add', {'id': 'a', 'backend': {'type': 'null', 'data': {}}}) == {}
        ret = m.qmp_args('chardev-add', {'id': 'p', 'backend': {'type': 'pty', 'data': {}}})
        assert ret['pty'].startswith('/dev/pts/')
        m.qmp_args('chardev-add', {'id': 's', 'backend': {'type': 'socket', 'data': {
            'addr': {'type': 'unix', 'data': {'path': str(tmp_path / 's')}}, 'server': True, 'wait': False}}})
        m.qmp_args('chardev-add', {'id': 't', 'backend': {'type': 'socket', 'data': {
            'addr': {'type': 'inet', 'data': {'host': '127.0.0.1', 'port': '0'}}, 'server': True, 'wait': False}}})
        m.qmp_args('chardev-add', {'id': 'f', 'backend': {'type': 'file', 'data': {'out': str(tmp_path / 'f')}}})
        labels = {c['label']: c for c in m.qmp('query-chardev')}
        assert labels['s']['filename'] == f'disconnected:unix:{tmp_path}/s,server=on' and not labels['s']['frontend-open']
        with pytest.raises(QmpError, match='exists already'):
            m.qmp_args('chardev-add', {'id': 'a', 'backend': {'type': 'null', 'data': {}}})
        with pytest.raises(QmpError, match='Parameter .* is missing'):
            m.qmp_args('chardev-add', {'id': 'b', 'backend': {'type': 'file', 'data': {}}})
        for c in 'apstf':
            m.qmp('chardev-remove', id=c)
        with pytest.raises(QmpError, match='in use'):
            m.qmp('chardev-remove', id='lyre-qmp')
        assert not (tmp_path / 's').exists()


def test_a_descriptor_handed_over_becomes_a_client(tmp_path):
    with Machine(*BASE, '-qmp', f'unix:{tmp_path}/q,server,nowait', '-chardev', f'socket,id=c,path={tmp_path}/c,server,nowait', '-mon', 'c') as m:
        ours, theirs = socket.socketpair()
        with socket.socket(socket.AF_UNIX) as q:
            q.connect(str(tmp_path / 'q'))
            read_until(q, rb'QMP.*\n')
            q.sendall(b'{"execute": "qmp_capabilities"}')
            read_until(q, rb'return.*\n')
            socket.send_fds(q, [b'{"execute": "getfd", "arguments": {"fdname": "x"}}'], [theirs.fileno()])
            read_until(q, rb'"return": {}')
            q.sendall(b'{"execute": "add_client", "arguments": {"protocol": "c", "fdname": "x"}}')
            read_until(q, rb'"return": {}')
        theirs.close()
        read_until(ours, rb'\(qemu\) ')
        ours.close()
        with pytest.raises(QmpError, match='not found'):
            m.qmp('closefd', fdname='x')


def test_a_slow_reader_loses_nothing_up_to_the_bound(tmp_path):
    with Machine(*BASE, '-monitor', f'unix:{tmp_path}/s,server,nowait'):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(tmp_path / 's'))
            for _ in range(50):
                s.sendall(b'help\n')
            time.sleep(0.5)
            s.sendall(b'info status\n')
            assert read_until(s, rb'VM status: running', 10).count(b'help|?') == 50
