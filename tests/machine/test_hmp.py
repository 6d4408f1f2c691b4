"""The human monitor: help, information, memory and ports, and what it says to mistakes."""
import os
import re
import subprocess
import time

import pytest
from conftest import program
from lyre import Machine

BASE = ('-M', 'none', '-accel', 'qtest')


@pytest.fixture
def m():
    with Machine(*BASE, '-name', 'h', '-uuid', '550e8400-e29b-41d4-a716-446655440000') as machine:
        yield machine


@pytest.mark.proves('F-MON-04', 'S307')
def test_help_lists_every_command(m):
    out = m.hmp('help')
    assert out == m.hmp('?')
    for name in ('info', 'quit|q', 'system_powerdown', 'sendkey', 'screendump', 'change', 'device_add'):
        assert re.search(rf'^{re.escape(name)} .*-- ', out, re.M), name
    assert m.hmp('help quit').startswith('quit|q')
    assert re.search(r'^info status ', m.hmp('info'), re.M)
    assert 'info block' in m.hmp('help info block')


@pytest.mark.proves('F-MON-05', 'S297')
def test_info_status(m):
    assert m.hmp('info status').splitlines()[0] == 'VM status: running'
    m.hmp('stop')
    assert m.hmp('info status').splitlines()[0] == 'VM status: paused'
    m.hmp('c')
    assert m.hmp('info status').splitlines()[0] == 'VM status: running'
    with Machine(*BASE, '-S') as p:
        assert p.hmp('info status').splitlines()[0] == 'VM status: paused (prelaunch)'


def test_the_accelerator_and_why_are_in_info_status(m):
    assert 'accelerator qtest' in m.hmp('info status')


def test_info_items_answer(m):
    assert re.match(r'\d+\.\d+\.\d+ ', m.hmp('info version'))
    assert m.hmp('info name') == 'h\r\n' or m.hmp('info name') == 'h\n'
    assert m.hmp('info uuid').strip() == '550e8400-e29b-41d4-a716-446655440000'
    assert 'bus: main-system-bus' in m.hmp('info qtree')
    assert '/machine (machine)' in m.hmp('info qom-tree')
    assert 'lyre-qmp: filename=' in m.hmp('info chardev')
    assert m.hmp('info mtree').strip() and m.hmp('info mtree -f').strip()
    assert 'accelerator: qtest' in m.hmp('info jit')
    assert 'PCI support disabled' in m.hmp('info pci')
    assert m.hmp('info usb').strip() == 'USB support not enabled'
    for item in ('block', 'blockstats', 'network', 'mice', 'history', 'cpus', 'roms', 'numa', 'memory_size_summary'):
        assert 'unknown' not in m.hmp(f'info {item}')


def test_unknown_commands_are_named_and_suggested(m):
    assert m.hmp('system_rest') == "unknown command: 'system_rest'\ndid you mean 'system_reset'? 'help' lists all commands\n"
    assert "unknown info item: 'statsu'" in m.hmp('info statsu') and "'status'" in m.hmp('info statsu')
    assert 'missing arguments' in m.hmp('sendkey')
    assert 'too many arguments' in m.hmp('quit now')
    assert m.hmp('') == '' and m.hmp('   # comment') == ''


def test_expressions(m):
    for text, value in (('1+2*3', 7), ('(1+2)*3', 9), ('0x10|1', 17), ('-1', 2**64 - 1), ('~0', 2**64 - 1), ("'A'", 65), ('7%4', 3), ('2+-1', 1)):
        assert int(m.hmp(f'print {text}'), 16) == value, text
    assert m.hmp('p /d 0-5').strip() == '-5'
    assert m.hmp('p /c 65').strip() == "'A'"
    assert 'division by zero' in m.hmp('p 1/0')
    assert "invalid char" in m.hmp('p x')
    assert 'nested too deep' in m.hmp('p ' + '(' * 100)


def test_memory_and_ports(m):
    assert m.hmp('xp /2xb 0').strip() == '0000000000000000: 0xff 0xff'
    assert m.hmp('xp/1xg 0x1000').strip() == '0000000000001000: 0xffffffffffffffff'
    assert m.hmp('i /b 0x80').strip() == 'portb[0x0080] = 0xff'
    assert m.hmp('o /b 0x80 1') == ''
    assert 'disassembly is not built' in m.hmp('xp /4i 0')
    assert 'no CPU' in m.hmp('x /4x 0')
    assert 'No memory is mapped' in m.hmp('gpa2hva 0')


@pytest.mark.proves('F-MON-09', 'S303', 'F-MON-06', 'S302')
def test_change_swaps_the_medium(tmp_path):
    for name in ('a.iso', 'b.iso'):
        (tmp_path / name).write_bytes(bytes(65536))
    with Machine(*BASE, '-drive', f'if=none,id=ide1-cd0,media=cdrom,file={tmp_path}/a.iso') as m:
        assert 'a.iso' in m.hmp('info block')
        m.hmp(f'change ide1-cd0 {tmp_path}/b.iso')
        assert 'b.iso' in m.hmp('info block') and 'a.iso' not in m.hmp('info block')
        assert m.hmp(f'change ide1-cd0 {tmp_path}/missing.iso').startswith('Error: ')
        m.hmp('eject ide1-cd0')
        assert 'b.iso' not in m.hmp('info block')
        assert "Device 'zz' not found" in m.hmp('eject zz')


def test_objects_and_back_ends(m):
    assert m.hmp('object_add memory-backend-ram,id=r,size=8K') == ''
    assert m.hmp('qom-get /objects/r size').strip() == '8192'
    assert m.hmp('object_del r') == ''
    assert m.hmp('netdev_add user,id=u0') == ''
    assert m.hmp('hostfwd_add u0 tcp:127.0.0.1:0-:22') == ''
    assert 'u0' in m.hmp('info network')
    assert m.hmp('netdev_del u0') == ''
    assert m.hmp('chardev-add ringbuf,id=rb') == '' and m.hmp('ringbuf_write rb hello') == ''
    assert m.hmp('ringbuf_read rb 10').strip() == 'hello'
    assert m.hmp('chardev-remove rb') == ''
    assert m.hmp('device_add nosuch').startswith('Error: ')
    assert m.hmp('device_del nosuch') == "Error: Device 'nosuch' not found\n"


def test_log_items(m, tmp_path):
    assert m.hmp(f'logfile {tmp_path}/log') == '' and m.hmp('log guest_errors') == ''
    assert (tmp_path / 'log').exists()
    assert 'unknown log item' in m.hmp('log nosuch') and m.hmp('log none') == ''


def test_what_is_not_built_says_so(m):
    for line in ('gdbserver',):
        assert 'not built into this program' in m.hmp(line)


@pytest.mark.proves('F-MON-11', 'F-MON-12', 'S320')
def test_reset_and_powerdown_buttons(m):
    m.hmp('system_reset')
    m.event('RESET')
    m.hmp('system_powerdown')
    m.event('POWERDOWN')
    m.hmp('q')
    assert m.wait() == 0


@pytest.mark.proves('F-MON-02')
def test_a_script_may_send_plain_lines():
    with Machine(*BASE, hmp=True) as m:
        m.hmp_stream.expect(r'\(qemu\) ')
        m.hmp_stream.send('info status\ninfo name\n')
        m.hmp_stream.expect(r'info status\r\nVM status: running\r\n.*\(qemu\) info name\r\n\(qemu\) ')
        m.hmp_stream.send('info st')  # an unfinished line is not run
        time.sleep(0.2)
        m.hmp_stream.send('atus\r')
        m.hmp_stream.expect('VM status')


def test_tab_lists_candidates_on_the_second_press():
    with Machine(*BASE, hmp=True) as m:
        m.hmp_stream.expect(r'\(qemu\) ')
        m.hmp_stream.send('system_\t\t')
        m.hmp_stream.expect(r'system_powerdown .*\(qemu\) system_')


@pytest.mark.proves('F-MON-08', 'S341', 'S342')
def test_snapshots_in_the_image_are_listed_and_deleted(tmp_path):
    for args in (['create', '-q', '-f', 'qcow2', 'd.qcow2', '8M'], ['snapshot', '-c', 'before', 'd.qcow2'], ['snapshot', '-c', 'after', 'd.qcow2']):
        subprocess.run([program('qemu-img'), *args], cwd=tmp_path, check=True)
    with Machine('-M', 'pc', '-drive', f'file={tmp_path}/d.qcow2', qtest=True) as m:
        text = m.hmp('info snapshots')
        assert re.search(r'^ID +TAG +VM SIZE +DATE +VM CLOCK', text, re.M)
        assert re.search(r'^\S+ +before +0 B +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d 00:00:00\.000', text, re.M) and ' after ' in text
        assert m.hmp('delvm before') == ''
        text = m.hmp('info snapshots')
        assert ' before ' not in text and ' after ' in text
    with Machine('-M', 'pc', qtest=True) as m:
        assert m.hmp('info snapshots').strip() == 'No available block device supports snapshots'
