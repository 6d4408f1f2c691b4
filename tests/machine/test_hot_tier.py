"""The second tier of the translator (src/accel/dbt/tier.c): blocks that run much are made again."""
import os
import re
import subprocess

import pytest

from conftest import program
from linux import Linux

pytestmark = pytest.mark.skipif('hot-tier' in os.environ.get('LYREBIRD_ACCEL_SET', ''), reason='the setting says which tier')
WORK = 'i=0; while [ $i -lt 150000 ]; do i=$((i+1)); done; echo $i'


def made_again(g):
    text = g.qmp.call('human-monitor-command', command_line='info jit')
    m = re.search(r'Second tier: (\d+) samples, (\d+) blocks made again', text)
    return m and (int(m.group(1)), int(m.group(2)))


@pytest.mark.limit(300)
def test_what_runs_much_is_made_again():
    with Linux(['-accel', 'tcg', '-cpu', 'max']) as g:
        assert g.sh(WORK, 120).strip() == '150000'
        samples, blocks = made_again(g)
        assert samples > 50 and 5 < blocks < samples / 2


@pytest.mark.long
@pytest.mark.limit(300)
@pytest.mark.parametrize('tier', ['off', 'first'])
def test_linux_runs_without_and_with_the_hot_tier_from_the_start(tier):
    with Linux(['-accel', f'tcg,hot-tier={tier}', '-cpu', 'max']) as g:
        assert g.sh(WORK, 120).strip() == '150000'
        assert not made_again(g)


def test_other_tiers_are_refused():
    p = subprocess.run([program('qemu-system-x86_64'), '-accel', 'tcg,hot-tier=warm', '-display', 'none'], timeout=60, stderr=subprocess.PIPE, text=True)
    assert p.returncode == 1 and 'auto, off or first' in p.stderr and p.stderr.count('\n') == 1
