"""What the benchmarks share: the three places a workload runs in (natively, in our guest, in the peer's guest), the watch for
a busy machine, statistics, tables, the chart. Guest images come from tools/guest.py."""
import hashlib
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, 'tools'))
import guest  # noqa: E402
from run import PROMPT, Failed, Session  # noqa: E402,F401

TICK = os.sysconf('SC_CLK_TCK')
BUSY_LIMIT = 0.10  # CPUs' worth of other people's work
PEER = '/usr/bin/qemu-system-x86_64'


def ours():
    return os.environ.get('LYREBIRD_QEMU') or os.path.join(os.environ.get('LYREBIRD_BUILD', os.path.join(ROOT, 'build')), 'bin', 'qemu-system-x86_64')


def say(text):
    print(text, file=sys.stderr, flush=True)


# ---- the machine ----

def host_jiffies():
    """(busy, all) of the whole machine so far."""
    with open('/proc/stat') as f:
        v = [int(x) for x in f.readline().split()[1:9]]
    return sum(v) - v[3] - v[4], sum(v)


def process_cpu(pid):
    """CPU seconds of a process with all its threads."""
    with open(f'/proc/{pid}/stat') as f:
        v = f.read().rsplit(')', 1)[1].split()
    return (int(v[11]) + int(v[12])) / TICK


class Weather:
    """Other people's load: what the machine did less what this program and its children did."""

    def __init__(self):
        self.pids, self.start, self.worst, self.sum, self.samples = [], None, 0.0, 0.0, 0
        self.begin()

    def own(self):
        t = os.times()
        total = t.user + t.system + t.children_user + t.children_system
        for p in list(self.pids):
            try:
                total += process_cpu(p)
            except OSError:
                self.pids.remove(p)
        return total

    def begin(self):
        self.start = (host_jiffies()[0] / TICK, self.own(), time.monotonic())

    def end(self):
        """Load by others since begin(), in CPUs."""
        busy, own, now = host_jiffies()[0] / TICK, self.own(), time.monotonic()
        if now - self.start[2] < 0.05:
            return 0.0
        other = max(0.0, (busy - self.start[0] - (own - self.start[1])) / (now - self.start[2]))
        self.worst = max(self.worst, other)
        self.sum, self.samples = self.sum + other, self.samples + 1
        return other

    def mean(self):
        return self.sum / self.samples if self.samples else 0.0

    def check(self, busy_ok, seconds=2.0):
        """Waits `seconds`, and ends the program when the machine is busy and that is not accepted."""
        self.begin()
        time.sleep(seconds)
        load = self.end()
        if load > BUSY_LIMIT and not busy_ok:
            sys.exit(f'bench: other processes use {load:.2f} CPUs: figures would mean nothing. Wait, or say --busy-ok '
                     '(the report is then marked)')
        return load


def host_facts():
    model = '?'
    with open('/proc/cpuinfo') as f:
        m = re.search(r'model name\s*: (.*)', f.read())
        model = m.group(1) if m else model

    def first_line(cmd):
        try:
            return subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout.split('\n')[0]
        except OSError:
            return 'not there'
    commit = first_line(['git', '-C', ROOT, 'describe', '--always', '--dirty'])
    return {'date': time.strftime('%Y-%m-%d'), 'cpu': f'{model}, {os.cpu_count()} CPUs', 'kernel': platform.release(),
            'ours': f'{first_line([ours(), "--version"])} at {commit}', 'peer': first_line([PEER, '--version']),
            'compiler': first_line(['gcc', '--version'])}


# ---- the workloads ----

def micro():
    """Path of the static micro-suite, built when its sources changed."""
    folder = os.path.join(ROOT, 'bench', 'work')
    key = hashlib.sha256()
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), 'rb') as f:
            key.update(f.read())
    os.makedirs(guest.CACHE, exist_ok=True)
    path = os.path.join(guest.CACHE, f'micro-{key.hexdigest()[:12]}')
    with guest.locked('micro'):
        if not os.path.exists(path):
            srcs = [os.path.join(folder, n) for n in sorted(os.listdir(folder)) if n.endswith('.c')]
            guest.sh('gcc', '-O2', '-std=gnu11', '-fno-math-errno', '-Wall', '-Wextra', '-static', '-o', path + '.tmp', *srcs, '-lpthread')
            os.replace(path + '.tmp', path)
    return path


# ---- where they run ----

class Native:
    name = 'native'

    def __init__(self, root=None):
        self.root, self.cpu, self.pid = root, 0.0, None

    def sh(self, line, timeout):
        before = os.times()
        p = subprocess.run(['/bin/sh', '-c', line], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           text=True, timeout=timeout, env={**os.environ, 'PATH': os.path.dirname(micro()) + ':' + os.environ.get('PATH', '')})
        after = os.times()
        self.cpu = after.children_user + after.children_system - before.children_user - before.children_system
        if p.returncode:
            raise Failed(f'native: `{line}` ended with status {p.returncode}: {p.stdout[-300:]}')
        return p.stdout

    def close(self):
        pass


class Machine:
    """A booted guest on its serial line. cpu: CPU seconds the emulator used for the last line."""

    def __init__(self, name, exe, kernel, initrd, append='', extra=(), memory=1024, smp=1, timeout=900, accel='tcg'):
        self.name, self.cpu = name, 0.0
        cmd = [exe, '-accel', accel, '-M', 'pc', '-cpu', 'max', '-m', str(memory), '-smp', str(smp), '-nodefaults', '-display', 'none',
               '-serial', 'stdio', '-monitor', 'none', '-no-reboot', '-kernel', kernel, '-initrd', initrd, '-append',
               'console=ttyS0 quiet panic=-1 ' + append, *extra]
        self.s = Session(cmd)
        self.pid = self.s.p.pid
        try:
            start = time.monotonic()
            self.s.expect(PROMPT, timeout, f'{name}: boot to a shell')
            self.boot_wall, self.boot_cpu = time.monotonic() - start, process_cpu(self.pid)
        except Failed as e:
            tail = self.s.seen[-2000:]
            self.close()
            sys.exit(f'bench: {e}\n--- the last of its serial line ---\n{tail}')

    def sh(self, line, timeout):
        before = process_cpu(self.pid)
        out = self.s.line(line, timeout, f'{self.name}: {line[:60]}')
        self.cpu = process_cpu(self.pid) - before
        return out

    def close(self):
        if self.s.p.poll() is None:
            self.s.p.kill()
        self.s.p.wait()


def quick_initrd():
    """A BusyBox initramfs with the micro-suite in /bin."""
    k = guest.Kernel()
    exe = micro()
    with open(guest.__file__, 'rb') as f:
        recipe = hashlib.sha256(f.read()).hexdigest()[:8]
    path = os.path.join(guest.CACHE, f'bench-{k.release}-{os.path.basename(exe)}-{recipe}.cpio')
    with guest.locked('bench-initrd'):
        if not os.path.exists(path):
            with open(exe, 'rb') as f:
                guest.initramfs(path, k, modules=(), start='', files={'bin/micro': (f.read(), 0o755)})
    return k.image, path


def disk_initrd():
    """A BusyBox initramfs that mounts the programs' disk on /data, with what a chroot there needs."""
    k = guest.Kernel()
    start = ('mount -t ext4 /dev/vda /data && mount -t proc proc /data/proc && mount --bind /dev /data/dev && mount -t tmpfs t /data/tmp '
             '&& echo "programs on /data"\n')
    with open(guest.__file__, 'rb') as f:
        recipe = hashlib.sha256(f.read() + start.encode()).hexdigest()[:8]
    path = os.path.join(guest.CACHE, f'bench-disk-{k.release}-{recipe}.cpio')
    with guest.locked('bench-disk-initrd'):
        if not os.path.exists(path):
            guest.initramfs(path, k, modules=('virtio_pci', 'virtio_blk', 'ext4', 'crc32c_generic'), start=start)
    return k.image, path


# ---- numbers ----

def geomean(values):
    v = [x for x in values if x and x > 0 and math.isfinite(x)]
    return math.exp(sum(map(math.log, v)) / len(v)) if v else float('nan')


def median(values):
    v = sorted(values)
    return v[len(v) // 2] if len(v) % 2 else (v[len(v) // 2 - 1] + v[len(v) // 2]) / 2


def number(x, digits=2):
    if x is None or not math.isfinite(x):
        return '-'
    return f'{x:.{digits}f}' if x < 100 else f'{x:.0f}'


def nanoseconds(x):
    if x is None or not math.isfinite(x):
        return '-'
    for unit, size in (('s', 1e9), ('ms', 1e6), ('us', 1e3)):
        if x >= size:
            return f'{x / size:.3g} {unit}'
    return f'{x:.3g} ns'


def have(exe, what):
    if not os.access(exe, os.X_OK):
        sys.exit(f'bench: {what} {exe} is not there')
    return exe


def tool(name):
    return shutil.which(name, path=guest.PATH)
