"""A VNC client for tests."""
import socket
import struct
import zlib


class Rfb:
    """A VNC client that knows four encodings."""

    def __init__(self, addr):
        self.s = socket.create_connection(addr, 20)
        assert self.get(12) == b'RFB 003.008\n'
        self.s.sendall(b'RFB 003.008\n')
        assert self.get(self.get(1)[0]) == b'\x01'
        self.s.sendall(b'\x01')
        assert self.get(4) == bytes(4)
        self.s.sendall(b'\x01')
        self.w, self.h = struct.unpack('>HH', self.get(4))
        self.get(16)
        self.get(struct.unpack('>I', self.get(4))[0])
        self.z = zlib.decompressobj()
        self.px = bytearray(self.w * self.h * 3)

    def get(self, n):
        out = b''
        while len(out) < n:
            got = self.s.recv(n - len(out))
            assert got, 'the server closed'
            out += got
        return out

    def put(self, x, y, rgb):
        at = (y * self.w + x) * 3
        self.px[at:at + 3] = rgb

    def rows(self, x, y, w, h, data, size=4):
        for j in range(h):
            row = data[j * w * size:(j + 1) * w * size]
            at = ((y + j) * self.w + x) * 3
            for k in range(3):
                self.px[at + k:at + 3 * w:3] = row[2 - k::size]

    def hextile(self, x, y, w, h):
        bg = fg = b'\0\0\0'
        for ty in range(y, y + h, 16):
            for tx in range(x, x + w, 16):
                tw, th, kind = min(16, x + w - tx), min(16, y + h - ty), self.get(1)[0]
                if kind & 1:
                    self.rows(tx, ty, tw, th, self.get(tw * th * 4))
                    continue
                bg = self.get(4)[2::-1] if kind & 2 else bg
                fg = self.get(4)[2::-1] if kind & 4 else fg
                for j in range(th):
                    for i in range(tw):
                        self.put(tx + i, ty + j, bg)
                for _ in range(self.get(1)[0] if kind & 8 else 0):
                    c = self.get(4)[2::-1] if kind & 16 else fg
                    xy, wh = self.get(2)
                    for j in range((wh & 15) + 1):
                        for i in range((wh >> 4) + 1):
                            self.put(tx + (xy >> 4) + i, ty + (xy & 15) + j, c)

    def zrle(self, x, y, w, h):
        d, at = self.z.decompress(self.get(struct.unpack('>I', self.get(4))[0])), 0
        for ty in range(y, y + h, 64):
            for tx in range(x, x + w, 64):
                tw, th, kind = min(64, x + w - tx), min(64, y + h - ty), d[at]
                at += 1
                if kind == 0:
                    self.rows(tx, ty, tw, th, d[at:at + tw * th * 3], 3)
                    at += tw * th * 3
                    continue
                assert kind <= 16
                pal = [d[at + 3 * i:at + 3 * i + 3][::-1] for i in range(kind)]
                at += 3 * kind
                bits = 0 if kind == 1 else 1 if kind == 2 else 2 if kind <= 4 else 4
                for j in range(th):
                    row = d[at:at + (tw * bits + 7) // 8]
                    at += len(row)
                    for i in range(tw):
                        k = row[i * bits // 8] >> (8 - bits - i * bits % 8) & ((1 << bits) - 1) if bits else 0
                        self.put(tx + i, ty + j, pal[k])

    def update(self, encoding):
        """The whole screen in this encoding."""
        self.s.sendall(struct.pack('>BBHi', 2, 0, 1, encoding) + struct.pack('>BBHHHH', 3, 0, 0, 0, self.w, self.h))
        self.px = bytearray(len(self.px))
        assert self.get(2)[0] == 0
        for _ in range(struct.unpack('>H', self.get(2))[0]):
            x, y, w, h, e = struct.unpack('>HHHHi', self.get(12))
            assert e == encoding
            if e == 0:
                self.rows(x, y, w, h, self.get(w * h * 4))
            elif e == 5:
                self.hextile(x, y, w, h)
            elif e == 6:
                self.rows(x, y, w, h, self.z.decompress(self.get(struct.unpack('>I', self.get(4))[0])))
            else:
                self.zrle(x, y, w, h)
        return bytes(self.px)

    def pointer(self, x, y, buttons=0):
        self.s.sendall(struct.pack('>BBHH', 5, buttons, x, y))

    def key(self, *keysyms):
        """Pressed in this order, let go in the other."""
        for down, order in ((1, keysyms), (0, keysyms[::-1])):
            for k in order:
                self.s.sendall(struct.pack('>BBHI', 4, down, 0, k))

    def text(self, font, cols, rows):
        """Lines of a text console, read off its dots. font: rows of dots -> character."""
        px = self.update(0)
        at = lambda x, y: px[(y * self.w + x) * 3:(y * self.w + x) * 3 + 3]
        cell = lambda x, y: tuple(sum((at(x * 8 + 1 + i, y * 16 + 1 + 2 * j) != at(x * 8, y * 16)) << (4 - i) for i in range(5)) for j in range(7))
        return [''.join(font.get(cell(x, y), '?') for x in range(cols)).rstrip() for y in range(rows)]
