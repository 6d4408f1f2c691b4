/* The user-mode translator: runs one Linux program of another architecture. Called qemu-<arch> or qemu-<arch>-static it
 * runs programs of that architecture; called otherwise it looks at the program's ELF header. */
#include "base/log.h"
#include "base/str.h"
#include "jit/count.h"
#include "user/linux/kept.h"
#include "user/linux/peer.h"
#include "user/linux/thread.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

extern char **environ;

enum {
    CACHE_MIB = 128,
    MIN_CACHE_MIB = 4,
    MAX_CACHE_MIB = 1024,
    MIN_SPACE = 256 << 20,
    NOT_LOGGED = LOG_INT | LOG_CPU | LOG_MMU | LOG_RESET | LOG_PCALL
};

struct args {
    const char *arch; /* NULL: from the program */
    char **env;       /* owned: the guest's environment */
    size_t nr_env;
    size_t nr_prefix;
    bool in_env;        /* options are being taken from variables */
    bool prefix_of_env; /* so was the prefix */
    const char *log_items;
    bool preserve_argv0;
};

static const char *const known[] = {
    "aarch64_be",  "alpha",     "arm",        "armeb",        "cris",  "hexagon", "hppa",        "i386",
    "loongarch64", "m68k",      "microblaze", "microblazeel", "mips",  "mips64",  "mips64el",    "mipsel",
    "mipsn32",     "mipsn32el", "nios2",      "or1k",         "ppc",   "ppc64",   "ppc64le",     "ppc64abi32",
    "riscv32",     "riscv64",   "s390x",      "sh4",          "sh4eb", "sparc",   "sparc32plus", "sparc64",
    "x86_64",      "xtensa",    "xtensaeb",   "aarch64",      NULL};

NORETURN static void usage(const struct args *a)
{
    printf("Usage: qemu-%s [options] program [arguments...]\n"
           "Runs a Linux program for %s.\n\n"
           "  -h, -help         this text\n"
           "  -version          version\n"
           "  -L PATH           root of the program's system: its interpreter and libraries (QEMU_LD_PREFIX)\n"
           "  -s SIZE           stack size in bytes (QEMU_STACK_SIZE)\n"
           "  -cpu MODEL        CPU model, -cpu help lists them (QEMU_CPU)\n"
           "  -E VAR=VALUE      sets a variable of the program's environment (QEMU_SET_ENV)\n"
           "  -U VAR            removes one (QEMU_UNSET_ENV)\n"
           "  -0 ARGV0          what the program sees as argv[0] (QEMU_ARGV0)\n"
           "  -r RELEASE        what uname shows (QEMU_UNAME)\n"
           "  -B ADDRESS        offset of the program's addresses: only 0 (QEMU_GUEST_BASE)\n"
           "  -R SIZE           size of a 32-bit program's address space (QEMU_RESERVED_VA)\n"
           "  -p PAGESIZE       page size: only 4096 (QEMU_PAGESIZE)\n"
           "  -g PORT|PATH      waits for a debugger there (QEMU_GDB)\n"
           "  -strace           logs system calls (QEMU_STRACE)\n"
           "  -d ITEM[,...]     logs items, -d help lists them (QEMU_LOG)\n"
           "  -D FILE           log file (QEMU_LOG_FILENAME)\n"
           "  -one-insn-per-tb  translates one instruction at a time (QEMU_ONE_INSN_PER_TB)\n"
           "  -tb-size MIB      room for translated code (QEMU_TB_SIZE)\n"
           "  -perfmap          names translated code for perf in /tmp/perf-PID.map (QEMU_PERFMAP)\n"
           "  -count-blocks     counts how often each block is entered; -d out_asm logs it\n"
           "  -jitdump          writes translated code to jit-PID.dump for perf inject --jit (QEMU_JITDUMP)\n"
           "  -seed NUMBER      makes AT_RANDOM the same each time (QEMU_RAND_SEED)\n",
           a->arch ? a->arch : "<arch>", a->arch ? a->arch : "the architecture of its ELF header");
    exit(0);
}

NORETURN static void die(struct err *e)
{
    err_report(e);
    exit(1);
}

NORETURN static void bad_option(const char *opt, const char *val)
{
    struct err *e = NULL;

    err_set(&e, "%s: value '%s' is not possible here", opt, val);
    die(e);
}

/* ---- the environment ---- */

static void env_unset(struct args *a, const char *name, size_t len)
{
    for (size_t i = 0; i < a->nr_env;) {
        if (!strncmp(a->env[i], name, len) && a->env[i][len] == '=') {
            memmove(&a->env[i], &a->env[i + 1], (a->nr_env - i) * sizeof(char *));
            a->nr_env--;
        } else {
            i++;
        }
    }
}

static void env_set(struct args *a, const char *text)
{
    const char *eq = strchr(text, '=');

    if (!eq)
        bad_option("-E", text);
    env_unset(a, text, (size_t)(eq - text));
    a->env = xrealloc(a->env, (a->nr_env + 2) * sizeof(char *));
    a->env[a->nr_env++] = xstrdup(text);
    a->env[a->nr_env] = NULL;
}

/* -E and -U, and their variables, take comma lists. */
static void env_list(struct args *a, const char *list, bool set)
{
    char *copy = xstrdup(list);

    for (char *save = NULL, *w = strtok_r(copy, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
        if (set)
            env_set(a, w);
        else
            env_unset(a, w, strcspn(w, "="));
    }
    free(copy);
}

static void copy_env(struct args *a)
{
    while (environ[a->nr_env])
        a->nr_env++;
    a->env = xcalloc(a->nr_env + 1, sizeof(char *));
    memcpy(a->env, environ, a->nr_env * sizeof(char *));
}

/* ---- options ---- */

/* front: it is tried before those that are there. */
static void add_prefix(struct args *a, const char *path, bool front)
{
    struct lx_opts *o = &lx_proc.opt;
    size_t len = strlen(path);
    char full[PATH_MAX];

    if (!realpath(path, full))
        snprintf(full, sizeof full, "%s", path);
    len = strlen(full);
    while (len && full[len - 1] == '/')
        full[--len] = 0;
    if (!len)
        return; /* the root itself */
    o->prefix = xrealloc(o->prefix, (a->nr_prefix + 2) * sizeof(char *));
    if (front)
        memmove(o->prefix + 1, o->prefix, a->nr_prefix * sizeof(char *));
    o->prefix[front ? 0 : a->nr_prefix] = xstrdup(full);
    o->prefix[++a->nr_prefix] = NULL;
}

/* Who says it again, behind what a script says, wants the last one; the first -L wins over the variable. */
static void opt_L(struct args *a, const char *v)
{
    if (!a->in_env && a->prefix_of_env && a->nr_prefix) {
        a->nr_prefix = 0;
        lx_proc.opt.prefix[0] = NULL;
    }
    a->prefix_of_env = a->in_env;
    lx_proc.opt.given_prefix = true;
    add_prefix(a, v, true);
}

static void opt_s(struct args *a, const char *v)
{
    if (!str_to_size(v, 'b', &lx_proc.opt.stack) || lx_proc.opt.stack < 65536)
        bad_option("-s", v);
}

static void opt_cpu(struct args *a, const char *v)
{
    lx_proc.opt.cpu = v;
}

static void opt_E(struct args *a, const char *v)
{
    env_list(a, v, true);
}

static void opt_U(struct args *a, const char *v)
{
    env_list(a, v, false);
}

static void opt_0(struct args *a, const char *v)
{
    lx_proc.opt.argv0 = v;
}

static void opt_r(struct args *a, const char *v)
{
    lx_proc.opt.uname = v;
}

static void opt_B(struct args *a, const char *v)
{
    uint64_t n;

    if (!str_to_u64(v, &n) || n)
        bad_option("-B", v);
}

static void opt_R(struct args *a, const char *v)
{
    uint64_t n;

    if (!str_to_size(v, 'b', &n) || n & 4095 || (n && (n < MIN_SPACE || n > UINT64_C(1) << 32)))
        bad_option("-R", v);
    lx_proc.opt.space = n;
}

static void opt_p(struct args *a, const char *v)
{
    uint64_t n;

    if (!str_to_u64(v, &n) || n != 4096)
        bad_option("-p", v);
}

static void opt_g(struct args *a, const char *v)
{
    uint64_t n;

    if (str_to_u64(v, &n) && n && n < 65536)
        lx_proc.opt.gdb_port = (unsigned)n;
    else
        lx_proc.opt.gdb_path = v;
}

static void opt_strace(struct args *a, const char *v)
{
    lx_proc.opt.strace = true;
}

static void opt_d(struct args *a, const char *v)
{
    a->log_items = v;
}

static void opt_D(struct args *a, const char *v)
{
    lx_proc.opt.log_file = v;
}

static void opt_one(struct args *a, const char *v)
{
    lx_proc.opt.one_insn = true;
}

static void opt_tb_size(struct args *a, const char *v)
{
    uint64_t n;

    if (!str_to_u64(v, &n) || n < MIN_CACHE_MIB || n > MAX_CACHE_MIB)
        bad_option("-tb-size", v);
    lx_proc.opt.cache_mib = (unsigned)n;
}

static void opt_perfmap(struct args *a, const char *v)
{
    lx_proc.opt.perfmap = true;
}

static void opt_count(struct args *a, const char *v)
{
    lx_proc.opt.count_blocks = true;
}

static void opt_jitdump(struct args *a, const char *v)
{
    lx_proc.opt.jitdump = true;
}

/* Ours: filters of the program that executed this one. */
static void opt_seccomp(struct args *a, const char *v)
{
    uint64_t n;

    if (!str_to_u64(v, &n) || n < 3 || n > INT_MAX)
        bad_option("-seccomp-fd", v);
    lx_proc.opt.seccomp_fd = (int)n;
}

/* Ours: how the tracer of the program that executed this one wants it. */
static void opt_ptrace(struct args *a, const char *v)
{
    lx_proc.opt.trace = v;
}

static void opt_seed(struct args *a, const char *v)
{
    uint64_t n;

    if (!str_to_u64(v, &n))
        bad_option("-seed", v);
    lx_proc.opt.seed = v;
}

static void opt_version(struct args *a, const char *v)
{
    printf("qemu-%s version %s (Lyrebird)\n", a->arch ? a->arch : "<arch>", LYREBIRD_VERSION);
    exit(0);
}

static void opt_help(struct args *a, const char *v)
{
    usage(a);
}

static const struct option {
    const char *name, *env;
    bool arg;
    void (*set)(struct args *a, const char *v);
} options[] = {{"h", NULL, false, opt_help},
               {"help", NULL, false, opt_help},
               {"version", NULL, false, opt_version},
               {"L", "QEMU_LD_PREFIX", true, opt_L},
               {"s", "QEMU_STACK_SIZE", true, opt_s},
               {"cpu", "QEMU_CPU", true, opt_cpu},
               {"E", "QEMU_SET_ENV", true, opt_E},
               {"U", "QEMU_UNSET_ENV", true, opt_U},
               {"0", "QEMU_ARGV0", true, opt_0},
               {"r", "QEMU_UNAME", true, opt_r},
               {"B", "QEMU_GUEST_BASE", true, opt_B},
               {"R", "QEMU_RESERVED_VA", true, opt_R},
               {"p", "QEMU_PAGESIZE", true, opt_p},
               {"g", "QEMU_GDB", true, opt_g},
               {"strace", "QEMU_STRACE", false, opt_strace},
               {"d", "QEMU_LOG", true, opt_d},
               {"D", "QEMU_LOG_FILENAME", true, opt_D},
               {"one-insn-per-tb", "QEMU_ONE_INSN_PER_TB", false, opt_one},
               {"singlestep", "QEMU_SINGLESTEP", false, opt_one},
               {"tb-size", "QEMU_TB_SIZE", true, opt_tb_size},
               {"perfmap", "QEMU_PERFMAP", false, opt_perfmap},
               {"count-blocks", NULL, false, opt_count},
               {"jitdump", "QEMU_JITDUMP", false, opt_jitdump},
               {"seccomp-fd", NULL, true, opt_seccomp},
               {"ptrace", NULL, true, opt_ptrace},
               {"seed", "QEMU_RAND_SEED", true, opt_seed}};

static const struct option *find_option(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(options); i++)
        if (!strcmp(options[i].name, name))
            return &options[i];
    return NULL;
}

static void unknown_option(const char *text)
{
    struct str_nearest near;
    struct err *e = NULL;

    str_nearest_init(&near, text);
    for (size_t i = 0; i < ARRAY_LEN(options); i++)
        str_nearest_try(&near, options[i].name);
    err_set(&e, "unknown option '-%s'", text);
    if (near.best)
        err_hint(&e, "Did you mean -%s? -h lists them.", near.best);
    die(e);
}

/* Index of the program in argv. */
static int parse(struct args *a, int argc, char **argv)
{
    int i = 1;

    a->in_env = true;
    for (size_t k = 0; k < ARRAY_LEN(options); k++) {
        assert(options[k].arg == lx_peer_takes_value(options[k].name));
        const char *v = options[k].env ? getenv(options[k].env) : NULL;

        if (v)
            options[k].set(a, v);
    }
    a->in_env = false;
    for (; i < argc && argv[i][0] == '-' && argv[i][1]; i++) {
        const char *name = argv[i] + 1;
        const struct option *o;

        if (*name == '-' && name[1])
            name++;
        if (!strcmp(name, "-"))
            return i + 1;
        o = find_option(name);
        if (!o)
            unknown_option(name);
        if (o->arg && i + 1 >= argc) {
            struct err *e = NULL;

            err_set(&e, "option '-%s' needs a value", name);
            die(e);
        }
        o->set(a, o->arg ? argv[++i] : NULL);
    }
    return i;
}

/* ---- names ---- */

/* "qemu-aarch64-static" -> "aarch64"; NULL: called by its own name. */
static const char *arch_of_name(const char *argv0, bool *preserve)
{
    const char *base = strrchr(argv0, '/');
    static char name[64];
    size_t n;

    base = base ? base + 1 : argv0;
    if (!str_starts(base, "qemu-"))
        return NULL;
    snprintf(name, sizeof name, "%s", base + 5);
    n = strlen(name);
    if (n > 16 && !strcmp(name + n - 16, "-binfmt-preserve")) {
        name[n - 16] = 0;
        *preserve = true;
    }
    n = strlen(name);
    if (n > 7 && !strcmp(name + n - 7, "-static"))
        name[n - 7] = 0;
    return name;
}

static const struct lx_arch *choose_arch(const char *name, const char *path, int fd)
{
    const struct lx_arch *a;
    struct err *e = NULL;
    uint8_t head[64] = {0};
    unsigned c = 0, m;

    if (name) {
        a = lx_arch_find(name);
        if (a)
            return a;
        for (size_t i = 0; known[i]; i++)
            if (!strcmp(known[i], name)) {
                err_set(&e, "programs for %s cannot be run: its translator is not built", name);
                die(e);
            }
        err_set(&e, "no architecture is named '%s'", name);
        die(e);
    }
    m = pread(fd, head, sizeof head, 0) > 0 ? lx_elf_machine(head, sizeof head, &c) : 0;
    a = m ? lx_arch_of_elf(m, c) : NULL;
    if (!a) {
        err_set(&e,
                m ? "%s: programs for its machine (ELF number %u) cannot be run here"
                  : "%s: not a Linux program (no ELF file)",
                path, m);
        die(e);
    }
    return a;
}

static void start_logs(const struct args *a)
{
    unsigned mask = 0;
    const char *bad;
    struct err *e = NULL;

    if (a->log_items && !strcmp(a->log_items, "help")) {
        log_help(stdout);
        exit(0);
    }
    if (a->log_items && !log_parse_mask(a->log_items, &mask, &bad)) {
        err_set(&e, "-d %s: unknown item", a->log_items);
        die(e);
    }
    if (mask & NOT_LOGGED && !strstr(a->log_items, "all")) {
        err_set(&e,
                "-d %s: of these items user mode logs guest_errors, unimp, exec, in_asm, op, op_opt, out_asm, strace, "
                "trace and jit",
                a->log_items);
        die(e);
    }
    if (lx_proc.opt.log_file && !log_set_file(lx_proc.opt.log_file)) {
        err_set_errno(&e, errno, "-D %s: cannot open", lx_proc.opt.log_file);
        die(e);
    }
    if (mask & LOG_STRACE)
        lx_proc.opt.strace = true;
    log_set_mask(mask | (lx_proc.opt.strace ? LOG_STRACE : 0));
}

static void default_prefixes(struct args *a, const struct lx_arch *arch)
{
    if (lx_proc.opt.given_prefix || !arch->cross)
        return;
    for (const char *const *p = arch->cross + 1; *p; p++)
        if (!access(*p, F_OK))
            add_prefix(a, *p, false);
}

static int open_program(const char *path)
{
    unsigned long fd = getauxval(AT_EXECFD);
    struct err *e = NULL;
    int r;

    if (fd)
        return (int)fd;
    r = open(path, O_RDONLY | O_CLOEXEC);
    if (r < 0) {
        err_set_errno(&e, errno, "cannot open the program '%s'", path);
        die(e);
    }
    return r;
}

static void start_translator(const struct lx_arch *arch)
{
    struct err *e = NULL;

    if (!arch->cpu_select(lx_proc.opt.cpu, &e))
        die(e);
    lx_proc.rt = lx_rt_new(arch->front, (size_t)(lx_proc.opt.cache_mib ? lx_proc.opt.cache_mib : CACHE_MIB) << 20, &e);
    if (!lx_proc.rt)
        die(e);
    lx_proc.rt->one_insn = lx_proc.opt.one_insn;
    if (lx_proc.opt.perfmap && !jit_cache_perf_map(&lx_proc.rt->cache, &e))
        die(e);
    if (lx_proc.opt.count_blocks && !jit_cache_count(&lx_proc.rt->cache, &e))
        die(e);
    if (lx_proc.opt.jitdump && !jit_cache_jitdump(&lx_proc.rt->cache, &e))
        die(e);
    lx_proc.rt->no_link = log_on(LOG_EXEC);
    if (!lx_proc.opt.one_insn && !lx_proc.rt->no_link && !lx_proc.opt.count_blocks &&
        !log_on(LOG_IN_ASM | LOG_OP | LOG_OP_OPT | LOG_OUT_ASM) && !lx_proc.opt.gdb_port && !lx_proc.opt.gdb_path) {
        char *what = xasprintf("%s %s", arch->name, lx_proc.opt.cpu ? lx_proc.opt.cpu : "");

        lx_proc.rt->kept = lx_kept_open(what);
        free(what);
    }
}

static void cpu_help(const struct lx_arch *arch)
{
    char *text = arch->cpu_help ? arch->cpu_help() : NULL;

    fputs(text ? text : "max\n", stdout);
    free(text);
    exit(0);
}

int main(int argc, char **argv)
{
    struct args a = {0};
    struct err *e = NULL;
    struct lx_image image;
    struct lx_cpu *cpu;
    char full[PATH_MAX];
    int at, fd;

    a.arch = arch_of_name(argv[0], &a.preserve_argv0);
    if (a.arch)
        choose_arch(a.arch, "", -1); /* a name that is not built says so, whatever else was asked */
    pthread_mutex_init(&lx_proc.lock, NULL);
    pthread_mutex_init(&lx_proc.space, NULL);
    copy_env(&a);
    if (getauxval(AT_FLAGS) & 1) /* started by binfmt_misc with flag P */
        a.preserve_argv0 = true;
    at = parse(&a, argc, argv);
    if (lx_proc.opt.cpu && !strcmp(lx_proc.opt.cpu, "help"))
        cpu_help(choose_arch(a.arch ? a.arch : "x86_64", "", -1));
    start_logs(&a);
    if (at >= argc) {
        err_set(&e, "no program was given");
        err_hint(&e, "Usage: qemu-<arch> [options] program [arguments...]; -h lists the options.");
        die(e);
    }
    fd = open_program(argv[at]);
    lx_proc.arch = choose_arch(a.arch, argv[at], fd);
    if (lx_proc.opt.space && !lx_is32()) /* 64-bit guest addresses are the host's: nothing is set aside for them */
        bad_option("-R", "SIZE other than 0 for a 64-bit program");
    lx_proc.exe = xstrdup(realpath(argv[at], full) ? full : argv[at]);
    if (a.preserve_argv0 && at + 1 < argc) {
        lx_proc.opt.argv0 = argv[at + 1];
        memmove(&argv[at + 1], &argv[at + 2], (size_t)(argc - at - 1) * sizeof(char *));
    }
    lx_proc.argv = argv + at;
    default_prefixes(&a, lx_proc.arch);
    lx_proc.opt.self = "/proc/self/exe";
    start_translator(lx_proc.arch);
    if (!lx_mem_init(&e))
        die(e);
    {
        char **gargv = argv + at;
        const char *path = argv[at];

        if (lx_proc.opt.argv0)
            gargv[0] = (char *)lx_proc.opt.argv0;
        if (!lx_load(path, fd, gargv, a.env, &image, &e))
            die(e);
    }
    close(fd);
    prctl(PR_SET_NAME, strrchr(lx_proc.exe, '/') ? strrchr(lx_proc.exe, '/') + 1 : lx_proc.exe);
    cpu = lx_proc.arch->cpu_new(lx_proc.rt, &e);
    if (!cpu || !lx_rt_thread_new(lx_proc.rt, cpu, &e))
        die(e);
    lx_run_main(image.entry, image.sp, cpu);
}
