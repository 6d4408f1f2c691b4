/* Runs on RISC-V (under the emulator taken as the oracle): executes each record of the file
 * argv[1] and writes it to argv[2] as it is afterwards. */
#include "record.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void rec_run(struct rec *r, void *code);
extern char rec_done[];

/* r at offset 0 of the stack frame of rec_run; all registers but x31 are the record's while its code runs. */
__asm__(
    ".option norvc\n"
    ".globl rec_run, rec_done\n"
    "rec_run:\n"
    "  addi sp, sp, -256\n"
    "  sd ra, 0(sp)\n sd gp, 8(sp)\n sd tp, 16(sp)\n"
    "  sd s0, 24(sp)\n sd s1, 32(sp)\n sd s2, 40(sp)\n sd s3, 48(sp)\n sd s4, 56(sp)\n sd s5, 64(sp)\n sd s6, 72(sp)\n"
    "  sd s7, 80(sp)\n sd s8, 88(sp)\n sd s9, 96(sp)\n sd s10, 104(sp)\n sd s11, 112(sp)\n"
    "  fsd fs0, 120(sp)\n fsd fs1, 128(sp)\n fsd fs2, 136(sp)\n fsd fs3, 144(sp)\n fsd fs4, 152(sp)\n fsd fs5, "
    "160(sp)\n"
    "  fsd fs6, 168(sp)\n fsd fs7, 176(sp)\n fsd fs8, 184(sp)\n fsd fs9, 192(sp)\n fsd fs10, 200(sp)\n fsd fs11, "
    "208(sp)\n"
    "  sd a0, 216(sp)\n"
    "  la t0, rec_sp\n sd sp, 0(t0)\n"
    "  mv x31, a0\n"
    "  la t0, rec_code\n sd a1, 0(t0)\n"
    "  ld t0, 512(x31)\n csrw fcsr, t0\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
    "  fld f\\n, 256+8*\\n(x31)\n"
    ".endr\n"
    ".irp n,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30\n"
    "  ld x\\n, 8*\\n(x31)\n"
    ".endr\n"
    "  lui x31, 0x20000\n" /* REC_CODE */
    "  jr x31\n"
    "rec_done:\n" /* the code ends with: lui x31, hi; jr lo(x31) to here */
    "  la x31, rec_now\n ld x31, 0(x31)\n"
    ".irp n,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30\n"
    "  sd x\\n, 8*\\n(x31)\n"
    ".endr\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
    "  fsd f\\n, 256+8*\\n(x31)\n"
    ".endr\n"
    "  csrr t0, fcsr\n sd t0, 512(x31)\n"
    "  la t0, rec_sp\n ld sp, 0(t0)\n"
    "  ld ra, 0(sp)\n ld gp, 8(sp)\n ld tp, 16(sp)\n"
    "  ld s0, 24(sp)\n ld s1, 32(sp)\n ld s2, 40(sp)\n ld s3, 48(sp)\n ld s4, 56(sp)\n ld s5, 64(sp)\n ld s6, 72(sp)\n"
    "  ld s7, 80(sp)\n ld s8, 88(sp)\n ld s9, 96(sp)\n ld s10, 104(sp)\n ld s11, 112(sp)\n"
    "  fld fs0, 120(sp)\n fld fs1, 128(sp)\n fld fs2, 136(sp)\n fld fs3, 144(sp)\n fld fs4, 152(sp)\n fld fs5, "
    "160(sp)\n"
    "  fld fs6, 168(sp)\n fld fs7, 176(sp)\n fld fs8, 184(sp)\n fld fs9, 192(sp)\n fld fs10, 200(sp)\n fld fs11, "
    "208(sp)\n"
    "  addi sp, sp, 256\n"
    "  ret\n"
    ".option rvc\n");
uint64_t rec_sp, rec_code;
struct rec *rec_now;

static int read_all(int fd, void *p, size_t n)
{
    size_t got = 0;

    while (got < n) {
        ssize_t k = read(fd, (char *)p + got, n - got);

        if (k <= 0)
            return 0;
        got += (size_t)k;
    }
    return 1;
}

int main(int argc, char **argv)
{
    int in = open(argv[1], O_RDONLY), out = open(argv[2], O_WRONLY);
    static struct rec r;
    uint8_t *mem = mmap((void *)REC_DATA, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    size_t size = 1 << 24;
    uint8_t *code = mmap((void *)REC_CODE, size, PROT_READ | PROT_WRITE | PROT_EXEC,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    uint64_t to = (uint64_t)rec_done;

    rec_now = &r;
    while (read_all(in, &r, sizeof r)) {
        uint32_t *c = (uint32_t *)code;

        memcpy(c, r.insn, 4 * r.n);
        c += r.n;
        *c++ = 0x37 | 31 << 7 | (uint32_t)((to + 0x800) & 0xfffff000);
        *c++ = 0x67 | 31 << 15 | (uint32_t)(to & 0xfff) << 20;
        __asm__ volatile("fence.i");
        memcpy(mem, r.mem, REC_MEM);
        rec_run(&r, code);
        memcpy(r.mem, mem, REC_MEM);
        for (size_t k = 0; k < sizeof r;) {
            ssize_t w = write(out, (char *)&r + k, sizeof r - k);

            if (w <= 0)
                return 1;
            k += (size_t)w;
        }
    }
    return 0;
}
