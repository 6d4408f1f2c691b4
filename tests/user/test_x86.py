"""x86-64 and i386 programs: what they print under our translator is what they print on the processor itself."""
import os
import re
import subprocess
import time

import pytest

from conftest import ROOT, build_dir, need, program

import importlib.util
import sys
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import random_loops  # noqa: E402
from progs import M32, build, run, same, translator  # noqa: E402

ARCH = {'x86_64': [], 'i386': M32}
PROGS = ['threads', 'signals', 'faults', 'forks', 'smc', 'proc', 'float', 'time', 'files', 'loops', 'deep', 'storms']


@pytest.mark.proves('F-USR-01', 'F-USR-03', 'F-PRG-15', 'F-PRG-18', 'S345')
@pytest.mark.parametrize('arch', ARCH)
@pytest.mark.parametrize('name', PROGS)
def test_a_dynamic_program_behaves_as_natively(tmp_path, arch, name):
    same(arch, build(tmp_path, name, *ARCH[arch]))


def test_code_is_left_and_linked_where_nested_calls_fill_the_shadow_stack(tmp_path):
    same('x86_64', build(tmp_path, '../../guest/x86/linux/brim'))


@pytest.mark.proves('F-USR-01', 'F-USR-03')
@pytest.mark.parametrize('flags', [['-no-pie'], []], ids=['fixed', 'pie'])
def test_a_run_of_pushes_faults_and_is_interrupted_where_the_processor_is(tmp_path, flags):
    """The translation moves RSP once for a run: a fault or a signal in it must show the RSP of its instruction."""
    same('x86_64', build(tmp_path, 'pushes', *flags))


@pytest.mark.proves('F-USR-01', 'F-USR-03')
@pytest.mark.parametrize('flags', [['-no-pie'], [], ['-static']], ids=['fixed', 'pie', 'static'])
def test_a_function_of_a_few_instructions_is_one_where_it_is_called_too(tmp_path, flags):
    """The translation puts it there: faults, signals and changes of its code must not show that."""
    exe = build(tmp_path, 'leaves', *flags)
    native = run([exe])
    assert b'no bytes there: 9' in native[1]
    for more in ([], ['-one-insn-per-tb'], ['-tb-size', '4']):
        assert run([translator('x86_64'), *more, exe]) == native
    log = str(tmp_path / 'log')
    run([translator('x86_64'), '-d', 'in_asm,out_asm,jit', '-D', log, exe])
    with open(log) as f:
        text = f.read()
    far = re.search(r'^([0-9a-f]+) . far_leaf$', subprocess.run(['nm', exe], capture_output=True, text=True).stdout, re.M)[1][-3:]
    assert re.search(rf'call 0x[0-9a-f]+{far}\n  [0-9a-f]+{far}  b805000000 .*\n.*lea rax.*\n.* ret\n.*add rax,0x1\n', text)


@pytest.mark.proves('F-USR-01', 'F-USR-03')
@pytest.mark.parametrize('flags', [['-no-pie'], [], ['-static']], ids=['fixed', 'pie', 'static'])
def test_what_is_called_by_pointer_may_change(tmp_path, flags):
    """Code is made for where jumps by pointer went, with small functions in it: neither registers, flags, faults nor signals
    may show that, nor code that changes, nor a jump that goes elsewhere; from translations kept on disk, too."""
    exe = build(tmp_path, 'ways', *flags, '-pthread')
    native = run([exe])
    assert b'by another thread: wrong 0' in native[1]
    for more in ([], [], ['-one-insn-per-tb'], ['-tb-size', '4']):
        assert run([translator('x86_64'), *more, exe], env={**os.environ, 'LYREBIRD_TCACHE': str(tmp_path)}) == native
    log = str(tmp_path / 'log')
    run([translator('x86_64'), '-d', 'in_asm', '-D', log, exe])
    with open(log) as f:
        assert re.search(r'call +rbx\n.*imul +rdx,rdi,0x7\n.*test +dil,0x40\n.* je .*\n.*\n.* ret\n.*add +rax,rdx\n', f.read())


@pytest.mark.proves('F-USR-01', 'F-USR-03')
@pytest.mark.parametrize('programs', [3, pytest.param(100, marks=pytest.mark.long)])
def test_random_loops_are_the_processors(tmp_path, programs):
    """Loops keep registers where other code does not: what they leave, where they fault, and all while signals come."""
    start = int(os.environ.get('LYREBIRD_SEED', time.time()))
    for seed in range(start, start + programs):
        source = tmp_path / 'loops.c'
        source.write_text(random_loops.program(seed, 300))
        exe = str(tmp_path / 'loops')
        subprocess.run(['gcc', '-O1', '-w', *([], ['-no-pie'])[seed & 1], '-o', exe, source], check=True)
        native = run([exe])
        assert native[0] == 0 and native[1].count(b'\n') == 300
        for more in ([], [], ['-one-insn-per-tb']):
            ours = run([translator('x86_64'), *more, exe], env={**os.environ, 'LYREBIRD_TCACHE': str(tmp_path)})
            assert ours == native, f'LYREBIRD_SEED={seed} {more}'


@pytest.mark.proves('F-USR-01', 'F-USR-03')
@pytest.mark.parametrize('flags', [[], ['-static'], ['-one-insn-per-tb']], ids=['dynamic', 'static', 'one'])
def test_avx512_is_the_processors(tmp_path, flags):
    """Registers over calls, signals, forks and threads, faults that masks suppress, XSAVE, addresses of every kind."""
    with open('/proc/cpuinfo') as f:
        if 'avx512vl' not in f.read():
            pytest.skip('the host CPU has no AVX-512 (F, DQ, BW, VL): nothing of it is offered to guests')
    one = [f for f in flags if 'one' in f]
    exe = build(tmp_path, 'avx512', *(f for f in flags if f not in one))
    assert run([translator('x86_64'), *one, exe]) == run([exe])
    assert b'no AVX-512' in run([translator('x86_64'), '-cpu', 'max,-avx512f', exe])[1]


@pytest.mark.limit(300)
@pytest.mark.proves('F-USR-01')
@pytest.mark.parametrize('how', [['--count', '4000'], ['--count', '200', '--walk', '1']], ids=['short', 'walk'])
def test_random_runs_are_what_the_interpreter_makes_of_them(how):
    """x86seq runs them on the bare CPU, which here is our translator, and through the interpreter, exact to the fault and the x87's state at it."""
    p = subprocess.run([translator('x86_64'), f'{build_dir()}/tests/diff/x86seq', '--engine', 'interp', '--max', '30', '--seed', '77', *how],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280)
    assert p.returncode == 0 and ', 0 differ' in p.stdout, p.stdout[-3000:]


@pytest.mark.limit(300)
@pytest.mark.proves('F-USR-01')
def test_every_form_of_an_instruction_does_what_the_interpreter_does():
    """x86diff, likewise: each row of the decode table alone, with operands over two pages, missing pages and addresses that are none."""
    p = subprocess.run([translator('x86_64'), f'{build_dir()}/tests/diff/x86diff', '--engine', 'interp', '--total', '150000', '--seed', '5'],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280)
    assert p.returncode == 0 and ', 0 differences' in p.stdout, p.stdout[-3000:]


@pytest.mark.long
@pytest.mark.proves('F-USR-01')
@pytest.mark.parametrize('arch', ARCH)
def test_a_thread_that_spins_lets_the_full_cache_be_emptied(tmp_path, arch):
    same(arch, build(tmp_path, 'storms', *ARCH[arch]), 'flush', timeout=300)


@pytest.mark.proves('F-USR-01', 'F-PRG-16', 'S346')
@pytest.mark.parametrize('arch', ARCH)
@pytest.mark.parametrize('name', ['threads', 'signals', 'faults', 'files'])
def test_a_static_program_behaves_as_natively(tmp_path, arch, name):
    exe = build(tmp_path, name, '-static', *ARCH[arch])
    assert run([translator(arch + '-static'), exe]) == run([exe])


@pytest.mark.proves('F-USR-01')
@pytest.mark.parametrize('name', ['signals', 'float', 'smc'])
def test_one_instruction_per_block_changes_nothing(tmp_path, name):
    exe = build(tmp_path, name)
    assert run([translator('x86_64'), '-one-insn-per-tb', exe])[:2] == run([exe])[:2]


@pytest.mark.proves('F-USR-01')
@pytest.mark.parametrize('cmd', [
    ['/bin/ls', '-la', '/usr/share'], ['/bin/sort', '/etc/services'], ['/usr/bin/sha256sum', '/bin/bash'],
    ['/usr/bin/python3', '-c', 'import json, hashlib, ctypes; print(json.dumps({"a": [1, 2.5]}), sum(range(10**5)))'],
    ['/usr/bin/perl', '-e', 'my %h; $h{$_ % 97} += $_ for 1 .. 50000; print join(",", map { $h{$_} } sort keys %h), "\\n"'],
    ['/usr/bin/node', '-e', 'function f(n) { return n < 2 ? n : f(n - 1) + f(n - 2) } let a = []; for (let i = 0; i < 1e5; i++) '
     'a.push(i * 7919 % 100003); a.sort((x, y) => x - y); console.log(f(24), a[777], "h\u00e9".length)'],
    ['/usr/bin/java', '-version'],
    ['/bin/bash', '-c', 'for i in 1 2 3; do echo $((i * i)) | cat; done; f() { echo "$1"; }; f x; ls /nonexistent; exit 5'],
], ids=lambda c: os.path.basename(c[0]))
def test_real_programs_print_what_they_print_natively(cmd):
    need(cmd[0])
    same('x86_64', *cmd)


def ends_with_42(tmp_path, arch, text):
    """A program in assembly, the registers' names as i386 has them, says so natively and under the translator."""
    src, exe = tmp_path / 'p.S', str(tmp_path / 'p')
    text = re.sub(r'\be(?=[sd]i\b|sp\b)', 'r', text) if arch == 'x86_64' else text
    src.write_text(f'.intel_syntax noprefix\n.globl main\n{text}.section .note.GNU-stack\n')
    subprocess.run(['gcc', *ARCH[arch], '-o', exe, str(src)], check=True)
    for by in ([], [translator(arch)]):
        assert subprocess.run([*by, exe], check=False).returncode == 42, by


@pytest.mark.proves('F-USR-01')
@pytest.mark.parametrize('arch', ARCH)
def test_a_copy_downwards_ends_with_cld(tmp_path, arch):
    """What the dynamic linker met: its memmove of i386 sets DF and clears it, and the next string instruction goes up."""
    ends_with_42(tmp_path, arch, """
main: push edi
      push esi
      sub esp, 32
      lea edi, [esp+8]
      mov esi, edi
      mov eax, 21
      std
      stosb
      stosb
      cld
      lea edi, [esi+1]
      stosb
      mov al, 0
      stosb
      movzx eax, byte ptr [esi]
      add al, byte ptr [esi+1]
      add al, byte ptr [esi+2]
      add esp, 32
      pop esi
      pop edi
      ret
""")


@pytest.mark.proves('F-USR-01')
@pytest.mark.parametrize('arch', ARCH)
def test_a_return_past_its_caller_keeps_flags(tmp_path, arch):
    """The inner function drops its own return address and returns further up, with the carry as its answer, set every
    other time: the code it was expected in overwrites flags."""
    ends_with_42(tmp_path, arch, f"""
main: xor edx, edx
      mov ecx, 1000
1:    call outer
      adc edx, 0
      dec ecx
      jnz 1b
      lea eax, [edx-500+42]
      ret
outer: call inner
      xor eax, eax
      add eax, 1
      ret
inner: lea esp, [esp+{8 if arch == 'x86_64' else 4}]
      bt ecx, 0
      ret
""")


@pytest.mark.proves('F-USR-01')
def test_the_compiler_makes_the_same_object(tmp_path):
    src = tmp_path / 'a.c'
    src.write_text('#include <stdio.h>\nint main(void) { for (int i = 0; i < 9; i++) printf("%d\\n", i * i); return 4; }\n')
    for how, cmd in (('n', []), ('u', [translator('x86_64')])):
        assert run([*cmd, '/usr/bin/gcc', '-O2', '-c', '-o', str(tmp_path / how), str(src)])[0] == 0
    assert (tmp_path / 'n').read_bytes() == (tmp_path / 'u').read_bytes()


@pytest.mark.proves('F-USR-01')
@pytest.mark.parametrize('arch,machine', [('x86_64', 'x86_64'), ('i386', 'i686')])
def test_uname_shows_the_guest(tmp_path, arch, machine):
    src = tmp_path / 'u.c'
    src.write_text('#include <stdio.h>\n#include <sys/utsname.h>\n'
                   'int main(void) { struct utsname u; uname(&u); printf("%s %s", u.machine, u.release); return 0; }\n')
    exe = str(tmp_path / 'u')
    if subprocess.run(['gcc', '-o', exe, str(src), *ARCH[arch]], capture_output=True).returncode:
        pytest.skip('gcc cannot build for ' + arch)
    assert run([translator(arch), '-r', '9.9-test', exe])[1].decode() == f'{machine} 9.9-test'


@pytest.mark.proves('F-PRG-15')
def test_options_and_their_variables(tmp_path):
    t = translator('x86_64')
    assert run([t, '-0', 'other', '/bin/bash', '-c', 'echo $0'])[1] == b'other\n'
    assert run([t, '-E', 'A=1,B=2', '-U', 'HOME', '/usr/bin/env'])[1].decode().split('\n').count('A=1') == 1
    assert b'\nHOME=' not in run([t, '-U', 'HOME', '/usr/bin/env'])[1]
    env = dict(os.environ, QEMU_SET_ENV='Z=9')
    assert b'Z=9\n' in run([t, '/usr/bin/env'], env=env)[1]
    rc, _, err = run([t, '-strace', '/bin/true'])
    assert rc == 0 and b'openat(AT_FDCWD, "/etc/ld.so.cache", O_RDONLY|O_CLOEXEC) = 3\n' in err and b'exit_group(0) = ?' in err
    assert b'version' in run([t, '-version'])[1]
    assert b'-strace' in run([t, '-h'])[1]
    seeds = [run([t, '-seed', '7', '/usr/bin/env', 'LD_SHOW_AUXV=1', '/bin/true'])[0] for _ in range(2)]
    assert seeds == [0, 0]
    assert b'max' in run([t, '-cpu', 'help'])[1].lower() or run([t, '-cpu', 'help'])[0] == 0


@pytest.mark.proves('F-USR-02', 'F-PRG-15')
def test_refusals_are_one_clear_line(tmp_path):
    t = translator('x86_64')
    text = tmp_path / 'text'
    text.write_text('hello')
    windows = tmp_path / 'w.exe'
    windows.write_bytes(b'MZ' + bytes(100))
    cases = {('/nonexistent',): b'cannot open the program', (str(text),): b'not a Linux program',
             (str(windows),): b'Wine', ('-bogus', 'x'): b"unknown option '-bogus'", (): b'no program was given',
             ('-p', '65536', '/bin/true'): b'-p', ('-cpu', 'nosuch', '/bin/true'): b'nosuch'}
    for args, want in cases.items():
        rc, _, err = run([t, *args])
        assert rc == 1 and want in err, (args, err)
    sparc = tmp_path / 'qemu-sparc64'
    sparc.symlink_to(t)
    assert b'sparc64' in run([str(sparc), '/bin/true'])[2]


@pytest.mark.proves('F-USR-03')
def test_a_missing_interpreter_is_named(tmp_path):
    exe = build(tmp_path, 'time', '-Wl,--dynamic-linker=/lib/no-such-ld.so.9')
    rc, _, err = run([translator('x86_64'), exe])
    assert rc == 1 and b'/lib/no-such-ld.so.9' in err and b'-L' in err


@pytest.mark.proves('F-USR-03')
def test_libraries_come_from_the_prefix(tmp_path):
    root = tmp_path / 'root/lib64'
    root.mkdir(parents=True)
    os.symlink('/lib64/ld-linux-x86-64.so.2', root / 'here.so')
    exe = build(tmp_path, 'time', '-Wl,--dynamic-linker=/lib64/here.so')
    assert run([translator('x86_64'), '-L', str(tmp_path / 'root'), exe]) == run([translator('x86_64'), build(tmp_path, 'time')])


@pytest.mark.proves('F-PRG-15')
def test_broken_elf_files_are_refused_or_run_but_never_break_us(tmp_path):
    import random
    good = open(build(tmp_path, 'time', '-static-pie', '-s'), 'rb').read()
    rnd = random.Random(5)
    t = translator('x86_64')
    bad = tmp_path / 'bad'
    for i in range(120):
        b = bytearray(good)
        if i % 4 == 0:
            b = b[:rnd.choice([0, 1, 4, 16, 52, 63, 64, 100, 120, 500, 4096, len(b) // 2])]
        else:
            for _ in range(rnd.randint(1, 6)):
                b[rnd.randrange(min(len(b), 64 + 56 * 12))] = rnd.choice([0, 1, 0x7f, 0x80, 0xff, rnd.randrange(256)])
        bad.write_bytes(b)
        bad.chmod(0o755)
        try:
            rc, _, err = run([t, str(bad)], timeout=20)
        except subprocess.TimeoutExpired:
            continue
        assert b'ssertion' not in err and b'internal fault' not in err and b'translator: unexpected' not in err, (i, rc, err)


def test_log_items_that_user_mode_has_not_are_refused(tmp_path):
    exe = build(tmp_path, 'time')
    status, out, err = run([translator('x86_64'), '-d', 'cpu', exe])
    assert status == 1 and not out and b'strace' in err
    assert run([translator('x86_64'), '-d', 'strace', exe])[0] == 0
    assert re.search(rb'translated [1-9]\d* instructions in [1-9]\d* blocks', run([translator('x86_64'), '-d', 'jit', exe])[2])


GUEST = os.path.join(ROOT, 'tests', 'guest', 'x86')


@pytest.mark.proves('F-USR-01', 'F-USR-03')
@pytest.mark.limit(300)
@pytest.mark.parametrize('name, rounds', [('smc', '200'), ('litmus', '1000')])
def test_code_that_changes_and_memory_order_are_the_bare_cpus(tmp_path, name, rounds):
    """Written by other threads, and through another mapping of the same file; loads and stores in the order x86 promises."""
    need('gcc')
    exe = str(tmp_path / name)
    subprocess.run(['gcc', '-O2', '-std=gnu11', '-static', '-no-pie', '-o', exe, f'{GUEST}/linux/{name}.c', '-lpthread'], check=True)
    status, out, err = run([translator('x86_64'), exe, rounds], 250)
    end = re.search(rb'(\d+) claims, 0 failed', out)
    assert status == 0 and end and int(end[1]) > 15, (out + err)[-1500:].decode()


@pytest.mark.proves('F-USR-01', 'F-PRG-16')
@pytest.mark.limit(300)
def test_our_translator_runs_in_our_translator(tmp_path, images):
    """User mode in user mode, and a machine in user mode: code written through one mapping and run through another, frames left by
    longjmp, host signals that are the inner one's."""
    q = [translator('x86_64')]
    assert run([*q, *q, '/bin/echo', 'twice'], 200)[:2] == (0, b'twice\n')
    machine = [program('qemu-system-x86_64'), '-cpu', 'max', '-m', '64', '-display', 'none', '-net', 'none', '-vga', 'none', '-bios', f'{images}/long.bin',
               '-debugcon', 'stdio', '-global', 'isa-debugcon.iobase=0x402', '-device', 'isa-debug-exit,iobase=0xf4', '-no-reboot', '-monitor', 'none']
    bare, inside = run(machine, 200), run([*q, *machine], 280)
    assert bare[1].count(b'\n') > 1000 and inside[:2] == bare[:2]
