"""The corners of qemu-img and qemu-io: what is refused, and before anything is written; options that change an image in place."""
import json
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from blktool import Tool  # noqa: E402

MB = 1 << 20


@pytest.fixture
def t(tmp_path):
    return Tool(str(tmp_path))


def base_and_overlay(t):
    t.run('create -q -f qcow2 a.qcow2 8M')
    t.io('write -P 1 0 1M', image='a.qcow2')
    t.run('create -q -f qcow2 -b a.qcow2 -F qcow2 b.qcow2')
    t.io('write -P 7 128k 64k', image='b.qcow2')


# ---- amend ----

@pytest.mark.proves('F-IMG-02', 'F-IMG-17')
@pytest.mark.parametrize('was,bits', [(16, 64), (16, 8), (64, 1), (1, 16), (16, 2)])
def test_the_width_of_refcounts_changes_in_place(t, was, bits):
    t.run(f'create -q -f qcow2 -o refcount_bits={was},cluster_size=4k s.qcow2 8M')
    t.io('write -P 3 0 1M', 'write -P 4 4M 100k', image='s.qcow2')
    t.run(f'amend -f qcow2 -o refcount_bits={bits} s.qcow2')
    assert t.info('s.qcow2', True)['format-specific']['data']['refcount-bits'] == bits
    t.run('check s.qcow2')
    t.oracle('check s.qcow2')
    t.io('read -P 3 0 1M', 'read -P 4 4M 100k', 'write -P 5 6M 1M', image='s.qcow2')
    t.oracle('check s.qcow2')


@pytest.mark.proves('F-IMG-02')
def test_a_count_that_does_not_fit_is_not_cut(t):
    t.run('create -q -f qcow2 s.qcow2 8M')
    t.io('write -P 3 0 1M', image='s.qcow2')
    t.run('snapshot -c one s.qcow2')
    assert 'too large refcount' in t.run('amend -f qcow2 -o refcount_bits=1 s.qcow2', ok=1)
    assert t.info('s.qcow2')['format-specific']['data']['refcount-bits'] == 16
    t.oracle('check s.qcow2')
    t.run('amend -f qcow2 -o refcount_bits=2 s.qcow2')
    t.oracle('check s.qcow2')


@pytest.mark.proves('F-IMG-02')
def test_amend_says_what_is_of_creation_only(t):
    base_and_overlay(t)
    for option in ('cluster_size=4k', 'preallocation=full', 'extended_l2=on', 'compression_type=zstd'):
        assert 'only supported for image creation' in t.run(f'amend -f qcow2 -o {option} b.qcow2', ok=1)
    assert 'rebase' in t.run('amend -f qcow2 -o backing_file=c.qcow2 b.qcow2', ok=1)
    assert t.run('amend -f qcow2 -o help').startswith("Amend options for 'qcow2':")
    t.run('create -q -f qcow2 -o data_file=d.raw x.qcow2 1M')
    os.rename(t.path('d.raw'), t.path('e.raw'))
    t.run(['amend', '-o', 'data_file=e.raw', '--image-opts', 'driver=qcow2,file.filename=x.qcow2,data-file.filename=e.raw,data-file.driver=file'])
    assert t.info('x.qcow2', True)['format-specific']['data']['data-file'] == 'e.raw'
    t.oracle('check x.qcow2')


# ---- resize ----

@pytest.mark.proves('F-IMG-16', 'F-IMG-11')
@pytest.mark.parametrize('how', ['metadata', 'falloc', 'full'])
def test_resize_preallocates_soundly(t, how):
    t.run('create -q -f qcow2 a.qcow2 8M')
    t.io('write -P 1 0 1M', image='a.qcow2')
    t.run(f'resize --preallocation={how} a.qcow2 16M')
    t.run('check a.qcow2')
    t.oracle('check a.qcow2')
    assert all(x['data'] or x['start'] < 8 * MB for x in json.loads(t.oracle('map --output=json a.qcow2')))
    t.io('read -P 1 0 1M', 'read -P 0 1M 15M', image='a.qcow2')
    if how != 'metadata':
        assert os.stat(t.path('a.qcow2')).st_blocks * 512 >= 8 * MB


# ---- never its own parent, never a second time ----

@pytest.mark.proves('F-IMG-18')
def test_an_image_never_becomes_its_own_base(t):
    base_and_overlay(t)
    os.link(t.path('b.qcow2'), t.path('same.qcow2'))
    for name in ('b.qcow2', 'same.qcow2'):
        assert 'itself' in t.run(f'rebase -b {name} -F qcow2 b.qcow2', ok=1)
        assert 'its own backing file' in t.run(f'rebase -u -b {name} -F qcow2 b.qcow2', ok=1)
    t.run('create -q -f qcow2 -b b.qcow2 -F qcow2 c.qcow2')
    assert 'lies above it' in t.run('rebase -b c.qcow2 -F qcow2 b.qcow2', ok=1)
    assert t.info('b.qcow2')['backing-filename'] == 'a.qcow2'


@pytest.mark.proves('F-IMG-02')
def test_bitmaps_of_the_same_image_are_merged_once(t):
    t.run('create -q -f qcow2 m.qcow2 8M')
    t.run('bitmap --add m.qcow2 b0')
    t.io('write 0 1M', image='m.qcow2')
    t.run('bitmap --add m.qcow2 b1')
    t.run('bitmap --merge b0 -b m.qcow2 -F qcow2 m.qcow2 b1')
    t.run('check m.qcow2')
    t.oracle('check m.qcow2')


@pytest.mark.proves('F-IMG-02')
def test_bitmap_switches_are_checked(t):
    t.run('create -q -f qcow2 m.qcow2 8M')
    t.run('create -q -f qcow2 -o compat=0.10 old.qcow2 8M')
    t.run('create -q -f raw r.raw 8M')
    assert '--merge' in t.run('bitmap -b m.qcow2 --add m.qcow2 x', ok=1)
    assert '-b' in t.run('bitmap -F qcow2 --add m.qcow2 x', ok=1)
    assert '--add' in t.run('bitmap -g 64k --remove m.qcow2 x', ok=1)
    assert 'empty' in t.run(['bitmap', '--add', 'm.qcow2', ''], ok=1)
    assert 'v2' in t.run('bitmap --add old.qcow2 x', ok=1)
    assert 'does not support' in t.run('bitmap --add -f raw r.raw x', ok=1)
    assert 'bitmaps' not in t.info('m.qcow2')['format-specific']['data']


@pytest.mark.proves('F-IMG-15')
def test_convert_refuses_to_lose_bitmaps_before_it_copies(t):
    t.run('create -q -f qcow2 m.qcow2 8M')
    t.run('bitmap --add m.qcow2 b0')
    t.io('write 0 1M', image='m.qcow2')
    assert 'does not support bitmaps' in t.run('convert --bitmaps -O raw m.qcow2 x', ok=1)
    assert os.stat(t.path('x')).st_blocks == 0
    assert 'does not support bitmaps' in t.run('convert --bitmaps -O qcow2 -o compat=0.10 m.qcow2 y', ok=1)
    assert 'lacks bitmap' in t.run('convert --bitmaps -f raw -O qcow2 x z', ok=1)
    assert 'requires --bitmaps' in t.run('convert --skip-broken-bitmaps -O qcow2 m.qcow2 z', ok=1)


# ---- convert ----

@pytest.mark.proves('F-IMG-15')
def test_a_backing_file_among_the_options_is_the_same_as_B(t):
    base_and_overlay(t)
    t.run('convert -o backing_file=a.qcow2,backing_fmt=qcow2 -O qcow2 b.qcow2 x.qcow2')
    own = [m for m in json.loads(t.run('map --output=json x.qcow2')) if m['depth'] == 0 and m['present']]
    assert [(m['start'], m['length']) for m in own] == [(128 << 10, 64 << 10)]
    assert 'identical' in t.oracle('compare b.qcow2 x.qcow2')


@pytest.mark.proves('F-IMG-15')
def test_convert_refuses_what_has_no_effect(t):
    base_and_overlay(t)
    assert '-o has no effect' in t.run('convert -n -o cluster_size=4k -O qcow2 a.qcow2 b.qcow2', ok=1)
    t.run('create -q -f qcow2 x.qcow2 8M')
    assert 'mutually exclusive' in t.run('convert -n -O qcow2 --target-image-opts a.qcow2 driver=qcow2,file.filename=x.qcow2', ok=1)
    t.run('convert -S 4M -O raw a.qcow2 y')
    assert 'up to 16777216' in t.run('convert -S 17M -O raw a.qcow2 y', ok=1)
    assert 'force-share' in t.run('check -U -r all a.qcow2', ok=1)
    assert 'force-share' in t.run('bench -U -w -c 2 -f qcow2 a.qcow2', ok=1)
    assert 'force-share' in t.run('snapshot -U -c one a.qcow2', ok=1)


@pytest.mark.proves('F-IMG-15')
def test_blocks_given_before_the_data_fill_no_hole(t):
    with open(t.path('r.raw'), 'wb') as f:
        for i in range(0, 32, 2):
            f.seek(i * MB)
            f.write(os.urandom(MB))
        f.truncate(32 * MB)
    t.run('convert -f raw -O raw r.raw x.raw')
    t.run('convert -f raw -O qcow2 r.raw x.qcow2')
    assert 16 * MB <= os.stat(t.path('x.raw')).st_blocks * 512 <= 16 * MB + 65536
    assert 16 * MB <= os.stat(t.path('x.qcow2')).st_blocks * 512 <= 17 * MB
    assert os.stat(t.path('x.raw')).st_size == 32 * MB
    assert 'identical' in t.oracle('compare -f raw -F qcow2 r.raw x.qcow2')


# ---- measure, map, compare ----

def t_without(t):
    return json.loads(t.run('measure --output=json -O qcow2 --size 1G'))['required']


@pytest.mark.proves('F-IMG-02')
def test_measure_knows_snapshots_and_keys(t):
    t.snapshot_between_writes('s.qcow2')
    t.io('write -P 9 2M 1M', image='s.qcow2')
    for more in ('', '-l one '):
        assert t.run(f'measure -O qcow2 {more}s.qcow2') == t.oracle(f'measure -O qcow2 {more}s.qcow2')
    assert 'encrypt.key-secret' in t.run('measure -O qcow2 -o encrypt.format=luks --size 10G', ok=1)
    line = 'measure --object secret,id=s,data=abc --output=json -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s --size 1G'
    t.run('create -q --object secret,id=s,data=abc -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 k.qcow2 1G')
    got = json.loads(t.run(line))
    assert got['required'] >= os.stat(t.path('k.qcow2')).st_size
    assert got['required'] == t_without(t) + 2 * MB


@pytest.mark.proves('F-IMG-14')
def test_map_ends_at_the_first_thing_no_human_can_look_up(t):
    t.random_raw('r.raw', 4 * MB)
    t.run('convert -c -f raw -O qcow2 r.raw z.qcow2')
    out = t.run('map z.qcow2', ok=1)
    assert out.count('compressed clusters') == 1
    assert any(x.get('data') for x in json.loads(t.run('map --output=json z.qcow2')))


@pytest.mark.proves('F-IMG-15')
def test_compare_names_the_sector_and_the_sizes(t):
    t.run('create -q -f raw a.raw 8M')
    t.run('create -q -f raw b.raw 9M')
    with open(t.path('b.raw'), 'r+b') as f:
        f.seek(8500000)
        f.write(b'x')
    for theirs in (False, True):
        out = t.run('compare -f raw -F raw a.raw b.raw', ok=1, theirs=theirs)
        assert out == 'Warning: Image size mismatch!\nContent mismatch at offset 8499712!\n'
    t.run('compare a.raw', ok=1)


@pytest.mark.proves('F-IMG-02')
def test_aes_images_are_made_for_old_readers(t):
    secret = '--object secret,id=s,data=0123456789abcdef'
    t.run(f'create -q {secret} -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s k.qcow2 4M')
    assert t.info('k.qcow2', True)['format-specific']['data']['encrypt'] == {'format': 'aes'}
    words = [*secret.split(), '-c', 'write -P 9 0 300k', '-c', 'read -P 9 0 300k', '-c', 'read -P 0 1M 64k', '--image-opts',
             'driver=qcow2,encrypt.format=aes,encrypt.key-secret=s,file.filename=k.qcow2']
    t.run(words, tool='qemu-io')
    assert 'Pattern' not in t.oracle([*secret.split(), '-r', '-c', 'read -P 9 0 300k', '--image-opts', words[-1]], tool='qemu-io')
    assert 'required for cipher' in t.run('create -f qcow2 -o encryption=on k2.qcow2 4M', ok=1)


# ---- qemu-io ----

def io(t, *words, ok=0):
    return t.run(list(words), ok, tool='qemu-io')


@pytest.mark.proves('F-IMG-21')
def test_io_writes_into_a_throwaway_file(t):
    base_and_overlay(t)
    assert 'Pattern' not in io(t, '-s', '-c', 'write -P 9 0 64k', '-c', 'read -P 9 0 64k', 'a.qcow2')
    t.io('read -P 1 0 64k', image='a.qcow2')
    assert 'Pattern' not in io(t, '-c', 'open -s a.qcow2', '-c', 'write -P 9 0 64k', '-c', 'read -P 9 0 64k')
    t.io('read -P 1 0 64k', image='a.qcow2')


@pytest.mark.proves('F-IMG-21')
@pytest.mark.parametrize('how', [('-C', '-c', 'read 256k 64k', 'b.qcow2'), ('-c', 'open -C b.qcow2', '-c', 'read 256k 64k')])
def test_io_keeps_what_it_reads(t, how):
    base_and_overlay(t)
    own = lambda: [m['start'] for m in json.loads(t.run('map --output=json b.qcow2')) if m['depth'] == 0 and m['present']]
    assert own() == [128 << 10]
    io(t, *how)
    assert own() == [128 << 10, 256 << 10]


@pytest.mark.proves('F-IMG-21')
def test_io_opens_by_options_and_opens_anew(t):
    base_and_overlay(t)
    assert 'Pattern' not in io(t, '-c', 'open -o driver=qcow2,file.filename=a.qcow2', '-c', 'read -P 1 0 64k')
    assert 'Pattern' not in io(t, '-c', 'open -o driver=qcow2 a.qcow2', '-c', 'read -P 1 0 64k')
    io(t, '-c', 'reopen -o lazy-refcounts=on', '-c', 'write -P 2 0 64k', 'a.qcow2')
    io(t, '-c', 'reopen -r -c none', '-c', 'read -P 2 0 64k', 'a.qcow2')
    assert 'not permitted' in io(t, '-c', 'reopen -r', '-c', 'write 0 64k', 'a.qcow2', ok=1)
    io(t, '-r', '-c', 'reopen -w', '-c', 'write 0 64k', 'a.qcow2')


@pytest.mark.proves('F-IMG-21')
@pytest.mark.parametrize('words,says', [
    (('-c', 'write -n 0 64k'), '-n requires -z'), (('-c', 'write -u 0 64k'), '-u requires -z'),
    (('-c', 'write -P 1 -z 0 64k'), 'Only one of'), (('-c', 'read -z 0 64k'), 'for writing'),
    (('-c', 'truncate -m bogus 16M'), 'Invalid preallocation mode'), (('-c', 'help bogus'), 'not found'),
    (('-t', 'bogus'), 'Invalid cache option'), (('-d', 'bogus'), 'Invalid discard option'), (('-i', 'bogus'), 'Invalid aio option'),
    (('-U', '-c', 'read 0 64k'), 'force-share'), (('-c', 'reopen -c bogus'), 'Invalid cache option')])
def test_io_refuses_what_means_nothing(t, words, says):
    t.run('create -q -f qcow2 a.qcow2 8M')
    assert says in io(t, *words, 'a.qcow2', ok=1)


# ---- qemu-nbd ----

@pytest.mark.proves('F-NBD-05')
@pytest.mark.parametrize('words,says', [(('--cache=bogus',), 'Invalid cache mode'), (('--discard=bogus',), 'Invalid discard mode'),
                                        (('--aio=bogus',), 'Invalid aio mode'), (('-L',), 'incompatible with a file name')])
def test_nbd_refuses_modes_it_does_not_know(t, words, says):
    t.run('create -q -f raw r.raw 8M')
    assert says in t.run([*words, '-f', 'raw', '-k', t.path('s'), 'r.raw'], 1, tool='qemu-nbd')


@pytest.mark.proves('F-NBD-05')
def test_nbd_lists_what_an_export_tells(t):
    t.run('create -q -f qcow2 m.qcow2 8M')
    t.run('bitmap --add m.qcow2 b0')
    t.run(['--fork', '-t', '-A', '-B', 'b0', '-f', 'qcow2', '--pid-file', t.path('pid'), '-k', t.path('s'), 'm.qcow2'], tool='qemu-nbd')
    try:
        for theirs in (False, True):
            out = t.run(['-L', '-k', t.path('s')], theirs=theirs, tool='qemu-nbd')
            want = ['available meta contexts: 3', 'base:allocation', 'qemu:allocation-depth', 'qemu:dirty-bitmap:b0']
            assert [x.strip() for x in out.splitlines()][-4:] == want
    finally:
        with open(t.path('pid')) as f:
            os.kill(int(f.read()), 15)


# ---- vmdk ----

@pytest.mark.proves('F-IMG-04')
def test_vmdk_says_its_id_and_refuses_a_parent(t):
    t.random_raw('r.raw', 4 * MB)
    t.oracle('convert -f raw -O vmdk r.raw v.vmdk')
    assert t.info('v.vmdk')['format-specific']['data']['cid'] == t.info('v.vmdk', True)['format-specific']['data']['cid'] != 0
    t.oracle('create -q -f vmdk -b v.vmdk -F vmdk child.vmdk')
    assert 'parent' in t.run('info -f vmdk child.vmdk', ok=1)
    t.run('create -q -f vmdk -o toolsversion=12345 w.vmdk 4M')
    with open(t.path('w.vmdk'), 'rb') as f:
        assert b'ddb.toolsVersion = "12345"' in f.read(1 << 20)


@pytest.mark.proves('F-IMG-04', 'F-IMG-15')
def test_a_vmdk_that_cannot_hold_packed_grains_takes_plain_ones(t):
    t.random_raw('r.raw', 4 * MB)
    t.run('convert -c -f raw -O vmdk r.raw v.vmdk')
    assert 'identical' in t.oracle('compare -f raw -F vmdk r.raw v.vmdk')


# ---- filters below a format ----

@pytest.mark.proves('F-IMG-02', 'F-IMG-21')
@pytest.mark.parametrize('below', ['driver=throttle,throttle-group=g', 'driver=blkdebug', 'driver=blklogwrites,log.driver=file,log.filename=lg',
                                   'driver=copy-on-read'])
def test_an_image_grows_through_a_filter_below_it(t, below):
    t.run('create -q -f qcow2 x.qcow2 8M')
    open(t.path('lg'), 'wb').close()
    where = 'driver=qcow2,' + ','.join(f'file.{w}' for w in below.split(',')) + ',file.file.driver=file,file.file.filename=x.qcow2'
    io(t, '--object', 'throttle-group,id=g,x-bps-total=1073741824', '-c', 'write -P 3 1M 1M', '--image-opts', where)
    t.io('read -P 3 1M 1M', image='x.qcow2')
    t.oracle('check x.qcow2')
