"""The differential testers of the IR guests (tests/diff/{a64,arm,riscv}): a million instructions and more of each architecture through
user mode against Debian's qemu-<arch>, alone and in streams, and the coverage of the decode tables: each row of them, none left out.
The plain suite runs some tens of thousands as unit tests."""
import os
import re
import subprocess

import pytest

from conftest import build_dir, need, program

TESTERS = {  # tester, its program, the oracle, count of each row, of each row in streams
    'aarch64': ('a64/a64diff', 'a64/oracle', 'qemu-aarch64', 1300, 300),
    'arm': ('arm/armdiff', 'arm/oracle', 'qemu-arm', 1000, 300),
    'riscv64': ('riscv/rvdiff', 'riscv/rv-oracle', 'qemu-riscv64', 1300, None),
}

def diff(arch, count, seed, limit, *more):
    tester, prog, oracle = (TESTERS[arch][0], *TESTERS[arch][1:3])
    need(oracle)
    folder = os.path.join(build_dir(), 'tests', 'diff')
    if not os.path.exists(f'{folder}/{prog}'):
        pytest.skip(f'{prog} was not built: no cross compiler for {arch}')
    p = subprocess.run([f'{folder}/{tester}', '--count', str(count), '--seed', str(seed), '--program', f'{folder}/{prog}', '--engine', program(oracle), *more],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit)
    total = re.search(r'(\d+) runs, (\d+) rows, (\d+) rows not run, (\d+) differences', p.stdout)
    assert total, p.stdout[-2000:]
    return p.returncode, p.stdout, [int(x) for x in total.groups()]


@pytest.mark.long
@pytest.mark.limit(4000)
@pytest.mark.proves('F-USR-07', 'F-USR-08', 'F-USR-13')
@pytest.mark.parametrize('arch', TESTERS)
def test_a_million_instructions_agree_with_the_oracle(arch):
    status, out, total = diff(arch, TESTERS[arch][3], 20261, 3600, '--coverage')
    print(out[-60000:])
    assert total[0] >= 1_000_000
    assert status == 0 and total[3] == 0, out[:3000]


@pytest.mark.long
@pytest.mark.limit(3000)
@pytest.mark.proves('F-USR-07', 'F-USR-08')
@pytest.mark.parametrize('arch', ['aarch64', 'arm'])
def test_streams_of_dependent_instructions_agree(arch):
    """Some ten instructions a record: three million each."""
    status, out, total = diff(arch, TESTERS[arch][4], 7, 2700, '--stream')
    assert status == 0 and total[3] == 0, out[:3000]


@pytest.mark.limit(300)
@pytest.mark.proves('F-USR-07', 'F-USR-08', 'F-USR-13')
@pytest.mark.parametrize('arch', TESTERS)
def test_every_instruction_of_the_decode_tables_is_covered(arch):
    """And what must be among their operands and outcomes is."""
    status, out, total = diff(arch, 20, 3, 250)
    covered = re.search(r'covered: (\d+) of (\d+) instructions', out)
    assert covered and covered[1] == covered[2] and total[2] == 0, re.findall(r'not run: (.*)', out)
    met = dict((name, int(n)) for name, n in re.findall(r"([a-zA-Z' ]+) (\d+)(?:,|$)", re.search(r'met with: (.*)', out)[1]))
    assert len(met) == 16 and all(met.values()), met
    assert status == 0 and total[3] == 0, out[:3000]
