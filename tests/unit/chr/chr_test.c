/* Character devices without a host at the other end: the mux, the queue's bound, short forms. proves: F-CHR-01,
 * F-CHR-07 */
#include "unit.h"

#include "base/str.h"
#include "chr/chr_int.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static const struct obj_class root_class = {.name = "test-root", .size = sizeof(struct obj)};

struct fix {
    struct run *run;
    struct obj *root;
    struct chr_set *set;
};

static int setup(void **state)
{
    struct fix *f = xnew(struct fix);

    f->run = run_new();
    f->root = obj_new(&root_class, NULL);
    f->set = chr_set_new(f->run, f->root);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fix *f = *state;

    chr_set_free(f->set);
    obj_unref(f->root);
    run_free(f->run);
    free(f);
    return 0;
}

static struct chr *make(struct fix *f, const char *text)
{
    struct err *e = NULL;
    struct opts *o = opts_parse(text, "backend", &e);
    struct chr *c = chr_create(f->set, o, &e);

    opts_free(o);
    if (e)
        print_message("%s\n", e->msg);
    assert_non_null(c);
    return c;
}

struct sink {
    struct chr_fe fe;
    char got[64];
    size_t len, room;
    enum chr_event last;
};

static size_t sink_room(void *o)
{
    return ((struct sink *)o)->room;
}

static void sink_read(void *o, const uint8_t *buf, size_t len)
{
    struct sink *s = o;

    assert_true(len <= s->room && s->len + len < sizeof s->got);
    memcpy(s->got + s->len, buf, len);
    s->len += len;
    s->got[s->len] = 0;
}

static void sink_event(void *o, enum chr_event ev)
{
    ((struct sink *)o)->last = ev;
}
static const struct chr_fe_ops sink_ops = {sink_room, sink_read, sink_event};

static void attach(struct sink *s, struct chr *c, size_t room)
{
    *s = (struct sink){.room = room};
    assert_true(chr_fe_init(&s->fe, c, NULL));
    chr_fe_set(&s->fe, &sink_ops, s);
}

static void mux_sends_input_to_the_focus_and_switches_on_ctrl_a_c(void **state)
{
    struct chr *c = make(*state, "null,id=c,mux=on");
    struct sink a, b;

    attach(&a, c, 64);
    attach(&b, c, 64);
    chr_input(c, (const uint8_t *)"one\001ctwo\001\001", 10);
    assert_string_equal(a.got, "one");
    assert_string_equal(b.got, "two\001");
    assert_int_equal(a.last, CHR_MUX_OUT);
    assert_int_equal(b.last, CHR_MUX_IN);
    chr_input(c, (const uint8_t *)"\001b", 2);
    assert_int_equal(b.last, CHR_BREAK);
    chr_fe_fini(&a.fe);
    chr_fe_fini(&b.fe);
}

static void mux_keeps_what_a_slow_front_end_cannot_take(void **state)
{
    struct fix *f = *state;
    struct chr *c = make(f, "null,id=c,mux=on");
    struct sink a;

    attach(&a, c, 0);
    chr_input(c, (const uint8_t *)"abc", 3);
    assert_int_equal(a.len, 0);
    assert_int_equal(chr_room(c), CHR_MUX_BUF - 3);
    a.room = 2;
    chr_fe_accept(&a.fe);
    ev_loop_turn(f->run->loop, 0);
    assert_string_equal(a.got, "abc");
    chr_fe_fini(&a.fe);
}

static void a_second_front_end_is_refused_without_a_mux(void **state)
{
    struct chr *c = make(*state, "null,id=c");
    struct sink a;
    struct chr_fe fe;
    struct err *e = NULL;

    attach(&a, c, 1);
    assert_false(chr_fe_init(&fe, c, &e));
    assert_non_null(strstr(e->msg, "mux=on"));
    err_free(e);
    assert_false(chr_remove(((struct fix *)*state)->set, "c", NULL));
    chr_fe_fini(&a.fe);
    assert_true(chr_remove(((struct fix *)*state)->set, "c", NULL));
}

static void output_is_queued_in_order_up_to_the_bound(void **state)
{
    struct fix *f = *state;
    int sv[2];
    AUTOFREE char *text = NULL;
    struct chr *c;
    struct chr_fe fe;
    uint8_t *big = malloc(CHR_OUT_MAX * 2);
    size_t total = 0;
    ssize_t n;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
    text = xasprintf("socket,id=c,fd=%d", sv[0]);
    c = make(f, text);
    assert_true(chr_fe_init(&fe, c, NULL));
    chr_fe_set(&fe, NULL, NULL);
    for (size_t i = 0; i < CHR_OUT_MAX * 2; i++)
        big[i] = (uint8_t)(i * 7 >> 3);
    assert_int_equal(chr_fe_write(&fe, big, CHR_OUT_MAX * 2), CHR_OUT_MAX * 2);
    assert_int_equal(c->out_len, CHR_OUT_MAX);
    assert_true(c->dropped > 0);
    fcntl(sv[1], F_SETFL, O_NONBLOCK);
    for (int i = 0; i < 10000; i++) {
        uint8_t buf[65536];

        ev_loop_turn(f->run->loop, 0);
        n = read(sv[1], buf, sizeof buf);
        if (n <= 0 && !c->out_len)
            break;
        if (n > 0) {
            assert_memory_equal(buf, big + total, n);
            total += n;
        }
    }
    assert_int_equal(total, CHR_OUT_MAX * 2 - c->dropped);
    chr_fe_fini(&fe);
    close(sv[1]);
    free(big);
}

static void note_writable(void *opaque)
{
    ++*(unsigned *)opaque;
}

/* A serial port sends byte by byte, and nobody reads for a while: a socket alone is full after some 200 of them. */
static void bytes_wait_for_a_slow_reader_before_the_sender_does(void **state)
{
    struct fix *f = *state;
    int sv[2];
    AUTOFREE char *text = NULL;
    struct chr *c;
    struct chr_fe fe;
    unsigned called = 0;
    size_t sent = 0, got = 0;
    uint8_t b, buf[4096];
    ssize_t n;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
    text = xasprintf("socket,id=c,fd=%d", sv[0]);
    c = make(f, text);
    assert_true(chr_fe_init(&fe, c, NULL));
    chr_fe_set(&fe, NULL, &called);
    for (b = 0; chr_fe_try_write(&fe, &b, 1, note_writable); b = (uint8_t)++sent)
        assert_true(sent < 1000000);
    assert_true(sent >= CHR_TRY_MAX);
    assert_int_equal(c->out_len, CHR_TRY_MAX);
    fcntl(sv[1], F_SETFL, O_NONBLOCK);
    for (int i = 0; i < 10000 && got < sent; i++) {
        ev_loop_turn(f->run->loop, 0);
        n = read(sv[1], buf, sizeof buf);
        for (ssize_t k = 0; k < n; k++)
            assert_int_equal(buf[k], (uint8_t)got++);
    }
    assert_int_equal(got, sent);
    assert_int_equal(called, 1);
    chr_fe_fini(&fe);
    close(sv[1]);
}

static void short_forms_become_option_lists(void **state)
{
    static const struct {
        const char *form, *key, *val;
    } good[] = {{"file:/a,b", "path", "/a,b"},
                {"tcp:h:1,server,nowait", "nowait", "on"},
                {"tcp::1,server=on", "host", ""},
                {"telnet:[::1]:23", "host", "::1"},
                {"unix:/a/b,server,wait=off", "path", "/a/b"},
                {"udp:h:1@l:2", "localport", "2"},
                {"mon:stdio", "signal", "off"},
                {"vc:80Cx24C", "rows", "24"},
                {"vc:640x480", "width", "640"},
                {"/dev/ttyS9", "backend", "serial"}};
    static const char *const bad[] = {"",    "tcp:1",  "tcp:h:", "unix:", "file:", "telnet:[::1",
                                      "vc:", "vc:80x", "nosuch", "udp:h"};
    bool none;

    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        struct err *e = NULL;
        struct opts *o = chr_short_parse("x", good[i].form, &none, &e);

        assert_non_null(o);
        assert_string_equal(opts_peek(o, good[i].key), good[i].val);
        opts_free(o);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err *e = NULL;

        assert_null(chr_short_parse("x", bad[i], &none, &e));
        assert_non_null(e);
        err_free(e);
    }
    assert_null(chr_short_parse("x", "none", &none, NULL));
    assert_true(none);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
UNIT_MAIN(T(mux_sends_input_to_the_focus_and_switches_on_ctrl_a_c), T(mux_keeps_what_a_slow_front_end_cannot_take),
          T(a_second_front_end_is_refused_without_a_mux), T(output_is_queued_in_order_up_to_the_bound),
          T(bytes_wait_for_a_slow_reader_before_the_sender_does), T(short_forms_become_option_lists))
