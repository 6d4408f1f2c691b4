/* Screen pictures: binary PPM (P6, netpbm) and PNG (libpng, 8-bit RGB). The file appears whole or not at all: it is
 * written beside its place and renamed. Special files (a pipe, /dev/stdout) are written directly. */
#include "base/bytes.h"
#include "ui/ui_int.h"
#include <errno.h>
#include <fcntl.h>
#include <png.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

/* One row of the surface as R, G, B bytes. */
static void row_rgb(const struct ui_surface *s, int y, uint8_t *out)
{
    const uint8_t *p = s->data + (size_t)y * (size_t)s->stride;

    for (int x = 0; x < s->width; x++, p += 4, out += 3) {
        uint32_t px;

        memcpy(&px, p, sizeof px);
        out[0] = (uint8_t)(px >> 16);
        out[1] = (uint8_t)(px >> 8);
        out[2] = (uint8_t)px;
    }
}

static bool write_ppm(const struct ui_surface *s, FILE *f)
{
    AUTOFREE uint8_t *row = xmalloc((size_t)s->width * 3);

    if (fprintf(f, "P6\n%d %d\n255\n", s->width, s->height) < 0)
        return false;
    for (int y = 0; y < s->height; y++) {
        row_rgb(s, y, row);
        if (fwrite(row, 3, (size_t)s->width, f) != (size_t)s->width)
            return false;
    }
    return true;
}

static bool write_png(const struct ui_surface *s, FILE *f)
{
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    uint8_t *row = xmalloc((size_t)s->width * 3);

    if (!info || setjmp(png_jmpbuf(png))) { /* libpng comes back here on a write error */
        png_destroy_write_struct(&png, &info);
        free(row);
        return false;
    }
    png_init_io(png, f);
    png_set_IHDR(png, info, (png_uint_32)s->width, (png_uint_32)s->height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_write_info(png, info);
    for (int y = 0; y < s->height; y++) {
        row_rgb(s, y, row);
        png_write_row(png, row);
    }
    png_write_end(png, NULL);
    png_destroy_write_struct(&png, &info);
    free(row);
    return true;
}

/* Opens what is to be written: *tmp is the temporary's name, or NULL when path is a special file. */
static FILE *open_out(const char *path, char **tmp)
{
    struct stat st;
    FILE *f;
    int fd;

    if (!stat(path, &st) && !S_ISREG(st.st_mode))
        return fopen(path, "wb");
    *tmp = xasprintf("%s.%ld.tmp", path, (long)getpid());
    fd = open(*tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return NULL;
    f = fdopen(fd, "wb");
    if (!f)
        close(fd);
    return f;
}

bool ui_screendump(struct ui_console *c, const char *path, bool png, struct err **errp)
{
    AUTOFREE char *tmp = NULL;
    struct ui_surface *s;
    FILE *f;
    bool ok;

    ui_console_update(c);
    s = ui_console_surface(c);
    if (!s)
        return err_set(errp, "screen '%s' has no picture yet", c->name);
    f = open_out(path, &tmp);
    if (!f)
        return err_set_errno(errp, errno, "cannot create '%s'", path);
    errno = 0;
    ok = png ? write_png(s, f) : write_ppm(s, f);
    if (fclose(f) || !ok || (tmp && rename(tmp, path))) {
        int e = errno ? errno : EIO;

        if (tmp)
            unlink(tmp);
        return err_set_errno(errp, e, "cannot write '%s'", path);
    }
    return true;
}
