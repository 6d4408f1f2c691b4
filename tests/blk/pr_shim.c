/* Stands in for SCSI devices in tests: SG_IO on a plain file keeps its persistent reservations in the file. Preloaded.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <scsi/sg.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct keys {
    uint32_t generation, nr;
    uint8_t key[16][8];
};

static int refuse(struct sg_io_hdr *io, uint8_t key, uint8_t asc, uint8_t status)
{
    io->status = status;
    if (status == 2) {
        memset(io->sbp, 0, 18);
        io->sbp[0] = 0x70;
        io->sbp[2] = key;
        io->sbp[7] = 10;
        io->sbp[12] = asc;
        io->sb_len_wr = 18;
    }
    return 0;
}

static int device(int fd, struct sg_io_hdr *io)
{
    struct keys k = {0};
    const uint8_t *c = io->cmdp;
    uint8_t *d = io->dxferp;

    if (pread(fd, &k, sizeof k, 0) < 0)
        return -1;
    io->status = io->host_status = io->driver_status = 0;
    io->resid = 0;
    if (c[0] == 0x5e && (c[1] & 0x1f) == 0) { /* READ KEYS */
        uint8_t out[8 + 128] = {
            k.generation >> 24, k.generation >> 16, k.generation >> 8, k.generation, 0, 0, 0, k.nr * 8};
        unsigned n = 8 + k.nr * 8;

        memcpy(out + 8, k.key, k.nr * 8);
        n = n < io->dxfer_len ? n : io->dxfer_len;
        memcpy(d, out, n);
        io->resid = (int)(io->dxfer_len - n);
        return 0;
    }
    if (c[0] == 0x5f && (c[1] & 0x1f) == 0 && io->dxfer_len == 24) { /* REGISTER */
        if (k.nr == 16)
            return refuse(io, 0, 0, 0x18);
        memcpy(k.key[k.nr++], d + 8, 8);
        k.generation++;
        return pwrite(fd, &k, sizeof k, 0) < 0 ? -1 : 0;
    }
    return refuse(io, 5, 0x24, 2);
}

int ioctl(int fd, unsigned long request, ...)
{
    int (*real)(int, unsigned long, ...) = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    struct stat st;
    va_list ap;
    void *arg;

    va_start(ap, request);
    arg = va_arg(ap, void *);
    va_end(ap);
    if (request == SG_IO && !fstat(fd, &st) && S_ISREG(st.st_mode))
        return device(fd, arg);
    return real(fd, request, arg);
}
