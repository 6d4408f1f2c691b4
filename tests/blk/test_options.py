"""Options that steer how images are read and written do what they say, or are refused."""
import os
import re
import subprocess
import time

import pytest
from conftest import program

MB = 1 << 20


def tool(name, *args, ok=True, env=None):
    p = subprocess.run([program(name), *map(str, args)], capture_output=True, text=True, timeout=100, env={**os.environ, **(env or {})})
    assert (p.returncode == 0) == ok, p.stdout + p.stderr
    return p.stdout + p.stderr


def used(path):
    return os.stat(path).st_blocks * 512


def image_opts(path, extra):
    return f'driver=qcow2,file.driver=file,file.filename={path},{extra}'


@pytest.fixture
def full(tmp_path):
    p = tmp_path / 'f.qcow2'
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', p, '32M')
    tool('qemu-io', p, '-c', 'write -P 1 0 16M')
    return p


@pytest.mark.parametrize('opts,shrinks', [('discard=unmap', True), ('discard=unmap,pass-discard-request=off', False),
                                          ('discard=unmap,pass-discard-request=on', True)])
def test_pass_discard_request(full, opts, shrinks):
    before = used(full)
    tool('qemu-io', '--image-opts', image_opts(full, opts), '-c', 'discard 0 16M', '-c', 'flush', '-c', 'flush')
    assert (used(full) < before - 8 * MB) == shrinks


@pytest.mark.parametrize('value', ['none', 'constant', 'cached', 'all'])
def test_overlap_check_guards_what_it_names(full, value):
    """An L2 entry that points at the table itself: a write through it is caught by the sets that watch L2 tables."""
    tool('qemu-img', 'snapshot', '-c', 's', full)
    with open(full, 'r+b') as f:
        f.seek(40)
        l1 = int.from_bytes(f.read(8), 'big')
        f.seek(l1)
        l2 = int.from_bytes(f.read(8), 'big') & 0x00fffffffffffe00
        f.seek(l2)
        f.write((l2 | 1 << 63).to_bytes(8, 'big'))
        f.seek(l1)
        f.write((l2 | 1 << 63).to_bytes(8, 'big'))
    p = subprocess.run([program('qemu-io'), '--image-opts', image_opts(full, f'overlap-check={value}'), '-c', 'write -P 9 0 512'],
                       capture_output=True, text=True, timeout=60)
    caught = 'overwrite a table' in p.stderr
    assert caught == (value in ('cached', 'all'))
    assert 'Allowed are' in tool('qemu-io', '--image-opts', image_opts(full, 'overlap-check=most'), '-c', 'read 0 512', ok=False)


def test_idle_tables_leave_the_cache(tmp_path):
    """cache-clean-interval: memory of tables nobody uses goes back. Seen from the sizes of the process."""
    p = tmp_path / 'big.qcow2'
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata,cluster_size=4k', p, '4G')

    def growth(interval):
        q = subprocess.Popen([program('qemu-io'), '--image-opts', image_opts(p, f'l2-cache-size=16M,cache-clean-interval={interval}')],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            for at in range(0, 4096, 2):
                q.stdin.write(f'read {at}M 512\n')
            q.stdin.write('sleep 3500\nread 0 512\n')
            q.stdin.flush()
            rss, n = 0, 0
            while n < 2049:
                n += 'bytes at offset' in q.stdout.readline()
            rss = int(re.search(r'RssAnon:\s+(\d+)', open(f'/proc/{q.pid}/status').read())[1])
            return rss
        finally:
            q.stdin.close()
            q.wait(20)
    assert growth(1) < growth(0) - 4096


def test_offloaded_copies_are_the_same(tmp_path, full):
    raw, copy = tmp_path / 'a.raw', tmp_path / 'b.raw'
    tool('qemu-img', 'convert', '-C', '-O', 'raw', full, raw)
    tool('qemu-img', 'convert', '-C', '-f', 'raw', '-O', 'raw', raw, copy)
    assert raw.read_bytes() == copy.read_bytes() == b'\x01' * (16 * MB) + bytes(16 * MB)
    assert 'copy offloading' in tool('qemu-img', 'convert', '-C', '-c', '-O', 'qcow2', raw, tmp_path / 'c', ok=False)


def test_out_of_order_copies_are_the_same(tmp_path, full):
    tool('qemu-img', 'convert', '-W', '-O', 'qcow2', full, tmp_path / 'w.qcow2')
    assert 'identical' in tool('qemu-img', 'compare', full, tmp_path / 'w.qcow2')


def test_commit_keeps_to_its_rate(tmp_path, full):
    over = tmp_path / 'o.qcow2'
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', full, '-F', 'qcow2', over)
    tool('qemu-io', over, '-c', 'write -P 3 0 4M')
    start = time.monotonic()
    tool('qemu-img', 'commit', '-r', '4M', over)
    assert time.monotonic() - start > 0.7
    tool('qemu-io', '-r', full, '-c', 'read -P 3 0 4M')


def test_the_engine_is_the_one_named(tmp_path, full):
    for aio in ('threads', 'io_uring'):
        tool('qemu-img', 'bench', '-i', aio, '-c', '50', '-f', 'qcow2', full)
    assert 'nosuch' in tool('qemu-img', 'bench', '-i', 'nosuch', '-c', '1', '-f', 'qcow2', full, ok=False)
    assert 'nosuch' in tool('qemu-nbd', '--aio=nosuch', '-k', tmp_path / 's', full, ok=False)


def test_what_cannot_be_done_is_refused(tmp_path, full):
    old = tmp_path / 'old.qcow2'
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', old, '1M')
    assert 'Lazy refcounts' in tool('qemu-io', '--image-opts', image_opts(old, 'lazy-refcounts=on'), '-c', 'read 0 512', ok=False)
    assert 'discard-no-unref' in tool('qemu-io', '--image-opts', image_opts(full, 'discard-no-unref=on'), '-c', 'read 0 512', ok=False)
