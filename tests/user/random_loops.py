"""Random loops of x86-64 code over all registers, as a C program that prints what each left in registers, flags and memory, also
where it ended by a fault, and while a timer's signals arrive."""
import random

REGS = ['rax', 'rcx', 'rdx', 'rbp', 'rdi', 'r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15']
LOW = {'rax': ('eax', 'ax', 'al'), 'rcx': ('ecx', 'cx', 'cl'), 'rdx': ('edx', 'dx', 'dl'), 'rbp': ('ebp', 'bp', 'bpl'), 'rdi': ('edi', 'di', 'dil'),
       **{f'r{n}': (f'r{n}d', f'r{n}w', f'r{n}b') for n in range(8, 16)}}
CC = ['o', 'no', 'b', 'ae', 'e', 'ne', 'be', 'a', 's', 'ns', 'l', 'ge', 'le', 'g']
C = r'''
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
uint64_t in[18], out[18], near_us[64];
__thread uint64_t beside[64];
void *volatile keep_sp;
void %(decl)s;
static void (*const loop[])(void) = {%(names)s};
static uint8_t *buf;
static sigjmp_buf back;
static uint64_t sum;
static void add(uint64_t v) { sum = (sum ^ v) * UINT64_C(0x100000001b3); }
static void fault(int s, siginfo_t *i, void *c)
{
    static const int r[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RBP, REG_RSI, REG_RDI, REG_R8, REG_R9, REG_R10, REG_R11, REG_R12,
                            REG_R13, REG_R14, REG_R15};
    greg_t *g = ((ucontext_t *)c)->uc_mcontext.gregs;
    add((uint64_t)s + ((uintptr_t)i->si_addr - (uintptr_t)buf));
    for (unsigned k = 0; k < sizeof r / sizeof *r; k++)
        add((uint64_t)g[r[k]]);
    add((uint64_t)g[REG_RIP] - (uintptr_t)loop[0]);
    add((uint64_t)g[REG_EFL] & 0x8c5);
    siglongjmp(back, 1);
}
static volatile sig_atomic_t ticks;
static void tick(int s) { (void)s; ticks++; }
int main(void)
{
    struct sigaction sa = {.sa_sigaction = fault, .sa_flags = SA_SIGINFO}, st = {.sa_handler = tick, .sa_flags = SA_RESTART};
    struct itimerval t = {{0, 100}, {0, 100}};
    uint64_t seed = 88172645463325252u;
    buf = mmap((void *)0x10000000, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    mprotect(buf + 4096, 4096, PROT_NONE);
    sigaction(SIGSEGV, &sa, NULL);
    sigaction(SIGALRM, &st, NULL);
    setitimer(ITIMER_REAL, &t, NULL);
    for (unsigned k = 0; k < sizeof loop / sizeof *loop; k++) {
        sum = k;
        for (unsigned n = 0; n < 4; n++) {
            for (unsigned i = 0; i < 18; i++) {
                seed ^= seed << 13; seed ^= seed >> 7; seed ^= seed << 17;
                in[i] = seed;
            }
            for (unsigned i = 0; i < 4096; i++)
                buf[i] = (uint8_t)(seed >> (i & 31));
            memset(near_us, 7, sizeof near_us);
            memset(beside, 5, sizeof beside);
            in[17] = (seed & 0x8d5) | 0x202;
            if (!sigsetjmp(back, 1))
                loop[k]();
            for (unsigned i = 0; i < 17; i++)
                add(out[i]);
            add(out[17] & 0x8c5);
            for (unsigned i = 0; i < 64; i++)
                add(near_us[i] + beside[i]);
            for (unsigned i = 0; i < 4096; i++)
                add(buf[i]);
        }
        printf("%%u %%016llx\n", k, (unsigned long long)sum);
    }
    return 0;
}
'''


class Loop:
    def __init__(self, rnd, n):
        self.r, self.n, self.text, self.defined = rnd, n, [], False
        self.kind = rnd.choice(['dec', 'sub', 'cmp', 'mem'])
        self.count = rnd.choice(['rax', 'rcx', 'r8', 'r9', 'r10', 'r11', 'r15'])
        self.bound = rnd.choice([x for x in ('r9', 'rdx', 'r11', 'r14') if x != self.count])
        self.walks = rnd.random() < 0.3
        self.free = [x for x in REGS if x not in (self.count, self.bound) and not (self.walks and x == 'rdi')]
        self.hot = rnd.sample(self.free, 4) + ['r10', 'r11']
        self.hot = [x for x in self.hot if x in self.free]

    def reg(self, write=True):
        return self.r.choice(self.hot if self.r.random() < 0.7 else self.free if write else REGS)

    def size(self, reg, k):
        return '%' + (reg if k == 8 else LOW[reg][{4: 0, 2: 1, 1: 2}[k]])

    def mem(self):
        d = self.r.randrange(0, 31) * 8
        how = self.r.randrange(6)
        if how == 0:
            return f'{d}(%rbx)'
        if how == 1:
            return f'{d}(%rsp)'
        if how == 4:
            return f'near_us+{d}(%rip)'
        if how == 5:
            return f'%fs:beside@tpoff+{d}'
        i = self.reg()
        self.text.append(f'and $31, %{i}')
        self.defined = True
        return f'{d}(%rbx,%{i},8)' if how == 2 else f'{d}(%rsi,%{i},{self.r.choice([1, 2, 4, 8])})'

    def one(self):
        r, k = self.r, self.r.choice([8, 8, 8, 4, 4, 2, 1])
        s = {8: 'q', 4: 'l', 2: 'w', 1: 'b'}[k]
        op = r.choice(['add', 'sub', 'xor', 'and', 'or', 'adc', 'sbb', 'cmp', 'mov', 'test'])
        a, b = self.reg(), self.reg(False)
        w = r.randrange(14)
        cc = r.choice(CC)
        if w <= 2:
            t = f'{op}{s} {self.size(b, k)}, {self.size(a, k)}'
        elif w == 3:
            t = f'{op}{s} ${r.randrange(-100, 100)}, {self.size(a, k)}'
        elif w == 4 and op != 'test':
            t = f'{op}{s} {self.mem()}, {self.size(a, k)}'
        elif w == 5:
            t = f'{op}{s} {self.size(b, k)}, {self.mem()}'
        elif w == 6:
            t = f'lea {r.randrange(-50, 50)}(%{b},%{self.reg(False)},{r.choice([1, 2, 4, 8])}), {self.size(a, r.choice([8, 4]))}'
        elif w == 7:
            t = r.choice([f'rol{s} ${r.randrange(1, k * 8)}, {self.size(a, k)}', f'not{s} {self.size(a, k)}', f'inc{s} {self.size(a, k)}',
                          f'neg{s} {self.size(a, k)}', f'bswap %{a}', f'rorx ${r.randrange(1, 60)}, %{b}, %{a}', f'lea (%rsp,%{b}), %{a}; sub %rsp, %{a}'])
        elif w == 8:
            t = f'set{cc} {self.size(a, 1)}' if r.random() < 0.5 else f'cmov{cc} %{b}, %{a}'
        elif w == 9:
            t = f'movzb{r.choice("lq")} {self.size(b, 1)}, '
            t += self.size(a, 4 if t[5] == 'l' else 8)
        elif w == 10:
            t = f'imul {self.size(b, 8)}, %{a}' if r.random() < 0.5 else f'imul $77, {self.size(b, 4)}, {self.size(a, 4)}'
            return [t, f'test %{a}, %{a}']
        elif w == 11:
            t = f'movq %{b}, %xmm{r.randrange(4)}' if r.random() < 0.5 else f'movq %xmm{r.randrange(4)}, %{a}'
        elif w == 12 and 'rdx' in self.free and 'rax' in self.free:
            return [f'mul %{b}', 'test %rdx, %rdx']
        elif w == 13 and r.random() < 0.4:
            return [f'cmp ${r.randrange(-128, 128)}, {self.size(b, 1)}', f'j{r.choice(["e", "g", "s"])} out_{self.n}']
        else:
            t = f'mov %{b}, %{a}'
        return [t]

    def code(self):
        n, c = self.n, self.count
        for _ in range(self.r.randrange(2, 16)):
            self.text += self.one()
        if self.walks:
            self.text.insert(self.r.randrange(len(self.text) + 1), f'mov (%rdi), %{self.reg()}\nadd $8, %rdi')
        end = {'dec': f'dec %{c}\njnz 1b', 'sub': f'sub $1, %{c}\njnz 1b', 'cmp': f'inc %{c}\ncmp %{self.bound}, %{c}\njb 1b',
               'mem': f'inc %{c}\ncmp 2048(%rbx), %{c}\njb 1b'}[self.kind]
        rounds = self.r.choice([1, 2, 3, 50, 3000])
        start = f'mov ${rounds}, %{c}' if self.kind in ('dec', 'sub') else f'xor %{LOW[c][0]}, %{LOW[c][0]}\nmov ${rounds}, %{self.bound}'
        regs = REGS + ['rbx', 'rsi']
        push, pop = ['rbx', 'rbp', 'r12', 'r13', 'r14', 'r15'], ['r15', 'r14', 'r13', 'r12', 'rbp', 'rbx']
        lines = [f'loop_{n}:', *(f'push %{x}' for x in push), 'sub $8456, %rsp', 'pushq in+136(%rip)', 'popfq',
                 *(f'mov in+{8 * i}(%rip), %{x}' for i, x in enumerate(regs)), *(f'movq in+{8 * i}(%rip), %xmm{i}' for i in range(4)),
                 'mov $0x10000000, %ebx', 'lea 1024(%rbx), %rsi', 'movq $500, 2048(%rbx)', *(f'movq ${i}, {8 * i}(%rsp)' for i in range(64)),
                 *(['lea 2600(%rbx), %rdi'] if self.walks else []), *start.split('\n'), '.p2align 4', '1:', *self.text, *end.split('\n'),
                 'lea 5(%r10), %r10', f'out_{n}:', *(f'mov %{x}, out+{8 * i}(%rip)' for i, x in enumerate(regs)), 'pushfq', 'popq out+136(%rip)',
                 'add $8456, %rsp', *(f'pop %{x}' for x in pop), 'ret']
        return ''.join(f'"{x}\\n"\n' for t in lines for x in t.replace('; ', '\n').split('\n'))


def program(seed, loops):
    """Its text: C."""
    rnd = random.Random(seed)
    names = [f'loop_{i}' for i in range(loops)]
    return (C % {'decl': ', '.join(f'{n}(void)' for n in names), 'names': ', '.join(names)} +
            '__asm__(".text\\n"\n' + ''.join(Loop(rnd, i).code() for i in range(loops)) + ');\n')
