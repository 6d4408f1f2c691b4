/* Jumps, calls and returns to addresses where nothing can be: each must end in a signal of the program's own. */
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>

static sigjmp_buf out_of_it;
static volatile sig_atomic_t came;

static void on_signal(int sig)
{
    (void)sig;
    came = 1;
    siglongjmp(out_of_it, 1);
}

static int comes_back(uintptr_t to)
{
    came = 0;
    if (!sigsetjmp(out_of_it, 1))
        ((void (*)(void))to)();
    return came;
}

int main(void)
{
    static char stack[65536];
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    unsigned bits = sizeof(void *) * 8, bad = 0, n = 0;

    sigaltstack(&ss, NULL);
    sigaction(SIGSEGV, &sa, NULL);
    sigaction(SIGBUS, &sa, NULL);
    sigaction(SIGILL, &sa, NULL);
    for (unsigned round = 0; round < 3; round++)
        for (unsigned bit = bits == 64 ? 47 : 31; bit < bits; bit++)
            for (unsigned low = 0; low < 256; low += low < 16 ? 1 : 16) {
                uintptr_t one = (uintptr_t)1 << bit;

                n += 2;
                bad += bits == 64 && !comes_back(one + low);
                bad += !comes_back(-one - (bit < 63 ? low : 0) - (bits == 32));
            }
    for (unsigned i = 1; i < 300; i++, n++)
        bad += !comes_back(-(uintptr_t)i);
    for (unsigned i = 0; i < 4000; i += 2, n++)
        bad += !comes_back(i);
    printf("%u of %u went on\n", bad, n);
    return 0;
}
