/* The empty description. */
#include "obj/state.h"

static const struct state_field none_fields[] = {STATE_END};
const struct state_desc state_none = {.name = "none", .version = 1, .fields = none_fields};
