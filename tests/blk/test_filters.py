"""Filters and disks made of several children, through qemu-io and qemu-img."""
import json
import os
import struct
import subprocess

import pytest
from conftest import need, program

MB = 1 << 20


def tool(name, *args, ok=True, theirs=False):
    exe = need(name, 'qemu-utils') if theirs else program(name)
    p = subprocess.run([exe, *map(str, args)], capture_output=True, text=True, timeout=100)
    assert ok is None or (p.returncode == 0) == ok, p.stdout + p.stderr
    return p.stdout + p.stderr


def io(opts, *cmds, ok=True):
    if not isinstance(opts, str):
        opts = 'json:' + json.dumps(opts)
        return tool('qemu-io', opts, *[x for c in cmds for x in ('-c', c)], ok=ok)
    return tool('qemu-io', '--image-opts', opts, *[x for c in cmds for x in ('-c', c)], ok=ok)


def raw(path, size=4 * MB, fill=0):
    path.write_bytes(bytes([fill]) * size)
    return path


def file(path):
    return {'driver': 'file', 'filename': str(path)}


@pytest.mark.proves('N-71')
def test_composite_puts_a_boot_record_before_a_partition(tmp_path):
    mbr, part = raw(tmp_path / 'mbr', 512, 1), raw(tmp_path / 'part', MB, 2)
    d = {'driver': 'composite', 'children': [file(mbr), file(part)], 'offset': {'1': 32256}, 'size': 2 * MB}
    out = io(d, 'read -P 1 0 512', 'read -P 0 512 31744', 'read -P 2 32256 1M', 'write -P 9 32256 4k', 'write -z 0 64k', 'read -P 0 0 64k',
             'write -P 7 40000 600')
    assert 'Pattern' not in out and 'failed' not in out
    assert part.read_bytes()[40000 - 32256:40000 - 32256 + 600] == b'\x07' * 600 and mbr.read_bytes() == bytes(512)
    assert 'Input/output error' in io(d, 'write -P 5 1k 512', ok=None)
    assert os.path.getsize(part) == MB
    spec = f'driver=composite,children.0.driver=file,children.0.filename={mbr},children.1.driver=file,children.1.filename={part}'
    tool('qemu-img', 'convert', '--image-opts', spec + ',offset.1=32256', '-O', 'raw', tmp_path / 'whole')
    whole = (tmp_path / 'whole').read_bytes()
    assert whole[32256:] == part.read_bytes() and len(whole) == 32256 + MB
    assert 'multiple of 512' in io(spec + ',offset.1=100', 'read 0 512', ok=False)


def test_quorum_votes_and_repairs(tmp_path):
    kids = [raw(tmp_path / f'k{i}', MB, 3) for i in range(3)]
    d = {'driver': 'quorum', 'vote-threshold': 2, 'children': [file(k) for k in kids]}
    io(d, 'write -P 8 64k 64k')
    assert all(k.read_bytes()[65536:131072] == b'\x08' * 65536 for k in kids)
    with open(kids[1], 'r+b') as f:
        f.seek(70000)
        f.write(b'bad')
    assert 'Pattern' not in io(d, 'read -P 8 64k 64k')
    assert kids[1].read_bytes()[70000:70003] == b'bad'
    assert 'Pattern' not in io({**d, 'rewrite-corrupted': True}, 'read -P 8 64k 64k')
    assert kids[1].read_bytes()[70000:70003] == b'\x08' * 3
    for i, k in enumerate(kids):
        with open(k, 'r+b') as f:
            f.write(bytes([i]) * 512)
    assert 'Input/output error' in io(d, 'read 0 512', ok=None)
    assert 'Pattern' not in io({'driver': 'quorum', 'read-pattern': 'fifo', 'children': [file(k) for k in kids]}, 'read -P 0 0 512')
    assert 'threshold' in io({**d, 'vote-threshold': 4}, 'read 0 512', ok=False)


def test_compress_filter(tmp_path):
    p = tmp_path / 'c.qcow2'
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', p, '4M')
    io({'driver': 'compress', 'file': {'driver': 'qcow2', 'file': file(p)}}, 'write -P 5 0 1M', 'write -P 6 100000 10', 'write -P 7 4128768 65536')
    assert '100.00% compressed' in tool('qemu-img', 'check', p).replace('  ', ' ') or 'compressed clusters' in tool('qemu-img', 'check', p)
    assert os.path.getsize(p) < 500000
    out = tool('qemu-io', '-r', p, '-c', 'read -P 5 0 100000', '-c', 'read -P 6 100000 10', '-c', 'read -P 5 100010 900000', '-c', 'read -P 7 4128768 65536')
    assert 'Pattern' not in out
    assert 'not supported' in io({'driver': 'compress', 'file': {'driver': 'raw', 'file': file(raw(tmp_path / 'r'))}}, 'read 0 512', ok=False)


def test_preallocate_filter_grows_in_steps_and_cuts(tmp_path):
    p = tmp_path / 'p.qcow2'
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', p, '64M')
    q = subprocess.Popen([program('qemu-io'), 'json:' + json.dumps({'driver': 'qcow2', 'file': {'driver': 'preallocate', 'prealloc-size': 16 * MB,
                          'file': file(p)}})], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    q.stdin.write('write -P 4 0 1M\nflush\nlength\n')
    q.stdin.flush()
    while not q.stdout.readline().strip().endswith('64 MiB'):
        pass
    assert os.path.getsize(p) >= 16 * MB
    q.stdin.write('quit\n')
    q.stdin.close()
    q.wait(20)
    q.stdout.close()
    assert os.path.getsize(p) < 4 * MB
    assert 'Pattern' not in tool('qemu-io', '-r', p, '-c', 'read -P 4 0 1M')
    assert 'No errors' in tool('qemu-img', 'check', p)


def test_blkdebug_injects_errors(tmp_path):
    p = raw(tmp_path / 'r')
    base = {'driver': 'blkdebug', 'file': file(p)}
    assert 'No space left' in io({**base, 'inject-error': [{'event': 'write_aio', 'errno': 28}]}, 'read 0 512', 'write 0 512', ok=None)
    out = io({**base, 'inject-error': [{'iotype': 'read', 'once': True, 'sector': 8}]}, 'read 0 512', 'read 4096 512', 'read 4096 512', ok=None)
    assert out.count('Input/output error') == 1
    assert 'is not available' in io({**base, 'inject-error': [{'event': 'l2_load'}]}, 'read 0 512', ok=False)


def test_blkverify_finds_a_difference(tmp_path):
    a, b = raw(tmp_path / 'a', MB, 1), raw(tmp_path / 'b', MB, 1)
    d = {'driver': 'blkverify', 'file': file(a), 'test': file(b)}
    assert 'Pattern' not in io(d, 'write -P 5 4k 4k', 'read -P 5 4k 4k', 'read -P 1 64k 64k')
    with open(b, 'r+b') as f:
        f.seek(100000)
        f.write(b'x')
    assert 'mismatch at offset 100000' in io(d, 'read 64k 64k', ok=None)


def test_blklogwrites_records_every_write(tmp_path):
    p, log = raw(tmp_path / 'r', MB), raw(tmp_path / 'log', 0)
    io({'driver': 'blklogwrites', 'file': file(p), 'log': file(log)}, 'write -P 5 4k 1k', 'flush', 'write -P 6 8k 512')
    b = log.read_bytes()
    magic, version, entries, ss = struct.unpack_from('<QQQI', b)
    assert (magic, version, ss) == (0x6a736677736872, 1, 512) and entries >= 3
    sector, nr, flags, _ = struct.unpack_from('<QQQQ', b, 512)
    assert (sector, nr, flags) == (8, 2, 0) and b[1024:2048] == b'\x05' * 1024
    assert struct.unpack_from('<QQQQ', b, 2048)[2] & 1
