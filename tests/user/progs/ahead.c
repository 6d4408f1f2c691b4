/* Flags that the code jumped to replaces, or reads after that code has been changed: by a jump and by a call, in a
 * page that is written and executed, and in the program's own text (whoever runs this may change the file there). */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

__asm__(".text\n"
        ".globl ahead_code, ahead_bl, ahead_change, ahead_end\n"
        ".p2align 13\n" /* not in the first page, which names the kept translations */
        "ahead_code:\n"
        "    cmp x0, x2\n"
        "    cbnz x1, ahead_change\n"
        "    ret\n"
        "ahead_bl: mov x9, x30\n"
        "    cmp x0, x2\n"
        "    bl ahead_change\n"
        "    mov x30, x9\n"
        "    ret\n"
        "ahead_change: tst x1, x1\n" /* to NOP, and CSET reads what the callers' CMP made */
        "    cset w0, eq\n"
        "    ret\n"
        "ahead_end:\n");
extern const char ahead_code[], ahead_bl[], ahead_change[], ahead_end[];

static void run(const char *what, const char *code)
{
    int (*b)(long, long, long) = (int (*)(long, long, long))code;
    int (*bl)(long, long, long) = (int (*)(long, long, long))(code + (ahead_bl - ahead_code));

    printf("%s %d %d %d %d\n", what, b(5, 1, 5), b(5, 1, 6), bl(5, 1, 5), bl(5, 1, 6));
}

int main(void)
{
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t nop = 0xd503201f, tst;

    run("text", ahead_code);
    memcpy(page, ahead_code, ahead_end - ahead_code);
    memcpy(&tst, ahead_change, 4);
    for (int i = 0; i < 4; i++) {
        memcpy(page + (ahead_change - ahead_code), i & 1 ? &nop : &tst, 4);
        __builtin___clear_cache(page, page + 64);
        run(i & 1 ? "nop" : "tst", page);
    }
    return 0;
}
