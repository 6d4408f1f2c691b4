/* x86-64. Runs of pushes and pops: where RSP stands when one of them faults, and when a signal comes between them. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>

enum { PAGE = 4096 };

extern const char push_run[], push_end[], pop_run[], pop_end[], storm_run[], storm_end[];
uint64_t the_stack, back_rsp, sum;

__asm__(".text\n"
        "run_pushes:\n" /* rdi: the stack, rsi: a value */
        "  mov %rsp, back_rsp(%rip)\n"
        "  push %rbx\n  push %rbp\n"
        "  mov %rsp, back_rsp(%rip)\n"
        "  mov %rdi, %rsp\n"
        "  mov %rsi, %rbx\n"
        "  lea 1(%rsi), %rbp\n"
        "push_run:\n"
        "  push %rsi\n"
        "  push %rbx\n"
        "  mov %ebx, %eax\n"
        "  push %rbp\n"
        "  push %r10\n"
        "  push $77\n"
        "  lea 2(%rsi), %eax\n"
        "  add $3, %eax\n"
        "  push %rax\n"
        "  push %r12\n"
        "  call 1f\n"
        "1: mov %rsp, %rax\n"
        "push_end:\n"
        "  mov back_rsp(%rip), %rsp\n"
        "  pop %rbp\n  pop %rbx\n"
        "  ret\n"
        "run_pops:\n"
        "  push %rbx\n  push %rbp\n"
        "  mov %rsp, back_rsp(%rip)\n"
        "  mov %rdi, %rsp\n"
        "pop_run:\n"
        "  pop %rax\n"
        "  pop %rbx\n"
        "  add %ebx, %eax\n"
        "  pop %rbp\n"
        "  pop %rcx\n"
        "  pop %rdx\n"
        "  pop %r10\n"
        "  ret\n"
        "pop_end:\n"
        ".globl pops_done\n"
        "pops_done:\n"
        "  mov %rsp, %rax\n"
        "  mov back_rsp(%rip), %rsp\n"
        "  pop %rbp\n  pop %rbx\n"
        "  ret\n"
        "run_storm:\n" /* edi: rounds */
        "  push %rbx\n  push %rbp\n  push %r12\n  push %r13\n"
        "  mov %rsp, the_stack(%rip)\n"
        "storm_run:\n"
        "  push %rdi\n"
        "  push %rbx\n"
        "  mov %edi, %eax\n"
        "  push %rbp\n"
        "  push %r12\n"
        "  push %rax\n"
        "  call 2f\n"
        "  pop %rax\n"
        "  add %rax, sum(%rip)\n"
        "  pop %r12\n"
        "  pop %rbp\n"
        "  pop %rbx\n"
        "  pop %rdi\n"
        "  sub $1, %edi\n"
        "  jnz storm_run\n"
        "storm_end:\n"
        "  pop %r13\n  pop %r12\n  pop %rbp\n  pop %rbx\n"
        "  ret\n"
        "2:\n"
        "  push %rax\n"
        "  push $1\n"
        "  pop %rcx\n"
        "  pop %rax\n"
        "  ret\n");
uint64_t run_pushes(uint64_t stack, uint64_t v), run_pops(uint64_t stack);
void run_storm(unsigned rounds), pops_done(void);

static uint64_t base;
static const char *from;

static void on_fault(int sig, siginfo_t *i, void *context)
{
    greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;

    printf(" signal %d at +%d, rsp %+d, rax %d", sig, (int)(g[REG_RIP] - (greg_t)(uintptr_t)from),
           (int)(g[REG_RSP] - (greg_t)base), (int)g[REG_RAX]);
    (void)i;
    g[REG_RAX] = g[REG_RSP];
    g[REG_RIP] = (greg_t)(uintptr_t)(from == push_run ? push_end : (const char *)pops_done);
}

/* RSP, in words, before the instruction that begins at each byte of the storm; 1: none begins there. */
static int8_t place[64];
static volatile sig_atomic_t seen, wrong;

static void on_alarm(int sig, siginfo_t *i, void *context)
{
    greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
    uint64_t rip = (uint64_t)g[REG_RIP];

    (void)sig;
    (void)i;
    if (rip < (uintptr_t)storm_run || rip >= (uintptr_t)storm_end)
        return;
    seen++;
    if (place[rip - (uintptr_t)storm_run] > 0 ||
        (int64_t)((uint64_t)g[REG_RSP] - the_stack) != 8 * place[rip - (uintptr_t)storm_run])
        wrong++;
}

static void faults(char *m)
{
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};

    sigaction(SIGSEGV, &sa, NULL);
    for (int words = 0; words < 10; words++) {
        memset(m + PAGE, 0, PAGE);
        base = (uintptr_t)m + PAGE + 8 * (unsigned)words;
        from = push_run;
        printf("pushes %d:", words);
        printf(" %ld", (long)(run_pushes(base, 5) - base));
        for (int w = 0; w < words; w++) {
            uint64_t v;

            memcpy(&v, m + PAGE + 8 * w, 8);
            printf(" %d", v < 100 ? (int)v : -1);
        }
        puts("");
    }
    for (int words = 0; words < 8; words++) {
        base = (uintptr_t)m + 2 * PAGE - 8 * (unsigned)words;
        for (int w = 0; w < words; w++)
            memcpy(m + 2 * PAGE - 8 * (words - w), &(uint64_t){w == 6 ? (uintptr_t)pops_done : 10u + (unsigned)w}, 8);
        from = pop_run;
        printf("pops %d:", words);
        printf(" %ld\n", (long)(run_pops(base) - base));
    }
}

int main(void)
{
    static char alt[65536];
    stack_t ss = {.ss_sp = alt, .ss_size = sizeof alt};
    struct sigaction sa = {.sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    struct itimerval t = {{0, 200}, {0, 200}}, off = {{0, 0}, {0, 0}};
    static const struct {
        int8_t len, words; /* of each instruction of the storm; RSP before it */
    } shape[] = {{1, 0},  {1, -1}, {2, -2}, {1, -2}, {2, -3}, {1, -4}, {5, -5}, {1, -5},
                 {7, -4}, {2, -4}, {1, -3}, {1, -2}, {1, -1}, {3, 0},  {2, 0}};
    char *m = mmap(NULL, 3 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned at = 0;

    memset(place, 1, sizeof place);
    for (unsigned i = 0; i < sizeof shape / sizeof shape[0]; at += (unsigned)shape[i++].len)
        place[at] = shape[i].words;
    if (at != (unsigned)(storm_end - storm_run) || m == MAP_FAILED || sigaltstack(&ss, NULL))
        return 2;
    mprotect(m + PAGE, PAGE, PROT_READ | PROT_WRITE);
    setvbuf(stdout, NULL, _IONBF, 0);
    faults(m);
    sigaction(SIGALRM, &sa, NULL);
    setitimer(ITIMER_REAL, &t, NULL);
    while (seen < 500)
        run_storm(100000);
    setitimer(ITIMER_REAL, &off, NULL);
    printf("storm: wrong %d\n", (int)wrong);
    return 0;
}
