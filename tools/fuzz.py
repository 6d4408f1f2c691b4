#!/usr/bin/env python3
"""make fuzz: random accesses to every port and register of a machine, through the register-level test channel.

Finds PCI functions, places their BARs, enables them, then reads and writes random values in port space, in the BARs and in
the fixed windows (VGA, HPET, IOAPIC, local APIC, MMCONFIG). The program must stay alive and answer; run it on the build
with ASan+UBSan. The seed is printed and repeats a run; a failure prints the last accesses.

  tools/fuzz.py [--machine pc|q35|...] [--count N] [--seed N] [--full] [--program PATH] [-- extra arguments]"""
import argparse
import collections
import os
import random
import select
import socket
import subprocess
import sys
import tempfile
import time

from guest import ROOT

BATCH = 500
WINDOWS = {'vga': (0xa0000, 0x20000), 'ioapic': (0xfec00000, 0x1000), 'hpet': (0xfed00000, 0x400), 'apic': (0xfee00000, 0x1000)}
DEVICES = ['-device', 'virtio-net-pci', '-device', 'virtio-blk-pci,drive=d0', '-blockdev', 'null-co,node-name=d0,size=1048576,read-zeroes=on']
NULL = 'driver=null-co,size=1048576,read-zeroes=on,node-name='
# Everything the machine has beyond its defaults, disks and cables attached. isa-debug-exit and pc-testdev end or rewire the
# program on purpose and stay out.
FULL = '''-nic none -netdev user,id=n0,restrict=on -netdev hubport,id=n1,hubid=0 -netdev hubport,id=n2,hubid=0 -netdev hubport,id=n3,hubid=0
-device virtio-net-pci,netdev=n0 -device e1000,netdev=n1 -device rtl8139,netdev=n2 -device virtio-net-pci,netdev=n3,packed=on
-device e1000-82545em -blockdev {n}b0 -blockdev {n}b1 -blockdev {n}b2,read-only=on -blockdev {n}b3 -blockdev {n}b4,read-only=on -blockdev {n}b5
-device virtio-blk-pci,drive=b0 -device virtio-scsi-pci,id=s0 -device scsi-hd,drive=b1,bus=s0.0 -device scsi-cd,drive=b2,bus=s0.0
-device ahci,id=a0 -device ide-hd,drive=b3,bus=a0.0 -device ide-cd,drive=b4,bus=a0.1 -device virtio-blk-pci-transitional,drive=b5
-device virtio-rng-pci -device virtio-balloon-pci -device virtio-serial-pci,id=v0 -chardev ringbuf,id=c0 -chardev ringbuf,id=c1
-device virtserialport,chardev=c0,bus=v0.0,name=p -device virtconsole,chardev=c1,bus=v0.0 -device secondary-vga -device bochs-display
-usb -device usb-tablet -device usb-kbd -device qemu-xhci,id=x0 -device usb-tablet,bus=x0.0 -device usb-kbd,bus=x0.0 -device nec-usb-xhci
-blockdev {n}b9 -device usb-storage,drive=b9,bus=x0.0 -device pci-serial -device pvpanic-pci -device pci-bridge,chassis_nr=9,id=br0 -device pvpanic -debugcon null -parallel null
-drive file=null-co://,format=raw,index=0 -blockdev {n}b7 -device nvme,drive=b7,serial=f'''.format(n=NULL).split()
FULL_PCIE = ['-device', 'pcie-root-port,id=rp0,chassis=7', '-device', 'virtio-blk-pci,bus=rp0,drive=b6', '-blockdev', NULL + 'b6', '-device', 'isa-fdc']
FLOPPY = ['-device', 'floppy,unit=1,drive=b8', '-blockdev', NULL + 'b8']


class Died(Exception):
    pass


class Channel:
    """The test channel: lines out, one answer each."""

    def __init__(self, argv, env):
        self.tmp = tempfile.TemporaryDirectory(prefix='lyrebird-fuzz-')
        path = os.path.join(self.tmp.name, 'q')
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(60)
        self.log = tempfile.TemporaryFile()
        self.p = subprocess.Popen(argv + ['-qtest', f'unix:{path}', '-qtest-log', '/dev/null', '-accel', 'qtest'],
                                  stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=env)
        end = time.monotonic() + 60
        while True:
            ready, _, _ = select.select([listener], [], [], 0.2)
            if ready:
                break
            if self.p.poll() is not None or time.monotonic() > end:
                raise Died(f'no connection: {self.output()[-1500:]}')
        self.s, _ = listener.accept()
        listener.close()
        self.buf, self.last = b'', collections.deque(maxlen=30)

    def output(self):
        self.log.seek(0)
        return self.log.read().decode('utf-8', 'replace')

    def batch(self, lines, timeout=120):
        self.last.extend(lines)
        data, end, out = ('\n'.join(lines) + '\n').encode(), time.monotonic() + timeout, []
        self.s.setblocking(False)
        while len(out) < len(lines):
            r, w, _ = select.select([self.s], [self.s] if data else [], [], 1)
            try:
                if w:
                    data = data[self.s.send(data):]
                if r:
                    got = self.s.recv(65536)
                    if not got:
                        raise Died('the program closed the channel')
                    self.buf += got
            except (BrokenPipeError, ConnectionResetError):
                raise Died('the program is gone') from None
            *whole, self.buf = self.buf.split(b'\n')
            out += [x.decode() for x in whole if not x.startswith(b'IRQ ')]
            if time.monotonic() > end:
                raise Died(f'no answer within {timeout} s')
        return out

    def one(self, line):
        answer = self.batch([line])[0].split()
        return int(answer[1], 0) if len(answer) > 1 else 0

    def close(self):
        self.p.terminate()
        try:
            self.p.wait(20)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
            return 'it does not end on SIGTERM'
        out = self.output()
        for bad in ('AddressSanitizer', 'runtime error:', 'LeakSanitizer', 'Assertion'):
            if bad in out:
                return out[out.find(bad) - 200:][:3000]
        return None


def cfg(ch, bdf, off, val=None, size=32):
    ch.one(f'outl 0xcf8 {0x80000000 | bdf << 8 | off & 0xfc:#x}')
    letter = {8: 'b', 16: 'w', 32: 'l'}[size]
    port = 0xcfc + (off & 3)
    return ch.one(f'in{letter} {port:#x}') if val is None else ch.one(f'out{letter} {port:#x} {val:#x}')


def place_bars(ch, master):
    """(name, kind, start, size) of the memory and port ranges of every function on bus 0, and the lines that place and enable
    them again after a reset."""
    mem, io, out, again = 0xe0000000, 0xc000, [], []

    def place(bdf, off, val):
        again.append(f'outl 0xcf8 {0x80000000 | bdf << 8 | off:#x}')
        again.append(f'outl 0xcfc {val:#x}')
    for bdf in range(256):
        if bdf & 7 and not cfg(ch, bdf & ~7, 0x0e, size=8) & 0x80:
            continue
        ident = cfg(ch, bdf, 0)
        if ident & 0xffff == 0xffff or cfg(ch, bdf, 0x0e, size=8) & 0x7f:
            continue
        bar = 0x10
        while bar < 0x28:
            cfg(ch, bdf, bar, 0xffffffff)
            got = cfg(ch, bdf, bar)
            name = f'{ident & 0xffff:04x}:{ident >> 16:04x} {bar:02x}'
            if got & 1:
                size = -(got & ~3) & 0xffff
                if size:
                    io = (io + size - 1) & ~(size - 1)
                    place(bdf, bar, io)
                    out.append((name, 'io', io, size))
                    io += size
            elif got & ~15:
                size = -(got & ~15) & 0xffffffff
                mem = (mem + size - 1) & ~(size - 1)
                place(bdf, bar, mem)
                if got & 4:
                    place(bdf, bar + 4, 0)
                    bar += 4
                out.append((name, 'mem', mem, size))
                mem += size
            bar += 4
        place(bdf, 4, 7 if master else 3)
    return out, again


def access(rnd, ranges):
    """One random access as a line."""
    if rnd.random() < 0.4:
        kind, base, size = 'io', 0, 0x10000
        if rnd.random() < 0.7:  # where ISA parts live
            size = 0x400
    else:
        _, kind, base, size = rnd.choice(ranges)
    off = rnd.randrange(min(size, 0x10000) if rnd.random() < 0.9 else size)
    value = rnd.choice((0, 1, 0xff, 0xffffffff, rnd.getrandbits(32), 1 << rnd.randrange(32)))
    read = rnd.random() < 0.3
    if kind == 'io':
        w, bits = rnd.choice((('b', 8), ('w', 16), ('l', 32)))
        addr = (base + off) & (0xffff & ~(bits // 8 - 1))
        return f'in{w} {addr:#x}' if read else f'out{w} {addr:#x} {value & (1 << bits) - 1:#x}'
    w, bits = rnd.choice((('b', 8), ('w', 16), ('l', 32), ('q', 64)))
    addr = (base + off) & ~(bits // 8 - 1)
    return f'read{w} {addr:#x}' if read else f'write{w} {addr:#x} {value & (1 << bits) - 1:#x}'


def command(program, machine, full=False):
    extra = FULL + (FULL_PCIE if machine == 'q35' else []) + FLOPPY if full else DEVICES
    return [program, '-M', machine, '-m', '64', '-display', 'none', '-no-shutdown', '-serial', 'null', '-monitor', 'none', *extra]


def fuzz(argv, count, seed, env=None, master=False):
    """None, or what went wrong. With master the functions may read and write guest memory."""
    rnd, ch = random.Random(seed), Channel(argv, env)
    try:
        ranges, again = place_bars(ch, master)
        ranges += [(n, 'mem', a, s) for n, (a, s) in WINDOWS.items()]
        done = 0
        while done < count:
            if done % (4 * BATCH) == 0:  # among the accesses are resets
                ch.batch(again)
            n = min(BATCH, count - done)
            lines = [access(rnd, ranges) for _ in range(n)]
            if rnd.random() < 0.2:
                lines[-1] = f'clock_step {rnd.randrange(10**7)}'
            wrong = [x for x in ch.batch(lines) if not x.startswith('OK')]
            if wrong:
                raise Died(f'the channel answered {wrong[0]!r}')
            done += n
        return ch.close()
    except Died as e:
        ch.p.kill()
        ch.p.wait()
        return f'{e}; status {ch.p.returncode}\n{ch.output()[-4000:]}\nlast accesses:\n  ' + '\n  '.join(ch.last)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--machine', action='append')
    ap.add_argument('--count', type=int, default=1000000)
    ap.add_argument('--seed', type=int, default=None)
    ap.add_argument('--full', action='store_true', help='all devices, and bus mastering on')
    ap.add_argument('--program', default=os.path.join(ROOT, 'build-asan', 'bin', 'qemu-system-x86_64'))
    ap.add_argument('extra', nargs='*')
    args = ap.parse_args()
    seed = args.seed if args.seed is not None else random.randrange(1 << 32)
    for machine in args.machine or ['pc', 'q35']:
        argv = command(args.program, machine, args.full) + args.extra
        start = time.monotonic()
        print(f'{machine}: {args.count} accesses, seed {seed}', flush=True)
        bad = fuzz(argv, args.count, seed, master=args.full)
        if bad:
            print(f'{machine}: FAILED: {bad}')
            return 1
        print(f'{machine}: alive after {time.monotonic() - start:.0f} s')
    return 0


if __name__ == '__main__':
    sys.exit(main())
