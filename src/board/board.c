/* Registry of boards and the search for firmware files. Boards are object classes of the family "machine". */
#include "board/board.h"

#include <unistd.h>

static bool is_board(const struct obj_class *c)
{
    size_t n = strlen(c->name);

    return n > 8 && !strcmp(c->name + n - 8, "-machine") && obj_class_is(c, "machine");
}

/* The 32-bit program offers the boards of its 64-bit sister. */
static bool arch_matches(const char *board, const char *arch)
{
    return !strcmp(board, arch) || (!strcmp(board, "x86_64") && !strcmp(arch, "i386"));
}

const struct board_class *board_next(const char *arch, const struct board_class *prev)
{
    const struct obj_class *c = obj_class_next((const struct obj_class *)prev);

    for (; c; c = obj_class_next(c))
        if (is_board(c) && arch_matches(((const struct board_class *)c)->arch, arch))
            return (const struct board_class *)c;
    return NULL;
}

const struct board_class *board_find(const char *arch, const char *name)
{
    const struct board_class *b = NULL;

    while ((b = board_next(arch, b)))
        if (!strcmp(b->machine, name) || (b->alias && !strcmp(b->alias, name)))
            return b;
    return NULL;
}

const struct board_class *board_default(const char *arch)
{
    const struct board_class *b = NULL;

    while ((b = board_next(arch, b)))
        if (b->is_default)
            return b;
    return NULL;
}

char *board_find_file(const struct board_cfg *cfg, const char *name)
{
    if (!access(name, R_OK))
        return xstrdup(name);
    if (strchr(name, '/'))
        return NULL;
    for (const char *const *d = cfg->fw_dirs; d && *d; d++) {
        char *path = xasprintf("%s/%s", *d, name);

        if (!access(path, R_OK))
            return path;
        free(path);
    }
    return NULL;
}
