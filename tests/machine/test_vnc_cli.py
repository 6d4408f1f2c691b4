"""How displays are chosen on the command line, and the VNC server as the monitors show it. The protocol itself has unit
tests (tests/unit/ui/vnc_test.c)."""
import re
import socket
import subprocess

import pytest
from lyre import Machine, QmpError, program, run


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
