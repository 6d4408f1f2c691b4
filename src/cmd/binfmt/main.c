/* lyrebird binfmt: tells the kernel (binfmt_misc) which programs our user-mode translators run.
 *
 * A rule is `:qemu-<arch>:M::<magic>:<mask>:<interpreter>:<flags>`, matched on the first 20 bytes of the ELF header.
 * Flags: F the kernel opens the interpreter now, so that it works in chroots and containers without a copy there; P the
 * program's own argv[0] is kept; C a set-uid program gets its rights, which is why sudo works inside; O the kernel
 * hands over an open program (implied by C). After Documentation/admin-guide/binfmt-misc.rst of the kernel.
 *
 * The host's own architecture: such a rule would catch every program of the machine, the translator too. It is refused
 * unless --own asks for it (name spaces with a binfmt_misc of their own); the rule then names a copy of the translator
 * whose last identification byte, which nobody reads, is not zero and so does not match. */
#include "base/err.h"
#include "base/str.h"

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEAD = 20, OWN_MARK = 'L' };
#define HOST_ARCH "x86_64"

static const struct rule {
    const char *arch;
    unsigned char elf_class, data;
    unsigned short machine;
    bool built; /* we have its translator */
} rules[] = {{"x86_64", 2, 1, 62, true},     {"i386", 1, 1, 3, true},          {"aarch64", 2, 1, 183, true},
             {"arm", 1, 1, 40, true},        {"riscv64", 2, 1, 243, true},     {"riscv32", 1, 1, 243, false},
             {"ppc64le", 2, 1, 21, false},   {"ppc64", 2, 2, 21, false},       {"ppc", 1, 2, 20, false},
             {"s390x", 2, 2, 22, false},     {"mips", 1, 2, 8, false},         {"mipsel", 1, 1, 8, false},
             {"mips64", 2, 2, 8, false},     {"mips64el", 2, 1, 8, false},     {"sparc64", 2, 2, 43, false},
             {"alpha", 2, 1, 0x9026, false}, {"m68k", 1, 2, 4, false},         {"sh4", 1, 1, 42, false},
             {"armeb", 1, 2, 40, false},     {"loongarch64", 2, 1, 258, false}};

struct conf {
    const char *dir;   /* binfmt_misc */
    const char *flags; /* of new rules */
    const char *bin;   /* folder of the translators; NULL: beside this program */
    const char *suffix;
    const char *conf_dir; /* binfmt.d files instead of the kernel */
    bool own;             /* the host's own architecture may be registered */
};

NORETURN static void die(struct err *e)
{
    err_report(e);
    exit(1);
}

/* The bytes that identify a program, and which bits of them count: the ABI byte and the type's low bit do not. */
static void header(const struct rule *r, unsigned char magic[HEAD], unsigned char mask[HEAD])
{
    static const unsigned char elf[4] = {0x7f, 'E', 'L', 'F'};
    bool big = r->data == 2;

    memset(magic, 0, HEAD);
    memset(mask, 0xff, HEAD);
    memcpy(magic, elf, 4);
    magic[4] = r->elf_class;
    magic[5] = r->data;
    magic[6] = 1;
    mask[7] = 0;
    magic[big ? 17 : 16] = 2;
    mask[big ? 17 : 16] = 0xfe;
    magic[big ? 19 : 18] = (unsigned char)r->machine;
    magic[big ? 18 : 19] = (unsigned char)(r->machine >> 8);
}

static void escape(struct strbuf *s, const unsigned char *b)
{
    for (unsigned i = 0; i < HEAD; i++)
        str_addf(s, "\\x%02x", b[i]);
}

static char *rule_text(const struct conf *c, const struct rule *r)
{
    unsigned char magic[HEAD], mask[HEAD];
    struct strbuf s = {0};

    header(r, magic, mask);
    str_addf(&s, ":qemu-%s:M::", r->arch);
    escape(&s, magic);
    str_add(&s, ":");
    escape(&s, mask);
    str_addf(&s, ":%s/qemu-%s%s:%s", c->bin, r->arch, c->suffix, c->flags);
    return str_take(&s);
}

static const struct rule *find_rule(const char *arch)
{
    for (size_t i = 0; i < ARRAY_LEN(rules); i++)
        if (!strcmp(rules[i].arch, arch))
            return &rules[i];
    return NULL;
}

static bool write_file(const char *path, const char *text, int flags, struct err **errp)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC | flags, 0644);
    size_t n = strlen(text);

    if (fd < 0)
        return err_set_errno(errp, errno, "cannot open %s", path);
    if (write(fd, text, n) != (ssize_t)n) {
        err_set_errno(errp, errno, "cannot write %s", path);
        close(fd);
        return false;
    }
    return !close(fd) || err_set_errno(errp, errno, "cannot write %s", path);
}

static bool need_mounted(const struct conf *c, struct err **errp)
{
    char path[PATH_MAX];

    snprintf(path, sizeof path, "%s/register", c->dir);
    if (!access(path, F_OK))
        return true;
    err_set(errp, "binfmt_misc is not mounted at %s", c->dir);
    err_hint(errp, "As root: mount -t binfmt_misc none %s", c->dir);
    return false;
}

static bool add_rule(const struct conf *c, const struct rule *r, struct err **errp)
{
    AUTOFREE char *text = rule_text(c, r), *line = xasprintf("%s\n", text), *path = NULL;

    if (c->conf_dir) {
        path = xasprintf("%s/qemu-%s%s.conf", c->conf_dir, r->arch, c->suffix);
        return write_file(path, line, O_CREAT | O_TRUNC, errp);
    }
    path = xasprintf("%s/qemu-%s", c->dir, r->arch);
    if (!access(path, F_OK) && !write_file(path, "-1", 0, errp)) /* replaces an older one */
        return false;
    free(path);
    path = xasprintf("%s/register", c->dir);
    return write_file(path, text, 0, errp);
}

static bool copy_marked(const char *from, const char *to, struct err **errp)
{
    int in = open(from, O_RDONLY | O_CLOEXEC),
        out = in < 0 ? -1 : open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
    const char mark = OWN_MARK;
    char buf[65536];
    bool ok = out >= 0;
    ssize_t n;

    while (ok && (n = read(in, buf, sizeof buf)) != 0)
        ok = n > 0 && write(out, buf, (size_t)n) == n;
    ok = ok && pwrite(out, &mark, 1, EI_NIDENT - 1) == 1;
    if (!ok)
        err_set_errno(errp, errno, "cannot copy %s to %s", from, to);
    if (in >= 0)
        close(in);
    return (out < 0 || !close(out)) && ok;
}

/* The kernel opens the copy when the rule is written (flag F), so it need not stay. */
static bool add_own_rule(const struct conf *c, const struct rule *r, struct err **errp)
{
    const char *tmp = getenv("TMPDIR");
    AUTOFREE char *dir = xasprintf("%s/lyrebird-XXXXXX", tmp && *tmp ? tmp : "/tmp"), *from = NULL, *to = NULL;
    struct conf own = *c;
    bool ok;

    if (c->conf_dir || !strchr(c->flags, 'F'))
        return err_set(errp,
                       "binfmt: --own: the copy that runs this machine's own programs needs flag F and no --systemd");
    if (!mkdtemp(dir))
        return err_set_errno(errp, errno, "cannot make a folder like %s", dir);
    from = xasprintf("%s/qemu-%s%s", c->bin, r->arch, c->suffix);
    to = xasprintf("%s/qemu-%s%s", dir, r->arch, c->suffix);
    own.bin = dir;
    ok = copy_marked(from, to, errp) && add_rule(&own, r, errp);
    unlink(to);
    rmdir(dir);
    return ok;
}

static bool remove_rule(const struct conf *c, const struct rule *r, struct err **errp)
{
    AUTOFREE char *path = c->conf_dir ? xasprintf("%s/qemu-%s%s.conf", c->conf_dir, r->arch, c->suffix)
                                      : xasprintf("%s/qemu-%s", c->dir, r->arch);

    if (access(path, F_OK))
        return err_set(errp, "no rule qemu-%s is registered", r->arch);
    if (c->conf_dir)
        return !unlink(path) || err_set_errno(errp, errno, "cannot remove %s", path);
    return write_file(path, "-1", 0, errp);
}

/* One rule per line: name, enabled, interpreter, flags. */
static void list(const struct conf *c)
{
    DIR *d = opendir(c->dir);
    struct dirent *e;
    struct err *err = NULL;

    if (!d || !need_mounted(c, &err))
        die(err ? err : (err_set_errno(&err, errno, "cannot read %s", c->dir), err));
    while ((e = readdir(d))) {
        AUTOFREE char *path = xasprintf("%s/%s", c->dir, e->d_name);
        char line[PATH_MAX], state[32] = "", interp[PATH_MAX] = "", flags[32] = "";
        FILE *f;

        if (e->d_name[0] == '.' || !strcmp(e->d_name, "register") || !strcmp(e->d_name, "status") ||
            !(f = fopen(path, "re")))
            continue;
        while (fgets(line, sizeof line, f))
            if (sscanf(line, "interpreter %4000s", interp) != 1 && sscanf(line, "flags: %31s", flags) != 1 && !*state)
                sscanf(line, "%31s", state);
        fclose(f);
        printf("%-24s %-9s %-6s %s\n", e->d_name, state, flags, interp);
    }
    closedir(d);
}

NORETURN static void usage(int rc)
{
    printf("Usage: lyrebird binfmt register|list|remove|show [options] [ARCH...]\n"
           "Lets the kernel start programs of other architectures through the user-mode translators.\n\n"
           "  register        writes a rule for each ARCH (all that are built but this machine's own)\n"
           "  list            shows the rules the kernel has\n"
           "  remove          removes rules\n"
           "  show            prints the rules without writing them\n\n"
           "  --flags=FPC     F: open the translator now (works in chroots), P: keep argv[0], C: set-uid programs\n"
           "                  get their rights (sudo works), O: hand over an open file\n"
           "  --bin=DIR       folder of the translators (default: this program's)\n"
           "  --suffix=TEXT   end of their names (default: -static)\n"
           "  --systemd[=DIR] writes or removes files in DIR (/usr/lib/binfmt.d) for systemd-binfmt instead\n"
           "  --dir=DIR       where binfmt_misc is mounted (/proc/sys/fs/binfmt_misc)\n"
           "  --own           allows this machine's own architecture: all its programs are then translated\n");
    exit(rc);
}

/* Where this program was called, when that says a folder; else where it lies. */
static void own_folder(struct conf *c, const char *argv0)
{
    static char path[PATH_MAX];
    char name[PATH_MAX], *slash;
    ssize_t n = 0;

    snprintf(name, sizeof name, "%s", argv0);
    slash = strrchr(name, '/');
    if (slash) {
        *slash = 0;
        if (realpath(*name ? name : "/", path)) {
            c->bin = path;
            return;
        }
    }
    n = readlink("/proc/self/exe", path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    slash = strrchr(path, '/');
    if (slash)
        *slash = 0;
    c->bin = slash ? path : "/usr/bin";
}

static void one(const struct conf *c, const char *verb, const struct rule *r)
{
    struct err *e = NULL;
    char *text;

    if (!strcmp(verb, "show")) {
        text = rule_text(c, r);
        puts(text);
        free(text);
        return;
    }
    if (strcmp(verb, "register")) {
        if (!remove_rule(c, r, &e))
            die(e);
    } else if (!(strcmp(r->arch, HOST_ARCH) ? add_rule : add_own_rule)(c, r, &e)) {
        die(e);
    }
}

static bool known_verb(const char *v)
{
    return !strcmp(v, "register") || !strcmp(v, "remove") || !strcmp(v, "show") || !strcmp(v, "list");
}

/* Index of the first ARCH. */
static int parse(struct conf *c, int argc, char **argv)
{
    int i;

    for (i = 3; i < argc && argv[i][0] == '-'; i++) {
        struct err *e = NULL;

        if (str_starts(argv[i], "--flags="))
            c->flags = argv[i] + 8;
        else if (str_starts(argv[i], "--bin="))
            c->bin = argv[i] + 6;
        else if (str_starts(argv[i], "--suffix="))
            c->suffix = argv[i] + 9;
        else if (str_starts(argv[i], "--dir="))
            c->dir = argv[i] + 6;
        else if (!strcmp(argv[i], "--own"))
            c->own = true;
        else if (!strcmp(argv[i], "--systemd"))
            c->conf_dir = "/usr/lib/binfmt.d";
        else if (str_starts(argv[i], "--systemd="))
            c->conf_dir = argv[i] + 10;
        else {
            err_set(&e, "binfmt: unknown option '%s'", argv[i]);
            die(e);
        }
    }
    if (strspn(c->flags, "FPOC") != strlen(c->flags)) {
        struct err *e = NULL;

        err_set(&e, "binfmt: --flags=%s: flags are F, P, O and C", c->flags);
        die(e);
    }
    return i;
}

int main(int argc, char **argv)
{
    struct conf c = {.dir = "/proc/sys/fs/binfmt_misc", .flags = "FPC", .suffix = "-static"};
    struct err *e = NULL;
    int at;

    if (argc < 2 || !strcmp(argv[1], "-h") || !strcmp(argv[1], "--help"))
        usage(argc < 2);
    if (strcmp(argv[1], "binfmt")) {
        err_set(&e, "unknown command '%s'", argv[1]);
        err_hint(&e, "Commands: binfmt.");
        die(e);
    }
    if (argc < 3 || !known_verb(argv[2]))
        usage(argc < 3 || strcmp(argv[2], "--help"));
    at = parse(&c, argc, argv);
    if (!c.bin)
        own_folder(&c, argv[0]);
    if (!strcmp(argv[2], "list")) {
        list(&c);
        return 0;
    }
    if (!c.conf_dir && strcmp(argv[2], "show") && !need_mounted(&c, &e))
        die(e);
    for (int i = at; i < argc; i++)
        if (!find_rule(argv[i])) {
            err_set(&e, "binfmt: no architecture is named '%s'", argv[i]);
            die(e);
        } else if (!find_rule(argv[i])->built && !strcmp(argv[2], "register")) {
            err_set(&e, "binfmt: the translator for %s is not built", argv[i]);
            die(e);
        } else if (!strcmp(argv[i], HOST_ARCH) && !strcmp(argv[2], "register") && !c.own) {
            err_set(
                &e,
                "binfmt: %s is this machine's own architecture: all its programs would be translated (--own does it)",
                argv[i]);
            die(e);
        }
    for (size_t i = 0; at == argc && i < ARRAY_LEN(rules); i++)
        if (rules[i].built && strcmp(rules[i].arch, "x86_64") && strcmp(rules[i].arch, "i386"))
            one(&c, argv[2], &rules[i]);
    for (; at < argc; at++)
        one(&c, argv[2], find_rule(argv[at]));
    return 0;
}
