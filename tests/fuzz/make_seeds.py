#!/usr/bin/env python3
"""Writes the inputs that fuzzing whole images begins with, tests/fuzz/corpus/FORMAT/seed-*: small sound images of every format,
behind the byte that says so and some operations (see fuzz_blk.c). Needs our build and the distribution's tools."""
import os
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, '..', 'blk'), os.path.join(HERE, '..')]
from conftest import program  # noqa: E402
from test_more_formats import bochs, cloop, dmg  # noqa: E402

OPS = b''.join(struct.pack('<BHHB', k, k * 5003 & 0xffff, k * 1777 & 0xffff, k * 11 & 255) for k in range(16))
LIMIT = 65536


def write(fmt, name, image, mode=1):
    image = image.rstrip(b'\0')  # a file that ends early reads as zeros there
    image = image.ljust(-(-len(image) // 512) * 512, b'\0')[:LIMIT - 3 - len(OPS)]
    folder = os.path.join(HERE, 'corpus', fmt)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, 'seed-' + name), 'wb') as f:
        f.write(bytes([0, mode, 16]) + OPS + image)


def made(fmt, options, size='64k', fill=True, theirs=False):
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, 'x')
        img = '/usr/bin/qemu-img' if theirs else program('qemu-img')
        subprocess.run([img, 'create', '-q', '-f', fmt, *(['-o', options] if options else []), path, size], check=True)
        if fill:
            subprocess.run([program('qemu-io'), '-f', fmt, '-c', 'write -P 7 4k 2k', '-c', 'write -z 8k 4k', path], check=True,
                           stdout=subprocess.DEVNULL)
        with open(path, 'rb') as f:
            return f.read()


def text(n):
    return (b'text ' * 1000 + bytes(3000))[:n] + os.urandom(200) + bytes(max(0, n - 8200))


def main():
    write('qcow2', 'v3', made('qcow2', 'cluster_size=512'))
    write('qcow2', 'v2', made('qcow2', 'cluster_size=512,compat=0.10'))
    write('qcow2', 'ext-l2', made('qcow2', 'cluster_size=16k,extended_l2=on', '32k', False))
    write('qcow2', 'names', made('qcow2', 'cluster_size=512,lazy_refcounts=on', '16k'), 4)
    write('qcow', 'plain', made('qcow', '', '64k'))
    write('vmdk', 'sparse', made('vmdk', '', '64k', False))
    write('vmdk', 'descriptor', b'# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="monolithicFlat"\n\n'
          b'# Extent description\nRW 128 FLAT "2" 0\nRW 16 ZERO\nRW 8 SPARSE "3"\n\n# The Disk Data Base\nddb.adapterType = "ide"\n')
    write('vdi', 'header', made('vdi', '', '64k', False)[:4096])
    write('vpc', 'dynamic', made('vpc', '', '64k', False))
    write('vhdx', 'nothing', b'vhdxfile' + bytes(4096))
    write('parallels', 'plain', made('parallels', 'cluster_size=64k', '64k', False)[:4096])
    write('luks', 'header', b'LUKS\xba\xbe\0\1aes'.ljust(40, b'\0') + b'xts-plain64'.ljust(32, b'\0') + b'sha256'.ljust(1024, b'\0'))
    data = text(24 << 10)
    write('bochs', 'growing', bochs(data, 4096))
    write('cloop', 'zlib', cloop(data, 4096))
    write('dmg', 'mixed', dmg(data, 4096))
    write('raw', 'mbr', bytes(446) + struct.pack('<8BII', 0x80, 1, 1, 0, 0x83, 1, 1, 0, 1, 64) + bytes(48) + b'\x55\xaa' + bytes(4096))
    for fmt in ('qcow2', 'qcow', 'vmdk', 'vdi', 'vpc', 'parallels', 'bochs', 'cloop', 'dmg'):
        folder = os.path.join(HERE, 'corpus', fmt)
        first = sorted(x for x in os.listdir(folder) if x.startswith('seed-'))[0]
        with open(os.path.join(folder, first), 'rb') as f:
            write('guess', fmt, f.read()[3 + len(OPS):][:12000])


if __name__ == '__main__':
    main()
