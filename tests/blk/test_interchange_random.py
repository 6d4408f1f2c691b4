"""Images of random size, options and layout, made, written and checked by either side's tools in turn, read by the other and by
the libyal readers. A seed repeats a case; LYREBIRD_SEEDS sets their number."""
import os
import random
import subprocess
import sys

import pytest
from conftest import host_lacks, need

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from blktool import Tool  # noqa: E402

K, MB = 1 << 10, 1 << 20
CHECKED = ('qcow2', 'vdi', 'vhdx', 'vmdk', 'parallels')
NR = int(os.environ.get('LYREBIRD_SEEDS', '20'))


def seeds(few):
    """A few in every run, the rest in the long one."""
    return [pytest.param(i, marks=[] if i < few else pytest.mark.long) for i in range(NR)]


@pytest.fixture
def t(tmp_path):
    return Tool(str(tmp_path))


def pick(rng, **choices):
    return ','.join(f'{k}={rng.choice(v)}' for k, v in choices.items() if rng.random() < 0.6)


def qcow2_options(rng):
    if rng.random() < 0.15:
        return 'compat=0.10,cluster_size=' + rng.choice(('512', '4k', '64k', '2M'))
    cluster = rng.choice(('512', '1k', '4k', '16k', '64k', '256k', '2M'))
    out = [f'cluster_size={cluster}']
    if rng.random() < 0.3 and cluster not in ('512', '1k', '4k'):
        out.append('extended_l2=on')
    out += [x for x in (pick(rng, refcount_bits=(1, 2, 4, 8, 16, 32, 64)), pick(rng, lazy_refcounts=('on', 'off')), pick(rng, compression_type=('zlib', 'zstd'))) if x]
    if rng.random() < 0.3:
        out.append('preallocation=' + rng.choice(('metadata', 'metadata', 'falloc', 'full')))
    return ','.join(out)


OPTIONS = {
    'qcow2': qcow2_options,
    'qcow': lambda rng: '',
    'vmdk': lambda rng: pick(rng, subformat=('monolithicSparse', 'monolithicFlat', 'twoGbMaxExtentSparse', 'twoGbMaxExtentFlat', 'streamOptimized'),
                             adapter_type=('ide', 'lsilogic'), compat6=('on', 'off')),
    'vdi': lambda rng: pick(rng, static=('on', 'off')),
    'vpc': lambda rng: pick(rng, subformat=('dynamic', 'fixed'), force_size=('on',)),
    'vhdx': lambda rng: pick(rng, subformat=('dynamic', 'fixed'), block_size=('1M', '2M', '8M'), log_size=('1M', '2M')),
    'parallels': lambda rng: pick(rng, cluster_size=('64k', '1M')),
    'raw': lambda rng: pick(rng, preallocation=('off', 'falloc', 'full')),
}


def layout(rng, size):
    """Contents with runs of data, repeated bytes and zeros of every size, at sectors and beside them."""
    data = bytearray(size)
    for _ in range(rng.randrange(3, 25)):
        at = rng.randrange(size)
        n = min(rng.choice((1, 512, 4096, 65536, 100000, MB, 3 * MB)), size - at)
        data[at:at + n] = rng.randbytes(n) if rng.random() < 0.5 else bytes([rng.randrange(256)]) * n
    return data


def writes(rng, data, at_most=8):
    """qemu-io commands; data is changed as they do."""
    cmds = []
    for _ in range(rng.randrange(1, at_most)):
        at = rng.randrange(0, len(data) - 512, 512)
        n = min(rng.choice((512, 4096, 65536, 99840, MB)), (len(data) - at) // 512 * 512)
        value = rng.randrange(1, 255)
        zero = rng.random() < 0.3
        cmds.append(f'write -z {"-u " if rng.random() < 0.5 else ""}{at} {n}' if zero else f'write -P {value} {at} {n}')
        data[at:at + n] = bytes([0 if zero else value]) * n
    return cmds


def size_of(rng):
    return rng.choice((MB, 3 * MB, 8 * MB, 17 * MB)) + rng.choice((0, 512, 4096, 65536 + 512))


def img(t, theirs, words):
    return t.oracle(words) if theirs else t.run(words)


def same(t, image, fmt, data, theirs):
    img(t, theirs, ['convert', '-f', fmt, '-O', 'raw', image, 'seen.raw'])
    with open(t.path('seen.raw'), 'rb') as f:
        got = f.read()
    assert got[:len(data)] == data and not got[len(data):].strip(b'\0'), f'{image} read by {"theirs" if theirs else "ours"}'


def sound(t, image, fmt):
    if fmt not in CHECKED:
        return
    for theirs in (True, False):
        assert 'No errors' in img(t, theirs, ['check', '-f', fmt, image])


@pytest.mark.proves('F-IMG-02', 'F-IMG-03', 'F-IMG-04', 'F-IMG-05', 'F-IMG-06', 'F-IMG-07', 'F-IMG-08')
@pytest.mark.parametrize('fmt', list(OPTIONS))
@pytest.mark.parametrize('seed', seeds(2))
def test_random_images_are_exchanged(t, fmt, seed):
    rng = random.Random(f'{fmt} {seed}')
    data, options = layout(rng, size_of(rng)), OPTIONS[fmt](rng)
    with open(t.path('a.raw'), 'wb') as f:
        f.write(data)
    maker, stream = rng.random() < 0.5, 'streamOptimized' in options
    compress = ['-c'] if fmt in ('qcow2', 'qcow') and rng.random() < 0.3 and 'preallocation' not in options else []
    if compress and fmt == 'qcow':
        maker = False  # theirs gives up on what does not compress
    print(fmt, options, len(data), 'theirs' if maker else 'ours', compress)
    img(t, maker, ['convert', '-f', 'raw', '-O', fmt, *compress, *(['-o', options] if options else []), 'a.raw', 'image'])
    for _ in range(1 if stream else 3):
        for theirs in (True, False):
            same(t, 'image', fmt, data, theirs)
        sound(t, 'image', fmt)
        if stream:
            break
        t.io(*writes(rng, data), image='image', fmt=fmt, theirs=rng.random() < 0.5)
    for theirs in (True, False):
        same(t, 'image', fmt, data, theirs)
    sound(t, 'image', fmt)


@pytest.mark.proves('F-IMG-02', 'F-IMG-09', 'F-SNP-03')
@pytest.mark.parametrize('seed', seeds(4))
def test_chains_and_snapshots_of_both_sides(t, seed):
    """An image over an image over a base, each made, written, snapshotted, set back, grown and committed by either side."""
    rng = random.Random(f'chain {seed}')
    size = size_of(rng)
    data = layout(rng, size)
    with open(t.path('a.raw'), 'wb') as f:
        f.write(data)
    base_fmt = rng.choice(('raw', 'qcow2', 'qcow', 'vdi', 'vmdk'))
    img(t, rng.random() < 0.5, ['convert', '-f', 'raw', '-O', base_fmt, 'a.raw', 'l0'])
    below = base_fmt
    snaps, top = {}, 'l0'
    for level in (1, 2):
        options = ','.join(x for x in qcow2_options(rng).split(',') if x and 'preallocation' not in x and 'refcount_bits=1' not in (x, x + '6')[:1])
        grow = rng.choice((0, 0, 512, MB))
        data += bytes(grow)
        size += grow
        img(t, rng.random() < 0.5, ['create', '-q', '-f', 'qcow2', '-b', top, '-F', below, *(['-o', options] if options else []), f'l{level}', str(size)])
        top, below, snaps = f'l{level}', 'qcow2', {}
        print(top, options, size)
        for step in range(6):
            theirs, what = rng.random() < 0.5, rng.choice(('write', 'write', 'snap', 'back', 'drop', 'grow'))
            if what == 'write':
                t.io(*writes(rng, data), image=top, fmt='qcow2', theirs=theirs)
            elif what == 'snap' and 'refcount_bits=1,' not in options + ',':
                img(t, theirs, ['snapshot', '-c', f's{step}', top])
                snaps[f's{step}'] = bytes(data)
            elif what == 'back' and snaps and 'compat=0.10' not in options:
                name = rng.choice(sorted(snaps))
                if len(snaps[name]) == len(data):
                    img(t, theirs, ['snapshot', '-a', name, top])
                    data = bytearray(snaps[name])
            elif what == 'drop' and snaps:
                name = rng.choice(sorted(snaps))
                img(t, theirs, ['snapshot', '-d', name, top])
                del snaps[name]
            elif what == 'grow' and not snaps:
                data += bytes(65536)
                size = len(data)
                img(t, theirs, ['resize', '-q', '-f', 'qcow2', top, str(size)])
        for theirs in (True, False):
            same(t, top, 'qcow2', data, theirs)
        sound(t, top, 'qcow2')
        for name, want in snaps.items():
            for theirs in (True, False):
                img(t, theirs, ['convert', '-f', 'qcow2', '-l', name, '-O', 'raw', top, 'snap.raw'])
                with open(t.path('snap.raw'), 'rb') as f:
                    assert f.read()[:len(want)] == want
    for name in list(snaps):
        img(t, rng.random() < 0.5, ['snapshot', '-d', name, 'l2'])
    img(t, rng.random() < 0.5, ['commit', '-q', '-f', 'qcow2', 'l2'])
    for theirs in (True, False):
        same(t, 'l1', 'qcow2', data, theirs)
        same(t, 'l2', 'qcow2', data, theirs)
    sound(t, 'l1', 'qcow2')
    sound(t, 'l2', 'qcow2')


KEY = ('--object', 'secret,id=s,data=pass')


def told(fmt, path, encrypted, data_file):
    """The words by which either side's tools open the image."""
    out = f'driver={fmt},file.driver=file,file.filename={path}'
    if encrypted:
        out += ',key-secret=s' if fmt == 'luks' else ',encrypt.key-secret=s'
    return out + (f',data-file.driver=file,data-file.filename={data_file}' if data_file else '')


def luks_options(rng, prefix):
    alg = rng.choice(('aes-128', 'aes-256', 'serpent-256', 'twofish-256'))
    mode = rng.choice((('xts', 'plain64', ''), ('cbc', 'plain64', ''), ('cbc', 'essiv', 'sha256'), ('xts', 'plain', '')))
    out = ['key-secret=s', 'iter-time=10', f'cipher-alg={alg}', f'cipher-mode={mode[0]}', f'ivgen-alg={mode[1]}', f"hash-alg={rng.choice(('sha1', 'sha256', 'sha512'))}"]
    if mode[2]:
        out.append(f'ivgen-hash-alg={mode[2]}')
    return ','.join(prefix + x for x in out)


def patient(t, theirs, words, tool='qemu-img'):
    """Theirs gives up when its own timing of the key derivation was disturbed."""
    for _ in range(8 if theirs else 1):
        out = t.run(words, None if theirs else 0, theirs, tool)
        if 'Unable to get accurate CPU usage' not in out:
            return out
    pytest.skip('the distribution tool could not time its key derivation')


@pytest.mark.proves('F-IMG-01', 'F-IMG-02')
@pytest.mark.parametrize('kind', ['luks', 'encrypted', 'data-file', 'raw-data-file'])
@pytest.mark.parametrize('seed', seeds(1))
def test_encrypted_and_split_images_are_exchanged(t, kind, seed):
    rng = random.Random(f'{kind} {seed}')
    data = layout(rng, size_of(rng))
    fmt, encrypted, file = 'luks' if kind == 'luks' else 'qcow2', kind in ('luks', 'encrypted'), 'data' if 'data' in kind else None
    options = '' if fmt == 'luks' else ','.join(x for x in qcow2_options(rng).split(',') if 'preallocation' not in x)
    if kind != 'luks':
        options = ','.join(x for x in options.split(',') if 'compat' not in x)
    if encrypted:
        options += (',' if options else '') + luks_options(rng, '' if fmt == 'luks' else 'encrypt.') + (',encrypt.format=luks' if fmt == 'qcow2' else '')
    if file:
        options += (',' if options else '') + f'data_file={t.path(file)}' + (',data_file_raw=on' if 'raw' in kind else '')
    maker = rng.random() < 0.5
    print(options, len(data), 'theirs' if maker else 'ours')
    with open(t.path('a.raw'), 'wb') as f:
        f.write(data)
    patient(t, maker, ['create', '-q', '-f', fmt, *KEY, '-o', options, 'image', str(len(data))])
    opened = told(fmt, 'image', encrypted, file)
    img(t, rng.random() < 0.5, ['convert', '-n', *KEY, '-f', 'raw', '--target-image-opts', 'a.raw', opened])

    def agree():
        for theirs in (True, False):
            img(t, theirs, ['convert', *KEY, '--image-opts', opened, '-O', 'raw', 'seen.raw'])
            with open(t.path('seen.raw'), 'rb') as f:
                assert f.read() == data, f'{kind} read by {"theirs" if theirs else "ours"}'
            if fmt == 'qcow2':
                assert 'No errors' in img(t, theirs, ['check', *KEY, '--image-opts', opened])
    agree()
    for _ in range(3):
        t.run([*KEY, '--image-opts', *[w for c in writes(rng, data) for w in ('-c', c)], opened], theirs=rng.random() < 0.5, tool='qemu-io')
        agree()
    if 'raw' in kind:
        with open(t.path('data'), 'rb') as f:
            assert f.read(len(data)) == data


@pytest.mark.proves('F-IMG-02')
@pytest.mark.parametrize('seed', seeds(2))
def test_bitmaps_are_exchanged(t, seed):
    rng = random.Random(f'bitmap {seed}')
    grain = rng.choice(('512', '64k', '1M'))
    img(t, seed & 1, ['create', '-q', '-f', 'qcow2', '-o', f"cluster_size={rng.choice(('512', '64k'))}", 'b', '16M'])
    img(t, rng.random() < 0.5, ['bitmap', '--add', '-g', grain, 'b', 'one'])
    data = bytearray(16 * MB)
    for theirs in (True, False):
        t.io(*writes(rng, data), image='b', fmt='qcow2', theirs=theirs)
        sound(t, 'b', 'qcow2')
    for theirs in (True, False):
        said = img(t, theirs, ['info', 'b'])
        assert 'name: one' in said and 'in-use' not in said
    img(t, rng.random() < 0.5, ['convert', '-f', 'qcow2', '-O', 'qcow2', '--bitmaps', 'b', 'c'])
    sound(t, 'c', 'qcow2')
    dirty = [m for m in (bitmap_of(t, 'b'), bitmap_of(t, 'c'))]
    assert dirty[0] == dirty[1] and any(dirty[0])


def bitmap_of(t, image):
    """The extents a bitmap marks, asked over NBD from theirs: what our qemu-nbd does not give."""
    sock = t.path('s-' + image)
    exe = need('qemu-nbd', 'qemu-utils')
    p = subprocess.Popen([exe, '-r', '-t', '-f', 'qcow2', '-B', 'one', '-k', sock, t.path(image)])
    try:
        for _ in range(200):
            if os.path.exists(sock):
                break
            subprocess.run(['sleep', '0.05'], check=True)
        opts = f'driver=nbd,server.type=unix,server.path={sock},x-dirty-bitmap=qemu:dirty-bitmap:one'
        out = t.oracle(['map', '--output=json', '--image-opts', opts])
        return [(e['start'], e['length'], e['data']) for e in __import__('json').loads(out)]
    finally:
        p.terminate()
        p.wait(20)


READERS = {'qcow2': ('qcowmount', 'libqcow-utils', 'qcow1'), 'qcow': ('qcowmount', 'libqcow-utils', 'qcow1'), 'vmdk': ('vmdkmount', 'libvmdk-utils', 'vmdk1'),
           'vpc': ('vhdimount', 'libvhdi-utils', 'vhdi1'), 'vhdx': ('vhdimount', 'libvhdi-utils', 'vhdi1')}
# What these readers know. libqcow: no zstd, no extended L2, no zero flag; libvmdk: no monolithicFlat; sizes in whole sectors.
YAL = {'qcow2': ['', 'compat=0.10', 'cluster_size=4k', 'cluster_size=512'], 'qcow': [''],
       'vmdk': ['', 'subformat=twoGbMaxExtentFlat', 'subformat=twoGbMaxExtentSparse', 'subformat=streamOptimized'],
       'vpc': ['', 'subformat=fixed'], 'vhdx': ['', 'subformat=fixed', 'block_size=1M']}
SUFFIX = {'vpc': '.vhd'}


@pytest.mark.proves('F-IMG-02', 'F-IMG-03', 'F-IMG-04', 'F-IMG-06', 'F-IMG-07')
@pytest.mark.parametrize('fmt,options', [(f, o) for f in YAL for o in YAL[f]], ids=lambda v: v or 'plain')
@pytest.mark.parametrize('seed', seeds(1))
def test_libyal_reads_the_same(t, fmt, options, seed):
    exe, package, name = READERS[fmt]
    need(exe, package)
    need('fusermount', 'fuse')
    if not os.access('/dev/fuse', os.R_OK | os.W_OK):
        host_lacks('/dev/fuse')
    rng = random.Random(f'yal {fmt} {options} {seed}')
    data = layout(rng, rng.choice((8, 3, 17)) * MB)
    with open(t.path('a.raw'), 'wb') as f:
        f.write(data)
    image = 'image' + SUFFIX.get(fmt, '.' + fmt)
    t.run(['convert', '-f', 'raw', '-O', fmt, *(['-o', options] if options else []), 'a.raw', image])
    if 'streamOptimized' not in options:
        if fmt == 'qcow2' and 'compat' not in options:  # libqcow does not know the zero flag of version 3
            t.io('write -P 9 1M 70k', 'write -P 8 100k 512', image=image, fmt=fmt)
            data[MB:MB + 70 * K], data[100 * K:100 * K + 512] = b'\x09' * 70 * K, b'\x08' * 512
        else:
            t.io(*writes(rng, data, 6), image=image, fmt=fmt)
    same(t, image, fmt, data, True)
    os.mkdir(t.path('mnt'))
    p = subprocess.run([exe, image, 'mnt'], cwd=t.cwd, capture_output=True, text=True, timeout=60)
    if p.returncode and 'fuse' in (p.stdout + p.stderr).lower():
        host_lacks('mounting with FUSE')
    assert p.returncode == 0, p.stdout + p.stderr
    try:
        with open(t.path('mnt/' + name), 'rb') as f:
            got = f.read()
    finally:
        subprocess.run(['fusermount', '-u', t.path('mnt')], check=False)
    assert got[:len(data)] == data and not got[len(data):].strip(b'\0')


# libluksde overruns its stack on keys of 512 bits (AES-256 in XTS mode), those of the distribution's tools, too.
@pytest.mark.proves('F-IMG-01')
@pytest.mark.parametrize('options', ['cipher-alg=aes-128', 'cipher-alg=aes-128,hash-alg=sha1', 'cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256'])
@pytest.mark.parametrize('seed', seeds(1))
def test_libyal_reads_luks(t, options, seed):
    pyluksde = pytest.importorskip('pyluksde', reason='pyluksde is missing (package python3-libluksde)')
    rng = random.Random(f'luks {options} {seed}')
    data = layout(rng, rng.choice((8, 3)) * MB)
    with open(t.path('a.raw'), 'wb') as f:
        f.write(data)
    t.run(['convert', *KEY, '-f', 'raw', '-O', 'luks', '-o', f'key-secret=s,iter-time=10,{options}', 'a.raw', 'image'])
    t.run([*KEY, '--image-opts', *[w for c in writes(rng, data) for w in ('-c', c)], told('luks', 'image', True, None)], tool='qemu-io')
    v = pyluksde.volume()
    v.set_password('pass')
    v.open(t.path('image'))
    assert v.read_buffer_at_offset(len(data), 0) == data
