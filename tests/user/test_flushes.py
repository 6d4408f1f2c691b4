"""The code cache emptied again and again (-tb-size 4) while other threads are hit by signals and faults, write beside code and unmap:
where each stood is known, nobody waits for ever, and what is computed is right."""
import os
import re
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from progs import M32, build, run, translator  # noqa: E402

CROSS = {'x86_64': ('gcc', ()), 'i386': ('gcc', tuple(M32)), 'aarch64': ('aarch64-linux-gnu-gcc', ()),
         'arm': ('arm-linux-gnueabihf-gcc', ()), 'riscv64': ('riscv64-linux-gnu-gcc', ())}


def flushes(tmp_path, arch):
    cc, flags = CROSS[arch]
    return build(tmp_path, 'flushes', '-static', *flags, cc=cc)


@pytest.mark.limit(400)
@pytest.mark.proves('F-USR-01', 'F-USR-07', 'F-USR-08', 'F-USR-13')
@pytest.mark.parametrize('arch', CROSS)
def test_a_thread_that_is_hit_while_the_cache_is_emptied_knows_its_place(tmp_path, arch):
    exe = flushes(tmp_path, arch)
    for _ in range(2):
        assert run([translator(arch), '-tb-size', '4', exe], timeout=190) == (0, b'wrong 0, joined\n', b'')


@pytest.mark.limit(400)
@pytest.mark.proves('F-PRG-15')
def test_the_room_for_code_is_what_was_asked_for(tmp_path):
    """What does not fit is translated again: the program runs 8 MiB of code twice."""
    def blocks(*args, **env):
        rc, out, err = run([translator('x86_64'), '-d', 'jit', *args, exe], timeout=190, env={**os.environ, 'LYREBIRD_TCACHE': 'off', **env})
        assert (rc, out) == (0, b'wrong 0, joined\n')
        return int(re.search(rb' in (\d+) blocks', err).group(1))

    exe = flushes(tmp_path, 'x86_64')
    usual = blocks()
    assert blocks('-tb-size', '4') > 1.6 * usual
    assert blocks(QEMU_TB_SIZE='4') > 1.6 * usual
    assert blocks('-tb-size', '256', QEMU_TB_SIZE='4') < 1.2 * usual
    for size in ('3', '1025', 'x'):
        rc, out, err = run([translator('x86_64'), '-tb-size', size, exe])
        assert rc == 1 and not out and err.count(b'\n') == 1 and b'-tb-size' in err
