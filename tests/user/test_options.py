"""Every option of the user-mode programs, by itself and by its environment variable: both do the same, and it is what they say."""
import os
import re
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from conftest import need  # noqa: E402
from progs import run, translator  # noqa: E402

SRC = r'''
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/utsname.h>
int main(int argc, char **argv)
{
    unsigned char *r = (unsigned char *)getauxval(AT_RANDOM);
    unsigned long lo, hi, size = 0;
    struct utsname u;
    char line[512];
    FILE *f = fopen("/proc/self/maps", "r");

    while (fgets(line, sizeof line, f))
        if (strstr(line, "[stack]") && sscanf(line, "%lx-%lx", &lo, &hi) == 2)
            size = (hi - lo) / 1024;
    uname(&u);
    printf("%s|%s|%s|%s|%lu|", argv[0], u.release, getenv("ADDED") ? getenv("ADDED") : "", getenv("TAKEN") ? getenv("TAKEN") : "", size);
    for (int i = 0; i < 16; i++)
        printf("%02x", r[i]);
    printf("|%lu\n", getauxval(AT_PAGESZ));
    return 0;
}
'''
ARG0, RELEASE, ADDED, TAKEN, STACK, RANDOM, PAGE = range(7)
# option, value, its variable, where it shows and as what
SHOWN = [('-0', 'called-so', 'QEMU_ARGV0', ARG0, 'called-so'), ('-r', '9.8.7-own', 'QEMU_UNAME', RELEASE, '9.8.7-own'),
         ('-E', 'ADDED=x y', 'QEMU_SET_ENV', ADDED, 'x y'), ('-U', 'TAKEN', 'QEMU_UNSET_ENV', TAKEN, ''),
         ('-s', '1048576', 'QEMU_STACK_SIZE', STACK, '1024'), ('-p', '4096', 'QEMU_PAGESIZE', PAGE, '4096'),
         ('-B', '0', 'QEMU_GUEST_BASE', ADDED, ''), ('-seed', '7', 'QEMU_RAND_SEED', RANDOM, None)]
REFUSED = [('-p', '8192', 'QEMU_PAGESIZE'), ('-B', '0x1000', 'QEMU_GUEST_BASE'), ('-cpu', 'nosuch', 'QEMU_CPU'), ('-s', 'much', 'QEMU_STACK_SIZE'),
           ('-seed', 'x', 'QEMU_RAND_SEED'), ('-R', '12345', 'QEMU_RESERVED_VA'), ('-tb-size', '3', 'QEMU_TB_SIZE'), ('-d', 'nosuch', 'QEMU_LOG'),
           ('-D', '/nonexistent/x', 'QEMU_LOG_FILENAME')]


@pytest.fixture(scope='module')
def exe(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('options')
    (tmp / 'o.c').write_text(SRC)
    out = {}
    for arch, cc in (('x86_64', 'gcc'), ('aarch64', 'aarch64-linux-gnu-gcc')):
        out[arch] = str(tmp / arch)
        subprocess.run([need(cc), '-O1', '-static', '-o', out[arch], str(tmp / 'o.c')], check=True)
    return out


def go(arch, *args, **env):
    return run([translator(arch), *args], env={**os.environ, 'TAKEN': 'here', **env})


def shown(result):
    rc, out, err = result
    assert (rc, err) == (0, b''), err
    return out.decode().rstrip('\n').split('|')


@pytest.mark.proves('F-PRG-15', 'F-PRG-16')
@pytest.mark.parametrize('arch', ['x86_64', 'aarch64'])
def test_each_option_and_its_variable_do_the_same(exe, arch):
    plain = shown(go(arch, exe[arch]))
    assert plain[ARG0] == exe[arch] and plain[TAKEN] == 'here' and plain[ADDED] == ''
    for option, value, var, at, want in SHOWN:
        by_option, by_var = shown(go(arch, option, value, exe[arch])), shown(go(arch, exe[arch], **{var: value}))
        want = by_option[at] if want is None else want
        assert by_option[at] == by_var[at] == want, option
        others = [i for i in range(7) if i not in (at, RANDOM)]
        assert [by_option[i] for i in others] == [by_var[i] for i in others] == [plain[i] for i in others], option
    seeded = [shown(go(arch, '-seed', n, exe[arch]))[RANDOM] for n in ('7', '7', '8')]
    assert seeded[0] == seeded[1] != seeded[2]


@pytest.mark.proves('F-PRG-15')
def test_what_an_option_cannot_be_is_refused_either_way(exe):
    for option, value, var in REFUSED:
        for result in (go('x86_64', option, value, exe['x86_64']), go('x86_64', exe['x86_64'], **{var: value})):
            rc, out, err = result
            assert rc == 1 and not out and err.count(b'\n') == 1 and option.encode() in err, (option, err)


@pytest.mark.proves('F-PRG-15')
def test_logs_go_where_they_are_sent(exe, tmp_path):
    def calls(text):
        """Without what differs: addresses and process ids."""
        return re.sub(rb'0x[0-9a-f]+|^\d+ |set_tid_address.*', b'N', text, flags=re.M)

    prog, log = exe['x86_64'], tmp_path / 'log'
    by_option = go('x86_64', '-strace', prog)[2]
    assert b'exit_group(0) = ?\n' in by_option and b'openat(AT_FDCWD, "/proc/self/maps", O_RDONLY) = 3\n' in by_option
    assert calls(go('x86_64', prog, QEMU_STRACE='1')[2]) == calls(by_option)
    assert calls(go('x86_64', '-d', 'strace', prog)[2]) == calls(by_option)
    for args, env in ((('-d', 'strace', '-D', str(log)), {}), ((), {'QEMU_LOG': 'strace', 'QEMU_LOG_FILENAME': str(log)})):
        rc, _, err = go('x86_64', *args, prog, **env)
        assert (rc, err) == (0, b'')
        assert calls(log.read_bytes()) == calls(by_option)  # descriptors too: the log takes none of the first
        log.unlink()
    for args, env in (((), {}), (('-one-insn-per-tb',), {}), ((), {'QEMU_ONE_INSN_PER_TB': '1'}), ((), {'QEMU_SINGLESTEP': '1'})):
        text = go('x86_64', '-d', 'jit', *args, prog, **env)[2]
        insns, blocks = map(int, re.search(rb'translated (\d+) instructions in (\d+) blocks', text).groups())
        assert (insns == blocks) == bool(args or env), text


@pytest.mark.proves('F-PRG-15')
def test_the_debugger_is_waited_for_either_way(exe, tmp_path):
    for n, env in enumerate(({}, {'QEMU_GDB': str(tmp_path / 's1')})):
        sock = str(tmp_path / f's{n}')
        p = subprocess.Popen([translator('x86_64'), *([] if env else ['-g', sock]), exe['x86_64']], env={**os.environ, **env},
                             stdout=subprocess.PIPE)
        try:
            for _ in range(1200):
                if os.path.exists(sock) or p.poll() is not None:
                    break
                time.sleep(0.05)
            assert os.path.exists(sock) and p.poll() is None
        finally:
            p.kill()
            assert p.communicate()[0] == b''


@pytest.mark.proves('F-PRG-15')
def test_models_and_programs_executed_keep_their_options(exe, tmp_path):
    models = [w for line in go('x86_64', '-cpu', 'help')[1].decode().splitlines() for w in line.split()[1:2]]
    assert 'max' in models
    for name in ('max', 'qemu64'):
        if name in models:
            assert go('x86_64', '-cpu', name, exe['x86_64'])[0] == go('x86_64', exe['x86_64'], QEMU_CPU=name)[0] == 0
    rc, out, _ = go('x86_64', '-r', '9.8.7-own', '-s', '1048576', '/bin/sh', '-c', exe['x86_64'])
    assert rc == 0 and out.decode().split('|')[RELEASE] == '9.8.7-own' and out.decode().split('|')[STACK] == '1024'


# The file of the root it lies in, by itself and by what it executes.
WHICH = r"""
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    char line[64] = "none";
    FILE *f = fopen("/which.txt", "r");

    if (f)
        fgets(line, sizeof line, f);
    printf("%s ", line);
    fflush(stdout);
    return argc > 1 ? execl(argv[1], argv[1], NULL) : 0;
}
"""
ROOTS = {'x86_64': ('gcc', '/lib64/ld-linux-x86-64.so.2', 'amd64'),
         'aarch64': ('aarch64-linux-gnu-gcc', '/usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1', 'arm64')}


@pytest.mark.proves('F-PRG-15', 'F-USR-03')
@pytest.mark.parametrize('arch', ROOTS)
def test_the_root_of_the_programs_system_is_given_either_way(tmp_path, arch):
    cc, ld, package = ROOTS[arch]
    for name in 'ab':
        (tmp_path / name / 'own').mkdir(parents=True)
        (tmp_path / name / 'which.txt').write_text(name)
        (tmp_path / name / 'own/ld.so').symlink_to(ld)
        (tmp_path / name / 'lib').symlink_to(os.path.dirname(ld))
    (tmp_path / 'empty').mkdir()
    a, b, empty, exe = (str(tmp_path / n) for n in ('a', 'b', 'empty', 'which'))
    (tmp_path / 'which.c').write_text(WHICH)
    subprocess.run([need(cc), '-o', exe, exe + '.c', '-Wl,--dynamic-linker=/own/ld.so'], check=True)
    for args, env, want in (((), a, b'a a '), (('-L', a), None, b'a a '), (('-L', b), a, b'b b '), (('-L', a), b, b'a a '),
                            (('-L', a), empty, b'a a '), (('-L', a, '-L', b), None, b'b b '), (('-L', a), str(tmp_path / 'not/there'), b'a a ')):
        got = go(arch, *args, exe, exe, **({'QEMU_LD_PREFIX': env} if env else {}))
        assert got == (0, want, b''), (args, env)
    for wrong in (empty, str(tmp_path / 'not/there')):
        by_option, by_var, both = go(arch, '-L', wrong, exe), go(arch, exe, QEMU_LD_PREFIX=wrong), go(arch, '-L', wrong, exe, QEMU_LD_PREFIX=a)
        assert by_option == by_var == both  # the option wins: the right folder of the variable is not looked into
        assert by_option[0] == 1 and not by_option[1] and by_option[2].count(b'\n') == 1
        for text in (exe, 'needs the interpreter /own/ld.so', f'looked for {wrong}/own/ld.so', f'libc6-{package}-cross', '-L'):
            assert text.encode() in by_option[2], (text, by_option[2])


# Calls whose line differs between two runs natively, or by what the program runs on.
DIFFER = ('brk', 'arch_prctl', 'set_tid_address', 'set_robust_list', 'rseq', 'prlimit64', 'getrandom', 'execve')


@pytest.mark.proves('F-PRG-15')
def test_strace_reads_like_straces(tmp_path):
    """The lines of our -strace are those of strace itself, structures aside, which are addresses here."""
    strace = need('strace')
    cmd = ['/bin/cat', '/etc/hostname', '/nonexistent']
    theirs = subprocess.run([strace, '-o', str(tmp_path / 't'), *cmd], capture_output=True)
    if theirs.returncode != 1 or not (tmp_path / 't').exists():
        pytest.skip('strace cannot trace here')
    run([translator('x86_64'), '-d', 'strace', '-D', str(tmp_path / 'o'), *cmd])
    ours = (tmp_path / 'o').read_text()  # it closes its standard error before it ends

    def lines(text):
        out = []
        for line in text.splitlines():
            line = re.sub(r'^\d+ ', '', line)
            line = re.sub(r'\s+= ', ' = ', line)
            line = re.sub(r'\{.*\}|0x[0-9a-f]+|NULL', 'P', line)
            name = line.split('(')[0]
            if re.match(r'\w+\(', line) and name not in DIFFER:
                out.append(line)
        return out
    want, got = lines((tmp_path / 't').read_text()), lines(ours)
    same = [line for line in want if line in got]
    assert len(want) > 20
    assert [line.split('(')[0] for line in want] == [line.split('(')[0] for line in got]
    assert len(same) > 0.75 * len(want), set(want) - set(got)
    assert any('= -1 ENOENT (No such file or directory)' in line and '/nonexistent' in line for line in same)
