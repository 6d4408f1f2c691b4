/* Intrusive doubly linked list; a head is a node that links to itself. No allocation, not thread-safe. */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include "base/util.h"

struct list {
    struct list *next, *prev;
};
#define LIST_INIT(head)                                                                                                \
    {                                                                                                                  \
        &(head), &(head)                                                                                               \
    }
static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}
static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}
static inline void list_add(struct list *head, struct list *n) /* at the tail */
{
    n->prev = head->prev;
    n->next = head;
    head->prev->next = n;
    head->prev = n;
}
static inline void list_add_head(struct list *head, struct list *n)
{
    list_add(head->next, n);
}
/* Unlinks n and leaves it self-linked, so deleting twice is harmless. */
static inline void list_del(struct list *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    list_init(n);
}
#define list_first(head, type, member) (list_empty(head) ? NULL : container_of((head)->next, type, member))
#define list_each(it, head, member)                                                                                    \
    for (it = container_of((head)->next, __typeof__(*it), member); &it->member != (head);                              \
         it = container_of(it->member.next, __typeof__(*it), member))
/* The body may unlink or free `it`. */
#define list_each_safe(it, tmp, head, member)                                                                          \
    for (it = container_of((head)->next, __typeof__(*it), member),                                                     \
        tmp = container_of(it->member.next, __typeof__(*it), member);                                                  \
         &it->member != (head); it = tmp, tmp = container_of(it->member.next, __typeof__(*it), member))

#endif
