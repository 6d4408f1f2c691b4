"""ptrace between emulated processes: strace and gdb of the guest's own architecture, themselves translated, and a tracer of our own
on every architecture."""
import os
import re
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from conftest import need  # noqa: E402
from progs import M32, build, run, translator  # noqa: E402

CROSS = {'aarch64': ('aarch64-linux-gnu-gcc', ()), 'arm': ('arm-linux-gnueabihf-gcc', ()), 'riscv64': ('riscv64-linux-gnu-gcc', ()),
         'x86_64': ('gcc', ()), 'i386': ('gcc', tuple(M32))}
SHELL = '/bin/echo a; (exit 3); /bin/false; kill -TERM $$'


def calls(text):
    """What does not differ between two runs: calls by name and what became of the processes, sorted."""
    return sorted(re.findall(r'(?:\b(execve|clone|vfork|wait4|exit_group|kill)\(|\+\+\+ (.*?) \+\+\+|--- (SIG\w+))', text))


@pytest.mark.proves('F-USR-01')
def test_strace_follows_children_and_signals_as_natively(tmp_path):
    strace = need('strace')
    cmd = [strace, '-f', '-o', str(tmp_path / 'out'), '-e', 'trace=execve,clone,vfork,wait4,exit_group,kill', 'sh', '-c', SHELL]
    seen = []
    for how in ([], [translator('x86_64')]):
        r = run([*how, *cmd], timeout=200)
        seen.append((r[0], r[1], calls((tmp_path / 'out').read_text())))
    assert seen[0] == seen[1]
    assert any('killed by SIGTERM' in ''.join(c) for c in seen[1][2])


@pytest.mark.proves('F-USR-01')
def test_gdb_breaks_steps_and_shows(tmp_path):
    gdb = need('gdb')
    src = tmp_path / 'p.c'
    src.write_text('int v;\nint f(int a)\n{\n    v += a;\n    return v;\n}\nint main(void)\n{\n    for (int i = 1; i < 4; i++)\n        f(i);\n'
                   '    return v;\n}\n')
    exe = str(tmp_path / 'p')
    subprocess.run(['gcc', '-g', '-O0', '-o', exe, str(src)], check=True)
    script = tmp_path / 's'
    script.write_text('set pagination off\nset confirm off\nset debuginfod enabled off\nbreak f\nrun\nbt\nprint a\ncont\nprint a\nnext\n'
                      'print v\ndelete\nwatch v\ncont\nhbreak main\ndelete\nset var v = 100\ncont\n')
    r = run([translator('x86_64'), gdb, '-q', '-batch', '-nx', '-x', str(script), exe], timeout=200)
    out = r[1].decode()
    assert '#0  f (a=1)' in out and '#1' in out and 'main ()' in out, out + r[2].decode()
    assert re.search(r'\$1 = 1\b.*\$2 = 2\b.*\$3 = 3\b', out, re.S), out
    assert re.search(r'Hardware watchpoint 2: v\s+Old value = 3\s+New value = 6\b', out), out
    assert 'exited with code 0144' in out, out


@pytest.mark.proves('F-USR-01')
def test_gdb_watches_while_threads_come_and_go(tmp_path):
    """A signal of the tracer's may meet a tracee that has just gone on from a stop: that stop is not shown again."""
    gdb = need('gdb')
    exe = build(tmp_path, 'watched', '-g', '-O1')
    script = tmp_path / 's'
    script.write_text('set pagination off\nset debuginfod enabled off\nbreak main\nrun\nwatch hits\ncont 30\ndelete\ncont\n')
    for _ in range(4):
        r = run([translator('x86_64'), gdb, '-q', '-batch', '-nx', '-x', str(script), exe], timeout=60)
        assert b'hits 72' in r[1] and r[1].count(b'[New Thread') == 24 and b'exited normally' in r[1], r[1].decode() + r[2].decode()


@pytest.mark.proves('F-USR-01')
@pytest.mark.parametrize('arch', ['x86_64', 'i386', 'aarch64'])
def test_debug_registers_stop_where_they_say(tmp_path, arch):
    native = run([build(tmp_path, 'hwpoint', '-static')])
    if b'none' in native[1]:
        pytest.skip('host: no debug registers for tracers')
    cc, flags = CROSS[arch]
    assert native[1].count(b'met 1') == 3
    assert run([translator(arch), build(tmp_path, 'hwpoint', '-static', *flags, cc=cc)]) == native


@pytest.mark.proves('F-USR-01')
@pytest.mark.parametrize('arch', sorted(CROSS))
def test_a_tracer_sees_what_the_kernel_would_show(tmp_path, arch):
    native = run([build(tmp_path, 'ptrace', '-static')], cwd=str(tmp_path))
    cc, flags = CROSS[arch]
    exe = build(tmp_path, 'ptrace', '-static', *flags, cc=cc)
    assert native[0] == 0 and b'poked 77' in native[1]
    assert run([translator(arch), exe], cwd=str(tmp_path)) == native


LEAK = """
#include <pthread.h>
#include <stdlib.h>
static volatile int stop;
static void *work(void *a)
{
    void *volatile keep = malloc(55);

    for (volatile double x = 1; !stop;)
        x = x * 1.0001;
    return keep;
}
__attribute__((noinline)) static void lose(void)
{
    char *volatile p = malloc(77);

    p[0] = 1;
    p = NULL;
}
int main(void)
{
    pthread_t t[3];

    for (int i = 0; i < 3; i++)
        pthread_create(&t[i], NULL, work, NULL);
    lose();
    return 0;
}
"""


@pytest.mark.proves('F-USR-01')
@pytest.mark.parametrize('arch', ['x86_64', 'i386', 'aarch64', 'arm'])
def test_the_leak_sanitizer_stops_its_threads_and_finds_the_leak(tmp_path, arch):
    """It traces the threads of its program from a process in their memory. (RISC-V's wants a 38-bit address space.)"""
    cc, flags = CROSS[arch]
    src = tmp_path / 'leak.c'
    src.write_text(LEAK)
    exe = str(tmp_path / 'leak')
    made = subprocess.run([cc, *flags, '-g', '-fsanitize=address', '-o', exe, str(src), '-lpthread'], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f'{cc} has no address sanitizer')
    for _ in range(3):
        rc, out, err = run([translator(arch), exe])
        assert rc == 1 and b'LeakSanitizer: detected memory leaks' in err
        assert b'SUMMARY: AddressSanitizer: 77 byte(s) leaked in 1 allocation(s).' in err
