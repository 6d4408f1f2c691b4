"""Images written by ours are read by the distribution's tools and the reverse, over random layouts, for each writable format."""
import os
import random
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from blktool import Tool  # noqa: E402

CASES = [
    ('qcow2', ''), ('qcow2', 'compat=0.10'), ('qcow2', 'cluster_size=512'), ('qcow2', 'cluster_size=2M'), ('qcow2', 'extended_l2=on'),
    ('qcow2', 'refcount_bits=1'), ('qcow2', 'refcount_bits=64,cluster_size=4k'), ('qcow2', 'lazy_refcounts=on'),
    ('qcow2', 'preallocation=metadata'), ('qcow2', 'data_file=ext.raw'), ('qcow2', 'data_file=ext.raw,data_file_raw=on'),
    ('qcow', ''), ('vdi', ''), ('vdi', 'static=on'), ('vpc', ''), ('vpc', 'subformat=fixed'), ('vhdx', ''), ('vhdx', 'subformat=fixed'),
    ('vhdx', 'block_size=1M'), ('vmdk', ''), ('vmdk', 'subformat=monolithicFlat'), ('vmdk', 'subformat=twoGbMaxExtentSparse'),
    ('vmdk', 'subformat=twoGbMaxExtentFlat'), ('vmdk', 'zeroed_grain=on'), ('raw', ''),
]


@pytest.fixture
def t(tmp_path):
    return Tool(str(tmp_path))


def writes(rng, size):
    cmds = []
    for _ in range(12):
        off = rng.randrange(0, size - 512, 512)
        n = min(rng.choice([512, 4096, 70000 // 512 * 512, 300 << 10, 2 << 20]), size - off)
        cmds.append(f'write -z {off} {n}' if rng.random() < 0.25 else f'write -P {rng.randrange(1, 255)} {off} {n}')
    return cmds


@pytest.mark.proves('F-PRG-10', 'F-IMG-02', 'F-IMG-03', 'F-IMG-04', 'F-IMG-05', 'F-IMG-06', 'F-IMG-07', 'F-IMG-15')
@pytest.mark.parametrize('fmt,opts', CASES, ids=lambda v: v or 'plain')
def test_images_are_exchanged_both_ways(t, fmt, opts):
    size, o = 24 << 20, ['-o', opts] if opts else []
    t.random_raw('a.raw', size, seed=hash(fmt + opts) & 0xffff)
    t.run(['convert', '-f', 'raw', '-O', fmt, *o, 'a.raw', 'ours'])
    t.oracle(['compare', '-f', fmt, '-F', 'raw', 'ours', 'a.raw'])
    t.run(['compare', '-f', fmt, '-F', 'raw', 'ours', 'a.raw'])
    t.oracle(['convert', '-f', 'raw', '-O', fmt, *[x.replace('ext.raw', 'ext2.raw') for x in o], 'a.raw', 'theirs'])
    t.run(['compare', '-f', fmt, '-F', 'raw', 'theirs', 'a.raw'])
    for image in ('ours', 'theirs'):  # writing into either's image with ours keeps it sound for them
        cmds = writes(random.Random(image), size)
        t.run(['convert', '-f', 'raw', '-O', 'raw', 'a.raw', 'copy.raw'])
        t.io(*cmds, image=image, fmt=fmt)
        t.io(*cmds, image='copy.raw', fmt='raw')
        t.oracle(['compare', '-f', fmt, '-F', 'raw', image, 'copy.raw'])
        if fmt in ('qcow2', 'vdi', 'vhdx', 'vmdk'):
            assert 'No errors' in t.oracle(['check', '-f', fmt, image])
            assert 'No errors' in t.run(['check', '-f', fmt, image])


@pytest.mark.proves('F-IMG-04')
def test_a_stream_optimized_vmdk_is_written_and_read(t):
    t.random_raw('a.raw', 8 << 20)
    t.run('convert -O vmdk -o subformat=streamOptimized a.raw s.vmdk')
    t.oracle('compare -f vmdk -F raw s.vmdk a.raw')
    t.oracle('convert -O vmdk -o subformat=streamOptimized a.raw s2.vmdk')
    t.run('compare -f vmdk -F raw s2.vmdk a.raw')


@pytest.mark.proves('F-BLK-27', 'N-70')
def test_a_vmdk_over_partitions_is_opened(t):
    t.random_raw('part0', 1 << 20, 1)
    t.random_raw('part1', 2 << 20, 2)
    with open(t.path('d.vmdk'), 'w') as f:
        f.write('# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="partitionedDevice"\n\n'
                'RW 2048 FLAT "part0" 0\nRW 4096 FLAT "part1" 0\nRW 2048 ZERO\n')
    assert t.info('d.vmdk')['virtual-size'] == 4 << 20
    t.run('convert -f vmdk -O raw d.vmdk d.raw')
    with open(t.path('d.raw'), 'rb') as d, open(t.path('part0'), 'rb') as a, open(t.path('part1'), 'rb') as b:
        assert d.read() == a.read() + b.read() + b'\0' * (1 << 20)


def test_a_vmdk_may_not_reach_outside_its_folder(t):
    t.random_raw('secret', 1 << 20)
    with open(t.path('d.vmdk'), 'w') as f:
        f.write('# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="monolithicFlat"\n\n'
                f'RW 2048 FLAT "{t.path("secret")}" 0\n')
    assert 'outside its own folder' in t.run('info d.vmdk', 1)


@pytest.mark.parametrize('name', ['json:{"driver":"file","filename":"/etc/passwd"}', 'nbd://127.0.0.1:1/x'])
def test_a_backing_name_in_an_image_may_only_be_a_plain_file(t, name):
    t.run('create -f qcow2 -o size=1M d.qcow2')
    t.run(['rebase', '-u', '-b', name, '-F', 'raw', 'd.qcow2'])
    assert 'not a plain file' in t.run('convert -O raw d.qcow2 x.raw', 1)
    t.run('info d.qcow2')
