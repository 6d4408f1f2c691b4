"""System-mode behaviour of the x86 CPU: two firmware images (tests/guest/x86) try every descriptor type in every load, far
transfer and gate, segment limits, privilege, page rights with WP, NX, SMEP and SMAP, task switches, debug traps, canonical
addresses and system calls, and log what trapped. The .expect files were compared line by line with another emulator and with
the manuals; where the two differ the manual stands."""
import os
import re
import subprocess

import pytest

from conftest import ROOT, program

SRC = os.path.join(ROOT, 'tests', 'guest', 'x86')


@pytest.mark.limit(240)
@pytest.mark.proves('F-ACC-02')
@pytest.mark.parametrize('accel', ['interp', 'tcg'])
@pytest.mark.parametrize('image, cpu', [('prot', 'qemu64'), ('long', 'max')])
def test_traps_and_transfers_are_those_of_the_manual(images, tmp_path, image, cpu, accel):
    log = tmp_path / 'log'
    p = subprocess.run([program('qemu-system-x86_64'), '-accel', accel, '-cpu', cpu, '-m', '64', '-display', 'none', '-net', 'none',
                        '-vga', 'none', '-bios', str(images / f'{image}.bin'), '-debugcon', f'file:{log}', '-global',
                        'isa-debugcon.iobase=0x402', '-device', 'isa-debug-exit,iobase=0xf4', '-no-reboot'], timeout=200)
    want = open(os.path.join(SRC, f'{image}.expect')).read().splitlines()
    got = log.read_text().splitlines()
    differ = [(w, g) for w, g in zip(want, got) if w != g]
    assert not differ and len(got) == len(want), f'{len(differ)} of {len(want)} lines differ, {len(got)} lines; first: {differ[:3]}'
    assert p.returncode == 1  # isa-debug-exit: 0 << 1 | 1


@pytest.mark.limit(120)
def test_the_log_shows_what_each_block_was_made_of_and_what_of_it(images, tmp_path):
    """-d in_asm,out_asm: guest code, and host code of each of its instructions, every byte of it."""
    log = tmp_path / 'log'
    subprocess.run([program('qemu-system-x86_64'), '-accel', 'tcg', '-cpu', 'max', '-m', '64', '-display', 'none', '-net', 'none', '-vga', 'none', '-bios',
                    str(images / 'long.bin'), '-debugcon', 'null', '-global', 'isa-debugcon.iobase=0x402', '-device', 'isa-debug-exit,iobase=0xf4',
                    '-no-reboot', '-d', 'in_asm,out_asm', '-D', str(log)], timeout=100)
    lines = log.read_text().splitlines()
    blocks, size, at = {'IN': 0, 'OUT': 0}, 0, None
    for line in lines:
        code = re.match(r'  ([0-9a-f]{16})  ([0-9a-f]+) +\w', line)
        head = re.match(r'(IN|OUT): block at [0-9a-f]{16}, (?:(\d+) bytes)?', line)
        if head:
            assert not size, f'{size} bytes missing before: {line}'
            blocks[head[1]] += 1
            at, size = None, int(head[2] or 0)
        elif code:
            assert at in (None, int(code[1], 16)), line
            at, size = int(code[1], 16) + len(code[2]) // 2, size - (len(code[2]) // 2 if size else 0)
        else:
            assert re.match(r' (of [0-9a-f]{16}|stubs)$', line), line
    assert blocks['IN'] > 500 and 0 < blocks['OUT'] <= blocks['IN'] and any('loop 0x10006e' in l for l in lines), blocks
