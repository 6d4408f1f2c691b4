"""A Linux guest on the serial line, for tests that look from inside: boots Debian's kernel with an initramfs made for the
test, runs shell lines, and talks QMP beside it."""
import json
import lzma
import os
import re
import shutil
import socket
import struct
import tempfile
import time

import pytest

import guest
from conftest import program
from run import accel, Failed, PROMPT, Session

CMDLINE = 'console=ttyS0 panic=-1 quiet'
_kernels = {}


def kernel(arch='amd64'):
    if arch not in _kernels:
        try:
            _kernels[arch] = guest.Kernel(arch)
        except guest.GuestError as e:
            pytest.skip(str(e))
    return _kernels[arch]


def vmlinux(arch='amd64'):
    """Path of the uncompressed ELF kernel, taken out of the compressed image once."""
    k = kernel(arch)
    path = os.path.join(guest.CACHE, f'vmlinux-{k.release}-{arch}')
    if not os.path.exists(path):
        with open(k.image, 'rb') as f:
            image = f.read()
        at, size = struct.unpack_from('<II', image, 0x248)  # payload_offset counts from the end of the setup sectors
        at += (image[0x1f1] + 1) * 512
        if image[at:at + 6] != b'\xfd7zXZ\0':
            pytest.skip(f'{k.image} is not packed with xz')
        with open(f'{path}.{os.getpid()}', 'wb') as f:
            f.write(lzma.LZMADecompressor().decompress(image[at:at + size]))
        os.replace(f.name, path)
    return path


def initramfs(modules=(), start='', arch='amd64', **kw):
    """Path of an initramfs for these modules, made once per content."""
    import hashlib
    k = kernel(arch)
    with open(guest.__file__, 'rb') as f:
        key = hashlib.sha256(repr((modules, start, arch, k.release, sorted(kw.items()))).encode() + f.read()).hexdigest()[:16]
    path = os.path.join(guest.CACHE, f'test-{key}.cpio')
    if not os.path.exists(path):
        guest.initramfs(path, k, modules=modules, start=start, arch=arch, **kw)
    return path


class Qmp:
    """A QMP connection: call() returns, or raises with the error's text; events are kept."""

    def __init__(self, path):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(60)
        self.s.connect(path)
        self.f = self.s.makefile('rw', encoding='utf-8')
        self.events = []
        self.greeting = json.loads(self.f.readline())
        self.call('qmp_capabilities')

    def read(self):
        line = self.f.readline()
        if not line:
            raise Failed('QMP: the connection ended')
        return json.loads(line)

    def call(self, name, **arguments):
        self.f.write(json.dumps({'execute': name, 'arguments': {k.replace('_', '-'): v for k, v in arguments.items()}}) + '\n')
        self.f.flush()
        while True:
            r = self.read()
            if 'event' in r:
                self.events.append(r)
            elif 'error' in r:
                raise Failed(f"QMP {name}: {r['error']['desc']}")
            else:
                return r['return']

    def wait_event(self, name):
        while True:
            for e in self.events:
                if e['event'] == name:
                    self.events.remove(e)
                    return e
            r = self.read()
            if 'event' in r:
                self.events.append(r)


class Linux:
    """with Linux(['-M', 'pc', ...], modules=(...)) as g: g.sh('uname -a')"""

    def __init__(self, args, modules=(), start='', limit=240, cmdline='', exe='qemu-system-x86_64', arch='amd64', no_reboot=True,
                 memory='256', boot=True, wrap=()):
        self.tmp = tempfile.mkdtemp(prefix='lyrebird-test-')
        self.qmp_path = os.path.join(self.tmp, 'qmp')
        name = os.environ.get('LYREBIRD_QEMU')
        exe = os.path.join(os.path.dirname(name), exe) if name else program(exe)
        cmd = [*wrap, exe, '-m', memory, '-display', 'none', '-serial', 'mon:stdio', '-qmp', f'unix:{self.qmp_path},server=on,wait=off', *accel(), *args]
        if boot:
            cmd += ['-kernel', kernel(arch).image, '-initrd', initramfs(tuple(modules), start, arch), '-append', f'{CMDLINE} {cmdline}']
        if no_reboot:
            cmd.append('-no-reboot')
        self.limit, self.s, self._qmp = limit, Session(cmd), None

    @property
    def qmp(self):
        if not self._qmp:
            self._qmp = Qmp(self.qmp_path)
        return self._qmp

    def __enter__(self):
        try:
            self.s.expect(PROMPT, self.limit, 'boot to a shell')
        except Failed as e:
            self.__exit__(Failed, e, None)
            pytest.fail(f'{e}\n{self.s.seen[-2500:]}')
        return self

    def where(self):
        """Where the processors are and what interrupts wait, in words: for a test that waited in vain."""
        def ask(line):
            return self.qmp.call('human-monitor-command', command_line=line)
        try:
            self.qmp.s.settimeout(5)
            out = [ask(line) for line in ('info status', 'info cpus', 'info registers -a', 'x /64xg $rsp', 'info irq', 'info pic')]
            for _ in range(20):
                time.sleep(0.05)
                out += re.findall(r'^(?:CPU |rip ).*', ask('info registers -a'), re.M)
            return '\n'.join(out)
        except (Failed, OSError, ValueError) as e:
            return f'{e} (when asked where its processors are)'

    def __exit__(self, kind, value, trace):
        if kind is Failed:
            print(self.s.seen[-4000:])
            print(self.where())
        self.s.p.kill()
        self.s.p.wait()
        self.s.p.stdout.close()
        self.s.p.stdin.close()
        shutil.rmtree(self.tmp, ignore_errors=True)

    def sh(self, line, timeout=60):
        """What the line printed; fails when its status is not 0."""
        return self.s.line(line, timeout, line[:40])

    def send(self, text):
        self.s.p.stdin.write(text.encode())
        self.s.p.stdin.flush()

    def poweroff(self, timeout=60):
        self.send('poweroff\n')
        assert self.s.end(timeout, 'poweroff') == 0
