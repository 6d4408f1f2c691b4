/* An instruction that begins in the last two bytes of a page: with its other half in the next page, and with none. */
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

static sigjmp_buf jb;
static char *page;
static volatile int ran;

static void on_fault(int s, siginfo_t *i, void *u)
{
    printf("signal %d at page+%ld\n", s, (long)((char *)i->si_addr - page));
    siglongjmp(jb, 1);
}

int main(void)
{
    /* sw a1, 0(a0); addi a0, zero, 77 over the edge; ret */
    static const uint16_t code[] = {0xc10c, 0x0513, 0x04d0, 0x8082};
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    int (*f)(volatile int *, int);

    sigaction(SIGSEGV, &sa, NULL);
    sigaction(SIGBUS, &sa, NULL);
    page = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(page + 4092, code, sizeof code);
    __builtin___clear_cache(page, page + 8192);
    f = (int (*)(volatile int *, int))(page + 4092);
    printf("%d %d\n", f(&ran, 5), ran);
    page[4096 + 1] = 0x05; /* addi a0, zero, 93 */
    __builtin___clear_cache(page, page + 8192);
    printf("%d %d\n", f(&ran, 6), ran);
    munmap(page + 4096, 4096);
    if (!sigsetjmp(jb, 1))
        f(&ran, 7);
    printf("the store was made: %d\n", ran);
    return 0;
}
