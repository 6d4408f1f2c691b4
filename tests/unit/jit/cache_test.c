/* The code cache: a jitdump file is read back record by record; blocks are entered, counted, and die. */
#include "jit/cache.h"
#include "jit/count.h"
#include "jit/jitdump.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/jitdump-XXXXXX";

static struct jit_cache *cache_new(void)
{
    static struct jit_cache d;
    struct err *e = NULL;

    assert_true(jit_cache_init(&d, 4 << 20, &e));
    d.leave = d.arena.x;
    d.leave_reg = JR_R10;
    d.arena.used = d.arena.keep = 64;
    return &d;
}

/* A block of n NOPs and a RET. */
static struct jit_block *block(struct jit_cache *d, uint64_t pc, unsigned n)
{
    struct jit_block_out out = {.nr_insn = 1, .len = n + 1, .guest_len = 4, .host_off = {0, (uint16_t)(n + 1)}};
    struct jit_buf b;
    uint32_t link;

    assert_true(jit_cache_begin(d, pc, &b, &link));
    for (unsigned i = 0; i < n; i++)
        jit_8(&b, 0x90);
    jit_8(&b, 0xc3);
    return jit_cache_commit(d, pc, pc, 7, &out);
}

/* One that depends on bytes 64 to 70 of the page three before its own, where its second instruction lies. */
static void a_block_dies_with_code_of_another_page(void **state)
{
    struct jit_block_out out = {.nr_insn = 2,
                                .len = 2,
                                .guest_len = 5,
                                .host_off = {0, 1, 2},
                                .guest_off = {0, JIT_OFF_PEEK + 64, 5},
                                .peek_first = 64,
                                .peek_last = 70,
                                .peek_by = -3};
    struct jit_cache *d = cache_new();
    struct jit_block *x;
    struct jit_buf b;
    uint32_t link;

    assert_true(jit_cache_begin(d, 0x405ffb, &b, &link));
    jit_8(&b, 0x90);
    jit_8(&b, 0xc3);
    x = jit_cache_commit(d, 0x405ffb, 0x405ffb, 7, &out);
    assert_int_equal(jit_block_pc(x, 0), 0x405ffb);
    assert_int_equal(jit_block_pc(x, 1), 0x402040);
    assert_int_equal(jit_block_pc(x, 2), 0x406000);
    jit_cache_written(d, 0x405, 64, 7);
    jit_cache_written(d, 0x402, 71, 100);
    jit_cache_written(d, 0x402, 0, 64);
    assert_false(x->dead);
    jit_cache_written(d, 0x402, 70, 1);
    assert_true(x->dead);
    assert_null(jit_cache_find(d, 0x405ffb, 0x405ffb, 7));
    jit_cache_free(d);
}

static size_t read_dump(uint8_t *p, size_t room)
{
    char name[64];
    ssize_t n;
    int fd;

    snprintf(name, sizeof name, "jit-%ld.dump", (long)getpid());
    fd = open(name, O_RDONLY);
    assert_true(fd >= 0);
    n = read(fd, p, room);
    assert_true(n > 0 && (size_t)n < room);
    close(fd);
    return (size_t)n;
}

/* Is the file mapped executable, as perf wants it? */
static bool marked(void)
{
    char line[512], name[64];
    FILE *f = fopen("/proc/self/maps", "r");
    bool found = false;

    snprintf(name, sizeof name, "/jit-%ld.dump", (long)getpid());
    while (fgets(line, sizeof line, f))
        found |= strstr(line, " r-xp ") && strstr(line, name);
    fclose(f);
    return found;
}

static uint64_t check_load(const uint8_t *r, const struct jit_cache *d, const uint8_t *run, size_t len,
                           const char *name, uint64_t index)
{
    assert_int_equal(get_le32(r), JITDUMP_CODE_LOAD);
    assert_int_equal(get_le32(r + 4), JITDUMP_LOAD + strlen(name) + 1 + len);
    assert_int_equal(get_le32(r + 16), getpid());
    assert_int_equal(get_le32(r + 20), gettid());
    assert_int_equal(get_le64(r + 24), (uintptr_t)run);
    assert_int_equal(get_le64(r + 32), (uintptr_t)run);
    assert_int_equal(get_le64(r + 40), len);
    assert_int_equal(get_le64(r + 48), index);
    assert_string_equal(r + JITDUMP_LOAD, name);
    assert_memory_equal(r + JITDUMP_LOAD + strlen(name) + 1, run, len);
    return get_le64(r + 8);
}

static void a_jitdump_holds_every_piece_of_code(void **state)
{
    static uint8_t file[1 << 16];
    struct jit_cache *d = cache_new();
    const struct jit_block *a, *b;
    const uint8_t *r = file;
    uint64_t t0, t1, t2;
    size_t n;

    assert_true(jit_cache_jitdump(d, NULL));
    assert_true(marked());
    jit_cache_perf_name(d, d->arena.x, d->arena.x + 64, "stubs");
    a = block(d, 0x1000, 20);
    b = block(d, 0x401000, 300);
    n = read_dump(file, sizeof file);
    assert_int_equal(get_le32(r), 0x4a695444);
    assert_int_equal(get_le32(r + 4), 1);
    assert_int_equal(get_le32(r + 8), 40);
    assert_int_equal(get_le32(r + 12), 62); /* EM_X86_64 */
    assert_int_equal(get_le32(r + 20), getpid());
    t0 = get_le64(r + 24);
    r += get_le32(r + 8);
    t1 = check_load(r, d, d->arena.x, 64, "stubs", 0);
    assert_true(t0 && t0 <= t1);
    r += get_le32(r + 4);
    t2 = check_load(r, d, a->host, 21, "guest_1000_m7", 1);
    assert_true(t1 <= t2);
    r += get_le32(r + 4);
    check_load(r, d, b->host, 301, "guest_401000_m7", 2);
    r += get_le32(r + 4);
    assert_ptr_equal(r, file + n);
    jit_cache_free(d);
    n = read_dump(file, sizeof file);
    assert_ptr_equal(r + 16, file + n);
    assert_int_equal(get_le32(r), JITDUMP_CODE_CLOSE);
    assert_false(marked());
}

static void a_file_that_cannot_be_made_is_refused(void **state)
{
    struct jit_cache *d = cache_new();
    struct err *e = NULL;

    assert_int_equal(mkdir("gone", 0700), 0);
    assert_int_equal(chdir("gone"), 0);
    assert_int_equal(rmdir("../gone"), 0);
    assert_false(jit_cache_jitdump(d, &e));
    assert_non_null(e);
    assert_non_null(strstr(e->msg, "jit-"));
    assert_null(strchr(e->msg, '\n'));
    err_free(e);
    jit_cache_free(d);
    assert_int_equal(chdir(folder), 0);
}

/* A descriptor that was closed and is another file now is left alone. */
static void a_file_that_took_its_number_is_not_written(void **state)
{
    struct jit_cache *d = cache_new();
    struct stat st;
    int fd;

    assert_true(jit_cache_jitdump(d, NULL));
    fd = open("other", O_CREAT | O_RDWR, 0600);
    for (int i = 3; i < 1100; i++)
        if (i != fd && fcntl(i, F_GETFD) >= 0)
            dup2(fd, i);
    block(d, 0x1000, 20);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 0);
    jit_cache_free(d);
}

static void call(const uint8_t *code)
{
    ((void (*)(void))(uintptr_t)code)();
}

/* By its gate (from another page, by a jump table), by its entry (from its own page), by a link. */
static void a_block_is_counted_by_whatever_way_it_is_entered(void **state)
{
    struct jit_block_out out = {.nr_insn = 1, .guest_len = 4, .nr_links = 1};
    struct jit_cache *d = cache_new();
    const struct jit_block *top[2];
    struct jit_block *a, *b;
    struct jit_buf buf;
    uint32_t link;

    assert_true(jit_cache_count(d, NULL));
    a = block(d, 0x1000, 20);
    assert_true(jit_cache_begin(d, 0x1800, &buf, &link));
    jit_32(&buf, 0x90909090); /* so that the jump's rel32 lies within 8 bytes */
    jit_32(&buf, 0xe9909090);
    out.link[0] = (struct jit_link_out){.at = 8, .stub = 12, .target = 0x1000};
    jit_32(&buf, 0);
    jit_8(&buf, 0xc3); /* the stub */
    out.entry = 2;
    out.host_off[1] = 12;
    out.len = 13;
    b = jit_cache_commit(d, 0x1800, 0x1800, 7, &out);
    for (int i = 0; i < 3; i++)
        call(jit_block_gate(a));
    call(b->host + b->entry);
    assert_int_equal(jit_count_of(d, a), 3);
    assert_int_equal(jit_count_of(d, b), 1);
    jit_cache_link_to(d, link, a);
    for (int i = 0; i < 9; i++)
        call(i & 1 ? jit_block_gate(b) : b->host + b->entry);
    assert_int_equal(jit_count_of(d, a), 12);
    assert_int_equal(jit_count_of(d, b), 10);
    assert_int_equal(jit_count_top(d, top, 2), 2);
    assert_ptr_equal(top[0], a);
    assert_ptr_equal(top[1], b);
    assert_int_equal(jit_count_top(d, top, 1), 1);
    assert_ptr_equal(top[0], a);
    jit_cache_empty(d);
    a = block(d, 0x1000, 20);
    assert_int_equal(jit_count_of(d, a), 0);
    jit_cache_free(d);
}

static const uint8_t *came_from;

/* What calls lead to: notes where they would return, and does. */
static const uint8_t *make_note(struct jit_cache *d)
{
    struct jit_buf b = {.start = d->arena.w, .p = d->arena.w, .end = d->arena.w + 64, .delta = d->arena.x - d->arena.w};

    jit_pop(&b, JR_R11);
    jit_mov_ri(&b, JR_RAX, (uintptr_t)&came_from);
    jit_store(&b, JIT_BASE(JR_RAX, 0), JR_R11);
    jit_8(&b, 0xc3);
    return d->arena.x;
}

/* A link that is a call, one whose stub is a call, and what stands before a dead block. */
static void the_runtime_finds_who_called_it_by_the_place(void **state)
{
    static const uint8_t code[] = {0x90, 0xe8, 0, 0, 0, 0, 0x90, 0xe9, 0, 0, 0, 0, 0xe8, 0, 0, 0, 0};
    struct jit_block_out out = {.nr_insn = 1, .len = sizeof code, .guest_len = 4, .nr_links = 2};
    struct jit_cache *d = cache_new();
    struct jit_block *a, *b;
    struct jit_buf buf;
    uint32_t link;

    d->leave_call = d->call_out = make_note(d);
    a = block(d, 0x1000, 20);
    assert_true(jit_cache_begin(d, 0x2000, &buf, &link));
    for (unsigned i = 0; i < sizeof code; i++)
        jit_8(&buf, code[i]);
    put_le32(buf.p - 4, (uint32_t)(d->call_out - (buf.p + buf.delta)));
    out.link[0] = (struct jit_link_out){.at = 2, .stub = JIT_STUB_CALL, .target = 0x1000, .kind = JIT_LINK_CALL};
    out.link[1] = (struct jit_link_out){.at = 8, .stub = 12, .target = 0x1000};
    b = jit_cache_commit(d, 0x2000, 0x2000, 7, &out);
    call(b->host);
    assert_ptr_equal(came_from, b->host + 6);
    assert_int_equal(jit_cache_link_behind(d, came_from), link);
    call(b->host + 7);
    assert_ptr_equal(came_from, b->host + 17);
    assert_int_equal(jit_cache_link_behind(d, came_from), link + 1);
    came_from = NULL;
    jit_cache_link_to(d, link, a);
    jit_cache_link_to(d, link + 1, a);
    call(b->host + 7);
    assert_null(came_from);
    jit_cache_kill(d, a); /* both links and its gate lead out */
    call(b->host);
    assert_int_equal(jit_cache_link_behind(d, came_from), link);
    call(jit_block_gate(a));
    assert_ptr_equal(jit_cache_left(d, came_from), a);
    jit_cache_kill(d, b);
    call(jit_block_gate(b));
    assert_ptr_equal(jit_cache_left(d, came_from), b);
    jit_cache_free(d);
}

static unsigned lines_of(const uint8_t *at, size_t len)
{
    return (unsigned)(((uintptr_t)at + len - 1) / 64 - (uintptr_t)at / 64 + 1);
}

static void a_loop_lies_in_as_few_cache_lines_as_it_can(void **state)
{
    struct jit_cache *d = cache_new();
    unsigned moved = 0;

    for (unsigned len = 8; len < 200; len += 3) {
        struct jit_block_out out = {
            .nr_insn = 1, .len = len, .guest_len = 4, .nr_links = 1, .host_off = {0, (uint16_t)len}};
        uint64_t pc = 0x1000 + 4096 * (len / 64) + len * 8;
        struct jit_buf b;
        uint32_t link;
        uintptr_t low;

        out.link[0] = (struct jit_link_out){.at = len - 4, .stub = len, .target = pc, .kind = JIT_LINK_JCC};
        assert_true(jit_cache_begin(d, pc, &b, &link));
        low = (uintptr_t)b.p & 15;
        moved += jit_cache_place_loop(d, &b, &out, pc);
        assert_int_equal((uintptr_t)b.p & 15, low);
        assert_false(jit_cache_place_loop(d, &b, &out, pc));
        assert_int_equal(lines_of(b.p, len), (low + len + 63) / 64);
        out.link[0].target++; /* another block's: no loop */
        assert_false(jit_cache_place_loop(d, &b, &out, pc));
        block(d, pc, len);
    }
    assert_true(moved > 10);
    jit_cache_free(d);
}

static int enter_folder(void **state)
{
    return mkdtemp(folder) ? chdir(folder) : -1;
}

static int leave_folder(void **state)
{
    char line[96];

    snprintf(line, sizeof line, "rm -r %s", folder);
    return chdir("/") || system(line);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_block_dies_with_code_of_another_page),
                                       cmocka_unit_test(a_jitdump_holds_every_piece_of_code),
                                       cmocka_unit_test(a_file_that_cannot_be_made_is_refused),
                                       cmocka_unit_test(a_file_that_took_its_number_is_not_written),
                                       cmocka_unit_test(a_block_is_counted_by_whatever_way_it_is_entered),
                                       cmocka_unit_test(the_runtime_finds_who_called_it_by_the_place),
                                       cmocka_unit_test(a_loop_lies_in_as_few_cache_lines_as_it_can)};

    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
