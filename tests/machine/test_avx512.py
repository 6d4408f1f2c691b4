"""AVX-512 in a Linux guest: what tests/user/progs/avx512.c prints there under the translator and the interpreter is what it prints on the
processor itself, on one CPU that several of them share and on several, and after the machine was saved and loaded."""
import hashlib
import os
import re
import subprocess
import time

import pytest

import guest
from conftest import ROOT, need
from linux import CMDLINE, Linux, initramfs, kernel

SRC = os.path.join(ROOT, 'tests/user/progs/avx512.c')
FLAGS = 'f dq ifma cd bw vl _bf16 vbmi _vbmi2 _vnni _bitalg _vpopcntdq'.split()


@pytest.fixture(scope='module')
def prog():
    """The static program; its text on this processor."""
    with open('/proc/cpuinfo') as f:
        if 'avx512vl' not in f.read():
            pytest.skip('the host CPU has no AVX-512 (F, DQ, BW, VL): nothing of it is offered to guests')
    gcc = need('gcc')
    with open(SRC, 'rb') as f:
        key = hashlib.sha256(f.read()).hexdigest()[:12]
    os.makedirs(guest.CACHE, exist_ok=True)
    path = os.path.join(guest.CACHE, f'avx512-{key}')
    with guest.locked('avx512'):
        if not os.path.exists(path):
            subprocess.run([gcc, '-O1', '-w', '-static', '-o', path + '.tmp', SRC, '-lpthread'], check=True)
            os.replace(path + '.tmp', path)
    run = subprocess.run([path], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout[-500:]
    return path, run.stdout


def boot(prog, *args, modules=(), **kw):
    with open(prog[0], 'rb') as f:
        path = initramfs(modules, '', files={'bin/avx512': (f.read(), 0o755)})
    return Linux(['-kernel', kernel().image, '-initrd', path, '-append', CMDLINE, *args], boot=False, **kw)


def lines(text):
    return [l.rstrip() for l in text.replace('\r', '').split('\n') if l.strip()]


@pytest.mark.limit(600)
@pytest.mark.parametrize('engine, smp', [('tcg', 1), ('tcg', 2), pytest.param('interp', 1, marks=pytest.mark.long)])
def test_a_guest_program_has_avx512_as_the_processor_does(prog, engine, smp):
    with boot(prog, '-cpu', 'max', '-smp', str(smp), '-accel', engine, limit=300) as g:
        flags = g.sh('grep -m1 ^flags /proc/cpuinfo').split()
        with open('/proc/cpuinfo') as f:
            host = re.search(r'^flags.*$', f.read(), re.M).group(0).split()
        want = [f'avx512{n}' for n in FLAGS if f'avx512{n}' in host]
        assert [f'avx512{n}' for n in FLAGS if f'avx512{n}' in flags] == want and 'avx512f' in want
        assert lines(g.sh('avx512', 200)) == lines(prog[1])
        # four of them, each with its own registers, share the CPUs
        out = g.sh('for i in 1 2 3 4; do avx512 >/tmp/$i & done; wait; cat /tmp/1; for i in 2 3 4; do cmp /tmp/1 /tmp/$i && echo same; done', 300)
        assert lines(out) == lines(prog[1]) + ['same'] * 3
        assert 'UNHANDLED' not in g.sh('dmesg') and 'xstate' not in g.sh('dmesg | grep -i warn || true')
        g.poweroff()


@pytest.mark.limit(600)
def test_registers_live_through_save_and_load(prog, tmp_path):
    """Programs that hold values in all registers run while the machine is saved, and go on in another process."""
    disk = tmp_path / 'd.qcow2'
    from conftest import program
    subprocess.run([program('qemu-img'), 'create', '-f', 'qcow2', disk, '64M'], check=True, capture_output=True)
    args = ['-cpu', 'max', '-drive', f'file={disk},if=ide,id=d']
    with boot(prog, *args, limit=300) as g:
        g.sh('(while true; do avx512 >/tmp/1; cat /tmp/1 >>/tmp/all; done) & sleep 2')
        for i in range(4):
            time.sleep(0.37)
            assert 'Error' not in g.qmp.call('human-monitor-command', command_line=f'savevm s{i}')
        for i in (2, 0, 3):
            assert 'Error' not in g.qmp.call('human-monitor-command', command_line=f'loadvm s{i}')
            g.sh('sleep 3')
            out = lines(g.sh("grep differ /tmp/all | sort -u"))
            assert out == sorted(set(l for l in lines(prog[1]) if 'differ' in l)), out
    # another model, without it: one clear error
    with boot(prog, '-cpu', 'max,-avx512f', '-drive', f'file={disk},if=ide,id=d', limit=300) as g:
        assert 'avx512' not in g.sh('cat /proc/cpuinfo')
        said = g.qmp.call('human-monitor-command', command_line='loadvm s0')
        assert 'another model or has other features' in said, said
