/* ioctls: terminals, loop devices, network tunnels, random numbers, and devices a machine may lack, whose calls then
 * fail alike. */
#include "said.h"
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/input.h>
#include <linux/loop.h>
#include <linux/random.h>
#include <linux/rtc.h>
#include <linux/vt.h>
#include <net/if.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>

static void terminal(void)
{
    struct winsize w = {24, 80, 1, 2}, g = {0};
    struct termios t, old;
    int m = open("/dev/ptmx", O_RDWR | O_NOCTTY), s, n = 0, lock = 0;
    char name[64], buf[32] = "";
    pid_t pg = 0;

    if (m < 0) {
        printf("no terminals\n");
        return;
    }
    SAY(ioctl(m, TIOCSPTLCK, &lock));
    SAY(ioctl(m, TIOCGPTN, &n));
    sprintf(name, "/dev/pts/%d", n);
    s = open(name, O_RDWR | O_NOCTTY);
    SAY(s >= 0);
    SAY(isatty(s));
    SAY(ioctl(m, TIOCSWINSZ, &w));
    SAY(ioctl(s, TIOCGWINSZ, &g));
    printf("%d %d %d %d\n", g.ws_row, g.ws_col, g.ws_xpixel, g.ws_ypixel);
    SAY(tcgetattr(s, &old));
    printf("lflag %x cc %d speed %d\n", old.c_lflag, old.c_cc[VEOF], cfgetospeed(&old) == B38400);
    t = old;
    cfmakeraw(&t);
    cfsetspeed(&t, B115200);
    SAY(tcsetattr(s, TCSANOW, &t));
    SAY(tcgetattr(s, &t));
    printf("lflag %x speed %d\n", t.c_lflag, cfgetospeed(&t) == B115200);
    write(m, "typed", 5);
    for (int i = 0; i < 1000 && !ioctl(s, FIONREAD, &n) && n < 5; i++)
        usleep(1000);
    SAY(ioctl(s, FIONREAD, &n));
    SAY(n);
    SAY(read(s, buf, 32));
    printf("%s\n", buf);
    SAY(tcflush(s, TCIOFLUSH));
    SAY(tcsendbreak(s, 0));
    SAY(tcdrain(s));
    SAY(ioctl(s, TIOCEXCL));
    SAY(ioctl(s, TIOCOUTQ, &n));
    if (!fork()) {
        setsid();
        int a = ioctl(s, TIOCSCTTY, 0), b = ioctl(s, TIOCGPGRP, &pg), c = ioctl(s, TIOCGSID, &n);

        _exit(a == 0 && b == 0 && c == 0 && pg == getpid() && n == getpid() && tcgetpgrp(s) == getpid() ? 7 : 8);
    }
    wait(&n);
    printf("session %d\n", WEXITSTATUS(n));
    SAY(ioctl(s, TCGETS, NULL));
    SAY(ioctl(s, VT_GETMODE, &w));
    close(m);
}

static void loops(void)
{
    struct loop_info64 info;
    unsigned long long size = 0;
    int c = open("/dev/loop-control", O_RDWR), f, l = -1, sector = 0;
    unsigned long old = 0;
    char name[32];

    f = open("image", O_RDWR | O_CREAT | O_TRUNC, 0600);
    ftruncate(f, 1 << 20);
    for (int i = 0; c >= 0 && l < 0 && i < 100; i++) { /* others may take what is free */
        sprintf(name, "/dev/loop%d", ioctl(c, LOOP_CTL_GET_FREE));
        l = open(name, O_RDWR);
        if (l >= 0 && ioctl(l, LOOP_SET_FD, f) < 0) {
            close(l);
            l = -1;
            usleep(10000);
        }
    }
    if (l < 0) {
        printf("no loop devices\n");
        unlink("image");
        return;
    }
    memset(&info, 0, sizeof info);
    strcpy((char *)info.lo_file_name, "called so");
    info.lo_sizelimit = 1 << 19;
    SAY(ioctl(l, LOOP_SET_STATUS64, &info));
    memset(&info, 0, sizeof info);
    SAY(ioctl(l, LOOP_GET_STATUS64, &info));
    printf("%s %lld\n", info.lo_file_name, (long long)info.lo_sizelimit);
    SAY(ioctl(l, BLKGETSIZE64, &size));
    SAY(ioctl(l, BLKGETSIZE, &old));
    SAY(ioctl(l, BLKSSZGET, &sector));
    printf("size %llu %lu %d\n", size, old, sector);
    SAY(ioctl(l, BLKFLSBUF, 0));
    SAY(ioctl(l, LOOP_CLR_FD, 0));
    unlink("image");
}

static void tunnel(void)
{
    struct ifreq r = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    int t = open("/dev/net/tun", O_RDWR);
    unsigned features = 0;

    if (t < 0 || ioctl(t, TUNSETIFF, &r) < 0) {
        printf("no tunnels\n");
        return;
    }
    SAY(strncmp(r.ifr_name, "tun", 3));
    SAY(ioctl(t, TUNGETFEATURES, &features));
    SAY(!!(features & IFF_TUN));
    SAY(ioctl(t, TUNGETIFF, &r));
    SAY(ioctl(t, TUNSETPERSIST, 0));
}

static void rest(void)
{
    int r = open("/dev/urandom", O_RDONLY), n = 0, d = open("/dev/null", O_RDWR);
    struct rtc_time rt;
    struct input_id id;

    SAY(ioctl(r, RNDGETENTCNT, &n));
    SAY(n > 0);
    SAY(ioctl(d, TCGETS, &rt));
    SAY(ioctl(d, EVIOCGID, &id));
    SAY(ioctl(d, EVIOCGNAME(64), &id));
    SAY(ioctl(d, RTC_RD_TIME, &rt));
    SAY(ioctl(d, 0xc0406400 /* DRM_IOCTL_VERSION */, &rt));
    SAY(ioctl(d, 0x80044100 /* SNDRV_PCM_IOCTL_PVERSION */, &n));
    SAY(ioctl(d, BLKGETSIZE64, &n));
    SAY(ioctl(999, TCGETS, &n));
    SAY(ioctl(d, FIOCLEX));
    SAY(fcntl(d, F_GETFD));
    n = 1;
    SAY(ioctl(r, FIONBIO, &n));
    SAY(fcntl(r, F_GETFL) & O_NONBLOCK ? 1 : 0);
}

int main(void)
{
    terminal();
    loops();
    tunnel();
    rest();
    return 0;
}
