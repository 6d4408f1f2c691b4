/* The VNC server over a UNIX socket, spoken to byte by byte as RFC 6143 has it.
 * proves: F-VNC-03 */
#include "unit.h"

#include "ui/keys.h"
#include "ui/vnc_int.h"
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static const struct obj_class machine_class = {.name = "test-machine", .size = sizeof(struct obj)};
static const struct ui_console_ops no_ops;

struct fixture {
    struct run *run;
    struct obj *m;
    struct ui_console *con;
    struct vnc *v;
    char path[64];
    int fd;
    unsigned key, presses;
};
static void on_key(void *o, unsigned key, bool down)
{
    struct fixture *f = o;

    f->key = key;
    f->presses += down;
}
static const struct ui_input_ops keyboard = {"kbd", UI_KEYBOARD, .key = on_key};

static void start(struct fixture *f, const char *more)
{
    AUTOFREE char *text = NULL;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct opts *o;

    memset(f, 0, sizeof *f);
    f->run = run_new();
    f->m = obj_new(&machine_class, NULL);
    ui_bind(f->m, f->run);
    ui_input_add(f->m, &keyboard, f);
    f->con = ui_console_new(f->m, "vga", &no_ops, NULL);
    ui_console_resize(f->con, 40, 20, NULL, 0);
    snprintf(f->path, sizeof f->path, "vnc-test-%d.sock", getpid());
    text = xasprintf("unix:%s%s", f->path, more);
    o = opts_parse(text, "vnc", NULL);
    f->v = vnc_new(f->m, o, NULL);
    opts_free(o);
    assert_non_null(f->v);
    f->fd = socket(AF_UNIX, SOCK_STREAM, 0);
    strcpy(a.sun_path, f->path);
    assert_int_equal(connect(f->fd, (struct sockaddr *)&a, sizeof a), 0);
}
static void stop(struct fixture *f)
{
    close(f->fd);
    ui_unbind(f->m);
    obj_unref(f->m);
    run_free(f->run);
    assert_int_not_equal(access(f->path, F_OK), 0); /* nothing is left behind */
}
static void turn(struct fixture *f)
{
    for (int i = 0; i < 6; i++)
        ev_loop_turn(f->run->loop, 5000000);
}
static void sends(struct fixture *f, const void *p, size_t n)
{
    assert_int_equal(write(f->fd, p, n), n);
    turn(f);
}
static size_t gets(struct fixture *f, void *buf, size_t n)
{
    ssize_t r;

    turn(f);
    r = recv(f->fd, buf, n, MSG_DONTWAIT);
    return r > 0 ? (size_t)r : 0;
}

static void login(struct fixture *f)
{
    uint8_t b[64];

    assert_int_equal(gets(f, b, 64), 12);
    assert_memory_equal(b, "RFB 003.008\n", 12);
    sends(f, "RFB 003.008\n", 12);
    assert_int_equal(gets(f, b, 64), 2);
    assert_memory_equal(b, "\1\1", 2);
    sends(f, "\1", 1);
    assert_int_equal(gets(f, b, 64), 4);
    assert_memory_equal(b, "\0\0\0\0", 4);
    sends(f, "\1", 1);
    assert_int_equal(gets(f, b, 64), 24 + 8);
    assert_memory_equal(b, "\0\x28\0\x14\x20\x18\0\1", 8);
}

static void an_update_holds_the_pixels(void **state)
{
    struct fixture f;
    uint8_t b[4096];
    uint32_t px = 0x112233;

    start(&f, "");
    memcpy(ui_console_surface(f.con)->data + 4, &px, 4);
    login(&f);
    sends(&f, "\3\0\0\0\0\0\0\x28\0\x14", 10);
    assert_int_equal(gets(&f, b, sizeof b), 4 + 12 + 40 * 20 * 4);
    assert_memory_equal(b, "\0\0\0\1\0\0\0\0\0\x28\0\x14\0\0\0\0", 16);
    assert_memory_equal(b + 20, "\x33\x22\x11\0", 4);
    /* incremental: nothing until something changes, then the tile that did */
    sends(&f, "\3\1\0\0\0\0\0\x28\0\x14", 10);
    assert_int_equal(gets(&f, b, sizeof b), 0);
    ui_dirty(f.con, 17, 3, 1, 1);
    usleep(40000);
    assert_int_equal(gets(&f, b, sizeof b), 4 + 12 + 16 * 16 * 4);
    assert_memory_equal(b + 4, "\0\x10\0\0\0\x10\0\x10", 8);
    stop(&f);
}

static void keys_arrive_and_are_released_with_the_connection(void **state)
{
    struct fixture f;

    start(&f, "");
    login(&f);
    sends(&f, "\4\1\0\0\0\0\0A", 8);
    assert_int_equal(f.key, UI_KEY_A);
    assert_int_equal(f.presses, 1);
    sends(&f, "\xff\0\0\1\0\0\0\0\0\0\0\x9c", 12); /* extended: scan code of Enter on the keypad */
    assert_int_equal(f.key, UI_KEY_KP_ENTER);
    close(f.fd);
    f.fd = dup(0);
    f.key = 0;
    turn(&f);
    assert_int_not_equal(f.key, 0);
    assert_int_equal(f.presses, 2);
    stop(&f);
}

static bool authenticates(struct fixture *f, const char *password)
{
    uint8_t b[64], key[8] = {0}, answer[16];

    assert_int_equal(gets(f, b, 64), 12);
    sends(f, "RFB 003.008\n", 12);
    assert_int_equal(gets(f, b, 64), 2);
    assert_memory_equal(b, "\1\2", 2);
    sends(f, "\2", 1);
    assert_int_equal(gets(f, b, 64), 16);
    for (unsigned i = 0; i < 8 && password[i]; i++)
        for (unsigned j = 0; j < 8; j++)
            key[i] |= (uint8_t)((password[i] >> j & 1) << (7 - j));
    des_encrypt(key, b, answer);
    des_encrypt(key, b + 8, answer + 8);
    sends(f, answer, 16);
    assert_true(gets(f, b, 64) >= 4);
    return !b[3];
}

static void only_the_password_opens(void **state)
{
    struct fixture f;

    start(&f, ",password=on");
    assert_true(vnc_set_password(f.v, "secret", NULL));
    assert_false(authenticates(&f, "wrong"));
    stop(&f);
    start(&f, ",password=on");
    assert_true(vnc_set_password(f.v, "secret", NULL));
    assert_true(authenticates(&f, "secret"));
    stop(&f);
    start(&f, ",password"); /* none set: nobody gets in */
    assert_false(authenticates(&f, ""));
    stop(&f);
    start(&f, "");
    assert_false(vnc_set_password(f.v, "x", NULL));
    stop(&f);
}

static void des_gives_the_published_vector(void **state)
{
    uint8_t out[8];

    des_encrypt((const uint8_t *)"\x13\x34\x57\x79\x9b\xbc\xdf\xf1",
                (const uint8_t *)"\x01\x23\x45\x67\x89\xab\xcd\xef", out);
    assert_memory_equal(out, "\x85\xe8\x13\x54\x0f\x0a\xb4\x05", 8);
}

static void noise_closes_the_connection_only(void **state)
{
    struct fixture f;
    uint8_t junk[512];
    uint32_t r = 7;

    for (int round = 0; round < 40; round++) {
        start(&f, "");
        if (round & 1)
            login(&f);
        for (unsigned i = 0; i < sizeof junk; i++)
            junk[i] = (uint8_t)((r = r * 1664525 + 1013904223) >> 24);
        junk[0] = (uint8_t)(round / 2 % 8);
        assert_int_equal(write(f.fd, junk, sizeof junk), sizeof junk);
        turn(&f);
        stop(&f);
    }
}

static void bad_addresses_are_refused(void **state)
{
    static const char *const bad[] = {"nonsense",   ":99999",         "unix:", ":1,websocket=on",
                                      ":1,nokey=1", ":1,share=maybe", NULL};
    struct run *r = run_new();
    struct obj *m = obj_new(&machine_class, NULL);

    ui_bind(m, r);
    for (unsigned i = 0; bad[i]; i++) {
        struct opts *o = opts_parse(bad[i], "vnc", NULL);
        struct err *e = NULL;

        assert_null(vnc_new(m, o, &e));
        assert_non_null(e);
        err_free(e);
        opts_free(o);
    }
    ui_unbind(m);
    obj_unref(m);
    run_free(r);
}

UNIT_MAIN(cmocka_unit_test(an_update_holds_the_pixels),
          cmocka_unit_test(keys_arrive_and_are_released_with_the_connection), cmocka_unit_test(only_the_password_opens),
          cmocka_unit_test(des_gives_the_published_vector), cmocka_unit_test(noise_closes_the_connection_only),
          cmocka_unit_test(bad_addresses_are_refused))
