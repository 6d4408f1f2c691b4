"""The test channel, and the monitors on a whole PC driven through it: no guest runs, the clock moves by command."""
import re
import socket

import pytest
from lyre import Machine, QmpError, Stream, run

pytestmark = pytest.mark.limit(60)


@pytest.fixture(scope='module', params=['pc', 'q35'])
def pc(request):
    with Machine('-M', request.param, '-m', '64', '-vga', 'std', '-device', 'virtio-rng-pci,id=rng0', qtest=True) as m:
        m.kind = request.param
        yield m


def test_memory_and_ports(pc):
    q = pc.qt
    q.writeq(0x1000, 0x1122334455667788)
    assert (q.readq(0x1000), q.readl(0x1004), q.readw(0x1002), q.readb(0x1007)) == (0x1122334455667788, 0x11223344, 0x5566, 0x11)
    q.write(0x2000, bytes(range(256)))
    assert q.read(0x2000, 256) == bytes(range(256))
    assert q.cmd('read 0x2000 0x4') == '0x00010203'
    q.cmd('write 0x2000 0x4 0xdeadbeef')
    assert q.readl(0x2000) == 0xefbeadde
    q.memset(0x2000, 16, 0x5a)
    assert q.read(0x2000, 17) == b'\x5a' * 16 + b'\x10'
    assert q.cmd('endianness') == 'little'
    q.outb(0x80, 1)


@pytest.mark.parametrize('line', ['nosuch', 'inb', 'inb zz', 'read 0 0', 'read 0 0x100000000', 'write 0 1 zz', 'b64write 0 1 !!',
                                  'irq_intercept_in /nosuch', 'set_irq_in /nosuch unnamed-gpio 0 1', 'rtas', 'module_load a b'])
def test_bad_requests_fail_and_the_channel_goes_on(pc, line):
    with pytest.raises(AssertionError, match='FAIL'):
        pc.qt.cmd(line)
    assert pc.qt.cmd('endianness') == 'little'


def test_the_clock_moves_by_command_only(pc):
    now = pc.qt.clock_step(0)
    assert pc.qt.clock_step(1000) == now + 1000
    assert pc.qt.clock_set(now + 5000) == now + 5000
    assert pc.qt.clock_step(0) == now + 5000


def test_the_timer_interrupt_arrives_at_the_controller():
    """PIT channel 0 in mode 2 raises IRQ 0 at the I/O APIC's or i8259's input."""
    with Machine('-M', 'pc', qtest=True) as m:
        m.qt.intercept_in('ioapic')
        m.qt.outb(0x43, 0x34)
        m.qt.outb(0x40, 0x00)
        m.qt.outb(0x40, 0x10)
        m.qt.clock_step(20_000_000)
        assert ('raise', 2) in m.qt.irq_log or ('raise', 0) in m.qt.irq_log


def test_the_log_file_has_both_directions(tmp_path):
    with Machine('-M', 'none', '-qtest-log', str(tmp_path / 'log'), qtest=True) as m:
        m.qt.readb(0)
    assert '[R] readb 0x0' in (tmp_path / 'log').read_text() and '[S] OK' in (tmp_path / 'log').read_text()


def test_the_launch_line_of_other_clients(tmp_path):
    """Listening on both sides, as the existing system's test library does."""
    socks = {}
    for name in ('qtest', 'qmp'):
        socks[name] = socket.socket(socket.AF_UNIX)
        socks[name].bind(str(tmp_path / name))
        socks[name].listen()
    with Machine('-qtest', f'unix:{tmp_path}/qtest', '-qtest-log', '/dev/null', '-chardev', f'socket,path={tmp_path}/qmp,id=char0', '-mon',
                 'chardev=char0,mode=control', '-machine', 'pc', '-accel', 'qtest', qmp=False):
        for s in socks.values():
            s.settimeout(10)
        q = Stream(socks['qtest'].accept()[0], 'qtest')
        assert b'"QMP"' in Stream(socks['qmp'].accept()[0], 'qmp').line()
        q.send('inb 0x70\n')
        assert q.line().startswith(b'OK 0x')


# Monitors on a PC.

@pytest.mark.proves('F-MCH-01', 'S001', 'S023')
def test_info_qtree_shows_the_board():
    with Machine('-M', 'q35', qtest=True) as m:
        out = m.hmp('info qtree')
        assert 'q35-pcihost' in out and 'dev: ICH9-LPC' in out and 'bus: pcie.0' in out and 'dev: mch' in out


def test_query_pci_and_info_pci_agree(pc):
    fns = [f for b in pc.qmp('query-pci') for f in b['devices']]
    text = pc.hmp('info pci')
    for f in fns:
        assert f"{f['id']['vendor']:04x}:{f['id']['device']:04x}" in text
    assert any(f['qdev_id'] == 'rng0' for f in fns)
    vendor = pc.qt.pci_read(0, 0)
    assert any(f['slot'] == 0 and f['id']['device'] << 16 | f['id']['vendor'] == vendor for f in fns)


def test_cpus(pc):
    cpu, = pc.qmp('query-cpus-fast')
    assert cpu['cpu-index'] == 0 and cpu['target'] == 'x86_64' and cpu['props']['socket-id'] == 0
    assert 'CPU #0' in pc.hmp('info cpus')
    assert pc.hmp('cpu 1').strip() == 'invalid CPU index'
    assert int(pc.hmp('p $eip'), 16) == 0xfff0
    assert int(pc.hmp('print $cs'), 16) == 0xf000


def test_memory_as_the_cpu_sees_it(pc, tmp_path):
    pc.qt.write(0x3000, b'HELLO WORLD')
    assert pc.hmp('xp /4xb 0x3000').strip() == '0000000000003000: 0x48 0x45 0x4c 0x4c'
    assert "'H' 'E'" in pc.hmp('xp /5c 0x3000')
    assert '0x4c4c4548' in pc.hmp('x /1xw 0x3000')
    pc.qmp('memsave', val=0x3000, size=11, filename=str(tmp_path / 'v'))
    pc.qmp('pmemsave', val=0x3000, size=11, filename=str(tmp_path / 'p'))
    assert (tmp_path / 'v').read_bytes() == (tmp_path / 'p').read_bytes() == b'HELLO WORLD'
    assert pc.hmp('sum 0x3000 11').strip().isdigit()
    assert 'Host virtual address for 0x3000' in pc.hmp('gpa2hva 0x3000')
    assert pc.hmp('gva2gpa 0x3000').strip() == 'gpa: 0x3000'
    assert pc.hmp('info mem').strip() == 'PG disabled' and pc.hmp('info tlb').strip() == 'PG disabled'


def test_page_tables_are_listed():
    """A guest with paging on would need a CPU that runs: the walk itself is exercised in the boot tests; here sizes."""
    with Machine('-M', 'pc', '-m', '64', qtest=True) as m:
        assert m.qmp('query-memory-size-summary')['base-memory'] == 64 << 20
        assert 'base memory: 67108864' in m.hmp('info memory_size_summary')


@pytest.mark.proves('F-MON-15', 'S323')
def test_screendump_formats(pc, tmp_path):
    pc.hmp(f'screendump {tmp_path}/a.ppm')
    assert (tmp_path / 'a.ppm').read_bytes().startswith(b'P6')
    pc.screendump(tmp_path / 'a.png')
    assert (tmp_path / 'a.png').read_bytes().startswith(b'\x89PNG\r\n\x1a\n')
    assert 'Error' in pc.hmp(f'screendump {tmp_path}/no/dir')


@pytest.mark.proves('F-MON-14', 'S319')
def test_sendkey_reaches_the_keyboard_controller():
    with Machine('-M', 'pc', qtest=True) as m:
        q = m.qt
        q.outb(0x64, 0x60)  # command byte: translate, interrupts off
        q.outb(0x60, 0x40)
        q.outb(0x60, 0xf4)  # keyboard: enable scanning
        q.clock_step(10_000_000)
        while q.inb(0x64) & 1:
            q.inb(0x60)
            q.clock_step(1_000_000)
        m.hmp('sendkey ctrl-a')
        got = []
        for _ in range(200):
            q.clock_step(1_000_000)
            if q.inb(0x64) & 1:
                got.append(q.inb(0x60))
        assert got == [0x1d, 0x1e, 0x9e, 0x9d]
        m.qmp_args('send-key', {'keys': [{'type': 'number', 'data': 0x1e}]})
        q.clock_step(10_000_000)
        assert q.inb(0x60) == 0x1e
        assert 'invalid parameter: nosuch' in m.hmp('sendkey nosuch')


@pytest.mark.proves('F-MON-19')
def test_a_device_comes_and_goes(pc):
    pc.qmp_args('device_add', {'driver': 'virtio-rng-pci', 'id': 'hot', **({'bus': 'pci.0'} if pc.kind == 'pc' else {'bus': 'pcie.0'})}) \
        if pc.kind == 'pc' else None
    if pc.kind != 'pc':
        pytest.skip('q35 needs a root port with a hot-plug slot')
    assert pc.qmp('qom-get', path='/machine/peripheral/hot', property='type') == 'virtio-rng-pci'
    with pytest.raises(QmpError, match='hot'):
        pc.qmp_args('device_add', {'driver': 'virtio-rng-pci', 'id': 'hot'})
    pc.qmp('device_del', id='hot')


def test_bad_hot_plugs_change_nothing(pc):
    before = pc.hmp('info qtree')
    for args in ({'driver': 'nosuch'}, {'driver': 'virtio-rng-pci', 'bus': 'nosuch'}, {'driver': 'virtio-rng-pci', 'nosuch': '1'},
                 {'driver': 'virtio-rng-pci', 'id': 'rng0'}, {'driver': 'virtio-rng-pci', 'addr': '99'}):
        with pytest.raises(QmpError):
            pc.qmp_args('device_add', args)
    assert pc.hmp('info qtree') == before


def test_nmi_is_accepted(pc):
    pc.qmp('inject-nmi')


def test_every_bool_property_of_the_tree_answers(pc):
    """What libvirt does to the CPU object, done to all."""
    def walk(path, depth=0):
        n = 0
        for x in pc.qmp('qom-list', path=path):
            if x['type'].startswith('child<') and depth < 8:
                n += walk(f"{path.rstrip('/')}/{x['name']}", depth + 1)
            elif x['type'] == 'bool':
                assert isinstance(pc.qmp('qom-get', path=path, property=x['name']), bool), (path, x)
                n += 1
        return n
    assert walk('/machine') > 10


@pytest.mark.proves('F-PRG-27')
def test_a_missing_back_end_is_named():
    for args, name in ((['-device', 'virtio-net-pci,netdev=nn'], 'nn'), (['-device', 'isa-serial,chardev=cc'], 'cc'),
                       (['-device', 'virtio-blk-pci,drive=dd'], 'dd')):
        r = run('-M', 'pc', '-accel', 'qtest', '-display', 'none', *args)
        assert r.returncode == 1 and name in r.stderr and len(r.stderr.splitlines()) <= 2, r.stderr


@pytest.mark.proves('F-PRG-22', 'S133', 'S272')
def test_a_device_may_name_a_bus_or_back_end_written_later(tmp_path):
    (tmp_path / 'd').write_bytes(bytes(1 << 20))
    with Machine('-M', 'pc', '-device', 'virtio-net-pci,netdev=unet,id=n', '-device', 'virtio-blk-pci,drive=hd,id=b', '-netdev', 'user,id=unet',
                 '-drive', f'if=none,id=hd,format=raw,file={tmp_path}/d', qtest=True) as m:
        assert {'n', 'b'} <= {x['name'] for x in m.qmp('qom-list', path='/machine/peripheral')}


@pytest.mark.proves('F-PRG-30', 'S191', 'S365')
def test_global_changes_a_default_and_json_is_taken():
    with Machine('-M', 'pc', '-device', '{"driver":"isa-debugcon","id":"d","chardev":"c"}', '-chardev', 'ringbuf,id=c', '-global',
                 'isa-debugcon.iobase=0x402', qtest=True) as m:
        assert m.qmp('qom-get', path='/machine/peripheral/d', property='iobase') == 0x402
        for c in b'hi':
            m.qt.outb(0x402, c)
        assert m.qmp('ringbuf-read', device='c', size=10) == 'hi'


@pytest.mark.proves('F-CHR-04', 'S365', 'F-FW-08')
def test_debugcon_to_a_file(tmp_path):
    with Machine('-M', 'pc', '-debugcon', f'file:{tmp_path}/debug.log', '-global', 'isa-debugcon.iobase=0x402', qtest=True) as m:
        m.qt.outb(0x402, 0x41)
    assert (tmp_path / 'debug.log').read_bytes() == b'A'


@pytest.mark.proves('F-PRG-20', 'S020', 'S089', 'S302', 'F-MON-06', 'F-QMP-05', 'S335')
def test_a_bare_file_name_is_the_first_disk(tmp_path):
    (tmp_path / 'disk.img').write_bytes(bytes(1 << 20))
    with Machine('-M', 'pc', f'{tmp_path}/disk.img', qtest=True) as m:
        b = [x for x in m.qmp('query-block') if x['device'] == 'ide0-hd0'][0]
        assert b['inserted']['image']['virtual-size'] == 1 << 20
        assert 'ide0-hd0' in m.hmp('info block') and 'disk.img' in m.hmp('info block')


@pytest.mark.proves('F-MEM-01', 'S037', 'S038', 'S040', 'S041', 'S042', 'S043', 'S044', 'S045', 'S039')
@pytest.mark.parametrize('text,mib', [('512', 512), ('512M', 512), ('1024', 1024), ('2G', 2048), ('4G', 4096), ('8192', 8192), ('8G', 8192),
                                      ('size=1G', 1024), ('0.5G', 512)])
def test_memory_sizes(text, mib):
    with Machine('-M', 'pc', '-m', text, qtest=True) as m:
        assert m.qmp('query-memory-size-summary')['base-memory'] == mib << 20
        assert m.qt.readb((mib << 20) - 1 if mib <= 3072 else 0x100000000) == 0


@pytest.mark.proves('F-MEM-05', 'S049', 'S050')
def test_shared_memory_objects():
    for args in (['-object', 'memory-backend-memfd,id=mem,size=64M,share=on', '-numa', 'node,memdev=mem'],
                 ['-numa', 'node,memdev=memfd0', '-object', 'memory-backend-memfd,id=memfd0,share=on,size=64M']):
        with Machine('-M', 'pc', '-m', '64', *args, qtest=True) as m:
            m.qt.writel(0x1000, 0x12345678)
            maps = open(f'/proc/{m.proc.pid}/maps').read()
            assert re.search(r'rw-s .*memfd:', maps)
    r = run('-M', 'pc', '-m', '128', '-accel', 'qtest', '-display', 'none', '-object', 'memory-backend-memfd,id=m,size=64M', '-numa',
            'node,memdev=m')
    assert r.returncode == 1 and 'should equal RAM size' in r.stderr


@pytest.mark.proves('F-MEM-04', 'S048')
def test_memory_on_a_path(tmp_path):
    with Machine('-M', 'pc', '-m', '64', '-mem-path', str(tmp_path), qtest=True) as m:
        assert str(tmp_path) in open(f'/proc/{m.proc.pid}/maps').read()
    r = run('-M', 'pc', '-accel', 'qtest', '-display', 'none', '-mem-path', str(tmp_path / 'missing' / 'x'))
    assert r.returncode == 1 and 'missing' in r.stderr


@pytest.mark.proves('F-CPU-01', 'S027', 'S028', 'S029')
@pytest.mark.parametrize('n', [1, 2, 4])
def test_cpu_counts(n):
    with Machine('-M', 'pc', '-smp', str(n), qtest=True) as m:
        assert len(m.qmp('query-cpus-fast')) == n


@pytest.mark.proves('F-CPU-03', 'S032')
def test_cpu_host_needs_a_hypervisor():
    r = run('-M', 'pc', '-accel', 'qtest', '-display', 'none', '-cpu', 'host')
    assert r.returncode == 1 and 'host' in r.stderr


def test_cpu_help_lists_the_models():
    out = run('-cpu', 'help').stdout
    for name in ('qemu64', 'Skylake-Client', 'Conroe', 'n270', 'max', 'EPYC'):
        assert re.search(rf'\b{name}\b', out), name


def test_machine_properties_are_checked():
    r = run('-M', 'q35,nosuch=1', '-accel', 'qtest', '-display', 'none')
    assert r.returncode == 1 and 'nosuch' in r.stderr and len(r.stderr.splitlines()) <= 2
    with Machine('-M', 'q35,hpet=off', '-no-acpi', '-M', 'smm=off', qtest=True) as m:
        assert 'hpet' not in m.hmp('info qtree')


@pytest.mark.parametrize('action,state,status', [('shutdown', None, 0), ('exit-failure', None, 1), ('pause', 'guest-panicked', None),
                                                 ('none', 'running', None)])
def test_a_guest_panic_does_what_action_says(action, state, status):
    with Machine('-M', 'pc', '-device', 'pvpanic', '-action', f'panic={action}', qtest=True) as m:
        m.qt.outb(0x505, 1)
        m.event('GUEST_PANICKED')
        if status is None:
            assert m.qmp('query-status')['status'] == state
        else:
            assert m.event('SHUTDOWN')['data'] == {'guest': True, 'reason': 'guest-panic'}
            assert m.wait() == status


@pytest.mark.parametrize('value', [0, 1, 0x10])
def test_debug_exit_gives_the_status(value):
    with Machine('-M', 'pc', '-device', 'isa-debug-exit,iobase=0xf4,iosize=4', qtest=True, qmp=False) as m:
        m.qt.s.send(f'outb 0xf4 {value}\n')
        assert m.wait() == (value << 1 | 1) & 0xff


def test_no_shutdown_and_no_reboot():
    """The keyboard controller's reset pulse, with and without -no-reboot; set-action changes it while running."""
    with Machine('-M', 'pc', qtest=True) as m:
        m.qt.outb(0x64, 0xfe)
        assert m.event('RESET')['data'] == {'guest': True, 'reason': 'guest-reset'}
        m.qmp('set-action', reboot='shutdown')
        m.qt.outb(0x64, 0xfe)
        assert m.event('SHUTDOWN')['data']['reason'] == 'guest-reset'
        assert m.wait() == 0
    with Machine('-M', 'pc', '-no-reboot', '-no-shutdown', qtest=True) as m:
        m.qt.outb(0x64, 0xfe)
        m.event('SHUTDOWN')
        assert m.qmp('query-status')['status'] == 'shutdown'
        with pytest.raises(QmpError, match='[Rr]eset'):
            m.qmp('cont')
        m.qmp('system_reset')
        m.event('RESET')
        m.qmp('cont')
        assert m.qmp('query-status')['status'] == 'running'
