"""Folders as FAT disks that are written (fat:rw:DIR): what a guest's file system does appears in the folder."""
import os
import random
import shutil
import struct
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from blktool import Tool  # noqa: E402
from conftest import need  # noqa: E402

PART = 63 * 512


@pytest.fixture
def t(tmp_path):
    return Tool(str(tmp_path))


@pytest.fixture(autouse=True)
def mtools(monkeypatch):
    need('mcopy', 'mtools')
    monkeypatch.setenv('MTOOLS_SKIP_CHECK', '1')


def m(t, tool, *args, img='x.img', at=PART):
    subprocess.run([tool, '-i', f'{t.path(img)}@@{at}', *args], check=True, capture_output=True, stdin=subprocess.DEVNULL)


def same(a, b):
    return subprocess.run(['diff', '-r', '--no-dereference', a, b], capture_output=True, text=True)


@pytest.mark.parametrize('kind', ['', '32:', 'floppy:'])
@pytest.mark.proves('F-BLK-22')
def test_random_changes_to_the_disk_appear_in_the_folder(t, kind, tmp_path):
    """The same changes by mtools on a copy of the disk and by hand on a copy of the folder; then the copy is written through the folder's disk."""
    rng, d, shadow = random.Random(7), t.path('dir'), t.path('shadow')
    os.makedirs(d + '/Sub Folder/deep')
    for i in range(6):
        with open(f'{d}/{["", "Sub Folder/", "Sub Folder/deep/"][i % 3]}File number {i}.bin', 'wb') as f:
            f.write(rng.randbytes(rng.choice([0, 10, 513, 40000, 90000])))
    os.symlink('/etc/passwd', d + '/a link')
    shutil.copytree(d, shadow, symlinks=True)
    at = 0 if kind == 'floppy:' else PART
    for turn in range(3):
        t.run(f'convert -f vvfat -O raw fat:{kind}{d} x.img')
        for n in range(8):
            files = [os.path.relpath(os.path.join(p, f), shadow) for p, _, fs in os.walk(shadow) for f in fs if not os.path.islink(os.path.join(p, f))]
            dirs = [os.path.relpath(p, shadow) for p, _, _ in os.walk(shadow)]
            where, name = rng.choice(dirs), f'New ünd long {turn}-{n}'
            to = os.path.normpath(f'{where}/{name}')
            what = rng.choice(['new', 'over', 'del', 'mkdir', 'move'] if files else ['new', 'mkdir'])
            old = rng.choice(files) if files else None
            if what in ('new', 'over'):
                to = old if what == 'over' else to
                with open(t.path('n'), 'wb') as f:
                    f.write(rng.randbytes(rng.choice([0, 1, 5000, 70000])))
                m(t, 'mcopy', '-o', t.path('n'), f'::/{to}', at=at)
                shutil.copy(t.path('n'), f'{shadow}/{to}')
            elif what == 'del':
                m(t, 'mdel', f'::/{old}', at=at)
                os.unlink(f'{shadow}/{old}')
            elif what == 'mkdir':
                m(t, 'mmd', f'::/{to}', at=at)
                os.mkdir(f'{shadow}/{to}')
            else:
                m(t, 'mmove', f'::/{old}', f'::/{to}', at=at)
                os.rename(f'{shadow}/{old}', f'{shadow}/{to}')
        t.run(f'convert -n -f raw -O raw x.img fat:rw:{kind}{d}')
        diff = same(d, shadow)
        assert diff.returncode == 0, diff.stdout
        assert not [p for p in os.listdir(d) if p.startswith('.lyrebird')]


def fat16(t):
    """Where things are on the disk x.img: FATs and top folder, in bytes."""
    with open(t.path('x.img'), 'rb') as f:
        f.seek(PART)
        b = f.read(512)
    reserved, fats = struct.unpack_from('<H', b, 14)[0], struct.unpack_from('<H', b, 22)[0]
    return PART + reserved * 512, fats * 512, PART + (reserved + 2 * fats) * 512


def start(t):
    os.makedirs(t.path('dir/sub'))
    with open(t.path('dir/ONE.TXT'), 'w') as f:
        f.write('one')
    os.symlink(t.path('outside'), t.path('dir/LINK'))
    with open(t.path('outside'), 'w') as f:
        f.write('outside')
    shutil.copytree(t.path('dir'), t.path('before'), symlinks=True)
    t.run(f'convert -f vvfat -O raw fat:{t.path("dir")} x.img')
    return fat16(t)


def poke(t, *at):
    with open(t.path('x.img'), 'r+b') as f:
        for off, b in at:
            f.seek(off)
            f.write(b)


DAMAGE = {
    'a FAT that differs from the other': (lambda fat, size, root: [(fat + 40, b'\xff\xff')], 'FATs differ'),
    'a chain into nowhere': (lambda fat, size, root: [(o + 8, b'\xf0\xff') for o in (fat, fat + size)] +
                             [(root + 32 * 5, b'CHAIN   BIN\x20' + bytes(14) + struct.pack('<HI', 4, 9000))], 'cluster 65520'),
    'a name with a way out': (lambda fat, size, root: [(root + 32 * 5, b'../OUT  TXT\x20' + bytes(14) + struct.pack('<HI', 0, 0))], 'name that cannot be'),
    'a size without clusters': (lambda fat, size, root: [(root + 32 * 5, b'SIZE    BIN\x20' + bytes(14) + struct.pack('<HI', 0, 77))], '0 clusters for 77'),
    'a new format': (lambda fat, size, root: [(PART + 13, b'\x02')], 'formatted anew'),
    'a new partition table': (lambda fat, size, root: [(446 + 8, b'\x07')], 'partition table'),
}


@pytest.mark.parametrize('what', DAMAGE)
@pytest.mark.proves('F-BLK-22')
def test_a_disk_that_is_not_in_order_leaves_the_folder_alone(t, what):
    fat, size, root = start(t)
    m(t, 'mcopy', t.path('outside'), '::/NEW.TXT')
    change, text = DAMAGE[what]
    poke(t, *change(fat, size, root))
    out = t.run(f'convert -n -f raw -O raw x.img fat:rw:{t.path("dir")}')
    assert text in out and 'not in the folder' in out, out
    assert same(t.path('dir'), t.path('before')).returncode == 0


@pytest.mark.proves('F-BLK-22')
def test_a_link_of_the_folder_is_never_written_through(t):
    start(t)
    with open(t.path('n'), 'w') as f:
        f.write('changed')
    m(t, 'mcopy', t.path('n'), '::/LINK')
    m(t, 'mcopy', t.path('n'), '::/OTHER')
    out = t.run(f'convert -n -f raw -O raw x.img fat:rw:{t.path("dir")}', ok=1)
    assert "cannot write 'LINK'" in out, out
    with open(t.path('outside')) as f:
        assert f.read() == 'outside'
    assert os.path.islink(t.path('dir/LINK'))
    with open(t.path('dir/OTHER')) as f:
        assert f.read() == 'changed'


@pytest.mark.proves('F-BLK-22')
def test_names_that_are_one_to_fat_are_refused(t):
    os.mkdir(t.path('dir'))
    for n in ('a', 'A'):
        open(t.path('dir/' + n), 'w').close()
    assert 'the same to FAT' in t.io('write 0 512', image=f'fat:rw:{t.path("dir")}', ok=1)
