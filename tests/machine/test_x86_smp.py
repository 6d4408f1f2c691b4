"""Programs of tests/guest/x86/linux in a Linux guest: what x86 promises to several processors (litmus), code that changes (smc), calls that
nest deep (brim), calls that are interrupted (kicked), the state at faults and traps (precise), time (clock). Where it matters the program runs
natively first: a claim the bare CPU does not keep is a wrong claim."""
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


@pytest.mark.limit(600)
@pytest.mark.parametrize('engine', ['tcg', pytest.param('tcg,hot-tier=first', marks=pytest.mark.long), pytest.param('tcg,links=off', marks=pytest.mark.long)])
def test_code_is_left_and_linked_where_nested_calls_fill_the_shadow_stack(engine):
    natively('brim')
    verdict(guest_run('brim', 'brim', 1, ['-accel', engine]))


@pytest.mark.limit(600)
@pytest.mark.parametrize('engine', ['tcg', pytest.param('tcg,hot-tier=first', marks=pytest.mark.long), pytest.param('tcg,links=off', marks=pytest.mark.long)])
def test_calls_by_pointer_go_where_they_lead_while_another_processor_interrupts(engine):
    natively('kicked', 5000000)
    verdict(guest_run('kicked', 'kicked', 2, ['-accel', engine]))


# A call to an address that is none faults at the call with all registers as before it, but has written below the stack pointer.
KNOWN = ('call *%r8',)


@pytest.mark.limit(900)
@pytest.mark.parametrize('engine, smp', [('tcg', 2), pytest.param('tcg', 4, marks=pytest.mark.long), pytest.param('tcg,tb-size=4', 2, marks=pytest.mark.long),
                                         pytest.param('interp', 2, marks=pytest.mark.long)])
def test_memory_order_and_locked_operations_are_those_of_x86(engine, smp):
    out = guest_run('litmus', 'litmus 6000', smp, ['-accel', engine], limit=400, timeout=400)
    assert f'{smp} processors' in out
    verdict(out)


@pytest.mark.long
@pytest.mark.limit(900)
@pytest.mark.parametrize('engine', ['tcg', pytest.param('interp', marks=pytest.mark.xfail(reason='the interpreter does them in two halves', strict=False))])
def test_locked_operations_on_two_pages_are_whole(engine):
    verdict(guest_run('litmus', 'litmus 6000 page', 2, ['-accel', engine], limit=400, timeout=400))


@pytest.mark.limit(900)
@pytest.mark.parametrize('engine, smp', [('tcg', 2), pytest.param('tcg', 4, marks=pytest.mark.long),
                                         pytest.param('tcg,tb-size=4', 2, marks=pytest.mark.long),
                                         pytest.param('tcg,one-insn-per-tb=on', 1, marks=pytest.mark.long), pytest.param('interp', 2, marks=pytest.mark.long)])
def test_code_that_changes_is_run_as_it_is_now(engine, smp, tmp_path):
    disk = tmp_path / 'disk'
    with open(disk, 'wb') as f:
        f.truncate(1 << 20)
    natively('smc', 500)
    out = guest_run('smc', 'smc 1000 /dev/vda', smp, ['-accel', engine, '-drive', f'file={disk},if=virtio,format=raw'], limit=400, timeout=400)
    assert 'DMA into code' in out and 'no DMA' not in out, out[-600:]
    verdict(out)


def state_lines(out, flags):
    """The lines that must be the bare CPU's, without the flags of a fault's frame unless they are asked for."""
    lines = [l.rstrip() for l in out.replace('\r', '').split('\n') if re.match(r'\d+ \[|steps:|debug:|ok|FAIL', l)]
    return lines if flags else [re.sub(r' flags [0-9a-f]+', '', l) if ' signal ' in l else l for l in lines if not any(k in l for k in KNOWN)]


def differences(engine, flags):
    want = state_lines(natively('precise'), flags)
    out = guest_run('precise', 'precise', 1, ['-accel', engine], limit=400, timeout=400)
    got = state_lines(out, flags)
    assert len(want) > 370, 'the program did not say much'
    return [f'bare CPU: {w}\nguest:    {g}' for w, g in zip(want, got) if w != g] + ([f'{len(want)} lines, {len(got)}'] if len(want) != len(got) else [])


@pytest.mark.limit(900)
@pytest.mark.parametrize('engine', ['tcg', pytest.param('interp', marks=pytest.mark.long)])
def test_faults_and_traps_show_the_state_the_bare_cpu_shows(engine):
    found = differences(engine, False)
    assert not found, f'{len(found)} lines differ:\n' + '\n'.join(found[:5])


@pytest.mark.long
@pytest.mark.limit(900)
@pytest.mark.parametrize('engine', ['tcg,exact-flags=on', 'interp'])
def test_faults_and_traps_show_every_bit_the_bare_cpu_shows(engine):
    """Flags too: those that liveness calls dead are in the frame of a fault only where exact-flags asks for them."""
    found = differences(engine, True)
    assert not found, f'{len(found)} lines differ:\n' + '\n'.join(found[:5])


@pytest.mark.limit(600)
@pytest.mark.parametrize('engine, smp', [('tcg', 4), pytest.param('interp', 2, marks=pytest.mark.long), pytest.param('tcg,one-insn-per-tb=on', 2, marks=pytest.mark.long)])
def test_time_never_goes_back_between_processors(engine, smp):
    """Also across a stop of the machine: what was read before is never later than what is read after."""
    with Guest('clock', ['-accel', engine], smp, limit=400) as g:
        out = g.sh('clock 300 || true', 300)
        assert f'{smp} processors' in out
        verdict(out)
        g.send('clock 3000 || true; echo st""opped\n')
        g.s.expect('processors', 60, 'the clocks run')
        for _ in range(3):
            g.qmp.call('stop')
            assert g.qmp.call('query-status')['status'] == 'paused'
            g.qmp.call('cont')
        verdict(g.s.expect('stopped', 300, 'the clocks across stops').replace('\r', ''))
