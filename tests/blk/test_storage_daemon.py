"""qemu-storage-daemon: nodes, NBD exports and QMP without a machine."""
import json
import os
import signal
import socket
import subprocess
import time

import pytest
from conftest import need, program
from lyre import Qmp, QmpError


def img(*args):
    subprocess.run([program('qemu-img'), *map(str, args)], check=True, capture_output=True, timeout=60)


def until(path):
    end = time.monotonic() + 30
    while not os.path.exists(path):
        assert time.monotonic() < end, f'{path} did not appear'
        time.sleep(0.05)


class Daemon:
    def __init__(self, tmp, *args):
        self.sock = f'{tmp}/qmp'
        self.p = subprocess.Popen([program('qemu-storage-daemon'), *args, '--chardev', f'socket,id=c,path={self.sock},server=on,wait=off',
                                   '--monitor', 'chardev=c', '--pidfile', f'{tmp}/pid'])
        until(f'{tmp}/pid')
        s = socket.socket(socket.AF_UNIX)
        s.connect(self.sock)
        self.q = Qmp(s)

    def __enter__(self):
        return self

    def __exit__(self, *a):
        if self.p.poll() is None:
            self.p.kill()
        self.p.wait()


@pytest.mark.proves('S088')
def test_nodes_exports_and_qmp(tmp_path):
    p = tmp_path / 'a.qcow2'
    img('create', '-f', 'qcow2', p, '4M')
    with Daemon(tmp_path, '--blockdev', f'driver=file,node-name=f,filename={p}', '--blockdev', 'driver=qcow2,node-name=q,file=f',
                '--nbd-server', f'addr.type=unix,addr.path={tmp_path}/nbd', '--export', 'type=nbd,id=e,node-name=q,name=x,writable=on') as d:
        assert d.q.cmd('query-block-exports')[0]['id'] == 'e'
        url = f'nbd+unix:///x?socket={tmp_path}/nbd'
        for tool in (program('qemu-io'), need('qemu-io', 'qemu-utils')):
            out = subprocess.run([tool, '-f', 'raw', url, '-c', 'write -P 6 1M 64k', '-c', 'read -P 6 1M 64k'], capture_output=True, text=True,
                                 timeout=60)
            assert out.returncode == 0 and 'Pattern' not in out.stdout, out.stderr
        names = {c['name'] for c in d.q.cmd('query-commands')}
        assert {'blockdev-add', 'block-export-add', 'quit'} <= names and 'system_reset' not in names
        with pytest.raises(QmpError) as e:
            d.q.cmd('system_reset')
        assert e.value.cls == 'CommandNotFound'
        d.q.cmd('blockdev-add', driver='null-co', **{'node-name': 'n', 'size': 4 << 20})
        d.q.cmd('blockdev-mirror', device='q', target='n', sync='full', **{'job-id': 'j'})
        end = time.monotonic() + 30
        while d.q.cmd('query-jobs')[0]['status'] != 'ready':
            assert time.monotonic() < end
            time.sleep(0.05)
        d.q.cmd('job-cancel', id='j')
        d.q.cmd('object-add', **{'qom-type': 'secret', 'id': 's', 'data': 'x'})
        d.q.cmd('object-del', id='s')
        d.q.cmd('quit')
        assert d.p.wait(20) == 0
    assert not os.path.exists(tmp_path / 'pid')
    out = subprocess.run([program('qemu-io'), '-r', p, '-c', 'read -P 6 1M 64k'], capture_output=True, text=True, timeout=60)
    assert 'Pattern' not in out.stdout and out.returncode == 0


@pytest.mark.proves('S088')
def test_signals_and_mistakes(tmp_path):
    p = tmp_path / 'a.raw'
    p.write_bytes(bytes(65536))
    with Daemon(tmp_path, '--blockdev', f'driver=file,node-name=f,filename={p}') as d:
        d.p.send_signal(signal.SIGTERM)
        assert d.p.wait(20) == 0
    for args, text in ((['--export', 'type=vduse-blk,id=a,node-name=b'], 'vduse'), (['--blockdev', 'driver=file'], 'node-name'),
                       (['--nosuch'], 'unrecognized'), (['x'], 'Unexpected argument'), (['--monitor', 'chardev=none'], 'not found')):
        out = subprocess.run([program('qemu-storage-daemon'), *args], capture_output=True, text=True, timeout=30)
        assert out.returncode == 1 and text in out.stderr, out.stderr
    assert 'Usage' in subprocess.run([program('qemu-storage-daemon'), '--help'], capture_output=True, text=True, timeout=30).stdout
