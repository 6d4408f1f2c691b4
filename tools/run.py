#!/usr/bin/env python3
"""make run: boots Debian's kernel and BusyBox under our qemu-system-x86_64.

On a terminal: an interactive shell with a disk on /data and a network; `poweroff` ends it, Ctrl-A X too. Without a
terminal (or with --script): a scripted session that checks the same, prints what it saw and how long each stage took,
and exits 0 or says what failed. Extra arguments go to the emulator. LYREBIRD_QEMU names another emulator to compare."""
import hashlib
import http.server
import os
import re
import select
import subprocess
import sys
import tempfile
import threading
import time

import guest
from guest import CACHE, ROOT

PROMPT = 'lyrebird# '
SLOW = int(os.environ.get('LYREBIRD_SLOW') or (6 if os.environ.get('LYREBIRD_ACCEL_SET') else 1))  # see tests/conftest.py


def emulator():
    if os.environ.get('LYREBIRD_QEMU'):
        return os.environ['LYREBIRD_QEMU']
    build = os.environ.get('LYREBIRD_BUILD', os.path.join(ROOT, 'build'))
    for folder in ('bin', 'src/cmd'):
        path = os.path.join(build, folder, 'qemu-system-x86_64')
        if os.access(path, os.X_OK):
            return path
    sys.exit(f'run: no qemu-system-x86_64 in {build}/bin: run make build first')


def images(folder):
    """Kernel, initramfs and data disk; the disk is made anew for each run in `folder`."""
    kernel = guest.Kernel()
    with open(guest.__file__, 'rb') as f:  # the recipe is part of the name: a changed one makes a new archive
        recipe = hashlib.sha256(f.read()).hexdigest()[:12]
    initrd = os.path.join(CACHE, f'run-{kernel.release}-{recipe}.cpio')
    if not os.path.exists(initrd):
        guest.initramfs(initrd, kernel, banner='This is Linux on Lyrebird. The disk is on /data, the host is 10.0.2.2; poweroff ends it.')
    disk = guest.ext4(os.path.join(folder, 'data.img'), 64 << 20, {'hello.txt': b'hello from the host\n'})
    return kernel.image, initrd, disk


def accel():
    """Arguments that LYREBIRD_ACCEL asks for: all boot tests can be run with one accelerator."""
    return ['-accel', os.environ['LYREBIRD_ACCEL']] if os.environ.get('LYREBIRD_ACCEL') else []


def command(kernel, initrd, disk, extra):
    return [emulator(), '-m', '512', '-nographic', '-no-reboot', '-kernel', kernel, '-initrd', initrd,
            '-append', 'console=ttyS0 quiet panic=-1', '-drive', f'file={disk},if=virtio,format=raw',
            '-nic', 'user,model=virtio-net-pci', *accel(), *extra]


class Failed(Exception):
    pass


class Session:
    """The guest's serial line: wait for text, send a line, remember everything."""

    def __init__(self, cmd):
        self.p = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.seen, self.at = '', 0

    def pump(self, timeout):
        ready, _, _ = select.select([self.p.stdout], [], [], timeout)
        if not ready:
            return True
        data = os.read(self.p.stdout.fileno(), 65536)
        self.seen += data.decode('utf-8', 'replace')
        return bool(data)

    def expect(self, text, timeout, what):
        timeout *= SLOW
        end = time.monotonic() + timeout
        while True:
            found = self.seen.find(text, self.at)
            if found >= 0:
                out = self.seen[self.at:found]
                self.at = found + len(text)
                return out
            left = end - time.monotonic()
            if left <= 0:
                raise Failed(f'{what}: nothing within {timeout} s')
            if not self.pump(left):
                raise Failed(f'{what}: the emulator ended with status {self.p.wait()}')

    def line(self, text, timeout, what):
        """Runs a shell line, returns what it printed."""
        # The marks are broken by quotes in what is typed, so that its echo, however wrapped, is no mark.
        self.p.stdin.write(('echo "beg""in="; ' + text + '; echo "sta""tus=$?="\n').encode())
        self.p.stdin.flush()
        self.expect('begin=', timeout, what + ' (echo)')
        out = self.expect('status=', timeout, what)
        status = self.expect('=', 20, what)
        self.expect(PROMPT, 20, what)
        if status != '0':
            raise Failed(f'{what}: `{text}` ended with status {status}: {out.strip()[-200:]}')
        return out.strip().replace('\r', '')

    def end(self, timeout, what):
        timeout *= SLOW
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if not self.pump(min(1, max(0, end - time.monotonic()))):
                return self.p.wait()
        raise Failed(f'{what}: the emulator is still running after {timeout} s')


def serve(body, address='127.0.0.1', port=0):
    """A web server in this process, at once: gives `body` whatever is asked for. server_address[1] is its port; shutdown() ends it."""
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *a):
            pass
    web = http.server.ThreadingHTTPServer((address, port), Page)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    return web


def scripted(cmd, slow=1.0):
    start = last = time.monotonic()
    web = serve(b'greetings from the host\n')
    s = Session(cmd)

    def stage(name, detail=''):
        nonlocal last
        now = time.monotonic()
        print(f'{name:22} {now - last:6.1f} s  {detail}', flush=True)
        last = now
    try:
        s.expect(PROMPT, 300 * slow, 'boot to a shell')
        stage('boot to a shell')
        stage('kernel', s.line('uname -srm', 30 * slow, 'uname'))
        stage('read the disk', s.line('cat /data/hello.txt', 30 * slow, 'read the disk'))
        s.line('dd if=/dev/urandom of=/data/blob bs=64k count=64 2>/dev/null && sync', 120 * slow, 'write the disk')
        sums = s.line('sha256sum </data/blob; echo 3 >/proc/sys/vm/drop_caches; sha256sum </data/blob', 120 * slow, 'checksum')
        if len(set(re.findall(r'[0-9a-f]{64}', sums))) != 1:
            raise Failed(f'disk: checksums differ: {sums}')
        stage('write and read 4 MiB', sums.split()[0][:16] + '...')
        stage('network', s.line("ip -4 -o addr show | awk '!/ lo /{print $2, $4}'", 30 * slow, 'address'))
        got = s.line(f'wget -q -O - http://10.0.2.2:{web.server_address[1]}/', 60 * slow, 'fetch from the host')
        if 'greetings from the host' not in got:
            raise Failed(f'fetch from the host gave {got!r}')
        stage('fetch from the host', got)
        s.p.stdin.write(b'poweroff\n')
        s.p.stdin.flush()
        status = s.end(60 * slow, 'poweroff')
        if status:
            raise Failed(f'poweroff: the emulator ended with status {status}')
        stage('poweroff')
        print(f'all {time.monotonic() - start:.1f} s: passed')
        return 0
    except Failed as e:
        s.p.kill()
        print('--- the last of the serial line ---\n' + s.seen[-3000:] + '\n---')
        print(f'run: FAILED after {time.monotonic() - start:.1f} s: {e}')
        return 1
    finally:
        web.shutdown()


def main(argv):
    script = '--script' in argv or not (sys.stdin.isatty() and sys.stdout.isatty())
    extra = [a for a in argv if a != '--script']
    try:
        with tempfile.TemporaryDirectory(prefix='lyrebird-run-') as folder:
            cmd = command(*images(folder), extra)
            if script:
                return scripted(cmd)
            print('Booting. Ctrl-A X ends the emulator at once, Ctrl-A H lists more.', flush=True)
            return subprocess.call(cmd)
    except guest.GuestError as e:
        print(f'run: {e}')
        return 1


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
