"""Hostile guests at length (tests/diff/x86fuzz.c): random code in every mode, code that rewrites itself and another CPU's, faults
that nest to a triple fault, floods of TLB and code cache. 10^9 instructions over all settings; the plain suite runs some
hundred rounds of each as unit tests, in the build with ASan and UBSan too. The program itself fails when a CPU does not come
back within ten seconds or memory grows beyond its bound."""
import os
import re
import subprocess

import pytest

from conftest import ROOT, build_dir

RUNS = {
    'interp': ('interp', 1, 100_000_000),
    'interp-smp': ('interp', 2, 100_000_000),
    'tcg': ('tcg,count=on,tb-size=4', 1, 200_000_000),
    'tcg-smp': ('tcg,count=on,tb-size=4', 4, 200_000_000),
    'tcg-small': ('tcg,count=on,tb-size=4,tlb-size=4,slots=512', 2, 200_000_000),
    'tcg-one': ('tcg,count=on,tb-size=4,one-insn-per-tb=on', 1, 50_000_000),
    'tcg-unlinked': ('tcg,count=on,tb-size=4,links=off', 1, 100_000_000),
    'lockstep': ('tcg,count=on,tb-size=4,lockstep=on', 1, 50_000_000),
}


def fuzz(build, name, share=1, seed=1):
    engine, cpus, insns = RUNS[name]
    p = subprocess.run([f'{build}/tests/diff/x86fuzz', '--engine', engine, '--cpus', str(cpus), '--insns', str(insns // share), '--seed', str(seed)],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=6900,
                       env={**os.environ, 'ASAN_OPTIONS': 'detect_leaks=0:exitcode=99:use_sigaltstack=0:quarantine_size_mb=16', 'UBSAN_OPTIONS': 'halt_on_error=1'})
    print(p.stdout[-1500:])
    assert p.returncode == 0, p.stdout[-3000:]
    done = re.search(r'x86fuzz: (\d+) instructions', p.stdout)
    assert done and int(done[1]) >= insns // share
    rounds = dict(re.findall(r'(real|vm86|prot16|prot32|long32|long64|smm) (\d+)', p.stdout))
    assert len(rounds) == 7 and min(map(int, rounds.values())) > 0, 'a mode was never tried'


@pytest.mark.long
@pytest.mark.limit(7000)
@pytest.mark.parametrize('name', RUNS)
def test_hostile_guests_do_no_harm(name):
    fuzz(build_dir(), name, seed=1000)


@pytest.mark.long
@pytest.mark.limit(7000)
@pytest.mark.parametrize('name', RUNS)
def test_hostile_guests_do_no_harm_under_the_sanitizers(name):
    """The same number in the build that make check makes for its sanitizer stage: some twenty minutes."""
    asan = os.path.join(ROOT, 'build-asan')
    if not os.access(f'{asan}/tests/diff/x86fuzz', os.X_OK):
        pytest.skip('there is no build-asan (make check makes it)')
    fuzz(asan, name, seed=2001 + list(RUNS).index(name))
