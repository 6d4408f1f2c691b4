/* A tone through ALSA's own interface (no library): opens what switches there are, plays a triangle of 100 frames a
 * period, and watches the position while it plays.
 *
 *   tone [rate [channels [seconds]]] | tone record [rate] */
#define _GNU_SOURCE
#include "t.h"

#include <fcntl.h>
#include <sound/asound.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* Three hundred milliseconds and more, that a host busy for a while is not heard; twice in a run it may be. */
enum { PERIOD = 2048, BUFFER = 16384, SHAPE = 100, LOUD = 2000 };

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* Every switch on, every volume up. */
static void open_up(void)
{
    static struct snd_ctl_elem_id ids[256];
    struct snd_ctl_elem_list l = {.space = 256, .pids = ids};
    int fd = open("/dev/snd/controlC0", O_RDWR);

    t_must(fd >= 0 && !ioctl(fd, SNDRV_CTL_IOCTL_ELEM_LIST, &l));
    for (unsigned i = 0; i < l.used; i++) {
        struct snd_ctl_elem_info in = {.id = ids[i]};
        static struct snd_ctl_elem_value v;

        if (ioctl(fd, SNDRV_CTL_IOCTL_ELEM_INFO, &in) || !(in.access & SNDRV_CTL_ELEM_ACCESS_WRITE))
            continue;
        memset(&v, 0, sizeof v);
        v.id = ids[i];
        for (unsigned k = 0; k < in.count && k < 2; k++)
            v.value.integer.value[k] = in.type == SNDRV_CTL_ELEM_TYPE_BOOLEAN ? 1 : in.value.integer.max;
        if (in.type == SNDRV_CTL_ELEM_TYPE_BOOLEAN || in.type == SNDRV_CTL_ELEM_TYPE_INTEGER) {
            printf("control %s\n", (const char *)ids[i].name);
            ioctl(fd, SNDRV_CTL_IOCTL_ELEM_WRITE, &v);
        }
    }
    close(fd);
}

static void mask(struct snd_pcm_hw_params *p, int n, unsigned bit)
{
    struct snd_mask *m = &p->masks[n - SNDRV_PCM_HW_PARAM_FIRST_MASK];

    memset(m, 0, sizeof *m);
    m->bits[bit / 32] = 1u << bit % 32;
}

static void interval(struct snd_pcm_hw_params *p, int n, unsigned v)
{
    struct snd_interval *i = &p->intervals[n - SNDRV_PCM_HW_PARAM_FIRST_INTERVAL];

    i->min = i->max = v;
    i->integer = 1;
}

static int open_pcm(const char *path, unsigned rate, unsigned channels)
{
    static struct snd_pcm_hw_params p;
    static struct snd_pcm_sw_params w;
    int fd = open(path, O_RDWR);

    if (fd < 0) {
        claim(false, "open", "%s: %m", path);
        exit(1);
    }
    for (unsigned i = 0; i < sizeof p.masks / sizeof p.masks[0]; i++)
        memset(&p.masks[i], 0xff, sizeof p.masks[i]);
    for (unsigned i = 0; i < sizeof p.intervals / sizeof p.intervals[0]; i++)
        p.intervals[i].max = UINT32_MAX;
    p.rmask = ~0u;
    mask(&p, SNDRV_PCM_HW_PARAM_ACCESS, SNDRV_PCM_ACCESS_RW_INTERLEAVED);
    mask(&p, SNDRV_PCM_HW_PARAM_FORMAT, SNDRV_PCM_FORMAT_S16_LE);
    interval(&p, SNDRV_PCM_HW_PARAM_CHANNELS, channels);
    interval(&p, SNDRV_PCM_HW_PARAM_RATE, rate);
    interval(&p, SNDRV_PCM_HW_PARAM_PERIOD_SIZE, PERIOD);
    interval(&p, SNDRV_PCM_HW_PARAM_BUFFER_SIZE, BUFFER);
    if (ioctl(fd, SNDRV_PCM_IOCTL_HW_PARAMS, &p)) {
        claim(false, "parameters", "%u Hz, %u channels: %m", rate, channels);
        exit(1);
    }
    w.avail_min = PERIOD;
    w.start_threshold = path[strlen(path) - 1] == 'c' ? 1 : BUFFER;
    w.stop_threshold = BUFFER;
    t_must(!ioctl(fd, SNDRV_PCM_IOCTL_SW_PARAMS, &w) && !ioctl(fd, SNDRV_PCM_IOCTL_PREPARE));
    return fd;
}

static void fill(int16_t *buf, unsigned channels, uint64_t at)
{
    for (unsigned i = 0; i < PERIOD; i++) {
        int x = (int)((at + i) % SHAPE); /* 0 up, down to -LOUD, back to 0 */
        int v = x < 25 ? x : x < 75 ? 50 - x : x - 100;

        for (unsigned c = 0; c < channels; c++)
            buf[i * channels + c] = (int16_t)(v * LOUD / 25);
    }
}

static void play(unsigned rate, unsigned channels, unsigned seconds)
{
    int fd = open_pcm("/dev/snd/pcmC0D0p", rate, channels);
    static int16_t buf[PERIOD * 8];
    unsigned xruns = 0, moved = 0;
    uint64_t at = 0, all = (uint64_t)rate * seconds / PERIOD * PERIOD;
    snd_pcm_sframes_t before = 0;
    double start = now(), gone;

    for (; at < all; at += PERIOD) {
        struct snd_xferi x = {.buf = buf, .frames = PERIOD};

        fill(buf, channels, at);
        while (ioctl(fd, SNDRV_PCM_IOCTL_WRITEI_FRAMES, &x)) {
            xruns++;
            ioctl(fd, SNDRV_PCM_IOCTL_PREPARE);
        }
        if (at == 10 * PERIOD) /* twenty looks, 500 us apart: a position that follows the clock moves between most */
            for (unsigned i = 0; i < 20; i++) {
                snd_pcm_sframes_t d = 0;

                ioctl(fd, SNDRV_PCM_IOCTL_HWSYNC);
                ioctl(fd, SNDRV_PCM_IOCTL_DELAY, &d);
                moved += i && d != before;
                before = d;
                usleep(500);
            }
    }
    ioctl(fd, SNDRV_PCM_IOCTL_DRAIN);
    gone = now() - start;
    claim(xruns <= 2, "xruns", "%u", xruns);
    claim(moved >= 8, "position", "moved between %u of 19 looks", moved);
    claim(gone > seconds * 0.9 && gone < seconds * 2 + 1, "time", "%u s took %.2f s", seconds, gone);
    close(fd);
}

static void record(unsigned rate)
{
    int fd = open_pcm("/dev/snd/pcmC0D0c", rate, 2);
    static int16_t buf[PERIOD * 2];
    double start = now(), gone;
    unsigned loud = 0, late = 0;

    for (unsigned at = 0; at < rate; at += PERIOD) {
        struct snd_xferi x = {.buf = buf, .frames = PERIOD};

        memset(buf, 0x55, sizeof buf);
        while (ioctl(fd, SNDRV_PCM_IOCTL_READI_FRAMES, &x)) /* the host was busy: too much to read came together */
            t_must(++late < 3 && !ioctl(fd, SNDRV_PCM_IOCTL_PREPARE));
        for (unsigned i = 0; i < PERIOD * 2; i++)
            loud += buf[i] != 0;
    }
    gone = now() - start;
    claim(!loud, "silence", "%u samples are not 0", loud);
    claim(gone > 0.9 && gone < 3, "time", "1 s took %.2f s", gone);
    close(fd);
}

int main(int argc, char **argv)
{
    open_up();
    if (argc > 1 && !strcmp(argv[1], "record"))
        record(argc > 2 ? (unsigned)atoi(argv[2]) : 48000);
    else
        play(argc > 1 ? (unsigned)atoi(argv[1]) : 44100, argc > 2 ? (unsigned)atoi(argv[2]) : 2,
             argc > 3 ? (unsigned)atoi(argv[3]) : 2);
    return t_end();
}
