"""-icount: guest time made of executed instructions. A firmware image (no disk: its requests end when the host likes) takes timer interrupts, halts between some of them, and lets
the time stamp counter and the timer's count flow into what it computes: the trace hash covers all registers at every
interrupt, so two runs with the same hash and count have done the same."""
import re
import subprocess

import pytest

from conftest import need
from lyre import Machine, run

BOOT = '''
.code16
.globl _start
_start: cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $0x7c00, %sp
    movw $tick, 0x20
    movw $0xf000, 0x22
    movw %ax, 0x500
    movb $0x11, %al
    outb %al, $0x20
    movb $0x08, %al
    outb %al, $0x21
    movb $0x04, %al
    outb %al, $0x21
    movb $0x01, %al
    outb %al, $0x21
    movb $0x34, %al
    outb %al, $0x43
    movb $0xa9, %al
    outb %al, $0x40
    movb $0x04, %al
    outb %al, $0x40
    movb $0xfe, %al
    outb %al, $0x21
    sti
work: rdtsc
    addl %eax, %ebx
    roll $7, %ebx
    imull $1664525, %ebx, %ebx
    movw 0x500, %ax
    testw $3, %ax
    jnz go
    hlt
go: cmpw $60, %ax
    jb work
    cli
    hlt
tick: pushw %ax
    incw 0x500
    xorb %al, %al
    outb %al, $0x43
    inb $0x40, %al
    addb %al, %bl
    movb $0x20, %al
    outb %al, $0x20
    popw %ax
    iret
.org 0xfff0
    ljmp $0xf000, $_start
.org 0x10000
'''


@pytest.fixture(scope='module')
def rom(tmp_path_factory):
    need('as', 'binutils')
    need('ld', 'binutils')
    d = tmp_path_factory.mktemp('icount')
    (d / 'boot.s').write_text(BOOT)
    subprocess.run(['as', '--32', '-o', d / 'boot.o', d / 'boot.s'], check=True)
    subprocess.run(['ld', '-m', 'elf_i386', '-Ttext', '0', '--oformat', 'binary', '-o', d / 'boot.img', d / 'boot.o'], check=True)
    return d / 'boot.img'


def final(m):
    """(shift, instructions, interrupts, hash) once nothing moves any more."""
    import time
    last, calm, end = None, 0, time.monotonic() + 200
    while calm < 4:
        assert time.monotonic() < end, last
        time.sleep(0.25)
        got = re.search(r'icount: shift (\d+), (\d+) instructions, (\d+) interrupts and exceptions, trace (\w+)', m.hmp('info jit'))
        calm = calm + 1 if got.groups() == last and int(got[3]) > 60 else 0
        last = got.groups()
    return last


def trace(rom, icount, *args):
    with Machine('-icount', icount, '-rtc', 'base=2026-01-01T00:00:00,clock=vm', '-bios', rom, '-m', '16', *args) as m:
        return final(m)


@pytest.mark.limit(900)
def test_two_runs_are_the_same_to_the_instruction(rom):
    a = trace(rom, 'shift=3,sleep=off')
    assert a == trace(rom, 'shift=3,sleep=off') == trace(rom, 'shift=3,sleep=off', '-accel', 'interp')
    assert a == trace(rom, 'shift=3,sleep=on'), 'sleeping takes real time only'
    assert int(a[2]) >= 60
    b = trace(rom, 'shift=5,sleep=off')
    assert b[3] != a[3] and int(b[1]) < int(a[1]), 'an instruction takes four times the time: fewer between interrupts'


@pytest.mark.limit(300)
def test_auto_and_align_run(rom):
    assert int(trace(rom, 'shift=auto')[2]) >= 60
    assert int(trace(rom, 'shift=4,align=on')[2]) >= 60


@pytest.mark.parametrize('value, text', [('shift=auto,align=on', 'incompatible'), ('shift=3,align=on,sleep=off', 'incompatible'), ('shift=11', 'out of range'),
                                         ('align=on', 'shift=N'), ('shift=3,rr=record', 'not built'), ('shift=3,rrfile=x', 'unknown option')])
def test_what_cannot_be_is_refused(value, text):
    r = run('-icount', value, '-display', 'none', timeout=60)
    assert r.returncode == 1 and text in r.stderr, r.stderr


def test_more_cpus_and_other_accelerators_are_refused():
    assert 'one CPU' in run('-icount', '3', '-smp', '2', '-display', 'none', timeout=60).stderr
    assert 'tcg and interp only' in run('-icount', '3', '-accel', 'qtest', '-display', 'none', timeout=60).stderr
