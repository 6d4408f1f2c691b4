/* -strace: each system call and signal on a line of standard error (or the -D file), as strace writes them. */
#include "base/log.h"
#include "base/str.h"
#include "user/linux/syscalls.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_TEXT = 32 };

static void add_quoted(struct strbuf *s, const char *p, size_t n, bool more)
{
    str_add(s, "\"");
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];

        if (c == '\n')
            str_add(s, "\\n");
        else if (c == '\t')
            str_add(s, "\\t");
        else if (c == '"' || c == '\\')
            str_addf(s, "\\%c", c);
        else if (isprint(c))
            str_addf(s, "%c", c);
        else
            str_addf(s, "\\%o", c);
    }
    str_add(s, more ? "\"..." : "\"");
}

static void add_string(struct strbuf *s, uint64_t at)
{
    int e = 0;
    char *text = at ? lx_get_str(at, 4096, &e) : NULL;

    if (!at)
        str_add(s, "NULL");
    else if (!text)
        str_addf(s, "0x%" PRIx64, at);
    else
        add_quoted(s, text, strlen(text), false);
    free(text);
}

static void add_bytes(struct strbuf *s, uint64_t at, uint64_t n)
{
    char b[MAX_TEXT];
    size_t k = n < MAX_TEXT ? (size_t)n : MAX_TEXT;

    if (at && lx_get(b, at, k))
        add_quoted(s, b, k, n > MAX_TEXT);
    else
        str_addf(s, "0x%" PRIx64, at);
}

static void add_open_flags(struct strbuf *s, uint64_t f)
{
    static const struct {
        unsigned bit;
        const char *name;
    } names[] = {{O_CREAT, "O_CREAT"},     {O_EXCL, "O_EXCL"},           {O_NOCTTY, "O_NOCTTY"},
                 {O_TRUNC, "O_TRUNC"},     {O_APPEND, "O_APPEND"},       {O_NONBLOCK, "O_NONBLOCK"},
                 {O_CLOEXEC, "O_CLOEXEC"}, {O_DIRECTORY, "O_DIRECTORY"}, {O_NOFOLLOW, "O_NOFOLLOW"},
                 {O_PATH, "O_PATH"}};

    str_add(s, (f & 3) == 0 ? "O_RDONLY" : (f & 3) == 1 ? "O_WRONLY" : "O_RDWR");
    f &= ~UINT64_C(3);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (f & names[i].bit) {
            str_addf(s, "|%s", names[i].name);
            f &= ~(uint64_t)names[i].bit;
        }
    if (f)
        str_addf(s, "|0%" PRIo64, f);
}

struct flag {
    uint64_t bits;
    const char *name;
};

/* Named bits, joined by |; none: zero, which may have a name. A rest in hexadecimal. */
static void add_flags(struct strbuf *s, uint64_t f, const struct flag *names, const char *zero)
{
    const char *sep = "";

    if (!f)
        str_add(s, zero);
    for (; names->bits; names++)
        if ((f & names->bits) == names->bits) {
            str_addf(s, "%s%s", sep, names->name);
            f &= ~names->bits;
            sep = "|";
        }
    if (f)
        str_addf(s, "%s0x%" PRIx64, sep, f);
}

static const struct flag prot_names[] = {
    {PROT_READ, "PROT_READ"}, {PROT_WRITE, "PROT_WRITE"}, {PROT_EXEC, "PROT_EXEC"}, {0, NULL}};
static const struct flag map_names[] = {{MAP_SHARED_VALIDATE, "MAP_SHARED_VALIDATE"},
                                        {MAP_SHARED, "MAP_SHARED"},
                                        {MAP_PRIVATE, "MAP_PRIVATE"},
                                        {MAP_FIXED, "MAP_FIXED"},
                                        {MAP_ANONYMOUS, "MAP_ANONYMOUS"},
                                        {MAP_GROWSDOWN, "MAP_GROWSDOWN"},
                                        {MAP_DENYWRITE, "MAP_DENYWRITE"},
                                        {MAP_LOCKED, "MAP_LOCKED"},
                                        {MAP_NORESERVE, "MAP_NORESERVE"},
                                        {MAP_POPULATE, "MAP_POPULATE"},
                                        {MAP_STACK, "MAP_STACK"},
                                        {MAP_FIXED_NOREPLACE, "MAP_FIXED_NOREPLACE"},
                                        {0, NULL}};
static const struct flag at_names[] = {{AT_SYMLINK_NOFOLLOW, "AT_SYMLINK_NOFOLLOW"},
                                       {AT_EACCESS, "AT_EACCESS"},
                                       {AT_NO_AUTOMOUNT, "AT_NO_AUTOMOUNT"},
                                       {AT_EMPTY_PATH, "AT_EMPTY_PATH"},
                                       {0, NULL}};
static const struct flag access_names[] = {{R_OK, "R_OK"}, {W_OK, "W_OK"}, {X_OK, "X_OK"}, {0, NULL}};

static void add_arg(struct strbuf *s, char how, const uint64_t *a, unsigned i)
{
    switch (how) {
    case 'd':
        if ((int32_t)a[i] == AT_FDCWD)
            str_add(s, "AT_FDCWD");
        else
            str_addf(s, "%d", (int32_t)a[i]);
        break;
    case 'u':
        str_addf(s, "%" PRIu64, a[i]);
        break;
    case 'o':
        str_addf(s, "0%" PRIo64, a[i]);
        break;
    case 's':
    case 'P':
        add_string(s, a[i]);
        break;
    case 'k':
        add_flags(s, a[i], access_names, "F_OK");
        break;
    case 'm':
        add_flags(s, a[i], prot_names, "PROT_NONE");
        break;
    case 'M':
        add_flags(s, a[i], map_names, "0");
        break;
    case 'a':
        add_flags(s, a[i], at_names, "0");
        break;
    case 'f':
        add_open_flags(s, a[i]);
        break;
    case 'b':
        add_bytes(s, a[i], a[i + 1]);
        break;
    default:
        if (a[i])
            str_addf(s, "0x%" PRIx64, a[i]);
        else
            str_add(s, how == 'p' ? "NULL" : "0");
        break;
    }
}

static _Thread_local struct strbuf line;

static void emit(void)
{
    char *text = str_take(&line);

    str_addf(&line, "%s\n", text);
    if (lx_proc.opt.log_file)
        log_write(LOG_STRACE, "%s", text);
    else if (write(2, line.s, line.len) < 0)
        line.len = 0;
    free(text);
    str_free(&line);
}

void lx_strace_enter(struct lx_thread *t, const struct lx_sysrow *row, uint64_t nr, const uint64_t *a)
{
    str_addf(&line, "%d ", t->tid);
    if (!row) {
        str_addf(&line, "syscall_%" PRIu64 "(0x%" PRIx64 ", 0x%" PRIx64 ", 0x%" PRIx64 ")", nr, a[0], a[1], a[2]);
        return;
    }
    str_addf(&line, "%s(", row->name);
    for (unsigned i = 0; row->spec[i]; i++) {
        if (row->spec[i] == 'o' && i && row->spec[i - 1] == 'f' && !(a[i - 1] & (O_CREAT | __O_TMPFILE)))
            break; /* no mode when nothing is created */
        if (i)
            str_add(&line, ", ");
        add_arg(&line, row->spec[i], a, i);
    }
    str_add(&line, ")");
    if (!strncmp(row->name, "exit", 4)) {
        str_add(&line, " = ?");
        emit();
    }
}

void lx_strace_leave(struct lx_thread *t, const struct lx_sysrow *row, const uint64_t *a, int64_t ret)
{
    const char *n = row ? row->name : "";

    if (ret == -LX_NORESULT || ret == -LX_ERESTART)
        str_addf(&line, " = ? %s", ret == -LX_ERESTART ? "ERESTARTSYS (To be restarted)" : "");
    else if (ret < 0 && ret > -4096)
        str_addf(&line, " = -1 %s (%s)", strerrorname_np((int)-ret) ? strerrorname_np((int)-ret) : "errno",
                 strerror((int)-ret));
    else if (!strcmp(n, "mmap") || !strcmp(n, "mmap2") || !strcmp(n, "brk") || !strcmp(n, "mremap") ||
             !strcmp(n, "shmat"))
        str_addf(&line, " = 0x%" PRIx64, (uint64_t)ret);
    else
        str_addf(&line, " = %" PRId64, ret);
    emit();
}

void lx_strace_signal(struct lx_thread *t, int sig, const siginfo_t *i)
{
    if (line.len)
        emit();
    str_addf(&line, "--- SIG%s {si_signo=SIG%s, si_code=%d", sigabbrev_np(sig) ? sigabbrev_np(sig) : "RT",
             sigabbrev_np(sig) ? sigabbrev_np(sig) : "RT", i->si_code);
    if (i->si_code > 0 && (sig == SIGSEGV || sig == SIGBUS || sig == SIGILL || sig == SIGFPE))
        str_addf(&line, ", si_addr=%p", i->si_addr);
    else
        str_addf(&line, ", si_pid=%d, si_uid=%u", i->si_pid, i->si_uid);
    str_add(&line, "} ---");
    emit();
}
