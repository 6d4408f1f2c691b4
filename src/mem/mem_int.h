/* Inside mem/: views and the state shared by a machine's spaces. */
#ifndef MEM_MEM_INT_H
#define MEM_MEM_INT_H

#include "mem/mem.h"

struct mem_view {
    struct mem_section *s; /* by start, disjoint */
    unsigned nr, cap;
    struct mem_view *next; /* in the graveyard */
};
struct mem_listener {
    struct list link;
    mem_changed_fn *fn;
    void *opaque;
};
struct mem_space {
    char *name;
    struct mem_sys *sys;
    struct mem_region *root;
    struct mem_view *_Atomic view;
    _Atomic unsigned readers;   /* inside a lookup now */
    struct mem_view *graveyard; /* replaced views some reader may still hold */
    struct list listeners;
    struct list link;
};
struct mem_sys {
    struct run *run;
    struct list spaces, rams;
    unsigned depth; /* of mem_begin */
    bool dirty;
    uint64_t next_page;
    struct {
        mem_code_fn *fn;
        void *opaque;
    } code_hook[4];
    unsigned nr_code_hooks;
    struct {
        mem_mark_fn *fn;
        void *opaque;
    } mark_hook[4];
    unsigned nr_mark_hooks;
    _Atomic unsigned code_marks; /* grows with each mem_ram_mark_code */
};
/* A fresh view of root. */
struct mem_view *mem_view_build(struct mem_region *root);
void mem_view_free(struct mem_view *v);
bool mem_view_equal(const struct mem_view *a, const struct mem_view *b);
const struct mem_section *mem_view_find(const struct mem_view *v, gpa_t addr);
void mem_touch(struct mem_sys *s); /* the tree changed */

#endif
