/* Fuzz target of folder disks that are written (fat:rw:). A folder with a file, a sub-folder with one and links that
 * lead out of it becomes a floppy or a FAT16 disk; the input is what a guest writes to it. Bit 0 of the first byte: no
 * floppy. Then commands, each a byte (mod 6) with its arguments: 0 bytes to a place in the top folder, or in a cluster
 * 1 a FAT entry, in both FATs 2 a directory entry whose name parts come from the input, with its long name   3 bytes
 * anywhere 4 a flush   5 the bytes of one sector to another Whatever comes: what lies beside the folder, and what its
 * links lead to, stays as it is. */
#include "base/bytes.h"
#include "blk/blk_int.h"
#include "blk/vvfat.h"
#include "fuzz.h"
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
    struct run *run;
    struct blk_set *set;
    char top[64]; /* holds: in/ (the folder), out/secret, none else */
} g;
int fuzz_err = 2;

static void die(const char *what)
{
    dprintf(fuzz_err, "fuzz: %s\n", what);
    abort();
}

static void put_file(const char *name, const char *text)
{
    char path[128];
    int fd;

    snprintf(path, sizeof path, "%s/%s", g.top, name);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        die("cannot make a file");
    close(fd);
}

static void put_dir(const char *name)
{
    char path[128];

    snprintf(path, sizeof path, "%s/%s", g.top, name);
    if (mkdir(path, 0755) < 0)
        die("cannot make a folder");
}

static void put_link(const char *to, const char *name)
{
    char path[128];

    snprintf(path, sizeof path, "%s/%s", g.top, name);
    if (symlink(to, path) < 0)
        die("cannot make a link");
}

static void set_up(void)
{
    if (mkdir(g.top, 0755) < 0)
        die("cannot make the top folder");
    put_dir("in");
    put_dir("out");
    put_file("out/SECRET", "nobody writes here");
    put_file("in/ONE.TXT", "the first file");
    put_dir("in/SUB");
    put_file("in/SUB/a longer name", "the second file");
    put_link("../out", "in/LINK");
    put_link("../out/SECRET", "in/FILE");
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
    return remove(path);
}

static unsigned count;
static int count_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
    count++;
    return 0;
}

static void check(void)
{
    char path[128], text[64];
    struct stat st;
    ssize_t n;
    int fd;

    snprintf(path, sizeof path, "%s/out/SECRET", g.top);
    fd = open(path, O_RDONLY);
    n = fd >= 0 ? read(fd, text, sizeof text) : -1;
    if (n != 18 || memcmp(text, "nobody writes here", 18))
        die("a file outside was changed");
    close(fd);
    snprintf(path, sizeof path, "%s/out", g.top);
    count = 0;
    nftw(path, count_one, 8, FTW_PHYS);
    if (count != 2)
        die("something was made outside");
    snprintf(path, sizeof path, "%s/in/LINK", g.top);
    if (lstat(path, &st) < 0 || !S_ISLNK(st.st_mode))
        die("a link was replaced");
    snprintf(path, sizeof path, "%s", g.top);
    for (const char *const *p = (const char *const[]){"%s/in/FILE", NULL}; *p; p++)
        if (snprintf(path, sizeof path, *p, g.top) && (lstat(path, &st) < 0 || !S_ISLNK(st.st_mode)))
            die("a link to a file was replaced");
}

static void sector(struct blk_node *n, uint64_t sec, uint8_t *b, bool write)
{
    if (sec >= n->size / SECT)
        return;
    if (write)
        blk_node_pwrite_sync(n, sec * SECT, b, SECT);
    else
        blk_node_pread_sync(n, sec * SECT, b, SECT);
}

static void patch(struct blk_node *n, uint64_t sec, unsigned at, const uint8_t *p, unsigned len)
{
    uint8_t b[SECT];

    sector(n, sec, b, false);
    memcpy(b + at, p, min_u64(len, SECT - at));
    sector(n, sec, b, true);
}

static void fat_entry(struct blk_node *n, uint32_t c, uint16_t v)
{
    struct vvfat *s = n->priv;
    uint32_t at = s->bits == 12 ? c * 3 / 2 : c * 2;
    uint8_t b[2];

    for (unsigned k = 0; k < 2; k++) {
        uint64_t sec = (uint64_t)s->part + s->reserved + k * s->fat_sectors + at / SECT;

        put_le16(b, v);
        if (at / SECT < s->fat_sectors)
            patch(n, sec, at % SECT, b, 2);
    }
}

/* The sector an input names: of the top folder, or of one of the first clusters. */
static uint64_t place(struct vvfat *s, uint8_t v)
{
    if (v < 128)
        return (uint64_t)s->part + s->reserved + 2 * s->fat_sectors + v % min_u64(s->root_sectors, 4);
    return vvfat_cluster_sector(s, 2 + (v & 7)) + (v >> 3 & 1);
}

static void entry(struct blk_node *n, struct bytes *b)
{
    static const char *const names[] = {"..",      ".", "a/b", "../out/SECRET", "LINK", "FILE", "SUB",
                                        "ONE.TXT", "/", "x",   "a longer name", "new"};
    uint64_t sec = place(n->priv, take8(b));
    unsigned at = take8(b) % 14 * 32, which = take8(b);
    const char *name = names[which % ARRAY_LEN(names)];
    uint8_t e[64] = {0x41, [11] = ATTR_LFN}, sum = 0;
    static const uint8_t pos[13] = {1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30};

    memcpy(e + 32, "X          ", 11);
    e[32] = (uint8_t)('A' + take8(b) % 26);
    for (unsigned i = 0; i < 13; i++)
        put_le16(e + pos[i], i < strlen(name) ? (uint8_t)name[i] : i == strlen(name) ? 0 : 0xffff);
    for (unsigned i = 0; i < 11; i++)
        sum = (uint8_t)(((sum & 1) << 7 | sum >> 1) + e[32 + i]);
    e[13] = sum;
    e[32 + 11] = which & 0x40 ? ATTR_DIR : 0x20;
    put_le16(e + 32 + 26, take8(b) & 15);
    put_le32(e + 32 + 28, take16(b));
    patch(n, sec, at, which & 0x80 ? e + 32 : e, which & 0x80 ? 32 : 64);
}

static void command(struct blk_node *n, struct bytes *b)
{
    struct vvfat *s = n->priv;
    uint8_t p[16], whole[SECT];
    uint64_t sec;
    unsigned at;

    switch (take8(b) % 6) {
    case 0:
        sec = place(s, take8(b));
        at = take16(b) % SECT;
        for (unsigned i = 0; i < sizeof p; i++)
            p[i] = take8(b);
        patch(n, sec, at, p, sizeof p);
        break;
    case 1:
        at = take8(b) & 31;
        fat_entry(n, at, (uint16_t)take16(b));
        break;
    case 2:
        entry(n, b);
        break;
    case 3:
        sec = take16(b);
        at = take16(b) % SECT;
        p[0] = take8(b);
        patch(n, sec, at, p, 1);
        break;
    case 4:
        blk_node_flush_sync(n);
        check();
        break;
    case 5:
        sector(n, place(s, take8(b)), whole, false);
        sector(n, place(s, take8(b)), whole, true);
        break;
    }
}

static void clear(void)
{
    nftw(g.top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    setenv("TMPDIR", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm", 1);
    g.run = run_new();
    g.set = blk_set_new(g.run);
    snprintf(g.top, sizeof g.top, "%s/lyrebird-fuzz-vvfat.%d", getenv("TMPDIR"), (int)getpid());
    atexit(clear);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t max)
{
    static const uint8_t seeds[][16] = {{0, 2, 0, 3, 9, 0, 0, 0, 0, 4},
                                        {0, 2, 1, 4, 3, 0, 5, 0, 1, 1, 5, 0xff, 0xf, 4},
                                        {
                                            1,
                                            2,
                                            0,
                                            5,
                                            4,
                                            1,
                                            0,
                                            0,
                                            0,
                                            4,
                                            2,
                                            0,
                                            5,
                                            5,
                                            1,
                                            0,
                                        },
                                        {0, 2, 0, 4, 0x46, 0, 6, 0, 0, 1, 6, 0xff, 0xf, 4}};

    if (i >= ARRAY_LEN(seeds) || max < sizeof seeds[0])
        return 0;
    memcpy(buf, seeds[i], sizeof seeds[0]);
    return sizeof seeds[0];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct bytes b = {data, min_u64(len, 512)};
    char name[128];
    struct err *e = NULL;
    struct blk_node *n;

    clear();
    set_up();
    snprintf(name, sizeof name, "fat:rw:%s%s/in", take8(&b) & 1 ? "" : "floppy:", g.top);
    n = blk_node_open(g.set, name, NULL, BLK_O_RDWR | BLK_O_PROTOCOL, NULL, &e);
    if (!n)
        die(e->msg);
    while (b.left)
        command(n, &b);
    blk_node_unref(n);
    check();
    return 0;
}
