/* A 32-bit address space filled with mappings, each size until no more fits: what errno says then. */
#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>

int main(void)
{
    for (unsigned long size = 16 << 20; size >= 16384; size /= 4) {
        while (mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) != MAP_FAILED)
            ;
        printf("%d\n", errno == ENOMEM);
    }
    return 0;
}
