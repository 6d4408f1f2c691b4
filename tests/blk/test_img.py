"""qemu-img as scripts use it: every command of the seeds as typed (sizes made smaller where only disk space is at stake)."""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from blktool import Tool  # noqa: E402


@pytest.fixture
def t(tmp_path):
    return Tool(str(tmp_path))


@pytest.mark.proves('F-IMG-01', 'F-IMG-11', 'S100', 'S113')
def test_raw_images_are_sparse_or_fully_allocated(t):
    t.run('create -f raw -o preallocation=full storagedisk0.raw 10M')
    st = os.stat(t.path('storagedisk0.raw'))
    assert st.st_size == 10 << 20 and st.st_blocks * 512 >= 10 << 20
    t.run('create -f raw image_file 4G')
    st = os.stat(t.path('image_file'))
    assert st.st_size == 4 << 30 and st.st_blocks * 512 < 1 << 20


@pytest.mark.proves('F-PRG-09', 'F-IMG-02', 'F-IMG-09', 'F-IMG-10', 'S101', 'S103', 'S114', 'S115', 'S122')
def test_qcow2_is_created_with_options_before_or_after_the_name(t):
    t.run('create -f qcow2 -o cluster_size=512k storagedisk1.img 10G')
    assert t.info('storagedisk1.img', True)['cluster-size'] == 512 << 10
    t.run('create -f qcow2 disk1.qcow2 50G')
    assert t.info('disk1.qcow2', True)['virtual-size'] == 50 << 30
    assert os.path.getsize(t.path('disk1.qcow2')) < 1 << 20
    t.run('create -f qcow2 image_file -o nocow=on 4G')
    assert t.info('image_file', True)['virtual-size'] == 4 << 30
    for name in ('storagedisk1.img', 'disk1.qcow2', 'image_file'):
        assert 'No errors' in t.oracle(f'check {name}')


@pytest.mark.proves('F-IMG-20', 'F-IMG-11', 'S102')
def test_a_mistyped_option_is_named_with_the_near_match(t):
    out = t.run('create -f qcow2 -o cluster_size=2M,reallocation=full storagedisk1.img 10G', 1)
    assert "Invalid parameter 'reallocation'" in out and "'preallocation'" in out
    t.run('create -f qcow2 -o cluster_size=2M,preallocation=full storagedisk1.img 64M')
    assert os.stat(t.path('storagedisk1.img')).st_blocks * 512 >= 64 << 20
    assert '32/32 = 100.00% allocated' in t.oracle('check storagedisk1.img')


@pytest.mark.proves('S104')
def test_an_incomplete_line_says_what_is_missing(t):
    assert 'Expecting image file name' in t.run('create -o backing', 1)
    assert 'needs a size' in t.run('create -f qcow2 x.qcow2', 1)


@pytest.mark.proves('F-IMG-13', 'F-BLK-23', 'F-SNP-07', 'S104', 'S109', 'S116')
def test_overlays_take_the_size_of_the_base(t):
    t.run('create -f qcow2 base.qcow2 1G')
    t.run('create -f qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2 overlay.qcow2')
    assert t.info('overlay.qcow2', True)['virtual-size'] == 1 << 30
    t.run('create -f qcow2 -b base.qcow2 overlay2.qcow2')  # the format is beyond doubt
    assert t.info('overlay2.qcow2', True)['backing-filename-format'] == 'qcow2'
    t.run('create -f raw img1.raw 100M')
    t.run('create -o backing_file=img1.raw,backing_fmt=raw -f qcow2 img1.cow')
    i = t.info('img1.cow')
    assert (i['backing-filename'], i['virtual-size']) == ('img1.raw', 100 << 20)
    assert 'without backing format' in t.run('create -f qcow2 -b img1.raw x.cow', 1)


@pytest.mark.proves('F-PRG-09', 'F-IMG-14', 'S105')
def test_info_says_what_the_oracle_says(t):
    t.run('create -f qcow2 base.qcow2 1G')
    t.run('create -f qcow2 -b base.qcow2 -F qcow2 disk1.qcow2')
    t.run('snapshot -c first disk1.qcow2')
    assert t.run('info disk1.qcow2') == t.oracle('info disk1.qcow2')
    assert t.info('disk1.qcow2') == t.info('disk1.qcow2', True)
    ours = t.info('disk1.qcow2', False, '--backing-chain')
    assert ours == t.info('disk1.qcow2', True, '--backing-chain') and len(ours) == 2


@pytest.mark.proves('F-PRG-09', 'F-IMG-15', 'S106', 'S121')
def test_convert_keeps_contents_and_holes(t):
    t.random_raw('input.img', 64 << 20, runs=5)
    t.run('convert -f raw -O qcow2 input.img output.qcow2')
    t.oracle('compare -f raw -F qcow2 input.img output.qcow2')
    assert 'No errors' in t.oracle('check output.qcow2')
    t.run('convert -f qcow2 -O raw output.qcow2 disk1.raw')
    with open(t.path('input.img'), 'rb') as a, open(t.path('disk1.raw'), 'rb') as b:
        assert a.read() == b.read()
    assert os.stat(t.path('disk1.raw')).st_blocks * 512 < 32 << 20


@pytest.mark.parametrize('method', ['zlib', 'zstd'])
def test_compressed_images_are_read_by_the_oracle_and_back(t, method):
    t.random_raw('a.raw', 32 << 20, runs=20)
    t.run(f'convert -c -O qcow2 -o compression_type={method} a.raw ours.qcow2')
    t.oracle('compare -F raw ours.qcow2 a.raw')
    assert 'No errors' in t.oracle('check ours.qcow2')
    t.oracle(f'convert -c -O qcow2 -o compression_type={method} a.raw theirs.qcow2')
    t.run('compare -F raw theirs.qcow2 a.raw')


@pytest.mark.proves('F-IMG-16', 'S107', 'S119', 'S120')
def test_resize_grows_and_shrinks_only_when_told(t):
    t.run('create -f qcow2 disk.qcow2 1G')
    t.io('write -P 5 1023M 1M', image='disk.qcow2')
    t.run('resize disk.qcow2 +10G')
    assert t.info('disk.qcow2', True)['virtual-size'] == 11 << 30
    t.io('read -P 5 1023M 1M', 'read -P 0 1G 4M', image='disk.qcow2', theirs=True)
    t.run('create -f raw disk_image 20G')
    t.run('resize disk_image +10G')
    assert os.path.getsize(t.path('disk_image')) == 30 << 30
    assert '--shrink' in t.run('resize disk_image -10G', 1)
    t.run('resize --shrink disk_image -10G')
    assert os.path.getsize(t.path('disk_image')) == 20 << 30
    t.run('resize --shrink disk.qcow2 1M')
    assert 'No errors' in t.oracle('check disk.qcow2')


def test_resize_does_not_cut_a_partition(t):
    t.run('create -f raw d.raw 8M')
    with open(t.path('d.raw'), 'r+b') as f:
        f.seek(446)
        f.write(bytes([0x80, 0, 2, 0, 0x83, 0, 0, 0]) + (2048).to_bytes(4, 'little') + (10000).to_bytes(4, 'little'))
        f.seek(510)
        f.write(b'\x55\xaa')
    assert 'partition 1' in t.run('resize -f raw --shrink d.raw 2M', 1)
    t.run('resize -f raw --shrink d.raw 7M')


@pytest.mark.proves('F-IMG-17', 'S108')
def test_check_counts_damage_and_repairs_it(t):
    t.random_raw('a.raw', 8 << 20)
    t.run('convert -O qcow2 a.raw disk.qcow2')
    out = t.run('check disk.qcow2')
    assert 'No errors were found on the image.' in out and '% allocated' in out
    with open(t.path('disk.qcow2'), 'r+b') as f:  # forget the refcount of the last cluster in use
        f.seek(0, 2)
        last = f.tell() // 65536 - 1
        f.seek(2 * 65536 + last * 2)
        f.write(b'\0\0')
    assert '1 errors were found' in t.run('check disk.qcow2', 2)
    t.oracle('check disk.qcow2', 2)
    t.run('check -r all disk.qcow2')
    assert 'No errors' in t.run('check disk.qcow2') and 'No errors' in t.oracle('check disk.qcow2')
    with open(t.path('disk.qcow2'), 'r+b') as f:
        f.seek(2 * 65536 + (last + 5) * 2)
        f.write(b'\0\1')
    assert '1 leaked clusters' in t.run('check disk.qcow2', 3)
    t.run('check -r leaks disk.qcow2')
    t.oracle('compare -F raw disk.qcow2 a.raw')
    t.run('create -f raw r.raw 1M')
    assert 'does not support checks' in t.run('check -f raw r.raw', 63)


@pytest.mark.proves('F-IMG-18', 'S110', 'S117', 'S118')
def test_rebase_keeps_the_guest_view_and_unsafe_only_the_name(t):
    t.random_raw('b1.raw', 4 << 20, 1)
    t.random_raw('b2.raw', 4 << 20, 2)
    t.run('convert -O qcow2 b1.raw base.qcow2')
    t.run('convert -O qcow2 b2.raw newbase.qcow2')
    t.run('create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2')
    t.io('write -P 7 1M 100k', image='overlay.qcow2')
    t.run('convert -O raw overlay.qcow2 before.raw')
    t.run('rebase -b newbase.qcow2 overlay.qcow2')
    t.oracle('compare -F raw overlay.qcow2 before.raw')
    assert t.info('overlay.qcow2', True)['backing-filename'] == 'newbase.qcow2'
    t.run('rebase -u -b /new/img1.raw -F raw overlay.qcow2')
    assert t.info('overlay.qcow2')['backing-filename'] == '/new/img1.raw'
    assert 'backing format must be specified' in t.run('rebase -u -b /new/img1.raw overlay.qcow2', 1)
    assert 'No errors' in t.run('check overlay.qcow2')


@pytest.mark.proves('F-IMG-19', 'F-BLK-25', 'S111')
def test_commit_moves_the_overlay_into_the_base(t):
    t.random_raw('b.raw', 4 << 20)
    t.run('convert -O qcow2 b.raw base.qcow2')
    t.run('create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2')
    t.io('write -P 9 64k 1M', 'write -z 2M 64k', image='overlay.qcow2', theirs=True)
    t.run('convert -O raw overlay.qcow2 want.raw')
    assert 'Image committed.' in t.run('commit overlay.qcow2')
    t.oracle('compare -F raw base.qcow2 want.raw')
    assert all(e['depth'] == 1 for e in __import__('json').loads(t.run('map --output=json overlay.qcow2')))
    assert 'No errors' in t.oracle('check overlay.qcow2') and 'No errors' in t.oracle('check base.qcow2')


@pytest.mark.proves('F-IMG-21', 'S112')
def test_io_reads_writes_and_verifies(t):
    t.run('create -f qcow2 d.qcow2 64M')
    out = t.io('write -P 0xab 1000 5000', 'read -P 0xab 1000 5000', 'flush', 'map', image='d.qcow2')
    assert 'wrote 5000/5000 bytes at offset 1000' in out and 'not allocated' in out
    assert 'Pattern verification failed' in t.io('read -P 1 1000 5000', image='d.qcow2', ok=1)
    t.io('read -P 0xab 1000 5000', 'read -P 0 0 1000', image='d.qcow2', theirs=True)


def test_internal_snapshots_go_both_ways(t):
    t.random_raw('a.raw', 8 << 20, 1)
    t.run('convert -O qcow2 a.raw d.qcow2')
    t.run('snapshot -c one d.qcow2')
    t.io('write -P 3 0 3M', image='d.qcow2')
    t.oracle('snapshot -c two d.qcow2')
    t.io('write -P 4 1M 3M', image='d.qcow2')
    assert 'No errors' in t.oracle('check d.qcow2') and 'No errors' in t.run('check d.qcow2')
    t.run('convert -l one -O raw d.qcow2 one.raw')
    t.run('compare -f raw -F raw one.raw a.raw')
    t.run('snapshot -a one d.qcow2')
    t.oracle('compare -F raw d.qcow2 a.raw')
    t.run('snapshot -d two d.qcow2')
    t.oracle('snapshot -d one d.qcow2')
    assert 'No errors' in t.oracle('check d.qcow2') and 'No errors' in t.run('check d.qcow2')
    assert 'snapshot not found' in t.run('snapshot -d nosuch d.qcow2', 1)


def test_bitmaps_survive_and_are_seen_by_the_oracle(t):
    t.run('create -f qcow2 d.qcow2 64M')
    t.run('bitmap --add d.qcow2 b0')
    t.io('write 1M 64k', image='d.qcow2')
    t.io('write 3M 64k', image='d.qcow2', theirs=True)
    assert t.info('d.qcow2', True)['format-specific']['data']['bitmaps'] == [{'flags': ['auto'], 'name': 'b0', 'granularity': 65536}]
    assert 'No errors' in t.oracle('check d.qcow2') and 'No errors' in t.run('check d.qcow2')
    t.run('bitmap --remove d.qcow2 b0')
    assert 'bitmaps' not in t.info('d.qcow2', True)['format-specific']['data']


@pytest.mark.proves('F-BLK-14')
def test_an_image_in_use_is_refused_to_writers_and_named(t):
    import subprocess
    from conftest import program
    t.run('create -f qcow2 d.qcow2 64M')
    p = subprocess.Popen([program('qemu-io'), 'd.qcow2'], cwd=t.cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        p.stdin.write('write 0 64k\n')
        p.stdin.flush()
        while 'wrote' not in p.stdout.readline():
            pass
        out = t.io('write 0 512', image='d.qcow2', ok=1)
        assert 'Failed to get' in out and f'process {p.pid}' in out
        assert 'Failed to get' in t.io('write 0 512', image='d.qcow2', ok=1, theirs=True)
        assert 'virtual size' in t.run('info d.qcow2')  # describing never disturbs
    finally:
        p.stdin.close()
        p.wait(10)


@pytest.mark.proves('F-BLK-22', 'S277')
def test_a_folder_is_a_sound_fat_disk(t):
    from conftest import need
    import subprocess
    fsck, mcopy = need('fsck.vfat', 'dosfstools'), need('mcopy', 'mtools')
    os.makedirs(t.path('dir/Some Folder'))
    for name, n in (('plain.txt', 5), ('Some Folder/a rather long name.bin', 200000), ('empty', 0)):
        with open(t.path('dir/' + name), 'wb') as f:
            f.write(os.urandom(n))
    t.run(f'convert -f vvfat -O raw fat:{t.path("dir")} fat.img')
    with open(t.path('fat.img'), 'rb') as f, open(t.path('part.img'), 'wb') as g:
        f.seek(63 * 512)
        g.write(f.read())
    assert subprocess.run([fsck, '-n', t.path('part.img')], capture_output=True).returncode == 0
    os.mkdir(t.path('out'))
    subprocess.run([mcopy, '-s', '-n', '-i', t.path('part.img'), '::', t.path('out')], check=True, capture_output=True)
    assert subprocess.run(['diff', '-r', t.path('dir'), t.path('out')]).returncode == 0
