"""AArch64 programs under our qemu-aarch64: the same output and status as under Debian's, static and dynamic; and the decoder
against objdump. The instruction tests themselves are tests/diff/a64."""
import os
import re
import struct
import subprocess

import pytest

from conftest import ROOT, build_dir, need, program

CC = 'aarch64-linux-gnu-gcc'
SYSROOT = '/usr/aarch64-linux-gnu'
SRC = os.path.join(ROOT, 'tests/user/progs')


def build(tmp, name, *flags):
    need(CC)
    out = str(tmp / name)
    subprocess.run([CC, '-O1', '-w', '-o', out, f'{SRC}/{name}.c', *flags, '-lpthread', '-lm'], check=True)
    return out


def outcome(cmd, cwd):
    r = subprocess.run(cmd, capture_output=True, timeout=200, stdin=subprocess.DEVNULL, cwd=str(cwd))
    return r.returncode, r.stdout


@pytest.mark.proves('F-PRG-15', 'F-PRG-16', 'F-USR-07')
@pytest.mark.parametrize('how', ['-static', '-fPIE'])
@pytest.mark.parametrize('name', ['files', 'float', 'smc', 'threads', 'faults', 'time', 'loops', 'deep', 'search', 'ahead'])
def test_program_does_what_it_does_under_the_oracle(tmp_path, name, how):
    need('qemu-aarch64')
    exe = build(tmp_path, name, how)
    ours = outcome([program('qemu-aarch64'), exe], tmp_path)
    theirs = outcome(['qemu-aarch64', '-L', SYSROOT, exe], tmp_path)
    if name == 'faults':  # an overflown stack is not mapped there on Linux; the oracle has a guard page
        theirs = theirs[0], theirs[1].replace(b'code 2 at 0\n', b'code 1 at 0\n')
    assert ours == theirs
    assert ours[0] == 0 and ours[1]


@pytest.mark.proves('F-USR-03', 'N-95')
def test_the_cross_libraries_are_found_without_being_told(tmp_path):
    exe = build(tmp_path, 'forks')
    out = outcome([program('qemu-aarch64-static'), exe], tmp_path)[1]
    assert b'status 9' in out and b'spawn of nothing 2' in out, out


@pytest.mark.proves('F-USR-07')
def test_other_cpu_models_are_refused_by_name(tmp_path):
    r = subprocess.run([program('qemu-aarch64'), '-cpu', 'cortex-a99', '/bin/true'], capture_output=True, text=True, timeout=60)
    assert r.returncode != 0 and 'cortex-a99' in r.stderr


@pytest.mark.proves('F-USR-07')
def test_decoder_agrees_with_objdump(tmp_path):
    """Every word we take as an instruction has objdump's mnemonic; objdump takes the rest as no instruction or as one of an
    extension we do not have."""
    need('aarch64-linux-gnu-objdump')
    words = str(tmp_path / 'words')
    dis = os.path.join(build_dir(), 'tests/diff/a64/a64dis')
    ours = subprocess.run([dis, '7', '100000', words], capture_output=True, text=True, check=True, timeout=100).stdout.splitlines()
    theirs = subprocess.run(['aarch64-linux-gnu-objdump', '-D', '-b', 'binary', '-m', 'aarch64', '-M', 'no-aliases', words],
                            capture_output=True, text=True, check=True, timeout=100).stdout.splitlines()
    theirs = [line.split('\t') for line in theirs if line.count('\t') >= 2]
    assert len(ours) == len(theirs) == os.path.getsize(words) // struct.calcsize('I')
    taken = 0
    for a, b in zip(ours, theirs):
        word, mnem = a.split(' ')[:2]
        other = b[2].split(' ')[0]
        if mnem == '.inst':
            continue
        taken += 1
        # Hints have names of their own here; unused register fields need not be ones, and a pair may load one register
        # twice, which the manual leaves open and objdump calls undefined.
        if (mnem in ('nop', 'yield') and other == 'hint') or (other == '.inst' and mnem[:4] in ('ldar', 'ldps')):
            continue
        assert mnem == other, (a, b)
    assert taken > 50000


def test_the_report_shows_the_hottest_block_with_its_ir_and_counts(tmp_path):
    """-count-blocks and the log: a loop of a known length is what was entered most, with guest code, IR before and after, host code."""
    need(CC)
    need('aarch64-linux-gnu-objdump')
    (tmp_path / 'loop.c').write_text('int main(void) { unsigned s = 1; for (unsigned i = 0; i < 654321; i++) { s = s * 5 + i; if (s & 4) s ^= i; } return s & 1; }')
    subprocess.run([CC, '-O2', '-static', '-o', tmp_path / 'loop', tmp_path / 'loop.c'], check=True)
    plain = outcome([program('qemu-aarch64'), tmp_path / 'loop'], tmp_path)
    log = tmp_path / 'log'
    assert outcome([program('qemu-aarch64'), '-count-blocks', '-d', 'in_asm,op,op_opt,out_asm', '-D', log, tmp_path / 'loop'], tmp_path) == plain
    p = subprocess.run([os.path.join(ROOT, 'tools', 'jit_report.py'), log, '--top', '1', '--objdump', 'aarch64-linux-gnu-objdump'], capture_output=True, text=True, timeout=100)
    head = re.search(r'^== block at ([0-9a-f]{16}),.* entered (\d+) times', p.stdout, re.M)
    assert p.returncode == 0 and head and 654319 <= int(head[2]) <= 654321, p.stdout + p.stderr
    parts = re.split(r'^-- (.*)$', p.stdout, flags=re.M)
    assert [w.split(':')[0] for w in parts[1::2]] == ['IR as made', 'IR as compiled', 'host code'], parts[1::2]
    assert re.search(r'\tb\.\w+\t', parts[0]) and 'FL_' in parts[2] and 'EXIT' in parts[4] and f'of {head[1]}' in parts[6]
    assert len(parts[4].splitlines()) < len(parts[2].splitlines()), 'the passes removed nothing'


@pytest.mark.parametrize('name', ['smc', 'threads', 'faults', 'deep', 'loops', 'float'])
def test_blocks_that_count_do_what_they_did(tmp_path, name):
    exe = build(tmp_path, name, '-static')
    assert outcome([program('qemu-aarch64'), '-count-blocks', exe], tmp_path) == outcome([program('qemu-aarch64'), exe], tmp_path)
