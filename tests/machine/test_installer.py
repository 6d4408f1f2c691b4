"""The graphical Debian installer: its first screen in a PNG screendump, compared with the picture kept beside the tests.

The pointer and what little anti-aliasing may move are allowed for: at most 1% of the pixels may differ."""
import os
import time

import pytest

import guest
from conftest import ROOT
from linux import Linux
from picture import png

WANT = os.path.join(ROOT, 'docs', 'installer.png')


def differing(a, b):
    return sum(a[2][i:i + 3] != b[2][i:i + 3] for i in range(0, len(a[2]), 3)) / (a[0] * a[1])


@pytest.mark.long
@pytest.mark.limit(700)
@pytest.mark.proves('F-DSP-26', 'F-DSP-10')
def test_first_screen_of_the_graphical_installer(tmp_path):
    try:
        tree = guest.unpacked('debian-installer-12-netboot-amd64')
    except guest.GuestError as e:
        pytest.skip(str(e))
    folder = os.path.join(tree, 'usr/lib/debian-installer/images/12/amd64/gtk/debian-installer/amd64')
    shot, want = str(tmp_path / 'shot.png'), png(WANT)
    g = Linux(['-kernel', f'{folder}/linux', '-initrd', f'{folder}/initrd.gz', '-append', 'vga=788 quiet'], memory='1G', boot=False)
    try:
        time.sleep(2)
        end, seen = time.monotonic() + 600, 1.0
        while time.monotonic() < end:
            time.sleep(5)
            g.qmp.call('screendump', filename=shot, format='png')
            got = png(shot)
            if got[:2] == want[:2]:
                seen = differing(got, want)
                if seen < 0.01:
                    return
        pytest.fail(f'the screen never came: last picture differs in {seen:.1%} of its pixels')
    finally:
        g.__exit__(None, None, None)
