/* Expressions of the human monitor: numbers, $registers, + - * / % & | ^ ~ and parentheses, as in C (64-bit, unsigned).
 * Grammar, loosest first: logic = sum { (& | ^) sum }; sum = term { +- term };
 * term = unary { (* / %) unary }; unary = [-~+] unary, ( logic ), $name, number, character. */
#include "base/bytes.h"
#include "mon/mon_int.h"

#include <ctype.h>

static bool eval_or(struct mon *m, const char **p, uint64_t *v, unsigned depth, struct err **errp);

static void blanks(const char **p)
{
    while (**p == ' ')
        (*p)++;
}

/* gdb's numbers of the amd64 and i386 registers. */
static const struct {
    const char *name, *alt;
    unsigned nr;
} regs[] = {{"rax", "eax", 0}, {"rbx", "ebx", 1},  {"rcx", "ecx", 2},        {"rdx", "edx", 3}, {"rsi", "esi", 4},
            {"rdi", "edi", 5}, {"rbp", "ebp", 6},  {"rsp", "esp", 7},        {"r8", NULL, 8},   {"r9", NULL, 9},
            {"r10", NULL, 10}, {"r11", NULL, 11},  {"r12", NULL, 12},        {"r13", NULL, 13}, {"r14", NULL, 14},
            {"r15", NULL, 15}, {"rip", "eip", 16}, {"eflags", "rflags", 17}, {"cs", NULL, 18},  {"ss", NULL, 19},
            {"ds", NULL, 20},  {"es", NULL, 21},   {"fs", NULL, 22},         {"gs", NULL, 23},  {"pc", NULL, 16},
            {"sp", NULL, 7}};

static bool eval_reg(struct mon *m, const char **p, uint64_t *v, struct err **errp)
{
    size_t n = 0;
    struct vcpu *c = mon_cpu(m, errp);

    while (isalnum((unsigned char)(*p)[n]))
        n++;
    for (unsigned i = 0; c && i < ARRAY_LEN(regs); i++) {
        uint8_t buf[16] = {0};
        unsigned size;

        if ((strncmp(regs[i].name, *p, n) || regs[i].name[n]) &&
            (!regs[i].alt || strncmp(regs[i].alt, *p, n) || regs[i].alt[n]))
            continue;
        mon_freeze(mon_machine(m));
        size = c->arch->gdb_read ? c->arch->gdb_read(c, regs[i].nr, buf) : 0;
        mon_thaw(mon_machine(m));
        if (!size)
            return err_set(errp, "register '%.*s' cannot be read", (int)n, *p);
        *v = size >= 8 ? get_le64(buf) : size == 4 ? get_le32(buf) : get_le16(buf);
        *p += n;
        return true;
    }
    return err_set(errp, "unknown register '%.*s'", (int)n, *p);
}

static bool eval_unary(struct mon *m, const char **p, uint64_t *v, unsigned depth, struct err **errp)
{
    char *end;

    if (depth > 64)
        return err_set(errp, "expression is nested too deep");
    blanks(p);
    switch (**p) {
    case '+':
    case '-':
    case '~': {
        char op = *(*p)++;

        if (!eval_unary(m, p, v, depth + 1, errp))
            return false;
        *v = op == '-' ? -*v : op == '~' ? ~*v : *v;
        return true;
    }
    case '(':
        (*p)++;
        if (!eval_or(m, p, v, depth + 1, errp))
            return false;
        blanks(p);
        return *(*p)++ == ')' || err_set(errp, "')' is missing");
    case '$':
        (*p)++;
        return eval_reg(m, p, v, errp);
    case '\'':
        if (!(*p)[1] || (*p)[2] != '\'')
            return err_set(errp, "expected a character between quotes");
        *v = (uint8_t)(*p)[1];
        *p += 3;
        return true;
    default:
        *v = strtoull(*p, &end, 0);
        if (end == *p)
            return err_set(errp, **p ? "invalid char '%c' in expression" : "unexpected end of expression", **p);
        *p = end;
        return true;
    }
}

/* The operators from the tightest level to the loosest; those of one level go from left to right. */
static const char *const levels[] = {"*/%", "+-", "&|^"};

static bool apply(char op, uint64_t *v, uint64_t r, struct err **errp)
{
    switch (op) {
    case '*':
        *v *= r;
        return true;
    case '+':
        *v += r;
        return true;
    case '-':
        *v -= r;
        return true;
    case '&':
        *v &= r;
        return true;
    case '|':
        *v |= r;
        return true;
    case '^':
        *v ^= r;
        return true;
    default:
        if (!r)
            return err_set(errp, "division by zero");
        *v = op == '/' ? *v / r : *v % r;
        return true;
    }
}

/* level: how many of `levels` may be used outside parentheses. */
static bool eval_level(struct mon *m, const char **p, uint64_t *v, unsigned level, unsigned depth, struct err **errp)
{
    if (!level)
        return eval_unary(m, p, v, depth, errp);
    if (!eval_level(m, p, v, level - 1, depth, errp))
        return false;
    for (;;) {
        uint64_t r;
        char op;

        blanks(p);
        op = **p;
        if (!op || !strchr(levels[level - 1], op))
            return true;
        (*p)++;
        if (!eval_level(m, p, &r, level - 1, depth, errp) || !apply(op, v, r, errp))
            return false;
    }
}

static bool eval_or(struct mon *m, const char **p, uint64_t *v, unsigned depth, struct err **errp)
{
    return eval_level(m, p, v, ARRAY_LEN(levels), depth, errp);
}

bool mon_eval(struct mon *m, const char **p, uint64_t *out, struct err **errp)
{
    return eval_or(m, p, out, 0, errp);
}
