"""The differential tester at length: 10^8 instructions against the bare CPU, in six parts (tools/prove_diff.py; the plain
suite runs a million, as unit tests), an hour of a processor. The coverage of the decode table is printed and must not shrink."""
import os
import re
import subprocess
import sys

import pytest

from conftest import ROOT, build_dir, need, program

SHARE = (('tcg', '64'), ('tcg', '32'), ('interp', '64'), ('interp', '32'), ('tcg,hot-tier=first', '64'), ('tcg,hot-tier=first', '32'))


def diff(engine, mode, total, seed, limit):
    p = subprocess.run([f'{build_dir()}/tests/diff/x86diff', '--total', str(total), '--seed', str(seed), '--mode', mode, '--engine', engine],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit)
    return p.returncode, p.stdout


@pytest.mark.long
@pytest.mark.limit(7000)
@pytest.mark.parametrize('engine, mode', SHARE)
def test_a_hundred_million_instructions_agree_with_the_bare_cpu(engine, mode):
    """Every form that can be encoded is among them: row, operand and address size, register or memory, LOCK, repeat, vector length. What
    make prove-diff ran already in this build folder counts."""
    p = subprocess.run([os.path.join(ROOT, 'tools', 'prove_diff.py'), '--engine', engine, '--mode', mode], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       text=True, timeout=6900)
    print(p.stdout[-2500:])
    assert p.returncode == 0, p.stdout[-2500:]


@pytest.mark.long
@pytest.mark.limit(3000)
@pytest.mark.parametrize('engine, mode', SHARE)
def test_runs_of_instructions_agree_with_the_bare_cpu(engine, mode):
    """Twenty-four million instructions each, in runs of up to thirty with jumps and loops."""
    for seed in range(1, 4):
        p = subprocess.run([f'{build_dir()}/tests/diff/x86seq', '--count', '500000', '--max', '30', '--seed', str(seed), '--mode', mode, '--engine', engine],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900)
        assert p.returncode == 0, p.stdout[-3000:]


@pytest.mark.limit(300)
@pytest.mark.parametrize('mode', ['64', '32'])
def test_the_decode_table_is_covered(mode):
    """Every row that can run in user mode has run, and nearly every form of it."""
    _, out = diff('exec', mode, 150_000, 7, 250)
    rows = re.search(r'coverage: (\d+) of (\d+) rows, (\d+) of (\d+) forms', out)
    assert rows, out[-500:]
    unrun = {m[1]: int(m[0]) for m in re.findall(r'rows not run: +(\d+), (.*)', out)}
    print(out[-1500:])
    assert int(rows[1]) + sum(unrun.values()) == int(rows[2])
    assert set(unrun) <= {'segment register', 'privileged, I/O or control transfer', 'its result depends on the system', 'system state',
                          'no instance in this mode, or not offered by this host', 'PREFETCH with a register: makers differ'}
    assert int(rows[3]) * 100 >= int(rows[4]) * 85, out[-800:]


@pytest.mark.limit(240)
@pytest.mark.parametrize('image', ['long', 'prot'])
def test_interpreter_and_translator_agree_after_every_instruction(image, tmp_path):
    """The firmware images that fault in every way, in lockstep."""
    need('gcc')
    src = os.path.join(ROOT, 'tests', 'guest', 'x86')
    p = subprocess.run(['sh', os.path.join(src, 'build.sh'), str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if p.returncode:
        pytest.skip('the compiler cannot build 32-bit images: ' + p.stdout[-200:])
    p = subprocess.run([sys.executable, os.path.join(ROOT, 'tools', 'lockstep.py'), '--max', '400000', '--exe', program('qemu-system-x86_64'), '--',
                        '-cpu', 'max', '-m', '64', '-display', 'none', '-net', 'none', '-vga', 'none', '-bios', str(tmp_path / f'{image}.bin'), '-debugcon',
                        'null', '-global', 'isa-debugcon.iobase=0x402', '-device', 'isa-debug-exit,iobase=0xf4', '-no-reboot'],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200)
    assert p.returncode == 0 and p.stdout.startswith('400000 instructions, the same'), p.stdout[-3000:]
