"""Formats that are only read (bochs, cloop, dmg), made here byte by byte, and parallels; all compared with the
distribution's tools."""
import base64
import bz2
import os
import random
import struct
import subprocess
import zlib

import pytest
from conftest import need, program

MB = 1 << 20


def tool(name, *args, ok=True, theirs=False):
    exe = need(name, 'qemu-utils') if theirs else program(name)
    p = subprocess.run([exe, *map(str, args)], capture_output=True, text=True, timeout=100)
    assert ok is None or (p.returncode == 0) == ok, p.stdout + p.stderr
    return p.stdout + p.stderr


def content(size, seed=5):
    rng = random.Random(seed)
    return b''.join(rng.choice([bytes(4096), rng.randbytes(4096), b'text ' * 819 + b'x']) for _ in range(size // 4096))


def cloop(data, block=65536):
    body = [zlib.compress(data[i:i + block]) for i in range(0, len(data), block)]
    at = 128 + 8 + 8 * (len(body) + 1)
    offs = [at]
    for b in body:
        offs.append(offs[-1] + len(b))
    head = b'#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n'
    return head.ljust(128, b'\0') + struct.pack('>II', block, len(body)) + b''.join(struct.pack('>Q', o) for o in offs) + b''.join(body)


def bochs(data, extent=65536):
    nr = -(-len(data) // extent)
    catalog, body = [], b''
    bitmap = extent // 512 // 8
    for i in range(nr):
        part = data[i * extent:(i + 1) * extent].ljust(extent, b'\0')
        if not part.strip(b'\0'):
            catalog.append(0xffffffff)
            continue
        catalog.append(len([c for c in catalog if c != 0xffffffff]))
        bits = bytearray(bitmap)
        for s in range(extent // 512):
            if part[s * 512:(s + 1) * 512].strip(b'\0'):
                bits[s // 8] |= 1 << (s % 8)
        body += bytes(bits).ljust(512, b'\0') + part
    head = b'Bochs Virtual HD Image'.ljust(32, b'\0') + b'Redolog'.ljust(16, b'\0') + b'Growing'.ljust(16, b'\0')
    head += struct.pack('<IIIIIIQ', 0x20000, 512, nr, bitmap, extent, 0, len(data))
    return head.ljust(512, b'\0') + struct.pack(f'<{nr}I', *catalog) + body


def dmg(data, chunk=65536):
    body, entries = b'', b''
    for i in range(0, len(data), chunk):
        part = data[i:i + chunk]
        kind = 0 if not part.strip(b'\0') else [1, 0x80000005, 0x80000006][i // chunk % 3]
        blob = {0: b'', 1: part, 0x80000005: zlib.compress(part), 0x80000006: bz2.compress(part)}[kind]
        entries += struct.pack('>IIQQQQ', kind, 0, i // 512, len(part) // 512, len(body), len(blob))
        body += blob
    entries += struct.pack('>IIQQQQ', 0xffffffff, 0, len(data) // 512, 0, len(body), 0)
    mish = struct.pack('>4sIQQQII', b'mish', 1, 0, len(data) // 512, 0, chunk // 512 + 8, 0).ljust(200, b'\0')
    mish += struct.pack('>I', len(entries) // 40) + entries
    xml = ('<?xml version="1.0"?><plist version="1.0"><dict><key>resource-fork</key><dict><key>blkx</key><array><dict>'
           f'<key>Data</key>\n<data>\n{base64.encodebytes(mish).decode()}</data></dict></array></dict></dict></plist>').encode()
    koly = bytearray(512)
    koly[0:12] = struct.pack('>4sII', b'koly', 4, 512)
    struct.pack_into('>QQ', koly, 0x18, 0, len(body))
    struct.pack_into('>QQ', koly, 0xd8, len(body), len(xml))
    return body + xml + bytes(koly)


@pytest.mark.proves('F-IMG-08')
@pytest.mark.parametrize('fmt,make', [('cloop', cloop), ('bochs', bochs), ('dmg', dmg)])
def test_read_only_formats(tmp_path, fmt, make):
    data = content(1 * MB + 8192 if fmt != 'cloop' else MB)
    p, out = tmp_path / f'x.{fmt}', tmp_path / 'out.raw'
    p.write_bytes(make(data))
    for theirs in (True, False):
        q = subprocess.run([need('qemu-img', 'qemu-utils') if theirs else program('qemu-img'), 'convert', '-f', fmt, '-O', 'raw', p, out],
                           capture_output=True, text=True, timeout=60)
        if theirs and ('nknown driver' in q.stderr or 'module is missing' in q.stderr):
            continue  # built without it, or without bzip2
        assert q.returncode == 0, q.stderr
        assert out.read_bytes()[:len(data)] == data
    assert f'file format: {fmt}' in tool('qemu-img', 'info', p)
    assert tool('qemu-io', '-f', fmt, p, '-c', 'write 0 512', ok=False)


@pytest.mark.parametrize('fmt,make', [('cloop', cloop), ('bochs', bochs), ('dmg', dmg), ('parallels', None)])
def test_damaged_images_end_in_an_error_not_a_crash(tmp_path, fmt, make):
    rng = random.Random(3)
    p = tmp_path / f'x.{fmt}'
    if make:
        good = make(content(256 << 10))
    else:
        tool('qemu-img', 'create', '-q', '-f', fmt, p, '1M')
        good = p.read_bytes()[:4096]
    for i in range(60):
        bad = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(min(len(bad), 600)) if rng.random() < 0.7 else len(bad) - 1 - rng.randrange(min(len(bad), 900))
            bad[at] = rng.choice([0, 1, 0x7f, 0xff, rng.randrange(256)])
        if rng.random() < 0.2:
            bad = bad[:rng.randrange(len(bad))]
        p.write_bytes(bad)
        q = subprocess.run([program('qemu-io'), '-r', '-f', fmt, p, '-c', 'read 0 64k', '-c', 'read -v 1k 512'], capture_output=True, timeout=30)
        assert q.returncode in (0, 1), (i, q.returncode, q.stderr)


@pytest.mark.parametrize('cluster', ['1M', '64k', '96k'])
def test_parallels_both_ways(tmp_path, cluster):
    raw = tmp_path / 'r.raw'
    raw.write_bytes(content(5 * MB))
    for maker in (True, False):
        p, out = tmp_path / 'p.hds', tmp_path / 'o.raw'
        tool('qemu-img', 'convert', '-f', 'raw', '-O', 'parallels', '-o', f'cluster_size={cluster}', raw, p, theirs=maker)
        tool('qemu-io', '-f', 'parallels', p, '-c', 'write -P 5 3M 100k', theirs=not maker)
        for theirs in (True, False):
            assert 'Pattern' not in tool('qemu-io', '-r', '-f', 'parallels', p, '-c', 'read -P 5 3M 100k', theirs=theirs)
            tool('qemu-img', 'check', '-f', 'parallels', p, theirs=theirs)
            tool('qemu-img', 'convert', '-f', 'parallels', '-O', 'raw', p, out, theirs=theirs)
            got = out.read_bytes()
            want = raw.read_bytes()
            assert got[:3 * MB] == want[:3 * MB] and got[3 * MB + 102400:5 * MB] == want[3 * MB + 102400:]
