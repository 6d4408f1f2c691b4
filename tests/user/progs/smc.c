/* Code made at run time: written, run, changed, on writable pages and through two mappings. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__x86_64__) || defined(__i386__)
static unsigned char code[] = {0xb8, 0, 0, 0, 0, 0xc3}; /* mov eax, imm; ret */
enum { IMM = 1 };
#elif defined(__aarch64__)
static unsigned code[] = {0x52800000, 0xd65f03c0}; /* movz w0, imm; ret */
#elif defined(__arm__)
static unsigned code[] = {0xe3000000, 0xe12fff1e}; /* movw r0, imm; bx lr */
#elif defined(__riscv)
static unsigned code[] = {0x00000513, 0x00008067}; /* addi a0, x0, imm; ret */
#endif
static void put(void *at, int v)
{
    memcpy(at, code, sizeof code);
#if defined(__x86_64__) || defined(__i386__)
    memcpy((char *)at + IMM, &v, 4);
#elif defined(__aarch64__)
    *(unsigned *)at |= (unsigned)(v & 0xffff) << 5;
#elif defined(__arm__)
    *(unsigned *)at |= (unsigned)(v & 0xf000) << 4 | (unsigned)(v & 0xfff);
#elif defined(__riscv)
    *(unsigned *)at |= (unsigned)(v & 0x7ff) << 20;
#endif
    __builtin___clear_cache(at, (char *)at + sizeof code);
}
/* A function that calls its argument, which changes what is behind the call. */
#if defined(__x86_64__)
static unsigned char calls[] = {0x48, 0x83, 0xec, 8, 0xff, 0xd7}, back[] = {0x48, 0x83, 0xc4, 8, 0xc3};
#elif defined(__i386__)
static unsigned char calls[] = {0x83, 0xec, 12, 0xff, 0x54, 0x24, 16}, back[] = {0x83, 0xc4, 12, 0xc3};
#elif defined(__aarch64__)
static unsigned calls[] = {0xa9bf7bfd, 0x910003fd, 0xd63f0000}, back[] = {0xa8c17bfd, 0xd65f03c0};
#elif defined(__arm__)
static unsigned calls[] = {0xe92d4010, 0xe12fff30}, back[] = {0xe8bd8010};
#elif defined(__riscv)
static unsigned calls[] = {0xff010113, 0x00113423, 0x000500e7}, back[] = {0x00813083, 0x01010113, 0x00008067};
#endif
static char *caller;
static int value;
static void change(void)
{
    put(caller + sizeof calls, value);
    memcpy(caller + sizeof calls + sizeof code - (sizeof code[0] == 1 ? 1 : 4), back, sizeof back); /* not its return */
    __builtin___clear_cache(caller, caller + 64);
}
static void nothing(void)
{
}
static void behind_calls(char *at)
{
    long sum = 0;

    caller = at;
    memcpy(at, calls, sizeof calls);
    change();
    for (int i = 0; i < 600; i++) {
        value = i;
        sum += ((int (*)(void (*)(void)))at)(i % 3 ? nothing : change) * (i % 7 + 1);
    }
    printf("behind calls %ld\n", sum);
}
int main(void)
{
    char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *w, *x;
    long sum = 0;
    int fd;

    for (int i = 0; i < 2000; i++) {
        put(p + (i % 16) * 32, i);
        sum += ((int (*)(void))(p + (i % 16) * 32))();
    }
    printf("%ld\n", sum);
    behind_calls(p + 1024);
    mprotect(p, 4096, PROT_READ | PROT_WRITE);
    put(p, 7);
    mprotect(p, 4096, PROT_READ | PROT_EXEC);
    printf("%d\n", ((int (*)(void))p)());
    munmap(p, 8192);
    fd = memfd_create("x", 0);
    if (ftruncate(fd, 4096))
        return 1;
    w = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    x = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    put(w, 11);
    printf("%d\n", ((int (*)(void))x)());
    return 0;
}
