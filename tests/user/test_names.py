"""The names users type: each architecture's own, with and without -static, the program's own name, and the names of architectures
that are not built."""
import os
import shutil
import subprocess
import sys

import pytest

from conftest import need, program

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from progs import M32, build, run  # noqa: E402

CROSS = {'x86_64': ('gcc', ()), 'i386': ('gcc', tuple(M32)), 'aarch64': ('aarch64-linux-gnu-gcc', ()),
         'arm': ('arm-linux-gnueabihf-gcc', ()), 'riscv64': ('riscv64-linux-gnu-gcc', ())}
# The registration list's other architectures (S350), and those the existing program has beside them.
OTHERS = ('cris', 'microblaze', 'mipsel', 'ppc64', 'sh4', 'sparc', 'sparc64', 'alpha', 'armeb', 'm68k', 'mips', 'ppc', 'ppc64abi32', 's390x',
          'sh4eb', 'sparc32plus', 'aarch64_be', 'hexagon', 'hppa', 'loongarch64', 'microblazeel', 'mips64', 'mips64el', 'mipsn32',
          'mipsn32el', 'nios2', 'or1k', 'ppc64le', 'riscv32', 'xtensa', 'xtensaeb')
NAMES = ('float', 'threads')


def said(cmd, cwd):
    return run(cmd, cwd=str(cwd))[:2]


@pytest.mark.proves('F-PRG-15', 'F-PRG-16', 'F-USR-01', 'F-USR-07', 'F-USR-08', 'F-USR-13', 'S345', 'S346')
@pytest.mark.parametrize('arch', CROSS)
def test_each_name_runs_programs_of_its_architecture(tmp_path, arch):
    """Static programs, built for it here, say what they say on the processor (x86) or under the oracle; by the name with -static and by
    the program's own name too."""
    cc, flags = CROSS[arch]
    peer = [] if arch in ('x86_64', 'i386') else [need(f'/usr/bin/qemu-{arch}', 'qemu-user')]
    for name in NAMES:
        exe = build(tmp_path, name, '-static', *flags, cc=cc)
        want = said([*peer, exe], tmp_path)
        assert want[0] == 0 and want[1]
        for by in (f'qemu-{arch}', f'qemu-{arch}-static'):
            assert said([program(by), exe], tmp_path) == want, by
        assert said([os.path.realpath(program('qemu-' + arch)), exe], tmp_path) == want


@pytest.mark.proves('F-PRG-16', 'F-USR-06', 'S346')
@pytest.mark.parametrize('arch', CROSS)
def test_the_program_needs_nothing_in_a_chroot(tmp_path, arch):
    """A copy of it and one foreign program, alone in a root: no library, no /proc, no /dev."""
    if os.geteuid():
        pytest.skip('needs root: chroot')
    cc, flags = CROSS[arch]
    root = tmp_path / 'root'
    root.mkdir()
    shutil.copy(program(f'qemu-{arch}-static'), root / f'qemu-{arch}-static')
    want = said([program('qemu-' + arch), build(root, 'loops', '-static', *flags, cc=cc)], root)
    exe = next(f for f in os.listdir(root) if f.startswith('loops'))
    assert want[0] == 0 and want[1]
    assert said(['/usr/sbin/chroot', str(root), f'/qemu-{arch}-static', '/' + exe], root) == want
    ours = subprocess.run(['readelf', '-hl', program(f'qemu-{arch}-static')], capture_output=True, text=True, check=True).stdout
    assert 'INTERP' not in ours and 'DYN (Position-Independent' in ours


@pytest.mark.proves('F-PRG-15', 'F-PRG-16')
@pytest.mark.parametrize('tail', ['', '-static'])
def test_names_that_are_not_built_are_refused_with_one_line(tmp_path, tail):
    for arch in (*OTHERS, 'nonesuch'):
        link = tmp_path / f'qemu-{arch}{tail}'
        link.symlink_to(program('qemu-x86_64'))
        for args in (['/bin/true'], [], ['-version'], ['-cpu', 'help']):
            rc, out, err = run([str(link), *args])
            assert rc == 1 and not out and err.count(b'\n') == 1 and arch.encode() in err, (arch, args, rc, out, err)


@pytest.mark.proves('F-PRG-15', 'F-PRG-16')
@pytest.mark.parametrize('arch', CROSS)
def test_a_program_of_another_architecture_is_named_not_run(tmp_path, arch):
    other = 'aarch64' if arch != 'aarch64' else 'x86_64'
    cc, flags = CROSS[other]
    exe = build(tmp_path, 'time', '-static', *flags, cc=cc)
    rc, out, err = run([program('qemu-' + arch), exe])
    assert rc == 1 and not out and exe.encode() in err and b'qemu-' + other.encode() in err and err.count(b'\n') == 1, err


HOG = r"""
#include <stdio.h>
#include <stdlib.h>
int main(void)
{
    size_t n = 0;
    while (malloc(1 << 20))
        n++;
    printf("%d\n", n * 1.0 > LOW && n * 1.0 < HIGH);
    return 0;
}
"""


@pytest.mark.proves('F-PRG-15')
@pytest.mark.parametrize('how', [[], ['-static']], ids=['dynamic', 'static'])
@pytest.mark.parametrize('arch', ['i386', 'arm'])
def test_a_32_bit_program_gets_the_space_it_is_given(tmp_path, arch, how):
    cc, flags = CROSS[arch]
    for size, low, high in (('0x20000000', 300, 512), ('0x40000000', 700, 1024), ('1536M', 1100, 1536)):
        (tmp_path / 'hog.c').write_text(HOG.replace('LOW', str(low)).replace('HIGH', str(high)))
        exe = str(tmp_path / 'hog')
        if subprocess.run([need(cc), *how, *flags, '-o', exe, exe + '.c'], capture_output=True).returncode:
            pytest.skip(f'{cc} cannot build here')
        assert run([program('qemu-' + arch), '-R', size, exe]) == (0, b'1\n', b'')
        assert run([program('qemu-' + arch), exe], env={**os.environ, 'QEMU_RESERVED_VA': size}) == (0, b'1\n', b'')
