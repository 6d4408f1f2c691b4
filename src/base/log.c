/* The diagnostic log behind -d and -D. */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <unistd.h>

enum { HIGH_FD = 200 };

unsigned log_mask;
static FILE *log_file; /* NULL = standard error; set before threads start or under log_lock */
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

static const struct {
    const char *name;
    unsigned class_;
    const char *help;
} items[] = {
    {"guest_errors", LOG_GUEST, "guest operations the hardware manuals forbid"},
    {"unimp", LOG_UNIMP, "guest use of features not modelled here"},
    {"int", LOG_INT, "interrupts and exceptions"},
    {"cpu", LOG_CPU, "registers before each translated block"},
    {"exec", LOG_EXEC, "each translated block as it is entered"},
    {"in_asm", LOG_IN_ASM, "guest code as it is translated"},
    {"out_asm", LOG_OUT_ASM, "host code produced"},
    {"mmu", LOG_MMU, "page walks and faults"},
    {"cpu_reset", LOG_RESET, "processor state at each reset"},
    {"pcall", LOG_PCALL, "x86: protected-mode far calls, returns and exceptions"},
    {"strace", LOG_STRACE, "user mode: system calls"},
    {"trace", LOG_TRACE, "device trace points"},
    {"op", LOG_OP, "user mode, guests that go through an IR: the IR of each block"},
    {"op_opt", LOG_OP_OPT, "user mode: the same, optimised"},
    {"jit", LOG_JIT, "user mode: what was translated, and how long that took, at the end"},
};

void log_set_mask(unsigned classes)
{
    log_mask = classes;
}

bool log_parse_mask(const char *text, unsigned *mask, const char **bad)
{
    *mask = 0;
    while (*text) {
        size_t n = strcspn(text, ",");
        bool found = n == 3 && !memcmp(text, "all", 3);

        if (found)
            *mask = ~0u & ~LOG_TRACE;
        for (size_t i = 0; i < ARRAY_LEN(items); i++)
            if (strlen(items[i].name) == n && !memcmp(items[i].name, text, n)) {
                *mask |= items[i].class_;
                found = true;
            }
        if (!found) {
            *bad = text;
            return false;
        }
        text += n;
        if (*text == ',')
            text++;
    }
    return true;
}

void log_help(FILE *out)
{
    fprintf(out, "Log items (comma separated):\n");
    for (size_t i = 0; i < ARRAY_LEN(items); i++)
        fprintf(out, "%-15s %s\n", items[i].name, items[i].help);
    fprintf(out, "%-15s %s\n", "all", "everything but trace");
}

bool log_set_file(const char *path)
{
    FILE *f = fopen(path, "we"), *g;
    int high = f ? fcntl(fileno(f), F_DUPFD_CLOEXEC, HIGH_FD) : -1;

    if (!f)
        return false;
    g = high >= 0 ? fdopen(high, "w") : NULL; /* the first numbers are a program's that runs in this process */
    if (g) {
        fclose(f);
        f = g;
    } else if (high >= 0) {
        close(high);
    }
    setvbuf(f, NULL, _IOLBF, 0);
    pthread_mutex_lock(&log_lock);
    if (log_file)
        fclose(log_file);
    log_file = f;
    pthread_mutex_unlock(&log_lock);
    return true;
}

void log_write(unsigned class_, const char *fmt, ...)
{
    va_list ap;
    FILE *f;
    size_t n = strlen(fmt);

    pthread_mutex_lock(&log_lock);
    f = log_file ? log_file : stderr;
    va_start(ap, fmt);
    vfprintf(f, fmt, ap);
    va_end(ap);
    if (!n || fmt[n - 1] != '\n')
        fputc('\n', f);
    pthread_mutex_unlock(&log_lock);
}
