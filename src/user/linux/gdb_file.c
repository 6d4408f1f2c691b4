/* Files of the program's system for the debugger (vFile of the GDB Remote Serial Protocol): it finds the libraries and
 * the program where the program finds them, under -L or in its own root, and reads /proc as the program does. Reading
 * only. */
#include "base/bytes.h"
#include "base/util.h"
#include "user/linux/gdb.h"
#include "user/linux/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILES = 32, MAX_READ = 8000, FIO_STAT = 64 };

static int files[MAX_FILES]; /* descriptor + 1 of each number the debugger knows; 0: free. Only it is served */

/* Error numbers as the protocol has them. */
static int fio_errno(int e)
{
    static const uint8_t same[] = {EPERM,   ENOENT, EINTR,  EIO,    EBADF,  EACCES, EFAULT, EBUSY,  EEXIST, ENODEV,
                                   ENOTDIR, EISDIR, EINVAL, ENFILE, EMFILE, EFBIG,  ENOSPC, ESPIPE, EROFS};

    return e == ENAMETOOLONG ? 91 : memchr(same, e, sizeof same) ? e : 9999;
}

static void fail(struct strbuf *s, int e)
{
    str_addf(s, "F-1,%x", (unsigned)fio_errno(e));
}

static void add_data(struct strbuf *s, const uint8_t *p, size_t n)
{
    str_addf(s, "F%zx;", n);
    for (size_t i = 0; i < n; i++) {
        char c = (char)p[i];

        if (c == '}' || c == '#' || c == '$' || c == '*')
            str_addf(s, "}%c", c ^ 0x20);
        else
            str_addn(s, &c, 1);
    }
}

static unsigned digit(int c)
{
    return c >= 'a' ? (unsigned)c - 'a' + 10 : (unsigned)c - '0';
}

/* The hexadecimal name up to a comma or the end. */
static void name_of(const char *p, char name[PATH_MAX])
{
    size_t n = 0;

    for (; p[0] && p[0] != ',' && p[1] && n < PATH_MAX - 1; p += 2)
        name[n++] = (char)(digit(p[0]) << 4 | digit(p[1]));
    name[n] = 0;
}

static void do_open(const char *p, struct strbuf *s)
{
    char name[PATH_MAX], buf[PATH_MAX];
    const char *comma = strchr(p, ',');
    unsigned i = 0;
    bool ours = false;
    int fd;

    name_of(p, name);
    if (comma && strtoul(comma + 1, NULL, 16) & 3) {
        fail(s, EROFS);
        return;
    }
    while (i < MAX_FILES && files[i])
        i++;
    if (i == MAX_FILES) {
        fail(s, EMFILE);
        return;
    }
    fd = lx_proc_open(name, O_RDONLY | O_CLOEXEC, &ours);
    if (!ours)
        fd = open(lx_path(name, buf), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        fail(s, ours ? -fd : errno);
        return;
    }
    files[i] = fd + 1;
    str_addf(s, "F%x", i);
}

/* The descriptor of the number at the start of p, -1; *rest: behind it. */
static int numbered(const char *p, const char **rest)
{
    char *end;
    unsigned long i = strtoul(p, &end, 16);

    *rest = *end ? end + 1 : end;
    return i < MAX_FILES ? files[i] - 1 : -1;
}

static void do_pread(const char *p, struct strbuf *s)
{
    uint8_t buf[MAX_READ];
    char *end;
    int fd = numbered(p, &p);
    uint64_t n = strtoull(p, &end, 16), off = *end ? strtoull(end + 1, NULL, 16) : 0;
    ssize_t r = fd < 0 ? (errno = EBADF, -1) : pread(fd, buf, min_u64(n, sizeof buf), (off_t)off);

    if (r < 0)
        fail(s, errno);
    else
        add_data(s, buf, (size_t)r);
}

/* struct stat of the protocol: big-endian, 32-bit words but for size, block size and blocks. */
static void do_fstat(const char *p, struct strbuf *s)
{
    uint8_t b[FIO_STAT] = {0};
    struct stat st;
    int fd = numbered(p, &p);

    if (fd < 0 || fstat(fd, &st) < 0) {
        fail(s, EBADF);
        return;
    }
    put_be32(b + 4, (uint32_t)st.st_ino);
    put_be32(b + 8, st.st_mode);
    put_be32(b + 12, (uint32_t)st.st_nlink);
    put_be64(b + 28, (uint64_t)st.st_size);
    put_be64(b + 36, (uint64_t)st.st_blksize);
    put_be64(b + 44, (uint64_t)st.st_blocks);
    put_be32(b + 52, (uint32_t)st.st_atime);
    put_be32(b + 56, (uint32_t)st.st_mtime);
    put_be32(b + 60, (uint32_t)st.st_ctime);
    add_data(s, b, sizeof b);
}

static void do_close(const char *p, struct strbuf *s)
{
    unsigned long i = strtoul(p, NULL, 16);

    if (i >= MAX_FILES || !files[i]) {
        fail(s, EBADF);
        return;
    }
    close(files[i] - 1);
    files[i] = 0;
    str_add(s, "F0");
}

static void do_readlink(const char *p, struct strbuf *s)
{
    char name[PATH_MAX], buf[PATH_MAX], text[PATH_MAX];
    ssize_t r;

    name_of(p, name);
    r = readlink(lx_path(name, buf), text, sizeof text);
    if (r < 0)
        fail(s, errno);
    else
        add_data(s, (uint8_t *)text, (size_t)r);
}

bool lx_gdb_file(const char *p, struct strbuf *s)
{
    static const struct {
        const char *name;
        void (*serve)(const char *p, struct strbuf *s);
    } calls[] = {{"open:", do_open},
                 {"pread:", do_pread},
                 {"fstat:", do_fstat},
                 {"close:", do_close},
                 {"readlink:", do_readlink}};

    if (str_starts(p, "setfs:")) {
        str_add(s, "F0"); /* there is one system of files */
        return true;
    }
    for (size_t i = 0; i < ARRAY_LEN(calls); i++)
        if (str_starts(p, calls[i].name)) {
            calls[i].serve(p + strlen(calls[i].name), s);
            return true;
        }
    return false;
}

void lx_gdb_files_close(void)
{
    for (unsigned i = 0; i < MAX_FILES; i++)
        if (files[i]) {
            close(files[i] - 1);
            files[i] = 0;
        }
}
