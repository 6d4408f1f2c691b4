"""A VHDX image left with entries in its log, as after a power cut, built here byte by byte after [MS-VHDX] 2.3: they are replayed
as the distribution's tools replay them."""
import shutil
import struct
import subprocess

import pytest
from conftest import need, program

MB, PAGE = 1 << 20, 4096
GUID = bytes(range(1, 17))


def crc32c(data, table=[]):
    if not table:
        for i in range(256):
            for _ in range(8):
                i = i >> 1 ^ (0x82f63b78 if i & 1 else 0)
            table.append(i)
    crc = 0xffffffff
    for b in data:
        crc = crc >> 8 ^ table[(crc ^ b) & 0xff]
    return crc ^ 0xffffffff


def with_sum(data):
    """The checksum at byte 4 is computed as if it were zero."""
    b = bytearray(data)
    b[4:8] = bytes(4)
    struct.pack_into('<I', b, 4, crc32c(b))
    return bytes(b)


def entry(seq, tail, changes, file_size, guid=GUID):
    """changes: (file offset, 4096 bytes or a length of zeros)."""
    descs, pages = b'', b''
    for off, what in changes:
        if isinstance(what, int):
            descs += b'zero' + struct.pack('<IQQQ', 0, what, off, seq)
        else:
            descs += b'desc' + what[-4:] + what[:8] + struct.pack('<QQ', off, seq)
            pages += b'data' + struct.pack('<I', seq >> 32) + what[8:-4] + struct.pack('<I', seq & 0xffffffff)
    head = 64 + len(descs)
    head = -(-head // PAGE) * PAGE
    e = b'loge' + bytes(4) + struct.pack('<IIQII', head + len(pages), tail, seq, len(changes), 0) + guid + struct.pack('<QQ', file_size, file_size)
    return with_sum((e + descs).ljust(head, b'\0') + pages)


class Vhdx:
    def __init__(self, path):
        self.path = path
        subprocess.run([program('qemu-img'), 'create', '-q', '-f', 'vhdx', '-o', 'block_size=1M', path, '8M'], check=True, timeout=60)
        subprocess.run([program('qemu-io'), '-f', 'vhdx', '-c', 'write -P 1 0 2M', path], check=True, timeout=60, stdout=subprocess.DEVNULL)
        self.data = bytearray(path.read_bytes())
        at = max((64 << 10, 128 << 10), key=lambda o: struct.unpack_from('<Q', self.data, o + 8)[0])
        self.log_len, self.log_off = struct.unpack_from('<IQ', self.data, at + 68)
        self.first = self.data.index(b'\1' * PAGE)  # where the guest's block 0 lies
        for o in (64 << 10, 128 << 10):  # one header names the log
            seq = struct.unpack_from('<Q', self.data, at + 8)[0] + (o == at)
            h = bytearray(self.data[at:at + PAGE])
            struct.pack_into('<Q', h, 8, seq)
            h[48:64] = GUID
            self.data[o:o + PAGE] = with_sum(h)

    def put(self, at, data):
        for i, b in enumerate(data):
            self.data[self.log_off + (at + i) % self.log_len] = b

    def save(self):
        self.path.write_bytes(self.data)


def replayed(path, tmp_path, theirs):
    copy, raw = tmp_path / 'copy.vhdx', tmp_path / 'copy.raw'
    shutil.copy(path, copy)
    exe = need('qemu-img', 'qemu-utils') if theirs else program('qemu-img')
    subprocess.run([exe, 'check', '-r', 'all', '-f', 'vhdx', copy], check=True, timeout=60, capture_output=True)
    subprocess.run([exe, 'convert', '-f', 'vhdx', '-O', 'raw', copy, raw], check=True, timeout=60)
    return raw.read_bytes()


PAGES = [bytes([i]) * PAGE for i in range(256)]


@pytest.mark.proves('F-IMG-07', 'F-IMG-17')
@pytest.mark.parametrize('start', [0, 5 * PAGE, MB - 2 * PAGE], ids=['front', 'middle', 'around the end'])
def test_an_unclean_log_is_replayed_as_the_others_do(tmp_path, start):
    v = Vhdx(tmp_path / 'a.vhdx')
    size = len(v.data)
    one = entry(7, start, [(v.first, PAGES[0xa1]), (v.first + 3 * PAGE, PAGES[0xa2])], size)
    two = entry(8, start, [(v.first + PAGE, PAGES[0xb1]), (v.first + 8 * PAGE, 2 * PAGE)], size)
    stale = entry(6, start, [(v.first + 20 * PAGE, PAGES[0xee])], size, bytes(16))
    v.put(start, one + two + stale)
    v.save()
    want = bytearray(b'\1' * 2 * MB + bytes(6 * MB))
    for page, b in ((0, 0xa1), (3, 0xa2), (1, 0xb1), (8, 0), (9, 0)):
        want[page * PAGE:(page + 1) * PAGE] = PAGES[b]
    got = replayed(v.path, tmp_path, False)
    assert got == want
    if start + 3 * PAGE <= v.log_len:  # theirs finds no entry that goes on at the front of the log
        assert got == replayed(v.path, tmp_path, True)


@pytest.mark.proves('F-IMG-07', 'F-IMG-17')
def test_a_torn_entry_ends_the_replay(tmp_path):
    v = Vhdx(tmp_path / 'a.vhdx')
    one = entry(7, 0, [(v.first, PAGES[0xa1])], len(v.data))
    two = bytearray(entry(8, 0, [(v.first + PAGE, PAGES[0xb1])], len(v.data)))
    two[PAGE + 100] ^= 1
    v.put(0, one + bytes(two))
    v.save()
    got = replayed(v.path, tmp_path, False)
    assert got[:2 * PAGE] == PAGES[0xa1] + PAGES[1]
    assert got == replayed(v.path, tmp_path, True)


@pytest.mark.proves('F-IMG-07')
def test_a_reader_is_told_how_to_replay(tmp_path):
    v = Vhdx(tmp_path / 'a.vhdx')
    v.put(0, entry(7, 0, [(v.first, PAGES[0xa1])], len(v.data)))
    v.save()
    p = subprocess.run([program('qemu-img'), 'convert', '-f', 'vhdx', '-O', 'raw', v.path, tmp_path / 'x'], capture_output=True, text=True, timeout=60)
    assert p.returncode == 1 and 'contains a log that needs to be replayed' in p.stderr and 'check -r all' in p.stderr
    assert v.path.read_bytes() == bytes(v.data)


def test_a_log_full_of_entries_is_read_in_time(tmp_path):
    """Thousands of sound entries that all claim to begin the sequence elsewhere: no more than one pass over the log."""
    v = Vhdx(tmp_path / 'a.vhdx')
    grown = v.log_len * 32  # the log moved to the end of the file and made larger
    at = len(v.data)
    v.data += bytes(grown)
    for o in (64 << 10, 128 << 10):
        h = bytearray(v.data[o:o + PAGE])
        struct.pack_into('<IQ', h, 68, grown, at)
        v.data[o:o + PAGE] = with_sum(h)
    v.log_off, v.log_len = at, grown
    blank = entry(1, 0, [], len(v.data))
    for i in range(grown // PAGE):
        e = bytearray(blank)
        struct.pack_into('<IQ', e, 12, (i + 1) * PAGE, i + 1)
        v.data[at + i * PAGE:at + (i + 1) * PAGE] = with_sum(e)
    v.save()
    p = subprocess.run([program('qemu-io'), '-f', 'vhdx', '-c', 'read 0 512', v.path], capture_output=True, text=True, timeout=40)
    assert p.returncode == 1 and 'log is damaged' in p.stderr
