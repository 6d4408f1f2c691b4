"""How displays are chosen on the command line, and the VNC server as the monitors show it. The protocol itself has unit
tests (tests/unit/ui/vnc_test.c)."""
import os
import re
import socket
import subprocess
import time

import pytest
from lyre import Machine, QmpError, program, run

from rfb import Rfb


def server(m):
    v = m.qmp('query-vnc')
    assert v['enabled']
    return v['host'], int(v['service'])


def handshake(addr, answer=b'RFB 003.008\n'):
    """(socket, security types offered)"""
    s = socket.create_connection(addr, 5)
    assert s.recv(12) == b'RFB 003.008\n'
    s.sendall(answer)
    n = s.recv(1)[0]
    return s, list(s.recv(n)) if n else []


def enter(s):
    """Security none, then the name in ServerInit."""
    s.sendall(b'\x01')
    assert s.recv(4) == bytes(4)
    s.sendall(b'\x01')
    head = b''
    while len(head) < 24:
        head += s.recv(24 - len(head))
    n = int.from_bytes(head[20:], 'big')
    return int.from_bytes(head[:2], 'big'), int.from_bytes(head[2:4], 'big'), s.recv(n).decode()


@pytest.mark.proves('F-VNC-01', 'F-VNC-02', 'F-DSP-05', 'S206', 'S207', 'S208', 'S209', 'S210', 'S211', 'F-MCH-10')
@pytest.mark.parametrize('args', [['-vnc', '127.0.0.1:40,to=99'], ['-display', 'vnc=127.0.0.1:40,to=99']])
def test_display_number_is_a_port_and_the_title_carries_the_name(args):
    with Machine('-M', 'pc', '-vga', 'std', '-name', 'alpine1', *args, qtest=True) as m:
        host, port = server(m)
        assert 5940 <= port <= 5999
        s, types = handshake((host, port))
        assert types == [1]
        width, height, name = enter(s)
        assert width >= 320 and height >= 200 and 'alpine1' in name
        assert [c['family'] for c in m.qmp('query-vnc')['clients']] == ['ipv4']
        assert f'{host}:{port}' in m.hmp('info vnc')
        s.close()


@pytest.mark.proves('F-VNC-03', 'F-MON-10', 'S212', 'S213', 'F-PRG-28')
@pytest.mark.parametrize('spelling', ['password', 'password=on'])
def test_a_password_is_needed_once_it_is_asked_for(spelling):
    with Machine('-M', 'pc', '-vga', 'std', '-vnc', f'127.0.0.1:40,to=99,{spelling}', qtest=True, hmp=True) as m:
        addr = server(m)
        assert m.qmp('query-vnc')['auth'] == 'vnc'
        s, types = handshake(addr)
        assert 1 not in types
        s.close()
        m.hmp_stream.expect(r'\(qemu\) ')
        m.hmp_stream.send('change vnc password\n')
        m.hmp_stream.expect(r'Password: $')
        m.hmp_stream.send('sesame\n')
        seen = m.hmp_stream.expect(r'.*\(qemu\) ')[0]
        assert b'sesame' not in seen  # typed unseen
        m.hmp_stream.send('info history\n')
        assert b'sesame' not in m.hmp_stream.expect(r'history.*\(qemu\) ')[0]
        s, types = handshake(addr)
        assert types == [2]
        s.sendall(b'\x02')
        assert len(s.recv(16)) == 16
        s.sendall(bytes(16))
        assert s.recv(4) == b'\0\0\0\x01'  # wrong
        s.close()
        assert m.hmp('change vnc password other') == ''
        m.qmp('set_password', protocol='vnc', password='third')
        m.qmp('expire_password', protocol='vnc', time='+10')
        with pytest.raises(QmpError, match='now, never'):
            m.qmp('expire_password', protocol='vnc', time='soon')


def test_a_server_without_passwords_takes_none():
    with Machine('-M', 'pc', '-vga', 'std', '-vnc', '127.0.0.1:40,to=99', qtest=True) as m:
        assert m.hmp('change vnc password x').startswith('Error')
    with Machine('-M', 'pc', qtest=True) as m:
        assert m.qmp('query-vnc') == {'enabled': False}
        with pytest.raises(QmpError) as e:
            m.qmp('change-vnc-password', password='x')
        assert e.value.cls == 'DeviceNotActive'


@pytest.mark.proves('F-VNC-04', 'S214')
def test_the_password_comes_through_a_pipe_and_the_guest_goes_on():
    p = subprocess.Popen([program(), '-M', 'pc', '-accel', 'qtest', '-vnc', '127.0.0.1:40,to=99,password', '-monitor', 'stdio'],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        p.stdin.write('change vnc password\nMYPASSWORD\ninfo vnc\ninfo status\n')
        p.stdin.flush()
        out = ''
        while 'VM status: running' not in out:
            out += p.stdout.readline()
        assert 'MYPASSWORD' not in out
        port = int(re.search(r'Server: 127\.0\.0\.1:(\d+)', out)[1])
        p.stdin.close()  # the end of input ends nothing
        s, types = handshake(('127.0.0.1', port))
        assert types == [2]
        s.close()
        assert p.poll() is None
    finally:
        p.kill()
        p.wait()
        p.stdout.close()


@pytest.mark.proves('F-DSP-07', 'F-VNC-05', 'F-SVC-09', 'S215')
def test_without_a_choice_vnc_runs_on_loopback_and_one_line_says_so():
    p = subprocess.Popen([program(), '-M', 'pc', '-accel', 'qtest', '-monitor', 'stdio'], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                         stderr=subprocess.PIPE, text=True)
    try:
        line = p.stderr.readline()
        host, port = re.search(r'VNC server running on ([\d.:]+):(\d+)', line).groups()
        assert host in ('127.0.0.1', '::1')
        s, types = handshake((host, int(port)))
        assert types == [1]
        s.close()
        p.stdin.write('quit\n')
        p.stdin.close()
        assert p.wait(5) == 0
    finally:
        p.kill()
        p.wait()
        p.stderr.close()


@pytest.mark.proves('F-DSP-03', 'F-DSP-20', 'S197')
def test_none_means_none():
    with Machine('-M', 'pc', '-vga', 'none', qtest=True, defaults=True) as m:
        assert m.qmp('query-vnc') == {'enabled': False}
        assert 'dev: VGA' not in m.hmp('info qtree')
        assert 'no console' in m.hmp('screendump /tmp/x')
    with Machine('-M', 'pc', qtest=True, defaults=True) as m:
        assert 'dev: VGA' in m.hmp('info qtree')


@pytest.mark.proves('F-DSP-08', 'S194')
def test_nographic_keeps_the_adapter_and_shares_the_terminal():
    r = run('-M', 'pc', '-accel', 'qtest', '-nographic', stdin='\x01cinfo qtree\ninfo chardev\nquit\n')
    assert r.returncode == 0 and 'dev: VGA' in r.stdout and 'serial0: filename=stdio' in r.stdout, r.stdout + r.stderr


@pytest.mark.proves('F-DSP-21', 'S189', 'S195', 'S205')
def test_adapter_names():
    out = run('-vga', 'help').stdout
    assert re.search(r'^std ', out, re.M) and re.search(r'^none ', out, re.M)
    assert 'std|cirrus|vmware|qxl|virtio|none' in run('-h').stdout
    r = run('-M', 'pc', '-accel', 'qtest', '-vga', 'nosuch')
    assert r.returncode == 1 and "unknown graphics card 'nosuch'" in r.stderr


@pytest.mark.proves('F-DSP-10', 'S190')
def test_vga_memory_size_and_the_default_adapter_giving_way():
    with Machine('-M', 'pc', '-device', 'VGA,vgamem_mb=32,id=v', qtest=True, defaults=True) as m:
        assert m.hmp('info qtree').count('dev: VGA') == 1
        assert m.qmp('qom-get', path='/machine/peripheral/v', property='vgamem_mb') == 32


CTRL, ALT, RETURN = 0xffe3, 0xffe9, 0xff0d


def font():
    with open(os.path.join(os.path.dirname(__file__), '../../src/ui/font.c')) as f:
        rows = re.findall(r'\{((?:0x[0-9a-f]{2}(?:, )?){7})\}', f.read())
    assert len(rows) == 95
    return {tuple(int(v, 16) for v in r.split(', ')): chr(32 + i) for i, r in enumerate(rows)}


@pytest.mark.proves('F-MON-01')
def test_the_monitor_is_a_screen_beside_the_guests():
    """Ctrl-Alt-2 shows the monitor, -3 the serial line, -1 the guest again; what is typed goes to what is shown."""
    look = font()
    with Machine('-M', 'pc', '-vga', 'std', '-vnc', '127.0.0.1:40,to=99', '-serial', 'vc:40Cx5C', '-monitor', 'vc', qtest=True) as m:
        c = Rfb(server(m))

        def wait(want, cols=80, rows=24):
            end = time.monotonic() + 60
            while time.monotonic() < end:
                seen = c.text(look, cols, rows)
                if any(want in line for line in seen):
                    return seen
            raise AssertionError(f'{want!r} is not in {seen}')
        c.key(CTRL, ALT, ord('2'))
        wait('(qemu)')
        for k in 'info name':
            c.key(ord(k))
        c.key(0xff08)
        c.key(ord('e'))
        c.key(RETURN)
        m.qmp('query-status')
        for k in 'info mice':
            c.key(ord(k))
        c.key(RETURN)
        seen = wait('PS/2 Mouse')
        assert any(line.startswith('(qemu) info name') for line in seen), seen
        keys = set()
        for _ in range(200):
            m.qt.clock_step(1_000_000)
            if m.qt.inb(0x64) & 1:
                keys.add(m.qt.inb(0x60))
        assert keys <= {0x1d, 0x9d, 0x38, 0xb8, 0x14, 0x11, 0xf0}, keys  # of all this the guest saw Ctrl and Alt, pressed and let go
        for k in 'serial':
            m.qt.outb(0x3f8, ord(k))
        c.key(CTRL, ALT, ord('3'))
        wait('serial', 40, 5)
        c.key(ord('x'))
        end = time.monotonic() + 30
        while not m.qt.inb(0x3fd) & 1 and time.monotonic() < end:
            m.qt.clock_step(1_000_000)
        assert m.qt.inb(0x3f8) == ord('x')
        c.key(CTRL, ALT, ord('9'))  # no such screen: the guest's keys, and nothing changes
        wait('serial', 40, 5)
        c.key(CTRL, ALT, ord('1'))
        end = time.monotonic() + 30
        while any('serial' in line for line in c.text(look, 40, 5)) and time.monotonic() < end:
            pass
        assert not any('serial' in line for line in c.text(look, 40, 5))
