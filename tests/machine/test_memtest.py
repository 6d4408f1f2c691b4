"""memtest86+ (Debian's package) finds no error in 32 MiB (64 at length). The screen is read from VGA text memory, the keys go through the
keyboard controller. The bit fade test waits for minutes of real time: make check leaves it out through memtest86+'s own
menu, make check-long runs the whole pass, in 64-bit mode on two CPUs and in 32-bit mode from the CD."""
import os
import time

import pytest

import guest
from lyre import Machine

ACCEL = ('-accel', os.environ.get('LYREBIRD_ACCEL', 'tcg'))


def package():
    try:
        return guest.unpacked('memtest86+')
    except guest.GuestError as e:
        pytest.skip(str(e))


def screen(m):
    cells = [int(v, 16) for line in m.hmp('xp /2000hx 0xb8000').splitlines() for v in line.split(':')[1].split()]
    text = ''.join(chr(c & 0xff) if 32 <= c & 0xff < 127 else ' ' for c in cells)
    return '\n'.join(text[i:i + 80].rstrip() for i in range(0, 2000, 80))


def wait(m, text, seconds):
    """Waits for text on the screen; an error that memtest86+ reports ends the wait."""
    end = time.monotonic() + seconds
    while True:
        seen = screen(m)
        if text in seen:
            return seen
        assert 'FAIL' not in seen and 'unexpected' not in seen.lower(), seen
        assert time.monotonic() < end, f'no {text!r} within {seconds} s\n{seen}'
        time.sleep(0.3)


def keys(m, *names):
    for k in names:
        m.hmp(f'sendkey {k}')
        time.sleep(0.4)


def passes(m, seconds):
    seen = wait(m, 'Pass:  1 ', seconds)
    assert 'Errors: 0' in seen and 'Status: Pass' in seen, seen


@pytest.mark.limit(300)
def test_a_pass_without_the_fade_test():
    with Machine('-m', '32', '-vga', 'std', *ACCEL, '-kernel', f'{package()}/boot/memtest86+x64.bin') as m:
        wait(m, '<Enter> to start testing', 60)
        keys(m, 'f1')
        wait(m, 'Test selection', 20)
        keys(m, 'f1')
        wait(m, 'Remove one test', 20)
        keys(m, 'f2', '1', '0', 'ret')
        wait(m, '*.********.', 20)
        keys(m, 'f10', 'f10', 'ret')
        passes(m, 240)


@pytest.mark.long
@pytest.mark.limit(1800)
@pytest.mark.parametrize('args', [
    pytest.param(('-smp', '2', '-kernel', '{}/boot/memtest86+x64.bin'), id='64-bit'),
    pytest.param(('-M', 'q35', '-cdrom', '{}/usr/lib/memtest86+/memtest86+ia32.iso'), id='32-bit'),
])
def test_a_whole_pass(args):
    with Machine('-m', '32', '-vga', 'std', *ACCEL, *(a.format(package()) for a in args)) as m:
        passes(m, 1500)
