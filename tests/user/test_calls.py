"""System calls by family: what a program of each architecture says of its calls - result, errno, and what is in memory then - is what
the same program says on this machine itself."""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from progs import M32, build, run, translator  # noqa: E402

CROSS = {'x86_64': ('gcc', ()), 'i386': ('gcc', tuple(M32)), 'aarch64': ('aarch64-linux-gnu-gcc', ()),
         'arm': ('arm-linux-gnueabihf-gcc', ()), 'riscv64': ('riscv64-linux-gnu-gcc', ())}
FAMILIES = {'proc': 18, 'brief': 1, 'ipc': 63, 'events': 51, 'space': 105, 'net': 67, 'fs': 90, 'devices': 14, 'nspaces': 5, 'share': 27}  # and the lines at least said


@pytest.fixture(scope='module')
def native(tmp_path_factory):
    said = {}

    def of(family):
        if family not in said:
            tmp = tmp_path_factory.mktemp('native')
            said[family] = run([build(tmp, family, '-lrt')], cwd=str(tmp))
        return said[family]
    return of


@pytest.mark.limit(300)
@pytest.mark.proves('F-USR-01', 'F-USR-07', 'F-USR-08', 'F-USR-13')
@pytest.mark.parametrize('arch', CROSS)
@pytest.mark.parametrize('family', FAMILIES)
def test_calls_do_what_they_do_natively(tmp_path, native, family, arch):
    want = native(family)
    assert want[0] == 0 and want[1].count(b'\n') >= FAMILIES[family]
    cc, flags = CROSS[arch]
    exe = build(tmp_path, family, '-static', *flags, '-lrt', cc=cc)
    rc, out, err = run([translator(arch), exe], cwd=str(tmp_path))
    assert out.decode().splitlines() == want[1].decode().splitlines()
    assert (rc, err) == (0, b'')


# What serves each guest: asynchronous input where its layout is the host's, rings where all that is put into them is.
SERVED = {'x86_64': (b'kernel', b'kernel'), 'aarch64': (b'kernel', b'fallback'), 'riscv64': (b'kernel', b'fallback'),
          'i386': (b'fallback', b'fallback'), 'arm': (b'fallback', b'fallback')}


@pytest.mark.proves('F-USR-01', 'F-USR-07', 'F-USR-08', 'F-USR-13')
@pytest.mark.parametrize('arch', CROSS)
def test_a_program_without_asynchronous_input_or_rings_falls_back(tmp_path, arch):
    """Every call of a family says ENOSYS where its first does, whatever its arguments: that is what programs look for."""
    native = run([build(tmp_path, 'aio')], cwd=str(tmp_path))
    if native[1].count(b': kernel\n') != 2:
        pytest.skip('host: its kernel has no asynchronous input or no rings')
    cc, flags = CROSS[arch]
    rc, out, err = run([translator(arch), build(tmp_path, 'aio', '-static', *flags, cc=cc)], cwd=str(tmp_path))
    file, pipe = SERVED[arch]
    assert (rc, err) == (0, b'')
    assert out.splitlines()[:3] == [b'file: ' + file, b'read 3456', b'pipe: ' + pipe]
    if file == b'kernel':
        assert out.splitlines()[3:] == native[1].splitlines()[3:]
    else:
        assert [line[-6:] for line in out.splitlines()[3:]] == [b' -1 38'] * 4


@pytest.mark.proves('F-USR-01', 'F-USR-07', 'F-USR-08', 'F-USR-13')
@pytest.mark.parametrize('arch', CROSS)
def test_threads_map_and_unmap_at_once(tmp_path, arch):
    """What one unmaps another is given before the first has noted it: neither may forget the other's."""
    cc, flags = CROSS[arch]
    exe = build(tmp_path, 'maps', '-static', *flags, cc=cc)
    for _ in range(3):
        assert run([translator(arch), exe]) == (0, b'failed 0\n', b'')
