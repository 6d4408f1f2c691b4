"""Bad input: damaged and hostile ELF files, random system calls. Whatever comes, it is a message or the guest's own signal, never a
fault or an assertion of ours. With LYREBIRD_BUILD naming a build with sanitizers the same runs under them."""
import os
import random
import re
import shutil
import subprocess
import tempfile

import pytest

from conftest import ROOT, need, program

CC = {'aarch64': ['aarch64-linux-gnu-gcc'], 'riscv64': ['riscv64-linux-gnu-gcc'], 'x86_64': ['gcc'],
      'i386': ['gcc', '-m32', '-I/usr/include/x86_64-linux-gnu'], 'arm': ['arm-linux-gnueabihf-gcc']}
OURS = re.compile(rb'internal fault|src/[a-z0-9_/]+\.c:\d+|AddressSanitizer|runtime error:|unexpected signal')


def build(tmp, arch, name, *flags):
    need(CC[arch][0])
    if not os.path.exists(program('qemu-' + arch)):
        pytest.skip('no translator for it')
    out = str(tmp / f'{name}-{arch}')
    if subprocess.run([*CC[arch], '-O1', '-w', '-o', out, f'{ROOT}/tests/user/progs/{name}.c', *flags], capture_output=True).returncode:
        pytest.skip(f'{arch}: cannot build here')
    return out


def mutants(data, rng, count):
    """Copies of an ELF file with its headers damaged: fields of interest set to interesting values, bytes flipped, ends cut."""
    values = [0, 1, 7, 0xfff, 0x1000, 0x10000, 0x7fffffff, 0x80000000, 0xfffff000, 0xffffffff, (1 << 47) - 4096, 1 << 47, (1 << 63) - 1, 1 << 63,
              (1 << 64) - 1]
    for n in range(count):
        d = bytearray(data)
        for _ in range(rng.randrange(1, 5)):
            kind, at = rng.randrange(4), rng.choice([rng.randrange(64), rng.randrange(64, 64 + 56 * 8), rng.randrange(16, 64 + 56 * 4) & ~7])
            if kind == 0:
                d[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                d[at] = rng.randrange(256)
            elif kind == 2:
                d[at:at + 8] = rng.choice(values).to_bytes(8, 'little')
            else:
                d[at:at + 4] = (rng.choice(values) & 0xffffffff).to_bytes(4, 'little')
        if n % 7 == 0:
            d = d[:rng.choice([rng.randrange(200), rng.randrange(len(d))])]
        yield bytes(d)


def as_nobody():
    """Whatever the guest happens to call, it is not with root's rights."""
    if os.geteuid():
        return []
    need('setpriv', 'util-linux')
    return ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--']


def sanitized():
    """A build with ASan: its shadow needs address space, and lies at 0x7fff8000, so that 32-bit guests get less than 2 GiB (-R)."""
    with open(program('lyrebird-user'), 'rb') as f:
        return b'__asan_init' in f.read()


def how(arch):
    """(What stands before the name of the translator, its environment.)"""
    env = {'PATH': os.environ['PATH'], 'LYREBIRD_TCACHE': 'off'}
    if sanitized():
        env |= {'ASAN_OPTIONS': 'detect_leaks=0:use_sigaltstack=0:handle_segv=0:handle_sigbus=0:handle_sigill=0:handle_sigfpe=0:handle_abort=0:'
                                'allocator_may_return_null=1:quarantine_size_mb=8', 'UBSAN_OPTIONS': 'print_stacktrace=1'}
        if arch in ('i386', 'arm'):
            env['QEMU_RESERVED_VA'] = '0x7fff0000'
    return [*as_nobody(), 'prlimit', '--core=0', *([] if sanitized() else ['--as=8589934592']), '--'], env


def survive(arch, path, cwd):
    before, env = how(arch)
    try:
        r = subprocess.run([*before, f'{cwd}/qemu-{arch}', path], capture_output=True,
                           timeout=60, cwd=cwd, input=b'', env=env)
    except subprocess.TimeoutExpired:
        return  # a program may loop
    assert not OURS.search(r.stderr), r.stderr[-500:]
    if r.returncode > 0 and not r.stdout:
        assert r.stderr or r.returncode < 128, 'a failure without a message'


def elf_storm(tmp_path, arch, count, seed):
    rng = random.Random(seed)
    exes = [build(tmp_path, arch, 'time', '-static', '-lpthread'), build(tmp_path, arch, 'float', '-lm')]
    with tempfile.TemporaryDirectory(dir='/tmp') as work:
        os.chmod(work, 0o777)
        shutil.copy(program('qemu-' + arch), f'{work}/qemu-{arch}')
        os.chmod(f'{work}/qemu-{arch}', 0o755)
        for exe in exes:
            with open(exe, 'rb') as f:
                data = f.read()
            for m in mutants(data, rng, count // 2):
                if os.path.exists(work + '/mutant'):
                    os.unlink(work + '/mutant')
                with open(work + '/mutant', 'wb') as f:
                    f.write(m)
                os.chmod(work + '/mutant', 0o755)
                try:
                    survive(arch, work + '/mutant', work)
                except AssertionError:
                    shutil.copy(work + '/mutant', tmp_path / 'failed')
                    raise


@pytest.mark.proves('F-USR-03')
@pytest.mark.parametrize('arch', CC)
def test_jumps_to_where_nothing_is_are_the_programs_own_fault(tmp_path, arch):
    """Among them to each number that could stand for an empty entry in a table of the translator's."""
    r = subprocess.run([program('qemu-' + arch), build(tmp_path, arch, 'nowhere', '-static')], capture_output=True, timeout=60)
    assert r.returncode == 0 and r.stdout.startswith(b'0 of '), (r.stdout, r.stderr)


@pytest.mark.limit(400)
@pytest.mark.proves('F-USR-02')
@pytest.mark.parametrize('arch', CC)
def test_damaged_programs(tmp_path, arch):
    elf_storm(tmp_path, arch, 60, 5)


@pytest.mark.long
@pytest.mark.limit(6000)
@pytest.mark.parametrize('arch', CC)
def test_many_damaged_programs(tmp_path, arch):
    elf_storm(tmp_path, arch, 4000, 6)


def call_storm(tmp_path, arch, seed, children):
    exe = build(tmp_path, arch, 'fuzzcalls', '-static')
    with tempfile.TemporaryDirectory(dir='/tmp') as work:  # nobody must be able to get there
        os.chmod(work, 0o777)
        shutil.copy(exe, f'{work}/calls')
        shutil.copy(program('qemu-' + arch), f'{work}/qemu-{arch}')
        os.chmod(f'{work}/calls', 0o755)
        os.chmod(f'{work}/qemu-{arch}', 0o755)
        # Standard input is a pipe: calls change what descriptors show.
        # Memory is not limited by address space under a sanitizer: whoever takes too much is to be the first to go.
        free = ['free'] if sanitized() else []
        r = subprocess.run(['choom', '-n', '1000', '--', *as_nobody(), 'unshare', '--user', '--mount', '--net', '--ipc', '--uts', '--pid',
                            '--fork', '--kill-child', f'{work}/qemu-{arch}', f'{work}/calls', str(seed), str(children), *free],
                           capture_output=True, timeout=3000, cwd=work, input=b'', env=how(arch)[1])
    print(f'{arch}: {r.stdout.decode(errors="replace")}')
    if b'unshare:' in r.stderr:
        pytest.skip('host: no name spaces: ' + r.stderr.decode()[-100:])
    assert not OURS.search(r.stderr), r.stderr[-800:]
    assert r.returncode == 0 and r.stdout.endswith(b'done\n'), r.stderr[-800:]


@pytest.mark.limit(400)
@pytest.mark.proves('F-USR-01')
@pytest.mark.parametrize('arch', CC)
def test_random_system_calls(tmp_path, arch):
    call_storm(tmp_path, arch, 100, 8)


@pytest.mark.long
@pytest.mark.limit(6000)
@pytest.mark.parametrize('arch', CC)
def test_many_random_system_calls(tmp_path, arch):
    call_storm(tmp_path, arch, 5000, 500)


RUNAWAY = r"""
static int down(volatile char *p, int n) { volatile char b[1000]; b[0] = n; return down(b, n + 1) + b[0] + p[0]; }
int main(void) { volatile char c = 0; return down(&c, 0); }
"""
NO_STACK = r"""
int main(void)
{
#if defined(__x86_64__)
    __asm__("mov $0x10000000, %rsp; push %rax");
#elif defined(__i386__)
    __asm__("mov $0x10000000, %esp; push %eax");
#elif defined(__aarch64__)
    __asm__("mov x0, #0x10000000; mov sp, x0; str x0, [sp, #-16]!");
#elif defined(__arm__)
    __asm__("mov r0, #0x10000000; mov sp, r0; push {r0}");
#else
    __asm__("li sp, 0x10000000; sd a0, -8(sp)");
#endif
    return 0;
}
"""
# And with a handler that cannot be entered there: still the program's own death.
HANDLED = '#include <signal.h>\nstatic void on(int s) {}\nint main2(void);\nint main(void) { signal(SIGSEGV, on); return main2(); }\n#define main main2\n'


@pytest.mark.limit(400)
@pytest.mark.proves('F-USR-01')
@pytest.mark.parametrize('arch', CC)
def test_stacks_that_end_or_are_not_there_are_the_guests_own_signal(tmp_path, arch):
    need(CC[arch][0])
    for name, text in (('runaway', RUNAWAY), ('none', NO_STACK), ('runaway2', HANDLED + RUNAWAY), ('none2', HANDLED + NO_STACK)):
        (tmp_path / f'{name}.c').write_text(text)
        exe = str(tmp_path / name)
        if subprocess.run([*CC[arch], '-static', '-w', '-O0', '-fomit-frame-pointer', '-o', exe, f'{exe}.c'], capture_output=True).returncode:
            pytest.skip(f'{arch}: cannot build here')
        before, env = how(arch)
        r = subprocess.run([*before[before.index('prlimit'):], program('qemu-' + arch), exe], capture_output=True, timeout=100, env=env)
        assert (r.returncode, r.stdout, r.stderr) == (-11, b'', b''), (name, r)


@pytest.mark.proves('F-USR-03')
@pytest.mark.parametrize('arch', CC)
def test_a_missing_interpreter_is_named_with_its_package(tmp_path, arch):
    exe = build(tmp_path, arch, 'time', '-Wl,--dynamic-linker=/lib/no-such-ld.so.9', '-lpthread')
    for more in ([], ['-L', '/nowhere']):
        r = subprocess.run([program('qemu-' + arch), *more, exe], capture_output=True, text=True, timeout=100)
        package = {'aarch64': 'arm64', 'arm': 'armhf', 'x86_64': 'amd64'}.get(arch, arch)
        assert r.returncode == 1 and len(r.stderr.splitlines()) == 1, r.stderr
        for want in (exe, '/lib/no-such-ld.so.9', f'libc6-{package}-cross', '-L', *(['/nowhere/lib/no-such-ld.so.9'] if more else [])):
            assert want in r.stderr, (want, r.stderr)
