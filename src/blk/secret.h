/* Secrets by id: passphrases and keys that images, servers and displays refer to. Made with -object secret. */
#ifndef BLK_SECRET_H
#define BLK_SECRET_H

#include "blk/blk.h"

/* The bytes of the secret `id` among the set's objects; the caller wipes and frees. NULL with an error. */
uint8_t *blk_secret_get(struct blk_set *s, const char *id, size_t *len, struct err **errp);
/* --object of the tools: "type,id=name,...". Only classes of this program that a tool can use. */
bool blk_object_add(struct blk_set *s, const char *text, struct err **errp);

/* The same from options with qom-type and id. */
bool blk_object_add_opts(struct blk_set *s, struct opts *o, struct err **errp);
/* Who is held back by this throttle-group, for a message; the caller frees. NULL: nobody. */
char *blk_throttle_users(struct blk_set *s, const struct obj *group);
struct obj *blk_objects(struct blk_set *s); /* the container; made when there is none */
/* Makes the objects of every "--object DEF" and "--object=DEF" before a "--" and takes those words out of the list. */
bool blk_take_objects(struct blk_set *s, int *argc, char **argv, struct err **errp);

#endif
