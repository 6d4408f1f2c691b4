/* Line editing for the human monitor, for terminals that understand ANSI cursor movement (ECMA-48). Scripts may send
 * plain lines; what they send is echoed as it is. */
#include "mon/mon_int.h"

#include <stdio.h>

enum {
    CTRL_A = 1,
    CTRL_B,
    CTRL_C,
    CTRL_D,
    CTRL_E,
    CTRL_F,
    BS = 8,
    TAB = 9,
    LF = 10,
    CTRL_K = 11,
    CTRL_L = 12,
    CR = 13,
    CTRL_N = 14,
    CTRL_P = 16,
    CTRL_U = 21,
    CTRL_W = 23,
    ESC = 27,
    DEL = 127
};

static const char prompt[] = "(qemu) ";

void le_prompt(struct mon *m)
{
    if (m->capture || m->le.answer)
        return;
    mon_puts(m, prompt);
    if (m->le.len)
        mon_printf(m, "%.*s", (int)m->le.len, m->le.buf);
    m->le.pos = m->le.len;
}

void le_reset(struct mon *m)
{
    m->le.len = m->le.pos = 0;
    m->le.answer = NULL;
    m->le.esc = LE_PLAIN;
    m->le.at = m->le.nr_history;
}

void le_ask(struct mon *m, const char *question, void (*answer)(struct mon *m, const char *text))
{
    if (m->capture) {
        mon_puts(m, "Error: give the answer on the command line\n");
        return;
    }
    mon_puts(m, question);
    m->le.answer = answer;
}

void le_free(struct mon *m)
{
    for (unsigned i = 0; i < m->le.nr_history; i++)
        free(m->le.history[i]);
}

/* Repaints from the cursor to the end of the line and moves back. */
static void repaint_tail(struct line_editor *l, struct mon *m)
{
    mon_printf(m, "%.*s\033[K", (int)(l->len - l->pos), l->buf + l->pos);
    if (l->len > l->pos)
        mon_printf(m, "\033[%uD", l->len - l->pos);
}

static void insert(struct mon *m, char c)
{
    struct line_editor *l = &m->le;

    if (l->len + 1 >= MON_LINE_MAX)
        return;
    memmove(l->buf + l->pos + 1, l->buf + l->pos, l->len - l->pos);
    l->buf[l->pos++] = c;
    l->len++;
    if (l->answer)
        return;
    mon_printf(m, "%c", c);
    if (l->pos < l->len)
        repaint_tail(l, m);
}

static void move_to(struct mon *m, unsigned pos)
{
    struct line_editor *l = &m->le;

    if (pos < l->pos)
        mon_printf(m, "\033[%uD", l->pos - pos);
    else if (pos > l->pos)
        mon_printf(m, "\033[%uC", pos - l->pos);
    l->pos = pos;
}

static void erase(struct mon *m, unsigned from, unsigned to)
{
    struct line_editor *l = &m->le;

    if (from >= to)
        return;
    move_to(m, from);
    memmove(l->buf + from, l->buf + to, l->len - to);
    l->len -= to - from;
    repaint_tail(l, m);
}

static void replace(struct mon *m, const char *text)
{
    erase(m, 0, m->le.len);
    while (*text)
        insert(m, *text++);
}

static void remember(struct line_editor *l)
{
    if (!l->len || (l->nr_history && !strcmp(l->history[l->nr_history - 1], l->buf)))
        return;
    if (l->nr_history == MON_HISTORY) {
        free(l->history[0]);
        memmove(l->history, l->history + 1, (MON_HISTORY - 1) * sizeof *l->history);
        l->nr_history--;
    }
    l->history[l->nr_history++] = xstrdup(l->buf);
}

static void recall(struct mon *m, int step)
{
    struct line_editor *l = &m->le;

    if ((step < 0 && l->at == 0) || (step > 0 && l->at >= l->nr_history))
        return;
    l->at = (unsigned)((int)l->at + step);
    replace(m, l->at < l->nr_history ? l->history[l->at] : "");
}

static unsigned word_start(const struct line_editor *l)
{
    unsigned p = l->pos;

    while (p && l->buf[p - 1] == ' ')
        p--;
    while (p && l->buf[p - 1] != ' ')
        p--;
    return p;
}

/* Completion: candidates for the word before the cursor; their common part is inserted, a second Tab lists them. */
struct candidates {
    const char *word;
    size_t word_len;
    char common[256];
    unsigned n;
    struct strbuf all;
};

static void candidate(void *opaque, const char *word)
{
    struct candidates *c = opaque;

    if (strncmp(word, c->word, c->word_len))
        return;
    if (!c->n++) {
        snprintf(c->common, sizeof c->common, "%s", word);
    } else {
        size_t i = 0;

        while (c->common[i] && c->common[i] == word[i])
            i++;
        c->common[i] = 0;
    }
    str_addf(&c->all, "%-20s%s", word, c->n % 4 ? " " : "\n");
}

static void complete(struct mon *m)
{
    struct line_editor *l = &m->le;
    unsigned start = l->pos;
    struct candidates c = {0};
    AUTOFREE char *line = xstrndup(l->buf, l->pos);

    while (start && !strchr(" ,", l->buf[start - 1]))
        start--;
    c.word = line + start;
    c.word_len = l->pos - start;
    hmp_complete(m, line, candidate, &c);
    if (c.n && strlen(c.common) > c.word_len) {
        for (const char *p = c.common + c.word_len; *p; p++)
            insert(m, *p);
        if (c.n == 1)
            insert(m, ' ');
    } else if (c.n > 1 && l->last_tab) {
        mon_printf(m, "\n%s%s", c.all.s, c.n % 4 ? "\n" : "");
        le_prompt(m);
    }
    str_free(&c.all);
}

static void accept(struct mon *m)
{
    struct line_editor *l = &m->le;
    char *line;

    void (*answer)(struct mon * m, const char *text) = l->answer;

    l->buf[l->len] = 0;
    mon_puts(m, "\n");
    if (!answer)
        remember(l);
    line = xstrdup(l->buf);
    le_reset(m);
    if (answer)
        answer(m, line);
    else
        hmp_run(m, line);
    free(line);
    le_prompt(m);
}

static void csi(struct mon *m, uint8_t c)
{
    struct line_editor *l = &m->le;

    if (c >= '0' && c <= '9') {
        l->csi_arg = (l->csi_arg * 10 + (c - '0')) % 1000;
        return;
    }
    if (c == ';')
        return;
    l->esc = LE_PLAIN;
    switch (c) {
    case 'A':
        recall(m, -1);
        break;
    case 'B':
        recall(m, 1);
        break;
    case 'C':
        move_to(m, l->pos < l->len ? l->pos + 1 : l->pos);
        break;
    case 'D':
        move_to(m, l->pos ? l->pos - 1 : 0);
        break;
    case 'H':
        move_to(m, 0);
        break;
    case 'F':
        move_to(m, l->len);
        break;
    case '~':
        if (l->csi_arg == 1 || l->csi_arg == 7)
            move_to(m, 0);
        else if (l->csi_arg == 4 || l->csi_arg == 8)
            move_to(m, l->len);
        else if (l->csi_arg == 3 && l->pos < l->len)
            erase(m, l->pos, l->pos + 1);
        break;
    default: /* other function keys mean nothing here */
        break;
    }
}

static void control(struct mon *m, uint8_t c)
{
    struct line_editor *l = &m->le;

    switch (c) {
    case CTRL_A:
        move_to(m, 0);
        break;
    case CTRL_E:
        move_to(m, l->len);
        break;
    case CTRL_B:
        move_to(m, l->pos ? l->pos - 1 : 0);
        break;
    case CTRL_F:
        move_to(m, l->pos < l->len ? l->pos + 1 : l->pos);
        break;
    case CTRL_C:
        mon_puts(m, "^C\n");
        le_reset(m);
        le_prompt(m);
        break;
    case CTRL_D:
        if (l->pos < l->len)
            erase(m, l->pos, l->pos + 1);
        break;
    case BS:
    case DEL:
        if (l->pos)
            erase(m, l->pos - 1, l->pos);
        break;
    case TAB:
        complete(m);
        break;
    case CTRL_K:
        erase(m, l->pos, l->len);
        break;
    case CTRL_U:
        erase(m, 0, l->pos);
        break;
    case CTRL_W:
        erase(m, word_start(l), l->pos);
        break;
    case CTRL_L:
        mon_puts(m, "\033[2J\033[1;1H");
        le_prompt(m);
        break;
    case CTRL_N:
        recall(m, 1);
        break;
    case CTRL_P:
        recall(m, -1);
        break;
    case ESC:
        l->esc = LE_ESC;
        break;
    default: /* no key */
        break;
    }
}

static void key(struct mon *m, uint8_t c)
{
    struct line_editor *l = &m->le;
    bool tab = c == TAB;

    if (l->esc == LE_ESC) {
        l->esc = c == '[' ? LE_CSI : c == 'O' ? LE_SS3 : LE_PLAIN;
        l->csi_arg = 0;
    } else if (l->esc == LE_CSI || l->esc == LE_SS3) {
        csi(m, c);
    } else if (c == CR || (c == LF && !l->last_cr)) {
        l->last_cr = c == CR;
        accept(m);
        return;
    } else if (c >= ' ' && c != DEL) {
        insert(m, (char)c);
    } else if (l->answer) {
        if ((c == BS || c == DEL) && l->len)
            l->pos = --l->len;
    } else if (c != LF) {
        control(m, c);
    }
    l->last_cr = false;
    l->last_tab = tab;
}

void le_input(struct mon *m, const uint8_t *buf, size_t len)
{
    for (size_t i = 0; i < len; i++)
        key(m, buf[i]);
}
