/* An image tool whose parser has fallen into a stranger's hands: what it can still do once it is shut in, and what the
 * process outside gives it. Each claim runs in a process of its own, since nobody gets out again. */
#include "base/bytes.h"
#include "blk/host.h"
#include "blk/node.h"
#include "cmd/shut/shut.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OUT = 77 };

static char dir[64];

/* The line that failed, or 0. */
#define CLAIM(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x))                                                                                                      \
            return __LINE__;                                                                                           \
    } while (0)

struct inside {
    struct blk_set *set;
    pid_t parent;
};

static void in_child(int (*fn)(struct inside *i), struct shut_plan p, const char *line)
{
    char *words[16] = {NULL}, *copy = xstrdup(line), *save = NULL;
    pid_t parent = getpid(), pid;
    int st;

    for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save))
        words[p.argc++] = w;
    p.argv = words;
    if (p.target)
        p.target = words[p.argc - 1];
    pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        struct inside i = {blk_set_new(run_new()), parent};
        int r;

        if (chdir(dir) < 0 || !shut_in(i.set, &p))
            _exit(OUT);
        r = fn(&i);
        if (r)
            dprintf(2, "line %d is not so: errno %d\n", r, errno);
        _exit(r ? 1 : 0);
    }
    assert_int_equal(waitpid(pid, &st, 0), pid);
    free(copy);
    if (WIFEXITED(st) && WEXITSTATUS(st) == OUT) {
        print_message("not shut in: %s\n", shut_why_not(0, NULL) ? shut_why_not(0, NULL) : "no process");
        skip();
    }
    assert_true(WIFEXITED(st));
    assert_int_equal(WEXITSTATUS(st), 0);
}

static int by_itself(struct inside *i)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    char *argv[] = {(char *)(uintptr_t) "true", NULL};
    char byte = 0;
    struct iovec v = {&byte, 1};

    CLAIM(open("/etc/passwd", O_RDONLY) < 0 && errno == EACCES);
    CLAIM(openat(AT_FDCWD, "named.img", O_RDONLY) < 0 && errno == EACCES);
    CLAIM(syscall(SYS_openat2, AT_FDCWD, "named.img", NULL, 0) < 0 && errno == EACCES);
    CLAIM(open("new", O_RDWR | O_CREAT, 0600) < 0 && errno == EACCES);
    CLAIM(unlink("named.img") < 0 && rename("named.img", "x") < 0 && symlink("/etc/passwd", "l") < 0);
    CLAIM(socket(AF_INET, SOCK_STREAM, 0) < 0 && errno == EACCES);
    CLAIM(socket(AF_UNIX, SOCK_STREAM, 0) < 0 && errno == EACCES);
    CLAIM(connect(0, (void *)&un, sizeof un) < 0 && errno == EACCES);
    CLAIM(execv("/bin/true", argv) < 0 && errno == EACCES);
    CLAIM(fork() < 0 && vfork() < 0);
    CLAIM(syscall(SYS_io_uring_setup, 8, NULL) < 0 && errno == ENOSYS);
    CLAIM(syscall(SYS_clone3, NULL, 0) < 0 && errno == ENOSYS);
    CLAIM(kill(i->parent, SIGTERM) < 0 && kill(i->parent, 0) < 0);
    CLAIM(ptrace(PTRACE_ATTACH, i->parent, NULL, NULL) < 0);
    CLAIM(process_vm_writev(i->parent, &v, 1, &v, 1, 0) < 0);
    CLAIM(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
    CLAIM(syscall(SYS_seccomp, 1, 0, NULL) < 0);
    return 0;
}

static int asks(struct inside *i, const char *path, int flags)
{
    int fd = blk_host_open(i->set, path, flags, 0644);

    if (fd >= 0)
        close(fd);
    return fd < 0 ? fd : 0;
}

static int reader(struct inside *i)
{
    mode_t type;
    char path[80];

    CLAIM(asks(i, "named.img", O_RDONLY) == 0);
    CLAIM(asks(i, "named.img", O_RDWR) == -EACCES);
    CLAIM(asks(i, "named.img", O_RDONLY | O_TRUNC) == -EACCES);
    CLAIM(asks(i, "/etc/passwd", O_RDONLY) == -EACCES);
    CLAIM(asks(i, "named", O_RDONLY) == -EACCES && asks(i, "", O_RDONLY) == -EACCES);
    CLAIM(asks(i, "./named.img", O_RDONLY) == -EACCES);
    CLAIM(asks(i, "secret.img", O_RDONLY) == -EACCES);
    CLAIM(blk_host_kind(i->set, "named.img", &type) == 0 && S_ISREG(type));
    CLAIM(blk_host_kind(i->set, "/etc/passwd", &type) == -EACCES);
    CLAIM(blk_host_unlink(i->set, "named.img") == -EACCES);
    snprintf(path, sizeof path, "%s/named.img", dir);
    CLAIM(asks(i, path, O_RDONLY) == -EACCES);
    return 0;
}

static int chain(struct inside *i)
{
    CLAIM(asks(i, "base.img", O_RDONLY) == -EACCES); /* not before the image that names it */
    CLAIM(asks(i, "top.qcow2", O_RDONLY) == 0);
    CLAIM(asks(i, "base.img", O_RDONLY) == 0);
    CLAIM(asks(i, "base.img", O_RDWR) == -EACCES);
    CLAIM(asks(i, "secret.img", O_RDONLY) == -EACCES);
    return 0;
}

static void put_backing(uint8_t *h, const char *name)
{
    memset(h, 0, 1024);
    put_be32(h, 0x514649fb);
    put_be32(h + 4, 3);
    put_be64(h + 8, 512);
    put_be32(h + 16, (uint32_t)strlen(name));
    put_be32(h + 100, 104);
    memcpy(h + 512, name, strlen(name));
}

/* The image is open for writing; its header is changed to name another file. That does not count. */
static int rewriter(struct inside *i)
{
    uint8_t h[1024];
    int fd = blk_host_open(i->set, "top.qcow2", O_RDWR, 0);

    CLAIM(fd >= 0);
    put_backing(h, "secret.img");
    CLAIM(pwrite(fd, h, sizeof h, 0) == sizeof h);
    CLAIM(asks(i, "secret.img", O_RDONLY) == -EACCES);
    CLAIM(asks(i, "top.qcow2", O_RDWR) == 0);
    CLAIM(asks(i, "secret.img", O_RDONLY) == -EACCES);
    CLAIM(asks(i, "base.img", O_RDONLY) == 0);
    return 0;
}

static int one_output(struct inside *i)
{
    CLAIM(asks(i, "named.img", O_RDONLY) == 0);
    CLAIM(asks(i, "named.img", O_RDWR) == -EACCES);
    CLAIM(asks(i, "out.vmdk", O_RDWR | O_CREAT) == 0);
    CLAIM(asks(i, "out-flat.vmdk", O_RDWR | O_CREAT) == 0);
    CLAIM(asks(i, "out-s001.vmdk", O_RDWR | O_CREAT) == 0);
    CLAIM(asks(i, "out-x001.vmdk", O_RDWR | O_CREAT) == -EACCES);
    CLAIM(asks(i, "named-flat.img", O_RDWR | O_CREAT) == -EACCES);
    CLAIM(asks(i, "d.raw", O_RDWR | O_CREAT) == 0);
    return 0;
}

static int named_in_options(struct inside *i)
{
    CLAIM(asks(i, "named.img", O_RDWR) == 0);
    CLAIM(asks(i, "sub/rel.img", O_RDONLY) == -ENOENT); /* seen from the folder of sub/top */
    CLAIM(asks(i, "rel", O_RDONLY) == -EACCES);
    CLAIM(asks(i, "raw", O_RDONLY) == -ENOENT);
    return 0;
}

static int bounded(struct inside *i)
{
    struct rlimit r;

    CLAIM(!getrlimit(RLIMIT_CPU, &r) && r.rlim_max == 30);
    CLAIM(!getrlimit(RLIMIT_AS, &r) && r.rlim_max < 2 * GIB);
    CLAIM(!try_alloc(1, GIB + (64 << 20)));
    return 0;
}

static int allowed_work(struct inside *i)
{
    int fd = blk_host_open(i->set, "named.img", O_RDWR, 0), ro;
    char b[8];

    CLAIM(fd >= 0);
    CLAIM(pwrite(fd, "lyrebird", 8, 0) == 8 && pread(fd, b, 8, 0) == 8 && fdatasync(fd) == 0 &&
          ftruncate(fd, 4096) == 0);
    ro = blk_host_reopen(i->set, fd, O_RDONLY);
    CLAIM(ro >= 0 && pwrite(ro, b, 8, 0) < 0);
    return 0;
}

static void shut_in_it_can_reach_nothing(void **state)
{
    in_child(by_itself, (struct shut_plan){0}, "info named.img");
}
static void a_reader_gets_what_is_named(void **state)
{
    in_child(reader, (struct shut_plan){0}, "info named.img");
}
static void an_image_brings_what_it_names(void **state)
{
    in_child(chain, (struct shut_plan){0}, "info --backing-chain top.qcow2");
}
static void a_header_written_later_brings_nothing(void **state)
{
    in_child(rewriter, (struct shut_plan){.writes = true}, "resize top.qcow2 +1G");
}
static void one_output_is_written_and_what_lies_beside_it(void **state)
{
    in_child(one_output, (struct shut_plan){.writes = true, .target = ""},
             "convert -o data_file=d.raw named.img out.vmdk");
}
static void names_stand_in_options(void **state)
{
    in_child(named_in_options, (struct shut_plan){.writes = true},
             "create driver=raw,file.filename=named.img {\"file\":{\"filename\":\"x\"}} -b rel.img sub/top");
}
static void a_description_is_bounded(void **state)
{
    in_child(bounded, (struct shut_plan){.bounded = true}, "info named.img");
}
static void its_work_can_be_done(void **state)
{
    in_child(allowed_work, (struct shut_plan){.writes = true}, "resize named.img");
}

static unsigned refs_of(const void *data, size_t n, char ***names)
{
    int fd = memfd_create("x", 0);
    unsigned nr;

    assert_true(pwrite(fd, data, n, 0) == (ssize_t)n);
    nr = shut_refs(fd, names);
    close(fd);
    return nr;
}

static void free_names(char **names, unsigned nr)
{
    for (unsigned i = 0; i < nr; i++)
        free(names[i]);
    free(names);
}

static void names_are_read_from_headers(void **state)
{
    static const char desc[] =
        "# Disk DescriptorFile\nversion=1\nRW 10 FLAT \"a-flat.vmdk\" 0\nRW 4 ZERO\nRW 2 FLAT \"/etc/passwd\" 0\n"
        "RDONLY 2 FLAT \"/dev/sdz\" 0\nRW 2 SPARSE \"b.vmdk\"\n";
    uint8_t h[1024];
    char **names;
    unsigned nr;

    put_backing(h, "/base/file");
    put_be64(h + 72, 4);
    put_be32(h + 104, 0x44415441);
    put_be32(h + 108, 5);
    memcpy(h + 112, "d.raw", 5);
    nr = refs_of(h, sizeof h, &names);
    assert_int_equal(nr, 2);
    assert_string_equal(names[0], "/base/file");
    assert_string_equal(names[1], "d.raw");
    free_names(names, nr);
    nr = refs_of(desc, sizeof desc - 1, &names);
    assert_int_equal(nr, 3);
    assert_string_equal(names[0], "a-flat.vmdk");
    assert_string_equal(names[1], "/dev/sdz");
    assert_string_equal(names[2], "b.vmdk");
    free_names(names, nr);
}

static void spoilt_headers_do_no_harm(void **state)
{
    uint64_t rng = 88172645463325252u;

    for (unsigned round = 0; round < 3000; round++) {
        uint8_t h[1024];
        char **names;
        unsigned nr;

        put_backing(h, "base");
        if (round & 1)
            memcpy(h, round & 2 ? "KDMV" : "# Disk DescriptorFile\nRW 1 FLAT \"x", 4 + 30 * !(round & 2));
        for (unsigned k = 0; k < 12; k++) {
            rng ^= rng << 13;
            rng ^= rng >> 7;
            rng ^= rng << 17;
            h[4 + (rng >> 8) % (k & 1 ? 120 : 1000)] = (uint8_t)(rng >> 32);
        }
        nr = refs_of(h, 24 + rng % 1000, &names);
        assert_true(nr <= 1024);
        free_names(names, nr);
    }
}

static void some_lines_are_not_shut_in(void **state)
{
    const char *no[] = {"nbd://h/x", "json:{\"driver\":\"nbd\"}", "fat:dir", "driver=nbd,host=x", "http://x/y"};

    for (size_t i = 0; i < ARRAY_LEN(no); i++)
        assert_non_null(shut_why_not(2, (char *[]){(char *)(uintptr_t) "info", (char *)(uintptr_t)no[i]}));
}

static int setup(void **state)
{
    uint8_t h[1024];
    const char *names[] = {"named.img", "secret.img", "base.img", "top.qcow2"};

    snprintf(dir, sizeof dir, "/tmp/lyrebird-shut.XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    put_backing(h, "base.img");
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *path AUTOFREE = xasprintf("%s/%s", dir, names[i]);
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

        if (fd < 0 || pwrite(fd, i == 3 ? (void *)h : (void *)"text", i == 3 ? sizeof h : 4, 0) < 0)
            return -1;
        close(fd);
    }
    return 0;
}

static int teardown(void **state)
{
    char *cmd AUTOFREE = xasprintf("rm -r '%s'", dir);

    return system(cmd);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
UNIT_MAIN(T(shut_in_it_can_reach_nothing), T(a_reader_gets_what_is_named), T(an_image_brings_what_it_names),
          T(a_header_written_later_brings_nothing), T(one_output_is_written_and_what_lies_beside_it),
          T(names_stand_in_options), T(a_description_is_bounded), T(its_work_can_be_done),
          T(names_are_read_from_headers), T(spoilt_headers_do_no_harm), T(some_lines_are_not_shut_in))
