/* Back ends over plain descriptors: the terminal or standard streams (stdio), files, named pipes, pseudo-terminals and
 * host serial lines. Terminal modes follow termios(3). Not offered: parallel ports. */
#include "chr/chr_int.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

struct chr_fd {
    struct chr chr;               /* first */
    int in, out;                  /* -1 = none */
    bool own;                     /* close them */
    bool watching;                /* set up: in/out are valid */
    struct ev_fd *ev_in, *ev_out; /* owned; one descriptor for both has only ev_in */
    bool eof;
    /* stdio */
    bool tty, sig, saved_valid, flags_valid;
    struct termios saved;
    int saved_flags;
    /* pty */
    bool is_pty, armed;
    struct clk_timer poll_timer;
};

static struct chr_fd *fd_of(struct chr *c)
{
    return container_of(c, struct chr_fd, chr);
}

static void pty_gone(struct chr_fd *f);

static void fd_read(struct chr_fd *f)
{
    uint8_t buf[4096];
    size_t room = min_u64(chr_room(&f->chr), sizeof buf);
    ssize_t n;

    if (!room)
        return;
    n = read(f->in, buf, room);
    if (n > 0) {
        chr_input(&f->chr, buf, n);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        if (f->is_pty)
            pty_gone(f);
        else
            f->eof = true;
    }
}

static void fd_refresh(struct chr *c)
{
    struct chr_fd *f = fd_of(c);
    unsigned in, out;

    if (!f->watching)
        return;
    in = f->in >= 0 && !f->eof && (!f->is_pty || c->opened) && chr_room(c) ? EV_IN : 0;
    out = chr_wants_out(c) && (!f->is_pty || c->opened) ? EV_OUT : 0;
    if (f->ev_in)
        ev_fd_set(f->ev_in, f->ev_out ? in : in | out);
    if (f->ev_out)
        ev_fd_set(f->ev_out, out);
}

static void fd_ready(void *opaque, int fd, unsigned events)
{
    struct chr_fd *f = opaque;
    bool input = fd == f->in && (events & (EV_IN | EV_ERR));

    if (input)
        fd_read(f);
    if ((events & EV_OUT) || (!input && (events & EV_ERR)))
        chr_writable(&f->chr);
    fd_refresh(&f->chr);
}

static void fd_watch(struct chr_fd *f)
{
    struct ev_loop *l = f->chr.set->run->loop;

    if (f->in >= 0)
        f->ev_in = ev_fd_add(l, f->in, 0, fd_ready, f);
    if (f->out >= 0 && f->out != f->in)
        f->ev_out = ev_fd_add(l, f->out, 0, fd_ready, f);
    f->watching = true;
    chr_refresh_later(&f->chr);
}

static size_t fd_write(struct chr *c, const uint8_t *buf, size_t len)
{
    struct chr_fd *f = fd_of(c);

    return f->out < 0 ? len : chr_fd_write(f->out, buf, len);
}

static void fd_close(struct chr *c)
{
    struct chr_fd *f = fd_of(c);

    if (!f->watching)
        return;
    ev_fd_del(f->ev_in);
    ev_fd_del(f->ev_out);
    if (f->own) {
        if (f->in >= 0)
            close(f->in);
        if (f->out >= 0 && f->out != f->in)
            close(f->out);
    }
}

/* stdio */

static void stdio_terminal(struct chr *c, bool cooked)
{
    struct chr_fd *f = fd_of(c);
    struct termios t;

    if (!f->saved_valid)
        return;
    if (cooked) {
        tcsetattr(f->in, TCSANOW, &f->saved);
        return;
    }
    t = f->saved;
    t.c_iflag &= ~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    t.c_oflag |= OPOST;
    t.c_lflag &= ~(ECHO | ECHONL | ICANON | IEXTEN);
    if (!f->sig)
        t.c_lflag &= ~ISIG;
    t.c_cflag = (t.c_cflag & ~(CSIZE | PARENB)) | CS8;
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    tcsetattr(f->in, TCSANOW, &t);
}

/* A descriptor of our own for output that may block: the shell's copy keeps its flags. */
static int own_output(struct chr_fd *f)
{
    struct stat st;
    int fd = -1;

    if (fstat(STDOUT_FILENO, &st) < 0)
        return -1;
    if (S_ISREG(st.st_mode))
        return STDOUT_FILENO;
    if (S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode))
        fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    f->saved_flags = fcntl(STDOUT_FILENO, F_GETFL);
    f->flags_valid = f->saved_flags >= 0 && fcntl(STDOUT_FILENO, F_SETFL, f->saved_flags | O_NONBLOCK) == 0;
    return STDOUT_FILENO;
}

static bool stdio_open(struct chr *c, struct opts *o, struct err **errp)
{
    struct chr_fd *f = fd_of(c);

    f->in = f->out = -1;
    f->sig = true;
    if (!opts_bool(o, "signal", &f->sig, errp))
        return false;
    if (c->set->stdio) {
        err_set(errp, "cannot use stdio by multiple character devices");
        err_hint(errp, "chardev '%s' has it; share it with mon:stdio or -chardev stdio,mux=on,id=ID",
                 chr_id(c->set->stdio));
        return false;
    }
    c->set->stdio = c;
    f->in = fcntl(STDIN_FILENO, F_GETFD) < 0 ? -1 : STDIN_FILENO;
    f->out = own_output(f);
    f->tty = f->in >= 0 && tcgetattr(f->in, &f->saved) == 0;
    f->saved_valid = f->tty;
    stdio_terminal(c, false);
    chr_set_label(c, "stdio");
    c->opened = true;
    fd_watch(f);
    return true;
}

static void stdio_close(struct chr *c)
{
    struct chr_fd *f = fd_of(c);

    stdio_terminal(c, true);
    fd_close(c);
    if (f->watching && f->out > STDERR_FILENO)
        close(f->out);
    if (f->flags_valid)
        fcntl(STDOUT_FILENO, F_SETFL, f->saved_flags);
}

static const char *const stdio_keys[] = {"signal", NULL};
static const struct chr_class stdio_class = {CHR_CLASS("stdio"),
                                             .desc = "standard input and output",
                                             .size = sizeof(struct chr_fd),
                                             .keys = stdio_keys,
                                             .open = stdio_open,
                                             .close = stdio_close,
                                             .write = fd_write,
                                             .refresh = fd_refresh,
                                             .terminal = stdio_terminal};
CHR_REGISTER(stdio_class)

/* file */

static int open_input(const char *path, struct err **errp)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;

    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        close(fd);
        fd = -1;
        errno = EISDIR;
    }
    if (fd < 0)
        err_set_errno(errp, errno, "cannot open input file '%s'", path);
    return fd;
}

static bool file_open(struct chr *c, struct opts *o, struct err **errp)
{
    struct chr_fd *f = fd_of(c);
    const char *path = opts_get(o, "path"), *in = opts_get(o, "input-path");
    bool append = false;

    f->in = f->out = -1;
    f->own = true;
    if (!opts_bool(o, "append", &append, errp))
        return false;
    if (!path || !*path)
        return err_set(errp, "a file chardev needs path=FILE");
    if (in && (f->in = open_input(in, errp)) < 0) /* first: a failure leaves no output file behind */
        return false;
    f->out = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (append ? O_APPEND : O_TRUNC), 0666);
    if (f->out < 0) {
        err_set_errno(errp, errno, "cannot open '%s' for output", path);
        if (in)
            close(f->in);
        return false;
    }
    chr_set_label(c, "file");
    c->opened = true;
    fd_watch(f);
    return true;
}

static const char *const file_keys[] = {"path", "append", "input-path", NULL};
static const struct chr_class file_class = {CHR_CLASS("file"),
                                            .desc = "a file that receives the output",
                                            .size = sizeof(struct chr_fd),
                                            .keys = file_keys,
                                            .open = file_open,
                                            .close = fd_close,
                                            .write = fd_write,
                                            .refresh = fd_refresh};
CHR_REGISTER(file_class)

/* pipe: PATH.in and PATH.out when they exist, else PATH both ways. */

static bool pipe_open(struct chr *c, struct opts *o, struct err **errp)
{
    struct chr_fd *f = fd_of(c);
    const char *path = opts_get(o, "path");
    AUTOFREE char *in = NULL, *out = NULL;

    f->own = true;
    if (!path || !*path)
        return err_set(errp, "a pipe chardev needs path=PATH");
    in = xasprintf("%s.in", path);
    out = xasprintf("%s.out", path);
    f->in = open(in, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    f->out = open(out, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (f->in < 0 || f->out < 0) {
        if (f->in >= 0)
            close(f->in);
        if (f->out >= 0)
            close(f->out);
        f->in = f->out = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
        if (f->in < 0) {
            err_set_errno(errp, errno, "cannot open pipe '%s'", path);
            err_hint(errp, "make the pair first: mkfifo %s %s", in, out);
            return false;
        }
    }
    chr_set_label(c, "pipe");
    c->opened = true;
    fd_watch(f);
    return true;
}

static const char *const pipe_keys[] = {"path", NULL};
static const struct chr_class pipe_class = {CHR_CLASS("pipe"),
                                            .desc = "a pair of named pipes",
                                            .size = sizeof(struct chr_fd),
                                            .keys = pipe_keys,
                                            .open = pipe_open,
                                            .close = fd_close,
                                            .write = fd_write,
                                            .refresh = fd_refresh};
CHR_REGISTER(pipe_class)

/* Host serial line. */

static const struct {
    int rate;
    speed_t code;
} speeds[] = {{50, B50},     {75, B75},       {110, B110},     {134, B134},     {150, B150},      {200, B200},
              {300, B300},   {600, B600},     {1200, B1200},   {1800, B1800},   {2400, B2400},    {4800, B4800},
              {9600, B9600}, {19200, B19200}, {38400, B38400}, {57600, B57600}, {115200, B115200}};

static void serial_params(struct chr *c, const struct chr_serial_params *p)
{
    struct chr_fd *f = fd_of(c);
    struct termios t;
    speed_t code = B115200;

    if (tcgetattr(f->in, &t) < 0)
        return;
    for (unsigned i = 0; i < ARRAY_LEN(speeds); i++)
        if (p->speed <= speeds[i].rate) {
            code = speeds[i].code;
            break;
        }
    cfmakeraw(&t);
    cfsetispeed(&t, code);
    cfsetospeed(&t, code);
    t.c_cflag &= ~(CSIZE | PARENB | PARODD | CSTOPB | CRTSCTS);
    t.c_cflag |= CREAD | CLOCAL | (p->data_bits == 5 ? CS5 : p->data_bits == 6 ? CS6 : p->data_bits == 7 ? CS7 : CS8);
    t.c_cflag |= p->parity == 'E' ? PARENB : p->parity == 'O' ? PARENB | PARODD : 0;
    t.c_cflag |= p->stop_bits == 2 ? CSTOPB : 0;
    tcsetattr(f->in, TCSANOW, &t);
}

static void serial_break(struct chr *c, bool on)
{
    ioctl(fd_of(c)->out, on ? TIOCSBRK : TIOCCBRK);
}

static bool serial_open(struct chr *c, struct opts *o, struct err **errp)
{
    struct chr_fd *f = fd_of(c);
    const char *path = opts_get(o, "path");

    f->own = true;
    if (!path || !*path)
        return err_set(errp, "a serial chardev needs path=DEVICE");
    f->in = f->out = open(path, O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (f->in < 0)
        return err_set_errno(errp, errno, "cannot open serial device '%s'", path);
    if (!isatty(f->in)) {
        close(f->in);
        return err_set(errp, "'%s' is not a serial line; for files use file:PATH", path);
    }
    serial_params(c, &(struct chr_serial_params){115200, 8, 1, 'N'});
    chr_set_label(c, "serial");
    c->opened = true;
    fd_watch(f);
    return true;
}

static const struct chr_class serial_class = {CHR_CLASS("serial"),
                                              .alias = "tty",
                                              .desc = "a serial line of the host",
                                              .size = sizeof(struct chr_fd),
                                              .keys = pipe_keys,
                                              .open = serial_open,
                                              .close = fd_close,
                                              .write = fd_write,
                                              .refresh = fd_refresh,
                                              .serial_params = serial_params,
                                              .send_break = serial_break};
CHR_REGISTER(serial_class)

/* Pseudo-terminal: the master tells by POLLHUP that nobody has the slave open, so while it is closed a timer looks. */

static bool pty_alive(struct chr_fd *f)
{
    struct pollfd p = {.fd = f->in};

    return poll(&p, 1, 0) >= 0 && !(p.revents & POLLHUP);
}

static void pty_arm(struct chr_fd *f)
{
    f->armed = true;
    clk_timer_set(&f->poll_timer, clk_now(f->chr.set->run->real) + 100 * NS_PER_MS);
}

static void pty_gone(struct chr_fd *f)
{
    chr_set_opened(&f->chr, false);
    pty_arm(f);
}

static void pty_poll(void *opaque)
{
    struct chr_fd *f = opaque;

    f->armed = false;
    if (!pty_alive(f)) {
        pty_arm(f);
        return;
    }
    chr_set_opened(&f->chr, true);
    fd_refresh(&f->chr);
}

static size_t pty_write(struct chr *c, const uint8_t *buf, size_t len)
{
    struct chr_fd *f = fd_of(c);

    return !c->opened && !pty_alive(f) ? len : chr_fd_write(f->out, buf, len);
}

static bool pty_open(struct chr *c, struct opts *o, struct err **errp)
{
    struct chr_fd *f = fd_of(c);
    char name[64];
    struct termios t;
    int slave;

    f->is_pty = f->own = true;
    f->in = f->out = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (f->in < 0 || grantpt(f->in) < 0 || unlockpt(f->in) < 0 || ptsname_r(f->in, name, sizeof name)) {
        if (f->in >= 0)
            close(f->in);
        return err_set_errno(errp, errno, "cannot make a pseudo-terminal");
    }
    fcntl(f->in, F_SETFL, fcntl(f->in, F_GETFL) | O_NONBLOCK);
    slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave >= 0) {
        if (tcgetattr(slave, &t) == 0) {
            cfmakeraw(&t);
            tcsetattr(slave, TCSANOW, &t);
        }
        close(slave);
    }
    chr_set_label(c, "pty:%s", name);
    fprintf(stdout, "char device redirected to %s (label %s)\n", name, chr_id(c));
    fflush(stdout);
    clk_timer_init(&f->poll_timer, c->set->run->real, pty_poll, f);
    fd_watch(f);
    pty_arm(f);
    return true;
}

static void pty_close(struct chr *c)
{
    struct chr_fd *f = fd_of(c);

    if (f->watching)
        clk_timer_cancel(&f->poll_timer);
    fd_close(c);
}

static const struct chr_class pty_class = {CHR_CLASS("pty"),
                                           .desc = "a new pseudo-terminal",
                                           .size = sizeof(struct chr_fd),
                                           .open = pty_open,
                                           .close = pty_close,
                                           .write = pty_write,
                                           .refresh = fd_refresh};
CHR_REGISTER(pty_class)
