"""System calls by family: what a program of each architecture says of its calls - result, errno, and what is in memory then - is what
the same program says on this machine itself."""
import os
import re
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from progs import M32, build, run, translator  # noqa: E402

CROSS = {'x86_64': ('gcc', ()), 'i386': ('gcc', tuple(M32)), 'aarch64': ('aarch64-linux-gnu-gcc', ()),
         'arm': ('arm-linux-gnueabihf-gcc', ()), 'riscv64': ('riscv64-linux-gnu-gcc', ())}
FAMILIES = {'proc': 18, 'brief': 1, 'ipc': 84, 'events': 51, 'space': 120, 'net': 67, 'fs': 90, 'devices': 14, 'nspaces': 5, 'share': 27, 'deaf': 39, 'padded': 24}  # and the lines at least said


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


# Requests of input devices, sound and graphics whose structure has longs or pointers: numbers of 32-bit programs that a 64-bit kernel
# does not know. What is handed on as it is serves all others. Behind them those that only i386 has otherwise, by its alignment.
OTHER_32 = """
    DRM_IOCTL_ADD_BUFS DRM_IOCTL_ADD_MAP DRM_IOCTL_AGP_ALLOC DRM_IOCTL_AGP_BIND DRM_IOCTL_AGP_ENABLE DRM_IOCTL_AGP_FREE DRM_IOCTL_AGP_INFO
    DRM_IOCTL_AGP_UNBIND DRM_IOCTL_DMA DRM_IOCTL_FREE_BUFS DRM_IOCTL_GET_CLIENT DRM_IOCTL_GET_MAP DRM_IOCTL_GET_SAREA_CTX DRM_IOCTL_GET_STATS
    DRM_IOCTL_GET_UNIQUE DRM_IOCTL_INFO_BUFS DRM_IOCTL_MAP_BUFS DRM_IOCTL_MARK_BUFS DRM_IOCTL_RES_CTX DRM_IOCTL_RM_MAP DRM_IOCTL_SET_SAREA_CTX
    DRM_IOCTL_SET_UNIQUE DRM_IOCTL_SG_ALLOC DRM_IOCTL_SG_FREE DRM_IOCTL_VERSION DRM_IOCTL_WAIT_VBLANK EVIOCSFF SNDRV_CTL_IOCTL_ELEM_LIST
    SNDRV_CTL_IOCTL_ELEM_READ SNDRV_CTL_IOCTL_ELEM_WRITE SNDRV_HWDEP_IOCTL_DSP_LOAD SNDRV_PCM_IOCTL_CHANNEL_INFO SNDRV_PCM_IOCTL_DELAY
    SNDRV_PCM_IOCTL_FORWARD SNDRV_PCM_IOCTL_HW_PARAMS SNDRV_PCM_IOCTL_HW_REFINE SNDRV_PCM_IOCTL_READI_FRAMES SNDRV_PCM_IOCTL_READN_FRAMES
    SNDRV_PCM_IOCTL_REWIND SNDRV_PCM_IOCTL_STATUS SNDRV_PCM_IOCTL_STATUS_EXT SNDRV_PCM_IOCTL_SW_PARAMS SNDRV_PCM_IOCTL_SYNC_PTR
    SNDRV_PCM_IOCTL_WRITEI_FRAMES SNDRV_PCM_IOCTL_WRITEN_FRAMES SNDRV_RAWMIDI_IOCTL_PARAMS SNDRV_RAWMIDI_IOCTL_STATUS SNDRV_TIMER_IOCTL_GINFO
    SNDRV_TIMER_IOCTL_GPARAMS SNDRV_TIMER_IOCTL_GSTATUS SNDRV_TIMER_IOCTL_INFO SNDRV_TIMER_IOCTL_STATUS UI_BEGIN_FF_UPLOAD UI_END_FF_UPLOAD
    UI_SET_PHYS
"""
OTHER_I386 = """
    DRM_IOCTL_MODE_ADDFB2 DRM_IOCTL_MODE_GETFB2 DRM_IOCTL_MODE_GETPLANERESOURCES DRM_IOCTL_MODE_OBJ_GETPROPERTIES DRM_IOCTL_MODE_OBJ_SETPROPERTY
    DRM_IOCTL_UPDATE_DRAW
"""
HEADERS = ('linux/input.h', 'linux/uinput.h', 'sound/asound.h', 'drm/drm.h')
CROSS_INCLUDE = '/usr/arm-linux-gnueabihf/include'  # of the kernel's headers a compiler here may lack drm/


def requests_of(tmp_path, arch):
    """Each request's number as the guest's compiler computes it from the kernel's headers, and what a file answers that is no such device."""
    if not os.path.exists(f'{CROSS_INCLUDE}/drm/drm.h'):
        pytest.skip('no kernel headers (package linux-libc-dev-armhf-cross)')
    names = []
    for h in HEADERS:
        with open(f'{CROSS_INCLUDE}/{h}', encoding='utf-8') as f:
            names += re.findall(r'^#define\s+((?:EVIOC|UI_|SNDRV_\w*IOCTL_|DRM_IOCTL_)\w+)\s+(?:_IO|DRM_IO)', f.read(), re.M)
    (tmp_path / 'requests.h').write_text(''.join(f'#include <{h}>\n' for h in HEADERS) + '#define ALL(X) ' + ' '.join(f'X({n})' for n in names) + '\n')
    cc, flags = CROSS[arch]
    exe = build(tmp_path, 'requests', '-static', *flags, f'-I{tmp_path}', '-idirafter', CROSS_INCLUDE, cc=cc)
    rc, out, err = run([translator(arch), exe], cwd=str(tmp_path))
    assert (rc, err) == (0, b'')
    return {line.split()[0]: line.split()[1:] for line in out.decode().splitlines()}


@pytest.mark.proves('F-USR-01', 'F-USR-07', 'F-USR-08', 'F-USR-13')
def test_requests_handed_on_are_the_kernels(tmp_path):
    here = requests_of(tmp_path, 'x86_64')
    assert len(here) > 200 and {tuple(v[1:]) for v in here.values()} == {('25', '25')}  # ENOTTY
    for arch, other in (('aarch64', ''), ('riscv64', ''), ('arm', OTHER_32), ('i386', OTHER_32 + OTHER_I386)):
        theirs = requests_of(tmp_path, arch)
        assert {n for n in here if theirs[n][0] != here[n][0]} == set(other.split()), arch
        assert [v[1:] for v in theirs.values()] == [v[1:] for v in here.values()]


@pytest.mark.proves('F-USR-07', 'F-USR-08')
@pytest.mark.parametrize('arch', ['i386', 'arm'])
def test_a_full_address_space_says_so(tmp_path, arch):
    cc, flags = CROSS[arch]
    assert run([translator(arch), build(tmp_path, 'full', '-static', *flags, cc=cc)]) == (0, b'1\n' * 6, b'')
