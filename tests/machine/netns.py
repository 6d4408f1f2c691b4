"""A network namespace of its own for tests whose command lines name fixed ports: what is started or opened inside `with
net:` belongs to it, and stays there afterwards. Without the right to make one, the host's network is used as it is."""
import ctypes
import fcntl
import os
import socket
import struct

CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def up(name):
    """Brings a network device up."""
    with socket.socket() as s:
        req = struct.pack('16sH14s', name.encode(), 0, b'')
        flags = struct.unpack('16sH14s', fcntl.ioctl(s, SIOCGIFFLAGS, req))[1]
        fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack('16sH14s', name.encode(), flags | IFF_UP, b''))


class Net:
    """own: whether there is a namespace of its own."""

    def __init__(self):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.home = os.open('/proc/thread-self/ns/net', os.O_RDONLY | os.O_CLOEXEC)
        self.own = os.geteuid() == 0 and self.libc.unshare(CLONE_NEWNET) == 0
        self.fd = os.open('/proc/thread-self/ns/net', os.O_RDONLY | os.O_CLOEXEC)
        if self.own:
            up('lo')
            self.libc.setns(self.home, 0)

    def __enter__(self):
        if self.own:
            assert self.libc.setns(self.fd, 0) == 0
        return self

    def __exit__(self, *a):
        if self.own:
            assert self.libc.setns(self.home, 0) == 0
        return False

    def close(self):
        os.close(self.fd)
        os.close(self.home)
