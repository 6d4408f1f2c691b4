"""Kept translations (user/linux/kept.h): the same results with them, less work, and nothing lost by damaged or hostile files."""
import glob
import os
import random
import resource
import shutil
import subprocess

import pytest

from conftest import ROOT, need, program

ARCHES = {'aarch64': ['aarch64-linux-gnu-gcc'], 'riscv64': ['riscv64-linux-gnu-gcc'], 'arm': ['arm-linux-gnueabihf-gcc'],
          'x86_64': ['gcc'],
          'i386': ['gcc', '-m32', '-I/usr/include/x86_64-linux-gnu']}


def build(tmp, name, arch, *flags):
    need(ARCHES[arch][0])
    out = str(tmp / f'{name}-{arch}')
    r = subprocess.run([*ARCHES[arch], '-O1', '-w', '-o', out, f'{ROOT}/tests/user/progs/{name}.c', *flags, '-lpthread', '-lm'],
                       capture_output=True)
    if r.returncode:
        pytest.skip(f'{arch}: cannot build here')
    return out


def go(arch, exe, folder, cwd, **env):
    r = subprocess.run([program('qemu-' + arch), exe], capture_output=True, timeout=200, stdin=subprocess.DEVNULL, cwd=cwd,
                       env={**os.environ, 'LYREBIRD_TCACHE': str(folder), **env})
    return r.returncode, r.stdout


def files(folder):
    return [f for f in glob.glob(f'{folder}/*') if len(os.path.basename(f)) == 16]


@pytest.mark.proves('F-PRG-18')
@pytest.mark.parametrize('arch', ARCHES)
@pytest.mark.parametrize('name', ['float', 'threads', 'smc', 'forks'])
def test_the_second_run_is_like_the_first(tmp_path, name, arch):
    exe = build(tmp_path, name, arch)
    kept = tmp_path / 'kept'
    off = go(arch, exe, 'off', tmp_path)
    assert not kept.exists()
    assert go(arch, exe, kept, tmp_path) == off
    assert files(kept)
    for f in files(kept):
        assert os.stat(f).st_mode & 0o777 == 0o600
    before = {f: os.stat(f).st_ino for f in files(kept)}
    assert go(arch, exe, kept, tmp_path) == off
    assert {f: os.stat(f).st_ino for f in files(kept)} == before  # found whole: nothing to add


@pytest.mark.proves('F-PRG-18')
def test_code_that_was_only_looked_at_is_compared_too(tmp_path):
    """Flags are not kept where the code jumped to replaces them: when the file has other code there, they must be."""
    exe = build(tmp_path, 'ahead', 'aarch64', '-static')
    kept = tmp_path / 'kept'
    assert b'text 0 0 0 0\n' in go('aarch64', exe, kept, tmp_path)[1]
    assert files(kept)
    tst, cset, nop = (bytes.fromhex(w) for w in ('3f0001ea', 'e0179f1a', '1f2003d5'))
    with open(exe, 'r+b') as f:
        image = f.read()
        assert image.count(tst + cset) == 1
        f.seek(image.index(tst + cset))
        f.write(nop)
    for _ in range(2):
        assert b'text 1 0 1 0\n' in go('aarch64', exe, kept, tmp_path)[1]


@pytest.mark.proves('F-PRG-18')
def test_code_called_on_another_page_is_compared_too(tmp_path):
    """A function of a few instructions stands in the code that calls it: when the file has another there, not what was kept."""
    exe = build(tmp_path, 'leaves', 'x86_64', '-static')
    kept = tmp_path / 'kept'
    first = go('x86_64', exe, kept, tmp_path)
    assert first[1].startswith(b'far: 11\n')
    assert files(kept)
    assert go('x86_64', exe, kept, tmp_path) == first
    leaf = bytes.fromhex('b805000000488d0400c3')
    with open(exe, 'r+b') as f:
        image = f.read()
        assert image.count(leaf) == 1
        f.seek(image.index(leaf) + 1)
        f.write(b'\6')
    for _ in range(2):
        assert go('x86_64', exe, kept, tmp_path)[1].startswith(b'far: 13\n')


@pytest.mark.proves('F-PRG-18')
def test_a_warm_start_costs_less(tmp_path):
    exe = build(tmp_path, 'files', 'aarch64', '-static')
    kept = tmp_path / 'kept'

    def cost(folder):
        best = 1e9
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            go('aarch64', exe, folder, tmp_path)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return best
    go('aarch64', exe, kept, tmp_path)
    cold, warm = cost('off'), cost(kept)
    assert warm < 0.85 * cold


@pytest.mark.parametrize('arch', ARCHES)
def test_damaged_files_change_nothing(tmp_path, arch):
    exe = build(tmp_path, 'float', arch)
    kept = tmp_path / 'kept'
    want = go(arch, exe, 'off', tmp_path)
    go(arch, exe, kept, tmp_path)
    good = {f: open(f, 'rb').read() for f in files(kept)}
    assert good
    rng = random.Random(4)
    for n in range(24):
        for f, data in good.items():
            d = bytearray(data)
            if n % 3 == 0:
                d = d[:rng.randrange(len(d))]
            else:
                for _ in range(rng.choice([1, 20, 2000])):
                    d[rng.randrange(min(len(d), rng.choice([64, 4096, len(d)])))] = rng.randrange(256)
            os.unlink(f)
            with open(os.open(f, os.O_WRONLY | os.O_CREAT, 0o600), 'wb') as h:
                h.write(d)
        assert go(arch, exe, kept, tmp_path) == want


def test_files_that_others_can_write_are_not_believed(tmp_path):
    exe = build(tmp_path, 'float', 'aarch64')
    kept = tmp_path / 'kept'
    want = go('aarch64', exe, kept, tmp_path)
    for f in files(kept):
        os.chmod(f, 0o620)
    assert go('aarch64', exe, kept, tmp_path) == want
    assert all(os.stat(f).st_mode & 0o777 == 0o600 for f in files(kept))  # replaced
    os.chmod(kept, 0o777)
    for f in files(kept):
        os.unlink(f)
    assert go('aarch64', exe, kept, tmp_path) == want
    assert not files(kept)


def test_the_folder_is_bounded_and_may_be_missing(tmp_path):
    exe = build(tmp_path, 'float', 'aarch64')
    kept = tmp_path / 'kept'
    want = go('aarch64', exe, kept, tmp_path, LYREBIRD_TCACHE_MIB='1')
    for n in range(40):
        (kept / f'{n:016x}').write_bytes(b'x' * 100000)
        os.utime(kept / f'{n:016x}', (n, n))
    other = build(tmp_path, 'time', 'aarch64')
    go('aarch64', other, kept, tmp_path, LYREBIRD_TCACHE_MIB='1')
    assert sum(os.stat(f).st_blocks * 512 for f in files(kept)) <= 1 << 20
    assert not (kept / f'{0:016x}').exists()
    assert go('aarch64', exe, tmp_path / 'no' / 'such', tmp_path) == want


def test_several_at_once(tmp_path):
    exe = build(tmp_path, 'float', 'aarch64')
    kept = tmp_path / 'kept'
    want = go('aarch64', exe, 'off', tmp_path)
    for _ in range(3):
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(mode=0o700)
        env = {**os.environ, 'LYREBIRD_TCACHE': str(kept)}
        ps = [subprocess.Popen([program('qemu-aarch64'), exe], stdout=subprocess.PIPE, cwd=tmp_path, env=env) for _ in range(6)]
        assert [(p.communicate(timeout=200)[0], p.returncode) for p in ps] == [(want[1], want[0])] * 6
        assert files(kept) and not glob.glob(f'{kept}/*.new')
