"""32-bit Arm programs under our qemu-arm, A32 and T32, hard and soft float: the same output and status as under Debian's, static and
dynamic. The instruction tests themselves are tests/diff/arm."""
import os
import subprocess

import pytest

from conftest import ROOT, need, program

CC = 'arm-linux-gnueabihf-gcc'
SYSROOT = '/usr/arm-linux-gnueabihf'
SRC = os.path.join(ROOT, 'tests/user/progs')


def build(tmp, name, *flags, src=None):
    need(CC)
    out = str(tmp / name)
    subprocess.run([CC, '-O1', '-w', '-o', out, src or f'{SRC}/{name}.c', *flags, '-lpthread', '-lm'], check=True)
    return out


def outcome(cmd, cwd):
    r = subprocess.run(cmd, capture_output=True, timeout=200, stdin=subprocess.DEVNULL, cwd=str(cwd))
    return r.returncode, r.stdout


@pytest.mark.proves('F-PRG-15', 'F-PRG-16', 'F-USR-08')
@pytest.mark.parametrize('how', [('-static', '-marm'), ('-fPIE', '-mthumb')], ids=['static-a32', 'dynamic-t32'])
@pytest.mark.parametrize('name', ['float', 'smc', 'threads', 'signals', 'time', 'deep'])
def test_program_does_what_it_does_under_the_oracle(tmp_path, name, how):
    need('qemu-arm')
    exe = build(tmp_path, name, *how)
    ours = outcome([program('qemu-arm'), exe], tmp_path)
    theirs = outcome(['qemu-arm', '-L', SYSROOT, exe], tmp_path)
    assert ours == theirs
    assert ours[0] == 0 and ours[1]


@pytest.mark.proves('F-USR-08')
@pytest.mark.parametrize('sets', ['-marm', '-mthumb'])
def test_faults_name_their_kind_and_address(tmp_path, sets):
    """As Linux has it: an undefined instruction is ILL_ILLOPC (the oracle says ILLOPN)."""
    out = outcome([program('qemu-arm'), build(tmp_path, 'faults', '-static', sets)], tmp_path)
    assert out[0] == 0
    assert out[1].splitlines()[:7] == [b'signal 11 code 1 at 16', b'signal 11 code 2 at page+100', b'signal 11 code 2 at page+200',
                                       b'written 42', b'signal 11 code 1 at page+4096', b'signal 4 code 1 at 0',
                                       b'signal 11 code 2 at page+0']


@pytest.mark.proves('F-USR-03', 'N-95')
@pytest.mark.parametrize('name', ['qemu-arm', 'qemu-arm-static', 'lyrebird-user'])
def test_the_cross_libraries_are_found_without_being_told(tmp_path, name):
    exe = build(tmp_path, 'forks')
    run = program(name) if name != 'lyrebird-user' else os.path.realpath(program('qemu-arm'))
    out = outcome([run, exe], tmp_path)[1]
    assert b'status 9' in out and b'spawn of nothing 2' in out, out


@pytest.mark.proves('F-USR-08')
def test_big_endian_programs_and_other_models_are_refused_by_name(tmp_path):
    exe = build(tmp_path, 'time', '-static')
    with open(exe, 'r+b') as f:  # EI_DATA, e_type and e_machine
        f.seek(5)
        f.write(b'\2')
        f.seek(16)
        f.write(b'\0\2\0\x28')
    for cmd, word in (([program('qemu-arm'), exe], 'big-endian'),
                      ([program('qemu-arm'), '-cpu', 'cortex-z99', '/bin/true'], 'cortex-z99')):
        r = subprocess.run(cmd, capture_output=True, text=True, timeout=60)
        assert r.returncode != 0 and word in r.stderr and len(r.stderr.splitlines()) <= 2, r.stderr


HELPERS = r'''
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
static int v = 5;
static long long w __attribute__((aligned(8))) = 7;
__attribute__((target("arm"))) static int store_here(void) /* writes the immediate of the instruction behind it */
{
    static unsigned page[2048] __attribute__((aligned(4096)));
    unsigned *code = page + 16;
    code[0] = 0xe5c01000;  /* strb r1, [r0] */
    code[1] = 0xe3a00001;  /* mov r0, #1 */
    code[2] = 0xe12fff1e;  /* bx lr */
    extern int mprotect(void *, unsigned, int);
    mprotect(page, 4096, 7);
    int first = ((int (*)(void *, int))code)(code + 1, 9), second;
    syscall(0xf0002, code, code + 3, 0);
    second = ((int (*)(void *, int))code)(page + 2, 9);
    return (first == 1 || first == 9) && second == 9;
}
int main(void)
{
    int (*cas)(int, int, volatile int *) = (void *)0xffff0fc0;
    int (*cas64)(const long long *, const long long *, volatile long long *) = (void *)0xffff0f60;
    void *(*tls)(void) = (void *)0xffff0fe0;
    void (*barrier)(void) = (void *)0xffff0fa0;
    long long old = 7, new = 1LL << 40, bad = 8;
    int a = cas(5, 6, &v), b = cas(5, 7, &v), c = cas64(&bad, &old, &w), d = cas64(&old, &new, &w);
    barrier();
    printf("%d %d %d %d %d %d\n", a, !!b, v, !!c, d, w == new);
    printf("tls %d version %d\n", tls() == __builtin_thread_pointer(), *(int *)0xffff0ffc);
    printf("own page %d\n", store_here());
}
'''


@pytest.mark.proves('F-USR-08')
def test_the_kernels_helper_page_and_stores_into_the_own_page(tmp_path):
    src = tmp_path / 'helpers.c'
    src.write_text(HELPERS)
    exe = build(tmp_path, 'helpers', '-static', '-marm', src=str(src))
    assert outcome([program('qemu-arm'), exe], tmp_path) == (0, b'0 1 6 1 0 1\ntls 1 version 5\nown page 1\n')


@pytest.mark.proves('F-USR-08')
def test_soft_float_calls_and_neon_code(tmp_path):
    """The same sums by soft-float library calls, by VFP and by vectorised code."""
    src = tmp_path / 'sums.c'
    src.write_text('#include <stdio.h>\nint main(void){static float a[99],b[99];static int p[99],q[99];double s=0;int t=0;'
                   'for(int i=0;i<99;i++){a[i]=i*0.5f;b[i]=99-i;p[i]=i*7;q[i]=i^5;}for(int i=0;i<99;i++)a[i]=a[i]*b[i];'
                   'for(int i=0;i<99;i++){p[i]=p[i]*q[i]+(p[i]>>1);}for(int i=0;i<99;i++){s+=a[i];t+=p[i];}'
                   'printf("%.3f %d\\n",s,t);}')
    seen = set()
    for flags in (('-mfloat-abi=hard', '-O3', '-mfpu=neon', '-ffast-math'), ('-mfloat-abi=hard', '-mfpu=vfpv3-d16'), ('-marm', '-O0')):
        seen.add(outcome([program('qemu-arm'), build(tmp_path, 'sums', '-static', *flags, src=str(src))], tmp_path))
    assert len(seen) == 1 and seen.pop()[0] == 0


@pytest.mark.proves('F-USR-08')
def test_a_block_that_ends_within_an_it_block_keeps_flags_and_state(tmp_path):
    """What python3 met: the 16-bit ADD behind the end of a block was taken for the ADDS it would be elsewhere, and CBZ left a block
    that had begun within an IT block with the state of its start."""
    src = tmp_path / 'it.S'
    src.write_text('.syntax unified\n.thumb\n.text\n.globl count\n.thumb_func\n.type count,%function\ncount:\n push {r4-r6, lr}\n'
                   ' movs r1, #0\n movs r2, #0\n movs r3, #0\n movs r4, #0\n movs r5, #0\n movs r6, #0\n' +
                   ''.join(f' cmp r0, #{n % 7}\n ite eq\n addeq r1, #1\n addne r2, #1\n cmp r0, #{n % 5}\n it gt\n addgt r4, #1\n'
                           f' .rept {46 + n % 14}\n nop\n .endr\n cmp r0, #{n % 3}\n it eq\n addeq r5, #1\n cbz r3, {n}f\n nop\n{n}: adds r6, #1\n'
                           for n in range(420)) +
                   ' add.w r0, r1, r2, lsl #10\n add.w r0, r0, r4, lsl #20\n mov r1, r6\n pop {r4-r6, pc}\n.section .note.GNU-stack\n')
    main = tmp_path / 'main.c'
    main.write_text('#include <stdio.h>\nunsigned long long count(int);\nint main(void) { for (int i = 0; i < 8; i++) printf("%llx\\n", count(i)); }\n')
    exe = str(tmp_path / 'it')
    subprocess.run([need(CC), '-static', '-mthumb', '-o', exe, str(main), str(src)], check=True)
    want = ['%x' % (sum(n % 7 == i for n in range(420)) | sum(n % 7 != i for n in range(420)) << 10 | sum(i > n % 5 for n in range(420)) << 20 |
                     420 << 32)
            for i in range(8)]
    assert outcome([program('qemu-arm'), exe], tmp_path) == (0, '\n'.join(want + ['']).encode())


@pytest.mark.proves('F-USR-08')
def test_blocks_that_begin_and_end_within_it_blocks_and_have_side_exits(tmp_path):
    """What 7zz met (a wrong file): a branch not taken had cleared the ITSTATE that the block's end took for still there."""
    src = tmp_path / 'it.S'
    nops = ' .rept {}\n nop\n .endr\n'
    src.write_text('.syntax unified\n.thumb\n.text\n.balign 4096\n.globl count\n.thumb_func\n.type count,%function\ncount:\n movs r1, #0\n' +
                   nops.format(60) + ' cmp r0, #9\n it eq\n' +
                   ''.join(f' addeq r1, #1\n{nops.format(58)} cmp r0, #100\n beq 9f\n cmp r0, #{n % 5}\n it eq\n' for n in range(20)) +
                   ' addeq r1, #1\n9: mov r0, r1\n bx lr\n.section .note.GNU-stack\n')
    main = tmp_path / 'main.c'
    main.write_text('#include <stdio.h>\nint count(int);\nint main(void) { for (int i = 0; i < 10; i++) printf("%d\\n", count(i)); }\n')
    exe = str(tmp_path / 'it')
    subprocess.run([need(CC), '-static', '-mthumb', '-o', exe, str(main), str(src)], check=True)
    assert outcome([program('qemu-arm'), exe], tmp_path) == (0, b'4\n' * 5 + b'0\n' * 4 + b'1\n')


@pytest.mark.proves('F-USR-08')
@pytest.mark.parametrize('gap', [0xbc0000, 0x38a43e])
def test_far_branches_forward_are_branches(tmp_path, gap):
    """What cc1 and postgres met: B.W and BL over 11.5 to 12 MiB share their first bits with the undefined ones, one over
    3.5 MiB all but a bit with MSR."""
    src = tmp_path / 'far.S'
    src.write_text('.syntax unified\n.thumb\n.text\n.globl near\n.thumb_func\n.type near,%function\nnear: push {r4, lr}\n movs r4, #0\n'
                   ' bl far\n bl over\n mov r0, r4\n pop {r4, pc}\n.thumb_func\nover: b.w far\n udf #0\n.space GAP\n.globl far\n.thumb_func\n'
                   '.type far,%function\nfar: adds r4, #3\n bx lr\n.section .note.GNU-stack\n'.replace('GAP', str(gap - 2)))
    main = tmp_path / 'main.c'
    main.write_text('int near(void);\nint main(void) { return near(); }\n')
    exe = str(tmp_path / 'far')
    subprocess.run([need(CC), '-static', '-mthumb', '-o', exe, str(main), str(src)], check=True)
    assert outcome([program('qemu-arm'), exe], tmp_path) == (6, b'')


SHORT = r"""
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
static long call(long nr, long fd, void *p, long n, long flags, long r4, long r5)
{
    register long r0 __asm__("r0") = fd, r1 __asm__("r1") = (long)p, r2 __asm__("r2") = n, r3 __asm__("r3") = flags;
    register long q4 __asm__("r4") = r4, q5 __asm__("r5") = r5, q7 __asm__("r7") = nr;
    __asm__ volatile("svc #0" : "+r"(r0) : "r"(r1), "r"(r2), "r"(r3), "r"(q4), "r"(q5), "r"(q7) : "memory");
    return r0;
}
int main(void)
{
    char buf[8] = "";
    int s[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    long w = call(SYS_send, s[0], "abc", 3, 0, 16, 1 << 20), r = call(SYS_recv, s[1], buf, 8, MSG_DONTWAIT, 16, 1 << 20);
    printf("%ld %ld %s\n", w, r, buf);
}
"""


@pytest.mark.proves('F-USR-08')
def test_calls_with_fewer_arguments_than_the_hosts_use_no_others(tmp_path):
    """What postgres met: recv has four arguments, and the host's recvfrom, which it is made of, six."""
    src = tmp_path / 'short.c'
    src.write_text(SHORT)
    assert outcome([program('qemu-arm'), build(tmp_path, 'short', '-static', '-marm', src=str(src))], tmp_path) == (0, b'3 3 abc\n')
