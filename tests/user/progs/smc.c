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
