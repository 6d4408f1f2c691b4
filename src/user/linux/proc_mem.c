/* smaps_rollup, statm and status, after proc(5): the host's lines with the sums over the guest's mappings.
 *
 * Not here: peaks (VmPeak, VmHWM), which are shown as what is now; page tables, which are the host's. */
#include "user/linux/proc_mem.h"
#include "base/util.h"
#include "user/linux/thread.h"

#include <inttypes.h>
#include <string.h>

enum { MAX_KEYS = 48, KEY_LEN = 32 };
struct sums {
    uint64_t lo, hi;             /* of the lowest and the highest mapping */
    uint64_t data, stack, exec;  /* KiB: private and writable; the stack; executable */
    char key[MAX_KEYS][KEY_LEN]; /* as in smaps, without the colon */
    uint64_t kb[MAX_KEYS];
    unsigned n;
};

static void add_key(struct sums *s, const char *key, uint64_t kb)
{
    unsigned i = 0;

    while (i < s->n && strcmp(s->key[i], key))
        i++;
    if (i == MAX_KEYS)
        return;
    if (i == s->n)
        snprintf(s->key[s->n++], KEY_LEN, "%s", key);
    s->kb[i] += kb;
}

static bool find_key(const struct sums *s, const char *key, uint64_t *kb)
{
    for (unsigned i = 0; i < s->n; i++)
        if (!strcmp(s->key[i], key)) {
            *kb = s->kb[i];
            return true;
        }
    return false;
}

static uint64_t sum_of(const struct sums *s, const char *key)
{
    uint64_t kb = 0;

    find_key(s, key, &kb);
    return kb;
}

static void add_range(struct sums *s, uint64_t lo, uint64_t hi, const char *perm, bool stack)
{
    uint64_t kb = (hi - lo) / 1024;

    s->lo = s->hi ? min_u64(s->lo, lo) : lo;
    s->hi = max_u64(s->hi, hi);
    if (stack)
        s->stack += kb;
    else if (perm[1] == 'w' && perm[3] == 'p')
        s->data += kb;
    if (perm[2] == 'x')
        s->exec += kb;
}

static void sum_up(struct sums *s, const char *smaps)
{
    memset(s, 0, sizeof *s);
    for (const char *line = smaps, *next; line && *line; line = next) {
        uint64_t lo, hi, kb;
        char perm[8], key[KEY_LEN];
        const char *end = strchr(line, '\n');

        next = end ? end + 1 : NULL;
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &lo, &hi, perm) == 3)
            add_range(s, lo, hi, perm, end && end - line > 7 && !strncmp(end - 7, "[stack]", 7));
        else if (sscanf(line, "%31[^: ]: %" SCNu64 " kB", key, &kb) == 2)
            add_key(s, key, kb);
    }
}

void lx_proc_smaps_rollup(struct strbuf *out, const char *smaps, FILE *in)
{
    struct sums s;
    uint64_t pss = 0;
    char line[256], key[KEY_LEN];

    sum_up(&s, smaps);
    str_addf(out, "%08" PRIx64 "-%08" PRIx64 " ---p 00000000 00:00 0 ", s.lo, s.hi);
    while (out->len < 73)
        str_add(out, " ");
    str_add(out, "[rollup]\n");
    while (fgets(line, sizeof line, in)) {
        uint64_t kb;

        if (sscanf(line, "%31[^: ]: %" SCNu64 " kB", key, &kb) != 2)
            continue;
        if (!strcmp(key, "Pss"))
            pss = kb;
        if (!find_key(&s, key, &kb)) /* a part of Pss that smaps does not have: by its share */
            kb = pss ? kb * sum_of(&s, "Pss") / pss : 0;
        strcat(key, ":");
        str_addf(out, "%-16s%8" PRIu64 " kB\n", key, kb);
    }
}

static uint64_t text_kb(void)
{
    return (align_up(lx_proc.code_end, 4096) - (lx_proc.code_start & ~UINT64_C(4095))) / 1024;
}

void lx_proc_statm(struct strbuf *out, const char *smaps)
{
    struct sums s;

    sum_up(&s, smaps);
    str_addf(out, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " 0 %" PRIu64 " 0\n", sum_of(&s, "Size") / 4,
             sum_of(&s, "Rss") / 4, (sum_of(&s, "Rss") - sum_of(&s, "Anonymous")) / 4, text_kb() / 4,
             (s.data + s.stack) / 4);
}

/* The signals with handler 0, 1 or (2) any other, one bit each. */
static uint64_t handled(const struct lx_actions *act, uint64_t how)
{
    uint64_t set = 0;

    for (unsigned i = 1; i <= LX_NSIG; i++)
        if (min_u64(act->a[i].handler, 2) == how)
            set |= UINT64_C(1) << (i - 1);
    return set;
}

void lx_proc_status(struct strbuf *out, const char *smaps, FILE *in)
{
    struct sums s;
    char line[512];

    sum_up(&s, smaps);
    const struct {
        const char *key;
        uint64_t kb;
    } mem[] = {{"VmPeak:", sum_of(&s, "Size")},
               {"VmSize:", sum_of(&s, "Size")},
               {"VmLck:", sum_of(&s, "Locked")},
               {"VmHWM:", sum_of(&s, "Rss")},
               {"VmRSS:", sum_of(&s, "Rss")},
               {"RssAnon:", sum_of(&s, "Anonymous")},
               {"RssFile:", sum_of(&s, "Rss") - sum_of(&s, "Anonymous")},
               {"RssShmem:", 0},
               {"VmData:", s.data},
               {"VmStk:", s.stack},
               {"VmExe:", text_kb()},
               {"VmLib:", s.exec - min_u64(s.exec, text_kb())},
               {"VmSwap:", sum_of(&s, "Swap")}};
    const struct {
        const char *key;
        uint64_t set;
    } sig[] = {
        {"SigBlk:", lx_self->mask}, {"SigIgn:", handled(lx_self->act, 1)}, {"SigCgt:", handled(lx_self->act, 2)}};

    while (fgets(line, sizeof line, in)) {
        bool done = false;

        for (unsigned i = 0; i < ARRAY_LEN(mem) && !done; i++)
            if ((done = str_starts(line, mem[i].key)))
                str_addf(out, "%s\t%8" PRIu64 " kB\n", mem[i].key, mem[i].kb);
        for (unsigned i = 0; i < ARRAY_LEN(sig) && !done; i++)
            if ((done = str_starts(line, sig[i].key)))
                str_addf(out, "%s\t%016" PRIx64 "\n", sig[i].key, sig[i].set);
        if (!done)
            str_add(out, line);
    }
}
