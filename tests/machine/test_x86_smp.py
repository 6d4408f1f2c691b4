"""Programs of tests/guest/x86/linux in a Linux guest: what x86 promises to several processors (litmus), code that changes
(smc), precise interrupts and faults (precise). Each is run natively first: a claim the bare CPU does not keep is a wrong claim."""
import hashlib
import os
import re
import subprocess

import pytest

import guest
from conftest import ROOT, need
from linux import Linux, initramfs

SRC = os.path.join(ROOT, 'tests', 'guest', 'x86', 'linux')
MODULES = ('virtio_pci', 'virtio_blk')


def build(name):
    """Path of the static program, made when its sources changed."""
    gcc, key = need('gcc'), hashlib.sha256()
    for n in (name + '.c', 't.h'):
        with open(os.path.join(SRC, n), 'rb') as f:
            key.update(f.read())
    os.makedirs(guest.CACHE, exist_ok=True)
    path = os.path.join(guest.CACHE, f'{name}-{key.hexdigest()[:12]}')
    with guest.locked(name):
        if not os.path.exists(path):
            p = subprocess.run([gcc, '-O2', '-std=gnu11', '-Wall', '-Wextra', '-Werror', '-static', '-no-pie', '-o', path + '.tmp', os.path.join(SRC, name + '.c'),
                                '-lpthread'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            assert not p.returncode, p.stdout
            os.replace(path + '.tmp', path)
    return path


def natively(name, *args):
    p = subprocess.run([build(name), *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200)
    assert p.returncode == 0, f'the bare CPU does not keep these claims: {p.stdout[-1500:]}'
    return p.stdout


def verdict(out):
    """The last line, or the claims that failed."""
    failed = [l for l in out.splitlines() if l.startswith('FAIL')]
    end = re.search(r'(\d+) claims, (\d+) failed', out)
    assert not failed and end and int(end.group(2)) == 0, '\n'.join(failed) or 'no end: ' + out[-1500:]
    return end.group(0)


class Guest(Linux):
    """A Linux guest with the program in /bin."""

    def __init__(self, name, args, smp, **kw):
        with open(build(name), 'rb') as f:
            files = {'bin/' + name: (f.read(), 0o755)}
        path = initramfs(MODULES, '', files=files)
        from linux import CMDLINE, kernel
        super().__init__(['-cpu', 'max', '-smp', str(smp), '-kernel', kernel().image, '-initrd', path, '-append', CMDLINE, *args], boot=False, **kw)


def guest_run(name, line, smp, args=(), limit=240, timeout=300):
    with Guest(name, list(args), smp, limit=limit) as g:
        return g.sh(line + ' || true', timeout)


ENGINES = [pytest.param(('tcg',), id='tcg'), pytest.param(('tcg,tb-size=4',), id='tb-size=4'),
           pytest.param(('interp',), id='interp', marks=pytest.mark.long)]


@pytest.mark.limit(900)
@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('smp', [2, 4])
def test_memory_order_and_locked_operations_are_those_of_x86(engine, smp):
    if smp == 4 and engine[0] != 'tcg':
        pytest.skip('one size of machine is enough with this engine')
    out = guest_run('litmus', 'litmus 6000', smp, ['-accel', engine[0]], limit=400, timeout=400)
    assert f'{smp} processors' in out
    verdict(out)


@pytest.mark.limit(900)
@pytest.mark.parametrize('engine', ENGINES)
def test_code_that_changes_is_run_as_it_is_now(engine, tmp_path):
    disk = tmp_path / 'disk'
    with open(disk, 'wb') as f:
        f.truncate(1 << 20)
    natively('smc', 500)
    out = guest_run('smc', 'smc 1000 /dev/vda', 2, ['-accel', engine[0], '-drive', f'file={disk},if=virtio,format=raw'], limit=400, timeout=400)
    assert 'DMA into code' in out and 'no DMA' not in out, out[-600:]
    verdict(out)
