/* Private to the room: a monitor session, the human commands and the machine-readable ones. */
#ifndef MON_MON_INT_H
#define MON_MON_INT_H

#include "base/json.h"
#include "base/str.h"
#include "dev/dev.h"
#include "mon/mon.h"

enum { MON_LINE_MAX = 4096, MON_HISTORY = 64, QMP_MAX_INPUT = 64 << 20 };

struct mon;
struct line_editor {
    char buf[MON_LINE_MAX];
    unsigned len, pos;
    enum { LE_PLAIN, LE_ESC, LE_CSI, LE_SS3 } esc;
    int csi_arg;
    char *history[MON_HISTORY]; /* owned, oldest first */
    unsigned nr_history, at;    /* at == nr_history: the line being typed */
    bool last_cr;
    bool last_tab;
    void (*answer)(struct mon *m, const char *text); /* the next line is an answer, typed unseen; NULL = a command */
};

struct mon {
    struct list link;
    struct mon_set *set;
    struct chr_fe fe;
    enum mon_mode mode;
    bool pretty;
    bool busy;    /* a command runs */
    bool starved; /* input waits for its end */
    /* HMP */
    struct line_editor le;
    bool greeted, in_focus;
    unsigned cpu;           /* `cpu N` */
    struct strbuf *capture; /* human-monitor-command: output goes here */
    /* QMP */
    bool negotiated;
    struct json_tokener *tok; /* owned */
    struct strbuf text;       /* bytes of the value being received */
    bool skip;                /* after a syntax error: up to the end of the line */
};

struct mon_fd {
    struct list link;
    char *name;
    int fd;
};

struct mon_set {
    struct mon_cfg cfg;
    struct list mons;
    struct list fds;  /* getfd */
    int abs_x, abs_y; /* last absolute pointer position sent */
};

static inline struct machine *mon_machine(const struct mon *m)
{
    return m->set->cfg.m;
}

/* HMP output; '\n' becomes CR LF on the way out. */
void mon_printf(struct mon *m, const char *fmt, ...) PRINTF_FMT(2, 3);
void mon_puts(struct mon *m, const char *s);
/* Prints and frees text; "none" when NULL. */
void mon_puts_free(struct mon *m, char *text);
void mon_error(struct mon *m, struct err *e); /* prints "Error: ..." and the hint; frees e */

/* readline.c */
void le_input(struct mon *m, const uint8_t *buf, size_t len);
void le_prompt(struct mon *m);
void le_reset(struct mon *m);
/* Takes the next line as the answer to a question, without echo. With captured output there is nobody to ask. */
void le_ask(struct mon *m, const char *question, void (*answer)(struct mon *m, const char *text));
void le_free(struct mon *m);

/* hmp.c */
struct hmp_args { /* words after the command's name, quotes removed */
    unsigned n;
    char *v[16];
    const char *rest; /* the whole tail as typed */
};
typedef void hmp_fn(struct mon *m, struct hmp_args *a);
struct hmp_cmd {
    const char *name; /* "quit|q" */
    const char *args; /* for help */
    const char *help;
    hmp_fn *fn;
    unsigned min, max; /* words; max 255: the rest of the line is one */
};
extern const struct hmp_cmd hmp_cmds[], hmp_info_cmds[];
void hmp_run(struct mon *m, char *line);
bool hmp_name_is(const struct hmp_cmd *c, const char *word);
void hmp_complete(struct mon *m, const char *line, void (*add)(void *opaque, const char *word), void *opaque);

/* qmp.c */
void qmp_open(struct mon *m);
void qmp_close(struct mon *m);
void qmp_input(struct mon *m, const uint8_t *buf, size_t len);
void qmp_event(struct mon *m, const char *name, struct json_object *data, int64_t host_ns);

/* Shared by both languages. */
struct dev *mon_find_dev(struct mon_set *s, const char *id, struct err **errp); /* id or path */
bool mon_send_keys(struct machine *m, const unsigned *keys, unsigned n, int64_t hold_ms, struct err **errp);
struct vcpu *mon_cpu(struct mon *m, struct err **errp);
int mon_take_fd(struct mon_set *s, const char *name); /* -1 = none */
bool mon_screendump(struct machine *m, const char *file, const char *device, bool png, struct err **errp);
struct blk *mon_blk_of_dev(struct mon_set *s, const char *id); /* what the device's drive= names, or NULL */
unsigned mon_key_by_scancode(unsigned code);                   /* set 1, 0x80 = extended; 0 = unknown */
void mon_uuid_text(const struct machine *m, char out[40]);
/* All vCPUs stand still in between, so that their registers may be read. */
void mon_freeze(struct machine *m);
void mon_thaw(struct machine *m);
bool mon_eval(struct mon *m, const char **p, uint64_t *out, struct err **errp); /* eval.c: a C-like expression */

#endif
