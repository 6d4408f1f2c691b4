"""Pictures for tests: PPM and 8-bit RGB PNG files as (width, height, bytes of R, G, B)."""
import struct
import zlib


def ppm(path):
    with open(path, 'rb') as f:
        magic, size, top, data = f.read().split(b'\n', 3)
    assert magic == b'P6' and top == b'255'
    w, h = map(int, size.split())
    assert len(data) == w * h * 3
    return w, h, data


def unfilter(kind, row, above):
    out = bytearray(row)
    for i in range(len(out)):
        a, b, c = (out[i - 3] if i >= 3 else 0), above[i], (above[i - 3] if i >= 3 else 0)
        if kind == 1:
            p = a
        elif kind == 2:
            p = b
        elif kind == 3:
            p = (a + b) // 2
        else:
            p = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
        out[i] = (out[i] + p) & 255
    return bytes(out)


def png(path):
    with open(path, 'rb') as f:
        data = f.read()
    assert data[:8] == b'\x89PNG\r\n\x1a\n'
    at, idat = 8, b''
    while at < len(data):
        n, kind = struct.unpack('>I4s', data[at:at + 8])
        body = data[at + 8:at + 8 + n]
        assert zlib.crc32(kind + body) == struct.unpack('>I', data[at + 8 + n:at + 12 + n])[0]
        if kind == b'IHDR':
            w, h, depth, color, _, _, lace = struct.unpack('>IIBBBBB', body)
            assert (depth, color, lace) == (8, 2, 0)
        elif kind == b'IDAT':
            idat += body
        at += 12 + n
    raw, rows, above = zlib.decompress(idat), [], bytes(w * 3)
    for y in range(h):
        line = raw[y * (w * 3 + 1):(y + 1) * (w * 3 + 1)]
        above = unfilter(line[0], line[1:], above) if line[0] else line[1:]
        rows.append(above)
    return w, h, b''.join(rows)
