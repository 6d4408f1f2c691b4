"""QMP: the protocol, its errors, introspection that matches what is answered, and the commands of issue 2."""
import json
import os
import re
import socket

import pytest
from conftest import need
from lyre import Machine, Qmp, QmpError

BASE = ('-M', 'none', '-accel', 'qtest')


@pytest.fixture
def m():
    with Machine(*BASE, '-name', 'q') as machine:
        yield machine


class Schema:
    """query-qmp-schema, able to say whether a value has a type."""

    def __init__(self, entries):
        self.by = {(e['meta-type'] in ('command', 'event'), e['name']): e for e in entries}

    def command(self, name):
        return self.by[(True, name)]

    def wrong(self, name, v, path='$'):
        """None, or where and how the value differs from the type."""
        t = self.by[(False, name)]
        kind = t['meta-type']
        if kind == 'builtin':
            want = {'string': str, 'int': int, 'number': (int, float), 'boolean': bool, 'null': type(None), 'value': object}[t['json-type']]
            ok = isinstance(v, want) and (t['json-type'] in ('boolean', 'value') or not isinstance(v, bool))
            return None if ok else f'{path}: {v!r} is no {name}'
        if kind == 'enum':
            return None if v in t['values'] else f'{path}: {v!r} is not in {name}'
        if kind == 'array':
            if not isinstance(v, list):
                return f'{path}: no array'
            return next(filter(None, (self.wrong(t['element-type'], x, f'{path}[{i}]') for i, x in enumerate(v))), None)
        if not isinstance(v, dict):
            return f'{path}: no object'
        members = {x['name']: x for x in t['members']}
        if 'tag' in t:
            case = next((c for c in t['variants'] if c['case'] == v.get(t['tag'])), None)
            if case:
                members.update({x['name']: x for x in self.by[(False, case['type'])]['members']})
        for k, x in members.items():
            if k not in v and 'default' not in x:
                return f'{path}.{k} is missing'
        for k, x in v.items():
            if k not in members:
                return f'{path}.{k} is not in {name}'
            w = self.wrong(members[k]['type'], x, f'{path}.{k}')
            if w:
                return w
        return None


@pytest.mark.proves('F-QMP-01', 'F-QMP-02', 'S328', 'S329', 'S330')
def test_greeting_over_tcp():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    with Machine(*BASE, '-qmp', f'tcp:localhost:{port},server,nowait'):
        with socket.create_connection(('localhost', port)) as s:
            g = json.loads(s.makefile().readline())
    v = g['QMP']['version']['qemu']
    assert set(v) == {'major', 'minor', 'micro'} and (v['major'], v['minor']) >= (4, 2)
    assert 'Lyrebird' in g['QMP']['version']['package'] and isinstance(g['QMP']['capabilities'], list)


@pytest.mark.proves('F-QMP-03', 'S331')
def test_negotiation_comes_first():
    ours, theirs = socket.socketpair()
    with Machine(*BASE, '-chardev', f'socket,id=q,fd={theirs.fileno()}', '-mon', 'chardev=q,mode=control', pass_fds=[theirs.fileno()]):
        theirs.close()
        q = Qmp(ours, negotiate=False)
        e = q.raw({'execute': 'query-status', 'id': [1, 'x']})
        assert e['error']['class'] == 'CommandNotFound' and e['id'] == [1, 'x']
        assert q.raw({'execute': 'qmp_capabilities'}) == {'return': {}}
        assert q.raw({'execute': 'query-status'})['return']['status'] == 'running'
        assert q.raw({'execute': 'qmp_capabilities'})['error']['class'] == 'CommandNotFound'
        ours.close()


@pytest.mark.proves('F-QMP-04', 'S332')
def test_query_commands_lists_all_of_them(m):
    names = {c['name'] for c in m.qmp('query-commands')}
    wanted = '''query-status query-commands query-version query-name query-uuid query-kvm query-machines query-cpus-fast
        query-cpu-definitions query-chardev query-block query-blockstats query-pci query-memory-size-summary qom-list qom-get qom-set
        qom-list-types qom-list-properties device-list-properties device_add device_del object-add object-del chardev-add chardev-remove
        netdev_add netdev_del blockdev-add blockdev-del set_link quit stop cont system_reset system_powerdown system_wakeup screendump
        send-key input-send-event human-monitor-command memsave pmemsave inject-nmi balloon query-balloon query-events add_client getfd'''
    assert not set(wanted.split()) - names


@pytest.mark.parametrize('text,cls,desc', [
    ('{"execute": "no-such"}', 'CommandNotFound', 'no-such'),
    ('{"exec": "x"}', 'GenericError', "'exec' is unexpected"),
    ('{}', 'GenericError', "'execute'"),
    ('[]', 'GenericError', 'must be a JSON object'),
    ('{"execute": "query-status", "arguments": []}', 'GenericError', 'must be an object'),
    ('{"execute": "query-status", "arguments": {"x": 1}}', 'GenericError', "Parameter 'x' is unexpected"),
    ('{"execute": "device_del"}', 'GenericError', "Parameter 'id' is missing"),
    ('{"execute": "device_del", "arguments": {"id": 1}}', 'GenericError', "Invalid parameter type for 'id', expected: string"),
    ('{"execute": "device_del", "arguments": {"id": "zz"}}', 'DeviceNotFound', "Device 'zz' not found"),
    ('{"execute": "screendump", "arguments": {"filename": "/x", "format": "gif"}}', 'GenericError', "'gif'"),
    ('{"exec-oob": "query-status"}', 'GenericError', 'out-of-band'),
    ('{"execute": nonsense}', 'GenericError', 'JSON parse error'),
    ('{"execute": "query-status"', None, None),
    ('\x01', 'GenericError', 'JSON parse error'),
    ('{"execute": "balloon", "arguments": {"value": 1}}', 'DeviceNotActive', 'balloon'),
    ('{"execute": "netdev_del", "arguments": {"id": "zz"}}', 'DeviceNotFound', 'zz'),
    ('{"execute": "qom-get", "arguments": {"path": "/zz", "property": "type"}}', 'DeviceNotFound', 'zz'),
])
def test_errors_have_the_class_and_name_the_culprit(m, text, cls, desc):
    if cls is None:  # unfinished input waits for its end
        m._qmp.s.send(text)
        assert m.qmp_raw('}')['return']['running'] is True
        return
    r = m.qmp_raw(text)
    assert r['error']['class'] == cls and desc in r['error']['desc']
    assert m.qmp('query-status')['running'] is True


def test_id_is_echoed_and_requests_may_come_in_one_piece(m):
    m._qmp.s.send('{"execute":"query-name","id":1}{"execute":"query-kvm","id":{"a":null}} {"execute":"zz","id":"z"}\n')
    assert [m._qmp.read().get('id') for _ in range(3)] == [1, {'a': None}, 'z']


def test_one_byte_at_a_time(m):
    for c in '{"execute": "query-name", "id": "\\"}{"}':
        m._qmp.s.send(c)
    assert m._qmp.read() == {'return': {'name': 'q'}, 'id': '"}{'}


@pytest.mark.proves('F-QMP-10', 'F-QMP-02')
def test_replies_have_the_type_the_schema_gives(m):
    s = Schema(m.qmp('query-qmp-schema'))
    asked = 0
    for name in sorted(c['name'] for c in m.qmp('query-commands')):
        cmd = s.command(name)
        args = s.by[(False, cmd['arg-type'])]['members']
        if not name.startswith('query-') or any('default' not in a for a in args):
            continue
        try:
            value = m.qmp(name)
        except QmpError as e:
            assert e.cls in ('DeviceNotActive', 'GenericError'), name
            continue
        assert s.wrong(cmd['ret-type'], value) is None, name
        asked += 1
    assert asked >= 25


def test_the_schema_refers_only_to_what_it_has(m):
    s = m.qmp('query-qmp-schema')
    names = {e['name'] for e in s if e['meta-type'] not in ('command', 'event')}
    used = set()
    for e in s:
        used |= {x['type'] for x in e.get('members', []) if isinstance(x, dict) and 'type' in x}
        used |= {v['type'] for v in e.get('variants', [])}
        used |= {e[k] for k in ('arg-type', 'ret-type', 'element-type') if k in e}
    assert used <= names
    assert {c['name'] for c in m.qmp('query-commands')} == {e['name'] for e in s if e['meta-type'] == 'command'}
    assert {c['name'] for c in m.qmp('query-events')} == {e['name'] for e in s if e['meta-type'] == 'event'}


def test_the_reference_page_is_the_schemas(tmp_path):
    import subprocess
    import sys
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    schema = sorted(os.path.join(root, 'schema', f) for f in os.listdir(os.path.join(root, 'schema')))
    subprocess.run([sys.executable, os.path.join(root, 'tools/qmpgen.py'), '--doc', str(tmp_path / 'doc'), *schema], check=True)
    assert (tmp_path / 'doc').read_text() == open(os.path.join(root, 'docs/qmp-reference.md')).read()


@pytest.mark.proves('F-MON-13', 'S321', 'S322')
def test_stop_and_cont_raise_events_and_show_in_status(m):
    m.qmp('stop')
    e = m.event('STOP')
    assert set(e['timestamp']) == {'seconds', 'microseconds'}
    assert m.qmp('query-status') == {'running': False, 'singlestep': False, 'status': 'paused'}
    m.qmp('stop')
    m.qmp('cont')
    m.event('RESUME')
    assert m.qmp('query-status')['status'] == 'running'


@pytest.mark.proves('F-MON-12', 'F-MON-11')
def test_reset_powerdown_and_quit_raise_events(m):
    m.qmp('system_reset')
    assert m.event('RESET')['data'] == {'guest': False, 'reason': 'host-qmp-system-reset'}
    m.qmp('system_powerdown')
    m.event('POWERDOWN')
    m.qmp('quit')
    assert m.event('SHUTDOWN')['data'] == {'guest': False, 'reason': 'host-qmp-quit'}
    assert m.wait() == 0


def test_s_waits_for_cont():
    with Machine(*BASE, '-S') as m:
        assert m.qmp('query-status')['status'] == 'prelaunch'
        m.qmp('cont')
        m.event('RESUME')


def test_two_clients_see_the_same_events(tmp_path):
    with Machine(*BASE, '-qmp', f'unix:{tmp_path}/a,server,nowait') as m:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(tmp_path / 'a'))
            q = Qmp(s)
            m.qmp('stop')
            q.event('STOP', 5)
            m.event('STOP', 5)


def test_machines_and_types(m):
    machines = {x['name']: x for x in m.qmp('query-machines')}
    assert machines['none']['cpu-max'] == 1
    assert [x['name'] for x in machines.values() if x.get('is-default')] == [x for x in machines if machines[x].get('alias') == 'pc']
    types = {t['name']: t for t in m.qmp('qom-list-types')}
    assert types['virtio-net-pci']['parent'] and 'e1000' in types
    concrete = {t['name'] for t in m.qmp('qom-list-types', implements='device', abstract=False)}
    assert 'e1000' in concrete and 'pc-machine' not in concrete and 'device' not in concrete


def test_properties_of_classes(m):
    props = {p['name']: p for p in m.qmp('device-list-properties', typename='e1000')}
    assert {'mac', 'netdev', 'addr'} <= set(props)
    with pytest.raises(QmpError) as e:
        m.qmp('device-list-properties', typename='no-such')
    assert e.value.cls == 'DeviceNotFound' and e.value.desc == "Device 'no-such' not found"


def test_the_object_tree(m):
    top = {x['name']: x['type'] for x in m.qmp('qom-list', path='/')}
    assert {'machine', 'objects', 'chardevs'} <= set(top)
    assert {'peripheral', 'unattached'} <= {x['name'] for x in m.qmp('qom-list', path='/machine')}
    m.qmp_args('object-add', {'qom-type': 'memory-backend-ram', 'id': 'r', 'size': 8192})
    assert m.qmp('qom-get', path='/objects/r', property='type') == 'memory-backend-ram'
    assert m.qmp('qom-get', path='/objects/r', property='size') == 8192
    with pytest.raises(QmpError, match='not found'):
        m.qmp('qom-get', path='/objects/r', property='zz')
    with pytest.raises(QmpError, match='exists already'):
        m.qmp_args('object-add', {'qom-type': 'memory-backend-ram', 'id': 'r', 'size': 8192})
    m.qmp('object-del', id='r')
    with pytest.raises(QmpError):
        m.qmp('object-del', id='r')


def test_human_monitor_command(m):
    assert m.hmp('info status').startswith('VM status: running')
    assert 'unknown command' in m.hmp('bogus')


def test_block_nodes_come_and_go(m, tmp_path):
    (tmp_path / 'img').write_bytes(bytes(65536))
    m.qmp_args('blockdev-add', {'driver': 'raw', 'node-name': 'n0', 'file': {'driver': 'file', 'filename': str(tmp_path / 'img')}})
    nodes = {n['node-name']: n for n in m.qmp('query-named-block-nodes')}
    assert 'n0' in nodes
    m.qmp_args('blockdev-del', {'node-name': 'n0'})
    assert 'n0' not in {n['node-name'] for n in m.qmp('query-named-block-nodes')}
    with pytest.raises(QmpError):
        m.qmp_args('blockdev-del', {'node-name': 'n0'})


def test_network_back_ends_come_and_go(m):
    m.qmp_args('netdev_add', {'type': 'user', 'id': 'u0'})
    assert 'u0' in m.hmp('info network')
    m.qmp('set_link', name='u0', up=False)
    m.qmp('netdev_del', id='u0')
    assert 'u0' not in m.hmp('info network')


def test_pmemsave_writes_what_is_there(m, tmp_path):
    m.qmp('pmemsave', val=0, size=5000, filename=str(tmp_path / 'f'))
    assert (tmp_path / 'f').read_bytes() == b'\xff' * 5000


def test_a_large_garbage_value_is_bounded(m):
    m._qmp.s.send('{"execute": "x", "arguments": {"a": "' + 'x' * 300000 + '"}}')
    assert m._qmp.read(20)['error']['class'] == 'CommandNotFound'
    m._qmp.s.send('[' * 5000 + '\n')
    assert m._qmp.read(20)['error']['class'] == 'GenericError'
    assert m.qmp('query-status')['running']


def test_pretty_printing():
    ours, theirs = socket.socketpair()
    with Machine(*BASE, '-chardev', f'socket,id=q,fd={theirs.fileno()}', '-mon', 'chardev=q,mode=control,pretty=on', pass_fds=[theirs.fileno()]):
        theirs.close()
        text = ours.recv(4096).decode()
        assert text.startswith('{\n    "QMP": {\n') and json.loads(text)
        ours.close()
