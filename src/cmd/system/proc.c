/* The process: background, pid file, giving up root, signals. */
#include "cmd/system/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* The parent returns to its caller only when the child is ready (its sockets exist) or has failed. */
bool proc_daemonize(struct sys *s, struct err **errp)
{
    int p[2];
    pid_t pid;
    char ok = 1;

    if (!s->daemonize)
        return true;
    if (s->cfg.nographic)
        return err_set(errp, "-nographic needs the terminal and -daemonize leaves it; use -display none");
    if (pipe2(p, O_CLOEXEC) < 0)
        return err_set_errno(errp, errno, "-daemonize: cannot make a pipe");
    pid = fork();
    if (pid < 0)
        return err_set_errno(errp, errno, "-daemonize: cannot fork");
    if (pid > 0) {
        ssize_t n;

        close(p[1]);
        while ((n = read(p[0], &ok, 1)) < 0 && errno == EINTR)
            ;
        _exit(n == 1 && !ok ? 0 : 1);
    }
    close(p[0]);
    setsid();
    pid = fork();
    if (pid)
        _exit(pid < 0);
    umask(027);
    s->ready_fd = p[1];
    signal(SIGHUP, SIG_IGN);
    return true;
}

void proc_ready(struct sys *s)
{
    int null;
    ssize_t n;

    if (s->ready_fd < 0)
        return;
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0 && chdir("/") == 0) {
        dup2(null, 0);
        dup2(null, 1);
        dup2(null, 2);
        close(null);
    }
    n = write(s->ready_fd, "", 1);
    (void)n;
    close(s->ready_fd);
    s->ready_fd = -1;
}

bool proc_pidfile(struct sys *s, struct err **errp)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char text[32];
    int fd, n;

    if (!s->pidfile)
        return true;
    fd = open(s->pidfile, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set_errno(errp, errno, "-pidfile: cannot open '%s'", s->pidfile);
    if (fcntl(fd, F_SETLK, &lock) < 0) {
        err_set(errp, "-pidfile: '%s' belongs to a running machine", s->pidfile);
        err_hint(errp, "give each machine its own file");
        close(fd);
        return false;
    }
    n = snprintf(text, sizeof text, "%d\n", (int)getpid());
    if (ftruncate(fd, 0) < 0 || write(fd, text, n) != n) {
        err_set_errno(errp, errno, "-pidfile: cannot write '%s'", s->pidfile);
        close(fd);
        return false;
    }
    s->pidfile_ours = true; /* the descriptor and its lock stay until the end */
    if (*s->pidfile != '/') {
        char *full = realpath(s->pidfile, NULL);

        s->pidfile = full ? full : s->pidfile;
    }
    return true;
}

bool proc_parse_user(struct sys *s, const char *text, struct err **errp)
{
    const struct passwd *pw = getpwnam(text);
    char *end;
    unsigned long uid, gid;

    s->runas = text;
    if (pw) {
        s->run_uid = pw->pw_uid;
        s->run_gid = pw->pw_gid;
        s->runas = xstrdup(pw->pw_name);
        return true;
    }
    uid = strtoul(text, &end, 10);
    if (end != text && *end == ':') {
        const char *g = end + 1;

        gid = strtoul(g, &end, 10);
        if (end != g && !*end) {
            s->run_uid = uid;
            s->run_gid = gid;
            return true;
        }
    }
    err_set(errp, "there is no user '%s'", text);
    err_hint(errp, "give a user name of this host, or uid:gid as two numbers");
    return false;
}

bool proc_drop(struct sys *s, struct err **errp)
{
    if (s->process_name)
        prctl(PR_SET_NAME, s->process_name);
    if (s->chroot && (chroot(s->chroot) < 0 || chdir("/") < 0)) {
        err_set_errno(errp, errno, "cannot change the root directory to '%s'", s->chroot);
        err_hint(errp, "it must be a directory, and only root may do this");
        return false;
    }
    if (!s->runas)
        return true;
    if (geteuid() != 0 && geteuid() != s->run_uid)
        return err_set(errp, "cannot become user '%s': the program was not started as root", s->runas);
    if (geteuid() == 0 &&
        (setgid((gid_t)s->run_gid) < 0 ||
         (getpwuid((uid_t)s->run_uid) ? initgroups(getpwuid((uid_t)s->run_uid)->pw_name, (gid_t)s->run_gid)
                                      : setgroups(1, &(gid_t){(gid_t)s->run_gid})) < 0 ||
         setuid((uid_t)s->run_uid) < 0))
        return err_set_errno(errp, errno, "cannot become user '%s'", s->runas);
    if (s->run_uid && setuid(0) == 0)
        return err_set(errp, "root rights could not be given up for good");
    prctl(PR_SET_DUMPABLE, 1);
    return true;
}

static void on_signal(void *opaque, int fd, unsigned events)
{
    struct sys *s = opaque;
    struct signalfd_siginfo si;

    while (read(fd, &si, sizeof si) == sizeof si) {
        switch (si.ssi_signo) {
        case SIGCONT:
            chr_set_terminal(s->chrs, false);
            break;
        case SIGTSTP:
            chr_set_terminal(s->chrs, true);
            kill(getpid(), SIGSTOP);
            break;
        default:
            fprintf(stderr, "%s: terminating on signal %u", s->prog, si.ssi_signo);
            fprintf(stderr, si.ssi_pid ? " from pid %u\n" : "\n", si.ssi_pid);
            if (!s->running_down)
                sys_exit(si.ssi_signo == SIGINT || si.ssi_signo == SIGTERM || si.ssi_signo == SIGHUP ? 0 : 1);
            machine_request_shutdown(s->m, CAUSE_HOST_SIGNAL);
        }
    }
}

void proc_signals(struct sys *s)
{
    static const int ours[] = {SIGINT, SIGTERM, SIGHUP, SIGCONT, SIGTSTP};
    sigset_t set;
    int fd;

    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    for (unsigned i = 0; i < ARRAY_LEN(ours); i++) {
        struct sigaction old;

        sigaction(ours[i], NULL, &old);
        /* nohup means SIGHUP; but a shell's background job has SIGINT ignored, and stop scripts send just that. */
        if (ours[i] == SIGINT || old.sa_handler != SIG_IGN)
            sigaddset(&set, ours[i]);
        if (ours[i] == SIGINT)
            signal(SIGINT, SIG_DFL); /* an ignored signal would not reach the descriptor */
    }
    sigprocmask(SIG_BLOCK, &set, NULL);
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd >= 0)
        ev_fd_add(s->run->loop, fd, EV_IN, on_signal, s);
}
