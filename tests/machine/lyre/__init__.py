"""Drives our system emulator from a test: start and end, QMP, the register-level test channel, serial lines.

    from lyre import Machine, run

    with Machine('-M', 'q35', qtest=True) as m:        # -nodefaults -display none are added
        m.qt.outb(0x70, 0x0f)
        assert m.qmp('query-status')['running']
        m.hmp('info status')

    with Machine('-M', 'pc', '-kernel', K, serial=True, defaults=True) as m:
        m.serial.expect(r'login: ', 60)
        m.serial.send('root\\n')
        m.event('SHUTDOWN', 60)
        assert m.wait(5) == 0

All descriptors are socket pairs handed over by number, so a test leaves no files and needs no free ports. Every wait has
a limit; leaving the block kills what still runs. A failed expectation shows what was read."""
import base64
import json
import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
SLOW = int(os.environ.get('LYREBIRD_SLOW') or (6 if os.environ.get('LYREBIRD_ACCEL_SET') else 1))  # see tests/conftest.py


def build_dir():
    return os.environ.get('LYREBIRD_BUILD', os.path.join(ROOT, 'build'))


def program(name='qemu-system-x86_64'):
    """Path of one of our programs (QEMU_PROG replaces the x86_64 emulator); skips when it is not built."""
    if name == 'qemu-system-x86_64' and os.environ.get('QEMU_PROG'):
        return os.environ['QEMU_PROG']
    for folder in ('bin', 'src/cmd'):
        path = os.path.join(build_dir(), folder, name)
        if os.access(path, os.X_OK):
            return path
    import pytest
    pytest.skip(f'{name} is not built')


def run(*args, prog='qemu-system-x86_64', stdin='', timeout=10, env=None, cwd=None):
    """One run to its end: an object with returncode, stdout, stderr (text)."""
    return subprocess.run([program(prog), *args], input=stdin, capture_output=True, text=True, errors='replace', timeout=timeout,
                          env={**os.environ, **(env or {})}, cwd=cwd)


class QmpError(Exception):
    """An error reply; .cls is its class, .desc its text."""

    def __init__(self, error):
        super().__init__(f"{error['class']}: {error['desc']}")
        self.cls, self.desc = error['class'], error['desc']


class Timeout(Exception):
    pass


class Stream:
    """Bytes over a socket with a record of all that was read."""

    def __init__(self, sock, name):
        self.sock, self.name = sock, name
        self.log = b''
        self.buf = b''
        self.closed = False
        sock.setblocking(False)

    def fill(self, limit):
        """Reads what there is, waiting at most until the time `limit`; False when nothing came."""
        left = max(0, limit - time.monotonic())
        if self.closed or not select.select([self.sock], [], [], left)[0]:
            return False
        try:
            data = self.sock.recv(65536)
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionResetError:
            data = b''
        if not data:
            self.closed = True
            return False
        self.buf += data
        self.log += data
        return True

    def line(self, timeout=10):
        limit = time.monotonic() + timeout * SLOW
        while b'\n' not in self.buf:
            if not self.fill(limit) and (self.closed or time.monotonic() >= limit):
                raise Timeout(f'{self.name}: {"closed" if self.closed else f"no line in {timeout} s"}; last: {self.log[-400:]!r}')
        line, self.buf = self.buf.split(b'\n', 1)
        return line

    def send(self, data):
        if isinstance(data, str):
            data = data.encode()
        self.sock.setblocking(True)
        self.sock.settimeout(10)
        self.sock.sendall(data)
        self.sock.setblocking(False)

    def expect(self, pattern, timeout=30):
        """Waits for a regular expression; what precedes it is consumed. Returns the match (on bytes)."""
        if isinstance(pattern, str):
            pattern = pattern.encode()
        limit = time.monotonic() + timeout * SLOW
        rx = re.compile(pattern, re.S)
        while True:
            m = rx.search(self.buf)
            if m:
                self.buf = self.buf[m.end():]
                return m
            if not self.fill(limit) and (self.closed or time.monotonic() >= limit):
                raise Timeout(f'{self.name}: {pattern!r} not seen in {timeout} s; last: {self.log[-1500:].decode(errors="replace")}')

    def quiet(self, seconds=0.3):
        """All that comes until nothing came for so long."""
        while self.fill(time.monotonic() + seconds):
            pass
        out, self.buf = self.buf, b''
        return out

    def close(self):
        self.sock.close()


class Qmp:
    """A QMP session over a stream. Events that arrive between replies are kept."""

    def __init__(self, sock, negotiate=True):
        self.s = Stream(sock, 'QMP')
        self.events = []
        self.greeting = json.loads(self.s.line())
        if negotiate:
            self.cmd('qmp_capabilities')

    def read(self, timeout=10):
        while True:
            line = self.s.line(timeout).strip()
            if line:
                return json.loads(line)

    def raw(self, obj, timeout=10):
        """Sends an object (or text) and returns the whole reply."""
        self.s.send((obj if isinstance(obj, str) else json.dumps(obj)) + '\n')
        while True:
            r = self.read(timeout)
            if 'event' not in r:
                return r
            self.events.append(r)

    def cmd(self, _name, _timeout=30, **args):
        """The value returned; QmpError on an error. Dashes in argument names are written as underscores."""
        req = {'execute': _name}
        if args:
            req['arguments'] = {k.rstrip('_').replace('_', '-') if not k.startswith('=') else k[1:]: v for k, v in args.items()}
        r = self.raw(req, _timeout)
        if 'error' in r:
            raise QmpError(r['error'])
        return r['return']

    def args(self, name, args, timeout=30):
        """As cmd, the arguments as a dict."""
        r = self.raw({'execute': name, 'arguments': args}, timeout)
        if 'error' in r:
            raise QmpError(r['error'])
        return r['return']

    def event(self, name, timeout=30, **data):
        """Waits for an event whose data holds these members; earlier ones are looked at first."""
        limit = time.monotonic() + timeout * SLOW

        def hit(e):
            return e['event'] == name and all(e.get('data', {}).get(k) == v for k, v in data.items())
        while True:
            for e in self.events:
                if hit(e):
                    self.events.remove(e)
                    return e
            left = limit - time.monotonic()
            if left <= 0:
                raise Timeout(f'no event {name} in {timeout} s; had {[e["event"] for e in self.events]}')
            try:
                r = self.read(left)
            except Timeout as e:
                raise Timeout(f'no event {name} in {timeout} s; had {[x["event"] for x in self.events]}') from e
            if 'event' in r:
                self.events.append(r)


class Qtest:
    """The register-level test channel. Interrupt lines seen are in .irq: number -> level."""

    def __init__(self, sock):
        self.s = Stream(sock, 'qtest')
        self.irq = {}
        self.irq_log = []

    def cmd(self, text, timeout=20):
        self.s.send(text + '\n')
        while True:
            w = self.s.line(timeout).decode().split()
            if w and w[0] == 'IRQ':
                self.irq[int(w[2])] = w[1] == 'raise'
                self.irq_log.append((w[1], int(w[2])))
                continue
            if not w or w[0] != 'OK':
                raise AssertionError(f'qtest: {text[:80]!r} answered {" ".join(w)!r}')
            return w[1] if len(w) > 1 else ''

    def _in(self, op, addr):
        return int(self.cmd(f'{op} {addr:#x}'), 16)

    def inb(self, p): return self._in('inb', p)
    def inw(self, p): return self._in('inw', p)
    def inl(self, p): return self._in('inl', p)
    def readb(self, a): return self._in('readb', a)
    def readw(self, a): return self._in('readw', a)
    def readl(self, a): return self._in('readl', a)
    def readq(self, a): return self._in('readq', a)
    def outb(self, p, v): self.cmd(f'outb {p:#x} {v & 0xff:#x}')
    def outw(self, p, v): self.cmd(f'outw {p:#x} {v & 0xffff:#x}')
    def outl(self, p, v): self.cmd(f'outl {p:#x} {v & 0xffffffff:#x}')
    def writeb(self, a, v): self.cmd(f'writeb {a:#x} {v & 0xff:#x}')
    def writew(self, a, v): self.cmd(f'writew {a:#x} {v & 0xffff:#x}')
    def writel(self, a, v): self.cmd(f'writel {a:#x} {v & 0xffffffff:#x}')
    def writeq(self, a, v): self.cmd(f'writeq {a:#x} {v & 0xffffffffffffffff:#x}')

    def read(self, addr, size):
        """Bytes of guest memory."""
        return base64.b64decode(self.cmd(f'b64read {addr:#x} {size:#x}')) if size else b''

    def write(self, addr, data):
        if data:
            self.cmd(f'b64write {addr:#x} {len(data):#x} {base64.b64encode(bytes(data)).decode()}')

    def memset(self, addr, size, byte): self.cmd(f'memset {addr:#x} {size:#x} {byte:#x}')
    def clock_step(self, ns=None): return int(self.cmd('clock_step' if ns is None else f'clock_step {ns}'))
    def clock_set(self, ns): return int(self.cmd(f'clock_set {ns}'))
    def intercept_in(self, path, name=''): self.cmd(f'irq_intercept_in {path} {name}'.strip())
    def intercept_out(self, path, name=''): self.cmd(f'irq_intercept_out {path} {name}'.strip())
    def set_irq_in(self, path, n, level, name='unnamed-gpio'): self.cmd(f'set_irq_in {path} {name} {n} {level}')

    # PCI configuration through ports 0xcf8/0xcfc.
    def pci_addr(self, bus, dev, fn, off): return 0x80000000 | bus << 16 | dev << 11 | fn << 8 | (off & 0xfc)

    def pci_read(self, dev, off, size=4, fn=0, bus=0):
        self.outl(0xcf8, self.pci_addr(bus, dev, fn, off))
        return {1: self.inb, 2: self.inw, 4: self.inl}[size](0xcfc + (off & 3))

    def pci_write(self, dev, off, val, size=4, fn=0, bus=0):
        self.outl(0xcf8, self.pci_addr(bus, dev, fn, off))
        {1: self.outb, 2: self.outw, 4: self.outl}[size](0xcfc + (off & 3), val)

    def pci_find(self, vendor, device, bus=0):
        """(dev, fn) of the first function with these ids, or None."""
        for dev in range(32):
            for fn in range(8):
                if self.pci_read(dev, 0, fn=fn, bus=bus) == device << 16 | vendor:
                    return dev, fn
        return None


class Machine:
    """A running emulator. qmp, qtest, serial, hmp: which channels to make. defaults: leave -nodefaults out."""

    def __init__(self, *args, prog='qemu-system-x86_64', qmp=True, qtest=False, serial=False, hmp=False, defaults=False, start_timeout=20,
                 env=None, cwd=None, pass_fds=()):
        if len(args) == 1 and isinstance(args[0], str) and ' ' in args[0]:
            args = args[0].split()
        cmd = [program(prog)]
        self.socks, self.streams, fds = {}, [], list(pass_fds)
        for name, on in (('qmp', qmp), ('qtest', qtest), ('serial', serial), ('hmp', hmp)):
            if not on:
                continue
            ours, theirs = socket.socketpair()
            self.socks[name] = (ours, theirs)
            fds.append(theirs.fileno())
            cmd += ['-chardev', f'socket,id=lyre-{name},fd={theirs.fileno()}']
        if qmp:
            cmd += ['-mon', 'chardev=lyre-qmp,mode=control']
        if qtest:
            cmd += ['-qtest', 'chardev:lyre-qtest', '-accel', 'qtest']
        if serial:
            cmd += ['-serial', 'chardev:lyre-serial']
        if hmp:
            cmd += ['-monitor', 'chardev:lyre-hmp']
        cmd += ['-display', 'none'] + ([] if defaults else ['-nodefaults']) + [str(a) for a in args]
        self.cmdline = cmd
        self.err = tempfile.TemporaryFile(mode='w+', errors='replace')
        self.out = tempfile.TemporaryFile(mode='w+', errors='replace')
        self.proc = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.err, pass_fds=fds, cwd=cwd,
                                     env={**os.environ, **(env or {})})
        for ours, theirs in self.socks.values():
            theirs.close()
        self._qmp = self.qt = self.serial = self.hmp_stream = None
        try:
            if qmp:
                self._qmp = Qmp(self.socks['qmp'][0])
            if qtest:
                self.qt = Qtest(self.socks['qtest'][0])
            if serial:
                self.serial = Stream(self.socks['serial'][0], 'serial')
            if hmp:
                self.hmp_stream = Stream(self.socks['hmp'][0], 'monitor')
        except Exception as e:
            self.kill()
            raise AssertionError(f'did not start: {" ".join(cmd)}\nstatus {self.proc.returncode}, stderr: {self.stderr()}') from e

    def stderr(self):
        self.err.seek(0)
        return self.err.read()

    def stdout(self):
        self.out.seek(0)
        return self.out.read()

    def qmp(self, _name, _timeout=30, **args):
        return self._qmp.cmd(_name, _timeout, **args)

    def qmp_args(self, name, args, timeout=30):
        return self._qmp.args(name, args, timeout)

    def qmp_raw(self, obj):
        return self._qmp.raw(obj)

    def event(self, name, timeout=30, **data):
        return self._qmp.event(name, timeout, **data)

    def hmp(self, line, timeout=30):
        """What a human monitor command prints."""
        return self._qmp.cmd('human-monitor-command', timeout, command_line=line)

    def screendump(self, path, fmt='png'):
        self.qmp('screendump', filename=str(path), format=fmt)

    def alive(self):
        return self.proc.poll() is None

    def wait(self, timeout=10):
        """Exit status; fails when the program does not end by itself."""
        return self.proc.wait(timeout * SLOW)

    def quit(self, timeout=10):
        try:
            self.qmp('quit')
        except Timeout:
            pass
        return self.wait(timeout)

    def kill(self):
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()
        for ours, _ in self.socks.values():
            ours.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, exc, tb):
        if kind and not issubclass(kind, GeneratorExit):
            text = self.stderr()
            if text:
                print(f'--- stderr of {" ".join(self.cmdline)}\n{text}', file=sys.stderr)
            if self.serial:
                print(f'--- serial\n{self.serial.log[-3000:].decode(errors="replace")}', file=sys.stderr)
        self.kill()
        self.err.close()
        self.out.close()
        return False
