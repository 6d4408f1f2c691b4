/* Calls deeper than any shadow stack, through pointers, by longjmp, and returns that do not match them. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

static int deep(int n)
{
    volatile char pad[40];

    pad[0] = (char)n;
    return n ? deep(n - 1) + pad[0] : 0;
}

static int one(int x)
{
    return x + 1;
}
static int two(int x)
{
    return 2 * x;
}
static int (*volatile fn[2])(int) = {one, two};
static jmp_buf jb;

static void jump(int n)
{
    if (!n)
        longjmp(jb, 1);
    jump(n - 1);
}

static int compare(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

int main(void)
{
    static int v[5000];
    unsigned s = 1;
    int x = 0;

    printf("deep %d\n", deep(60000));
    for (int i = 0; i < 100000; i++)
        x = fn[i % 3 == 0](x) & 0xffff;
    printf("pointers %d\n", x);
    for (int i = 0; i < 1000; i++)
        if (!setjmp(jb))
            jump(i);
    for (int i = 0; i < 5000; i++)
        v[i] = (int)((s = s * 1103515245 + 12345) >> 8);
    qsort(v, 5000, sizeof v[0], compare);
    printf("sorted %d %d\n", v[0], v[4999]);
    return 0;
}
