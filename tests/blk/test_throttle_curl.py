"""Limits that drives share, and images on web servers."""
import http.server
import json
import os
import re
import socketserver
import subprocess
import threading
import time

import pytest
from conftest import program
from lyre import Machine, QmpError

MB = 1 << 20


def tool(name, *args, ok=True):
    p = subprocess.run([program(name), *map(str, args)], capture_output=True, text=True, timeout=100)
    assert ok is None or (p.returncode == 0) == ok, p.stdout + p.stderr
    return p.stdout + p.stderr


def seconds(*objs, node, cmd):
    start = time.monotonic()
    tool('qemu-io', *[x for o in objs for x in ('--object', o)], 'json:' + json.dumps(node), '-c', cmd, '-c', cmd)
    return time.monotonic() - start


def test_throttle_group_object_limits(tmp_path):
    null = {'driver': 'null-co', 'size': 64 * MB}
    node = {'driver': 'throttle', 'throttle-group': 'g', 'file': null}
    assert seconds('throttle-group,id=g,x-bps-total=4194304', node=node, cmd='read 0 2M') > 0.4
    assert seconds('throttle-group,id=g,limits.bps-write=4194304', node=node, cmd='read 0 2M') < 0.4
    assert seconds('throttle-group,id=g,x-bps-total=1048576,x-bps-total-max=104857600', node=node, cmd='read 0 2M') < 0.4
    assert 'does not exist' in tool('qemu-io', 'json:' + json.dumps(node), '-c', 'read 0 512', ok=False)
    assert 'at the same time' in tool('qemu-io', '--object', 'throttle-group,id=g,x-bps-total=1,x-bps-read=1', '-c', 'quit', ok=False)


def test_limits_of_a_running_machine(tmp_path):
    p = tmp_path / 'd.raw'
    p.write_bytes(bytes(8 * MB))
    with Machine('-M', 'q35', '-accel', 'qtest', '-drive', f'file={p},format=raw,if=none,id=a,throttling.bps-total=1000000,throttling.group=g',
                 '-drive', 'driver=null-co,if=none,id=b', '-device',
                 'virtio-blk-pci,drive=a,id=da,share-rw=on') as m:
        a = next(x for x in m.qmp('query-block') if x['device'] == 'a')['inserted']
        assert a['bps'] == 1000000 and a['group'] == 'g'
        lim = {'=bps': 0, '=bps_rd': 500, '=bps_wr': 600, '=iops': 0, '=iops_rd': 0, '=iops_wr': 0}  # '=': as it stands
        m.qmp('block_set_io_throttle', id='da', **lim)
        a = next(x for x in m.qmp('query-block') if x['device'] == 'a')['inserted']
        assert (a['bps'], a['bps_rd'], a['bps_wr']) == (0, 500, 600)
        m.qmp('block_set_io_throttle', device='b', **{**lim, 'group': 'g'})
        b = next(x for x in m.qmp('query-block') if x['device'] == 'b')['inserted']
        assert b['group'] == 'g' and b['bps_rd'] == 500
        with pytest.raises(QmpError, match='at the same time'):
            m.qmp('block_set_io_throttle', device='b', **{**lim, '=bps': 5})
        assert m.hmp('block_set_io_throttle b 7 0 0 0 0 0') == ''
        assert next(x for x in m.qmp('query-block') if x['device'] == 'b')['inserted']['bps'] == 7


class Ranged(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    data, ranges = b'', True

    def log_message(self, *a):
        pass

    def answer(self, body):
        if self.path != '/disk.img':
            self.send_error(404)
            return
        lo, hi, code = 0, len(self.data) - 1, 200
        m = re.match(r'bytes=(\d+)-(\d*)', self.headers.get('Range', ''))
        if m and self.ranges:
            lo, hi, code = int(m[1]), min(int(m[2] or hi), hi), 206
        self.send_response(code)
        if self.ranges:
            self.send_header('Accept-Ranges', 'bytes')
        if code == 206:
            self.send_header('Content-Range', f'bytes {lo}-{hi}/{len(self.data)}')
        self.send_header('Content-Length', str(hi - lo + 1))
        self.end_headers()
        if body:
            self.wfile.write(self.data[lo:hi + 1])

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)


@pytest.fixture
def web():
    srv = socketserver.ThreadingTCPServer(('127.0.0.1', 0), Ranged)
    srv.daemon_threads = True
    threading.Thread(target=srv.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{srv.server_address[1]}'
    srv.shutdown()
    srv.server_close()


@pytest.mark.proves('F-BLK-20')
def test_images_on_a_web_server(tmp_path, web):
    q, out = tmp_path / 'x.qcow2', tmp_path / 'o.raw'
    raw = tmp_path / 'r.raw'
    raw.write_bytes(os.urandom(3 * MB) + bytes(MB))
    tool('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', raw, q)
    Ranged.data, Ranged.ranges = q.read_bytes(), True
    tool('qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', f'{web}/disk.img', out)
    assert out.read_bytes() == raw.read_bytes()
    over = tmp_path / 'over.qcow2'
    spec = {'driver': 'qcow2', 'file': {'driver': 'http', 'url': f'{web}/disk.img', 'readahead': 65536}}
    assert 'Pattern' not in tool('qemu-io', '-r', 'json:' + json.dumps(spec), '-c', 'read -P 0 3M 1M')
    assert tool('qemu-io', 'json:' + json.dumps(spec), '-c', 'write 0 512', ok=False)
    assert '404' in tool('qemu-img', 'info', f'{web}/none', ok=False)
    Ranged.ranges = False
    assert 'byte ranges' in tool('qemu-img', 'info', f'{web}/disk.img', ok=False)
    assert not over.exists()


def test_every_command_sent_to_the_block_layer_is_there():
    """The schema's "via": "blk" names; the monitor relies on it."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    names = [json.loads(line)['command'] for line in open(f'{root}/schema/block.json') if '"via": "blk"' in line]
    table = open(f'{root}/src/blk/cmds.c').read()
    assert len(names) > 40 and [n for n in names if f'{{"{n}", ' not in table] == []
