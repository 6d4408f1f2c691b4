"""Options that steer how images are read and written do what they say, or are refused."""
import os
import re
import subprocess
import sys
import time

import pytest
from conftest import need, program

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


@pytest.mark.proves('F-BLK-17', 'S075', 'S076', 'S077')
def test_memory_follows_the_cache_sizes(tmp_path):
    """A disk of a machine is read and written from end to end, as jobs do it; what its tables may keep in memory is what was given."""
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'machine'))
    from lyre import Machine
    size = 64 * MB
    p = tmp_path / 'd.qcow2'  # 512-byte clusters: 1 MiB of L2 tables, a refcount block for each 128 KiB
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata,cluster_size=512', p, size)
    tables = size // 512 * 8

    def used_for(words):
        with Machine('-drive', f'file={p},if=none,id=d,format=qcow2,cache-clean-interval=0,{words}', '-blockdev',
                     f'null-co,node-name=n,size={size}', '-accel', 'qtest', '-device', 'virtio-blk-pci,drive=d') as m:
            def rss():
                return int(re.search(r'RssAnon:\s+(\d+)', open(f'/proc/{m.proc.pid}/status').read())[1]) * 1024
            before = rss()
            m.qmp('blockdev-backup', device='d', target='n', sync='full', **{'job-id': 'j'})
            m.event('BLOCK_JOB_COMPLETED', 60)
            return rss() - before
    whole = used_for(f'l2-cache-size={tables}')
    assert whole > tables
    assert used_for('l2-cache-size=64k') < whole - tables // 2
    assert used_for('cache-size=128k') < whole - tables // 2
    assert used_for('cache-size=4M') > tables
    for words, said in (('l2-cache-size=2M,cache-size=1M', 'may not exceed cache-size'),
                        ('l2-cache-size=1M,refcount-cache-size=1M,cache-size=2M', 'may not be set at the same time')):
        q = subprocess.run([program('qemu-system-x86_64'), '-accel', 'qtest', '-display', 'none', '-drive', f'file={p},{words}'],
                           capture_output=True, text=True, timeout=60)
        assert q.returncode == 1 and said in q.stderr
    # refcount blocks: every cluster of a new image written in turn needs them all
    used = {}
    for ref in ('4k', '1M'):
        tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', p, '64M')
        q = subprocess.Popen([program('qemu-io'), '--image-opts', image_opts(p, f'l2-cache-size=8k,refcount-cache-size={ref},cache-clean-interval=0')],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        q.stdin.write('write -P 1 0 64M\nread 0 512\n')
        q.stdin.flush()
        n = 0
        while n < 2:
            n += 'bytes at offset' in q.stdout.readline()
        q.stdin.write('discard 0 64M\nflush\nlength\n')
        q.stdin.flush()
        while not (line := q.stdout.readline()).strip().endswith('64 MiB'):
            assert line
        used[ref] = int(re.search(r'RssAnon:\s+(\d+)', open(f'/proc/{q.pid}/status').read())[1]) * 1024
        q.stdin.close()
        q.wait(20)
    assert used['1M'] > used['4k'] + 200 * 1024


@pytest.mark.proves('F-BLK-15')
@pytest.mark.parametrize('cache,sync,direct', [('none', True, True), ('writeback', True, False), ('unsafe', False, False)])
def test_a_flush_is_a_sync_of_the_file(tmp_path, full, cache, sync, direct):
    """System calls behind a guest's flush, as the kernel sees them."""
    strace, log = need('strace'), tmp_path / 'log'
    subprocess.run([strace, '-f', '-o', log, '-e', 'trace=fdatasync,fsync,openat', program('qemu-io'), '-t', cache, '-f', 'qcow2', full, '-c',
                    'write -P 3 20M 64k', '-c', 'flush'], check=True, timeout=60, capture_output=True)
    text = log.read_text()
    assert bool(re.search(r'f(data)?sync\(', text)) == sync
    assert all(('O_DIRECT' in line) == direct for line in text.split('\n') if f'"{full}"' in line)
