/* The names of other files in an image's header: all that the process outside reads of an image. Bounded in bytes,
 * names and steps; no number from the image is trusted further than its bound. qcow and qcow2: the backing file and the
 * external data file's name; VMDK: the extents of the descriptor, which lie in its own folder or in /dev. */
#include "base/bytes.h"
#include "cmd/shut/shut.h"
#include <stdio.h>
#include <unistd.h>

enum {
    REFS_MAX = 1024,
    NAME_LEN_MAX = 1023,
    DESC_MAX = 1 << 20,
    FIRST = 4096,
    HEAD = 1 << 16,
    EXT_DATA_FILE = 0x44415441,
    EXTS_MAX = 64,
    HAS_DATA_FILE = 4
};

struct refs {
    char **name;
    unsigned nr;
};

static void add(struct refs *r, const char *p, size_t n)
{
    if (!n || n > NAME_LEN_MAX || r->nr == REFS_MAX || memchr(p, 0, n))
        return;
    r->name = xrealloc(r->name, (r->nr + 1) * sizeof *r->name);
    r->name[r->nr++] = xstrndup(p, n);
}

static size_t take(int fd, uint64_t at, void *buf, size_t n)
{
    ssize_t r = at > INT64_MAX / 2 ? 0 : pread(fd, buf, n, (off_t)at);

    return r < 0 ? 0 : (size_t)r;
}

/* Version 1 to 3 keep the backing file's place and length at the same bytes. */
static void qcow_refs(struct refs *r, int fd, const uint8_t *h, size_t n)
{
    uint64_t at = get_be64(h + 8), ext = n >= 104 && get_be32(h + 4) == 3 ? get_be32(h + 100) : 72;
    uint32_t len = get_be32(h + 16);
    char name[NAME_LEN_MAX];

    if (at && len && len <= NAME_LEN_MAX)
        add(r, name, take(fd, at, name, len) == len ? len : 0);
    for (unsigned i = 0; get_be32(h + 4) >= 2 && i < EXTS_MAX && ext + 8 <= n; i++) {
        uint32_t type = get_be32(h + ext), l = get_be32(h + ext + 4);

        if (!type || l > n - ext - 8)
            break;
        if (type == EXT_DATA_FILE)
            add(r, (const char *)h + ext + 8, l);
        ext += 8 + align_up(l, 8);
    }
}

/* Lines like: RW 4192256 SPARSE "name.vmdk" 0 */
static void vmdk_refs(struct refs *r, const char *text, size_t n)
{
    const char *end = text + n, *line = text;

    while (line < end) {
        const char *nl = memchr(line, '\n', (size_t)(end - line)), *stop = nl ? nl : end, *a, *b;

        if (!strncmp(line, "RW ", 3) || !strncmp(line, "RDONLY ", 7)) {
            a = memchr(line, '"', (size_t)(stop - line));
            b = a ? memchr(a + 1, '"', (size_t)(stop - a - 1)) : NULL;
            if (b && (!memchr(a + 1, '/', (size_t)(b - a - 1)) || !strncmp(a + 1, "/dev/", 5)))
                add(r, a + 1, (size_t)(b - a - 1));
        }
        line = stop + 1;
    }
}

unsigned shut_refs(int fd, char ***out)
{
    uint8_t first[FIRST], *h AUTOFREE = NULL;
    struct refs r = {0};
    size_t n = take(fd, 0, first, FIRST);

    h = xmalloc(n >= 4 && get_be32(first) == 0x514649fb ? HEAD : DESC_MAX + 1);
    memcpy(h, first, n);
    if (n >= 104 && get_be32(h) == 0x514649fb) {
        if (get_be64(h + 72) & HAS_DATA_FILE)
            n = take(fd, 0, h, HEAD);
        if (n >= 104)
            qcow_refs(&r, fd, h, n);
    } else if (n >= 72 && get_be32(h) == 0x514649fb) {
        qcow_refs(&r, fd, h, n);
    } else if (n >= 512 && !memcmp(h, "KDMV", 4)) {
        uint64_t at = get_le64(h + 28), len = get_le64(h + 36);

        n = at < INT64_MAX / 1024 ? take(fd, at * 512, h, min_u64(len, DESC_MAX / 512) * 512) : 0;
        h[n] = 0;
        vmdk_refs(&r, (char *)h, n);
    } else if (n >= 22 && !memcmp(h, "# Disk DescriptorFile", 21)) {
        n = take(fd, 0, h, DESC_MAX);
        h[n] = 0;
        vmdk_refs(&r, (char *)h, n);
    }
    *out = r.name;
    return r.nr;
}
