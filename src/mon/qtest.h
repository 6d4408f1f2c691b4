/* The register-level test channel: one request a line, one answer a line; see docs/mon.md for the list. */
#ifndef MON_QTEST_H
#define MON_QTEST_H

#include "chr/chr.h"
#include "dev/machine.h"

struct qtest;
/* log: file that gets a copy of the lines, or NULL. */
struct qtest *qtest_new(struct machine *m, struct chr *c, const char *log, struct err **errp);
void qtest_free(struct qtest *q);

#endif
