"""The other end of a vhost-user-blk export: memory, rings and requests of a guest that is not there."""
import array
import mmap
import os
import select
import socket
import struct

IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
MEM, GPA, UADDR = 4 << 20, 0x10000, 0x7000_0000_0000


class Peer:
    def __init__(self, path, mem=MEM):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(30)
        self.s.connect(path)
        self.fd = os.memfd_create('guest')
        os.ftruncate(self.fd, mem)
        self.m = mmap.mmap(self.fd, mem)
        self.kicks, self.calls = {}, {}

    def close(self):
        self.s.close()
        self.m.close()
        for fd in (self.fd, *self.kicks.values(), *self.calls.values()):
            os.close(fd)

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.close()

    def send(self, req, payload=b'', fds=(), flags=1):
        self.s.sendmsg([struct.pack('<III', req, flags, len(payload)) + payload],
                       [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))] if fds else [])

    def answer(self):
        h = self.exact(12)
        req, flags, n = struct.unpack('<III', h)
        assert flags & 7 == 5
        return req, self.exact(n)

    def exact(self, n):
        out = b''
        while len(out) < n:
            got = self.s.recv(n - len(out))
            if not got:
                raise ConnectionError('the export hung up')
            out += got
        return out

    def ask(self, req, payload=b''):
        self.send(req, payload)
        got, data = self.answer()
        assert got == req
        return data

    def u64(self, req):
        return struct.unpack('<Q', self.ask(req))[0]

    def told(self, req, payload=b'', fds=()):
        """A message that is acknowledged."""
        self.send(req, payload, fds, flags=1 | 8)
        got, data = self.answer()
        assert got == req and struct.unpack('<Q', data)[0] == 0

    def negotiate(self, drop=0):
        self.features = self.u64(1) & ~drop
        self.proto = self.u64(15)
        self.send(16, struct.pack('<Q', self.proto))
        self.told(3)
        self.told(2, struct.pack('<Q', self.features))

    def config(self, off=0, n=60):
        return self.ask(24, struct.pack('<III', off, n, 0) + bytes(n))[12:]

    def memory(self, size=MEM):
        self.told(5, struct.pack('<IIQQQQ', 1, 0, GPA, size, UADDR, 0), [self.fd])

    def ring(self, i=0, num=8, addr=None):
        """Ring i: descriptors at i * 64 KiB of memory, then avail, then used; its data area follows."""
        self.num, base = num, i << 16
        self.desc, self.avail, self.used = base, base + 0x4000, base + 0x8000
        self.told(8, struct.pack('<II', i, num))
        self.told(10, struct.pack('<II', i, 0))
        self.told(9, struct.pack('<IIQQQQ', i, 0, *(addr or (UADDR + self.desc, UADDR + self.used, UADDR + self.avail)), 0))
        self.kicks[i], self.calls[i] = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
        self.told(13, struct.pack('<Q', i), [self.calls[i]])
        self.told(12, struct.pack('<Q', i), [self.kicks[i]])
        self.told(18, struct.pack('<II', i, 1))
        self.at = self.seen = 0

    def ready(self, **kw):
        self.negotiate(**kw)
        self.memory()
        self.ring()
        return self

    def descs(self, d, where=None):
        for i, (addr, n, flags, nxt) in enumerate(d):
            struct.pack_into('<QIHH', self.m, (self.desc if where is None else where) + i * 16, addr, n, flags, nxt)

    def offer(self, head=0, count=1, i=0):
        for _ in range(count):
            struct.pack_into('<H', self.m, self.avail + 4 + self.at % self.num * 2, head)
            self.at += 1
        struct.pack_into('<H', self.m, self.avail + 2, self.at & 0xffff)
        os.eventfd_write(self.kicks[i], 1)

    def wait(self, i=0, timeout=30):
        """(head, bytes written) of the next request that is done."""
        while struct.unpack_from('<H', self.m, self.used + 2)[0] == self.seen & 0xffff:
            ok = select.select([self.calls[i], self.s], [], [], timeout)[0]
            if self.s in ok:
                raise ConnectionError('the export hung up')
            assert ok, 'no interrupt'
            os.eventfd_read(self.calls[i])
        got = struct.unpack_from('<II', self.m, self.used + 4 + self.seen % self.num * 8)
        self.seen += 1
        return got

    def request(self, kind, sector=0, out=b'', want=0, indirect=False, split=1):
        """Status and the bytes that came."""
        hdr, data, status = 0x100000, 0x110000, 0x10f000
        struct.pack_into('<IIQ', self.m, hdr, kind, 0, sector)
        self.m[data:data + len(out)] = out
        self.m[status] = 0xff
        n, flag = (len(out), 0) if out else (want, 2)
        parts = [(GPA + data + n * k // split, n * (k + 1) // split - n * k // split, flag) for k in range(split)] if n else []
        chain = [(GPA + hdr, 16, 0), *parts, (GPA + status, 1, 2)]
        d = [(a, ln, f | (1 if k < len(chain) - 1 else 0), k + 1) for k, (a, ln, f) in enumerate(chain)]
        if indirect:
            self.descs(d, 0x108000)
            d = [(GPA + 0x108000, 16 * len(d), 4, 0)]
        self.descs(d)
        self.offer()
        head, wrote = self.wait()
        assert head == 0
        if want:
            assert wrote in (want + 1, 1)
        return self.m[status], bytes(self.m[data:data + want])
