/* SMBIOS 2.8 / 3.0 tables (DMTF DSP0134) for fw_cfg "etc/smbios/smbios-tables" and "etc/smbios/smbios-anchor".
 *
 * Types 0, 2, 8, 9 and 11 appear when -smbios asks for them; 1, 3, 4, 16, 17, 19, 32 and 127 always. A table given by
 * -smbios file= replaces ours of the same type. Firmware places the tables and fills in their address. */
#include "board/x86/pc_int.h"

#include "base/bytes.h"
#include "base/str.h"
#include "board/x86/aml.h"

#include <stdio.h>

enum {
    T_BIOS = 0,
    T_SYSTEM = 1,
    T_BOARD = 2,
    T_CHASSIS = 3,
    T_CPU = 4,
    T_PORT = 8,
    T_SLOT = 9,
    T_OEM = 11,
    T_MEM_ARRAY = 16,
    T_DIMM = 17,
    T_MEM_RANGE = 19,
    T_BOOT = 32,
    T_END = 127
};
enum { MAX_STRINGS = 255, MAX_TABLE_FILE = 1 << 20, ANCHOR_LEN = 31, ANCHOR3_LEN = 24, MAX_STRING = 64 << 10 };
#define DIMM_MAX (16 * GIB)

struct smb {
    struct pc *p;
    struct aml out;  /* the structures */
    struct aml body; /* formatted area of the one being written */
    struct aml text; /* its strings, each with NUL */
    unsigned nr_strings, nr, max_len;
    uint8_t replaced[256]; /* types that come from files */
};

/* ---- one structure ---- */

static void begin(struct smb *s, uint8_t type, uint16_t handle)
{
    s->body.len = s->text.len = 0;
    s->nr_strings = 0;
    aml_raw(&s->body, type, 1);
    aml_raw(&s->body, 0, 1); /* length, set at the end */
    aml_raw(&s->body, handle, 2);
}

static void u8(struct smb *s, uint8_t v)
{
    aml_raw(&s->body, v, 1);
}

static void u16(struct smb *s, uint16_t v)
{
    aml_raw(&s->body, v, 2);
}

static void u32(struct smb *s, uint32_t v)
{
    aml_raw(&s->body, v, 4);
}

static void u64(struct smb *s, uint64_t v)
{
    aml_raw(&s->body, v, 8);
}

static uint8_t add_text(struct smb *s, const char *t)
{
    if (!t || !*t || s->nr_strings == MAX_STRINGS)
        return 0;
    aml_bytes(&s->text, t, strlen(t) + 1);
    return (uint8_t)++s->nr_strings;
}

static void str(struct smb *s, const char *t)
{
    u8(s, add_text(s, t));
}

static void end(struct smb *s)
{
    unsigned len;

    s->body.p[1] = (uint8_t)s->body.len;
    if (!s->text.len)
        aml_raw(&s->text, 0, 1);
    aml_raw(&s->text, 0, 1);
    len = (unsigned)(s->body.len + s->text.len);
    s->max_len = len > s->max_len ? len : s->max_len;
    aml_bytes(&s->out, s->body.p, s->body.len);
    aml_bytes(&s->out, s->text.p, s->text.len);
    s->nr++;
}

/* ---- options ---- */

static int opts_type(const struct opts *o)
{
    const char *t = opts_peek(o, "type");
    uint64_t v;

    return t && str_to_u64(t, &v) && v < 256 ? (int)v : -1;
}

/* The last value of a key among all -smbios type=N options. */
static const char *field(struct smb *s, int type, const char *key, const char *dflt)
{
    for (struct opts **o = s->p->cfg->smbios; o && *o; o++)
        if (opts_type(*o) == type && opts_get(*o, key))
            dflt = opts_get(*o, key);
    return dflt;
}

static bool asked(struct smb *s, int type)
{
    for (struct opts **o = s->p->cfg->smbios; o && *o; o++)
        if (opts_type(*o) == type)
            return true;
    return false;
}

static bool number(struct smb *s, int type, const char *key, uint64_t dflt, uint64_t max, uint64_t *out,
                   struct err **errp)
{
    const char *t = field(s, type, key, NULL);

    *out = dflt;
    if (t && (!str_to_u64(t, out) || *out > max))
        return err_set(errp, "-smbios type=%d: %s=%s is not a number up to %" PRIu64, type, key, t, max);
    return true;
}

/* ---- types ---- */

static bool type0(struct smb *s, struct err **errp)
{
    const char *release = field(s, T_BIOS, "release", NULL);
    unsigned major = 0, minor = 0;
    bool uefi = false;
    const char *u = field(s, T_BIOS, "uefi", NULL);

    if (release && (sscanf(release, "%u.%u", &major, &minor) != 2 || major > 255 || minor > 255))
        return err_set(errp, "-smbios type=0: release=%s is not of the form 1.2", release);
    if (u && !str_to_bool(u, &uefi))
        return err_set(errp, "-smbios type=0: uefi=%s is neither on nor off", u);
    begin(s, T_BIOS, 0);
    str(s, field(s, T_BIOS, "vendor", NULL));
    str(s, field(s, T_BIOS, "version", NULL));
    u16(s, 0xe800);
    str(s, field(s, T_BIOS, "date", NULL));
    u8(s, 0);
    u64(s, 0x08); /* characteristics not supported */
    u8(s, 0);
    u8(s, 0x14 | (uefi ? 0x08 : 0)); /* virtual machine, targeted content */
    u8(s, (uint8_t)major);
    u8(s, (uint8_t)minor);
    u16(s, 0xffff); /* no embedded controller */
    end(s);
    return true;
}

static bool parse_uuid(const char *t, uint8_t *u)
{
    static const uint8_t groups[] = {8, 4, 4, 4, 12};
    unsigned n = 0;

    for (unsigned g = 0; g < ARRAY_LEN(groups); g++) {
        for (unsigned i = 0; i < groups[g]; i += 2) {
            char hex[3] = {t[0], t[0] ? t[1] : 0, 0};
            char *e;

            u[n++] = (uint8_t)strtoul(hex, &e, 16);
            if (*e || e != hex + 2)
                return false;
            t += 2;
        }
        if (*t != (g == ARRAY_LEN(groups) - 1 ? '\0' : '-'))
            return false;
        t += *t == '-';
    }
    return true;
}

/* Since 2.6 the first three groups are little-endian. */
static void put_uuid(struct smb *s, const uint8_t *u)
{
    u32(s, get_be32(u));
    u16(s, get_be16(u + 4));
    u16(s, get_be16(u + 6));
    aml_bytes(&s->body, u + 8, 8);
}

static const char *product(const struct pc *p)
{
    return p->cls->desc;
}

static bool type1(struct smb *s, struct err **errp)
{
    const char *t = field(s, T_SYSTEM, "uuid", NULL);
    uint8_t uuid[16];

    memcpy(uuid, s->p->m->uuid, sizeof uuid);
    if (t && !parse_uuid(t, uuid))
        return err_set(errp, "-smbios type=1: '%s' is not a UUID", t);
    begin(s, T_SYSTEM, 0x100);
    str(s, field(s, T_SYSTEM, "manufacturer", "QEMU"));
    str(s, field(s, T_SYSTEM, "product", product(s->p)));
    str(s, field(s, T_SYSTEM, "version", s->p->cls->machine));
    str(s, field(s, T_SYSTEM, "serial", NULL));
    put_uuid(s, uuid);
    u8(s, 0x06); /* woken by the power switch */
    str(s, field(s, T_SYSTEM, "sku", NULL));
    str(s, field(s, T_SYSTEM, "family", NULL));
    end(s);
    return true;
}

static void type2(struct smb *s)
{
    begin(s, T_BOARD, 0x200);
    str(s, field(s, T_BOARD, "manufacturer", "QEMU"));
    str(s, field(s, T_BOARD, "product", product(s->p)));
    str(s, field(s, T_BOARD, "version", s->p->cls->machine));
    str(s, field(s, T_BOARD, "serial", NULL));
    str(s, field(s, T_BOARD, "asset", NULL));
    u8(s, 0x01); /* hosting board */
    str(s, field(s, T_BOARD, "location", NULL));
    u16(s, 0x300);
    u8(s, 0x0a); /* motherboard */
    u8(s, 0);
    end(s);
}

static void type3(struct smb *s)
{
    begin(s, T_CHASSIS, 0x300);
    str(s, field(s, T_CHASSIS, "manufacturer", "QEMU"));
    u8(s, 0x01); /* other */
    str(s, field(s, T_CHASSIS, "version", s->p->cls->machine));
    str(s, field(s, T_CHASSIS, "serial", NULL));
    str(s, field(s, T_CHASSIS, "asset", NULL));
    u8(s, 0x03); /* boot-up, supply and thermal state: safe */
    u8(s, 0x03);
    u8(s, 0x03);
    u8(s, 0x02); /* security: unknown */
    u32(s, 0);
    u8(s, 0);
    u8(s, 0);
    u8(s, 0);
    u8(s, 0);
    str(s, field(s, T_CHASSIS, "sku", NULL));
    end(s);
}

static void type4(struct smb *s, unsigned socket, uint16_t max_speed, uint16_t speed, uint64_t id)
{
    struct pc *p = s->p;
    unsigned cores = p->topo.dies * p->topo.cores, threads = cores * p->topo.threads;
    char name[64];

    snprintf(name, sizeof name, "%s %u", field(s, T_CPU, "sock_pfx", "CPU"), socket);
    begin(s, T_CPU, (uint16_t)(0x400 + socket));
    str(s, name);
    u8(s, 0x03); /* central processor */
    u8(s, 0x01); /* family: other */
    str(s, field(s, T_CPU, "manufacturer", "QEMU"));
    u64(s, id);
    str(s, field(s, T_CPU, "version", s->p->cls->machine));
    u8(s, 0);
    u16(s, 0);
    u16(s, max_speed);
    u16(s, speed);
    u8(s, 0x41); /* populated, enabled */
    u8(s, 0x01);
    u16(s, 0xffff);
    u16(s, 0xffff);
    u16(s, 0xffff);
    str(s, field(s, T_CPU, "serial", NULL));
    str(s, field(s, T_CPU, "asset", NULL));
    str(s, field(s, T_CPU, "part", NULL));
    u8(s, (uint8_t)min_u64(cores, 255));
    u8(s, (uint8_t)min_u64(cores, 255));
    u8(s, (uint8_t)min_u64(threads, 255));
    u16(s, 0x02); /* characteristics: unknown */
    u16(s, 0x01);
    end(s);
}

static bool all_cpus(struct smb *s, struct err **errp)
{
    uint64_t max, cur, id, dflt;
    struct vcpu *c = s->p->m->nr_cpus ? s->p->m->cpus[0] : NULL;
    uint32_t r[4] = {0};

    if (c)
        x86_cpuid(x86_cpu(c), 1, 0, r);
    dflt = (uint64_t)r[3] << 32 | r[0];
    if (!number(s, T_CPU, "max-speed", 2000, UINT16_MAX, &max, errp) ||
        !number(s, T_CPU, "current-speed", 2000, UINT16_MAX, &cur, errp) ||
        !number(s, T_CPU, "processor-id", dflt, UINT64_MAX, &id, errp))
        return false;
    for (unsigned i = 0; i < s->p->topo.sockets; i++)
        type4(s, i, (uint16_t)max, (uint16_t)cur, id);
    return true;
}

/* Types that repeat: one structure for each option. */
static uint8_t own_u8(struct opts *o, const char *key)
{
    uint64_t v = 0;
    const char *t = opts_get(o, key);

    return t && str_to_u64(t, &v) ? (uint8_t)v : 0;
}

static void type8(struct smb *s, struct opts *o, unsigned n)
{
    begin(s, T_PORT, (uint16_t)(0x800 + n));
    str(s, opts_get(o, "internal_reference"));
    u8(s, 0);
    str(s, opts_get(o, "external_reference"));
    u8(s, own_u8(o, "connector_type"));
    u8(s, own_u8(o, "port_type"));
    end(s);
}

static void type9(struct smb *s, struct opts *o, unsigned n)
{
    const char *id = opts_get(o, "slot_id");
    uint64_t slot_id = 0;

    begin(s, T_SLOT, (uint16_t)(0x900 + n));
    str(s, opts_get(o, "slot_designation"));
    u8(s, own_u8(o, "slot_type"));
    u8(s, own_u8(o, "slot_data_bus_width"));
    u8(s, own_u8(o, "current_usage"));
    u8(s, own_u8(o, "slot_length"));
    u16(s, id && str_to_u64(id, &slot_id) ? (uint16_t)slot_id : 0);
    u8(s, own_u8(o, "slot_characteristics1"));
    u8(s, own_u8(o, "slot_characteristics2"));
    u16(s, 0xffff); /* no PCI address */
    u8(s, 0xff);
    u8(s, 0xff);
    end(s);
}

static bool oem_path(struct smb *s, const char *path, struct err **errp)
{
    size_t len;
    uint8_t AUTOFREE *data = pc_read_file(path, "SMBIOS string file", MAX_STRING, &len, errp);

    if (!data)
        return false;
    if (memchr(data, 0, len))
        return err_set(errp, "SMBIOS string file '%s' holds a NUL byte", path);
    add_text(s, (const char *)data); /* pc_read_file ends it with NUL */
    return true;
}

static bool type11(struct smb *s, struct err **errp)
{
    struct opt *e;

    begin(s, T_OEM, 0xe00);
    for (struct opts **o = s->p->cfg->smbios; o && *o; o++) {
        if (opts_type(*o) != T_OEM)
            continue;
        opts_each (e, *o) {
            if (!strcmp(e->key, "value"))
                add_text(s, e->val);
            else if (!strcmp(e->key, "path") && !oem_path(s, e->val, errp))
                return false;
        }
    }
    u8(s, (uint8_t)s->nr_strings);
    if (s->nr_strings)
        end(s);
    return true;
}

static unsigned nr_dimms(const struct smb *s)
{
    return (unsigned)div_up(s->p->below_4g + s->p->above_4g, DIMM_MAX);
}

static void type16(struct smb *s)
{
    uint64_t kib = (s->p->below_4g + s->p->above_4g) >> 10;

    begin(s, T_MEM_ARRAY, 0x1000);
    u8(s, 0x01); /* location other, use: system memory, multi-bit ECC */
    u8(s, 0x03);
    u8(s, 0x06);
    u32(s, kib < UINT32_C(0x80000000) ? (uint32_t)kib : UINT32_C(0x80000000));
    u16(s, 0xfffe);
    u16(s, (uint16_t)nr_dimms(s));
    u64(s, kib < UINT32_C(0x80000000) ? 0 : kib << 10);
    end(s);
}

static void type17(struct smb *s, unsigned n, uint64_t bytes, uint16_t speed)
{
    char loc[64];

    snprintf(loc, sizeof loc, "%s %u", field(s, T_DIMM, "loc_pfx", "DIMM"), n);
    begin(s, T_DIMM, (uint16_t)(0x1100 + n));
    u16(s, 0x1000);
    u16(s, 0xfffe);
    u16(s, 0xffff);
    u16(s, 0xffff);
    u16(s, (uint16_t)(bytes >> 20)); /* at most DIMM_MAX: below 32 GiB */
    u8(s, 0x09);                     /* DIMM */
    u8(s, 0);
    str(s, loc);
    str(s, field(s, T_DIMM, "bank", NULL));
    u8(s, 0x07); /* RAM */
    u16(s, 0x02);
    u16(s, speed);
    str(s, field(s, T_DIMM, "manufacturer", "QEMU"));
    str(s, field(s, T_DIMM, "serial", NULL));
    str(s, field(s, T_DIMM, "asset", NULL));
    str(s, field(s, T_DIMM, "part", NULL));
    u8(s, 0);
    u32(s, 0);
    u16(s, speed);
    u16(s, 0);
    u16(s, 0);
    u16(s, 0);
    end(s);
}

static void type19(struct smb *s, unsigned n, uint64_t start, uint64_t len)
{
    uint64_t end_kib = ((start + len) >> 10) - 1, start_kib = start >> 10;
    bool fits = end_kib < UINT32_MAX;

    if (!len)
        return;
    begin(s, T_MEM_RANGE, (uint16_t)(0x1300 + n));
    u32(s, fits ? (uint32_t)start_kib : UINT32_MAX);
    u32(s, fits ? (uint32_t)end_kib : UINT32_MAX);
    u16(s, 0x1000);
    u8(s, 1);
    u64(s, fits ? 0 : start);
    u64(s, fits ? 0 : start + len - 1);
    end(s);
}

static bool memory_types(struct smb *s, struct err **errp)
{
    uint64_t ram = s->p->below_4g + s->p->above_4g, speed;

    if (!number(s, T_DIMM, "speed", 0, UINT16_MAX, &speed, errp))
        return false;
    if (!s->replaced[T_MEM_ARRAY])
        type16(s);
    for (unsigned i = 0; !s->replaced[T_DIMM] && i < nr_dimms(s); i++)
        type17(s, i, min_u64(DIMM_MAX, ram - i * DIMM_MAX), (uint16_t)speed);
    if (!s->replaced[T_MEM_RANGE]) {
        type19(s, 0, 0, s->p->below_4g);
        type19(s, 1, 4 * GIB, s->p->above_4g);
    }
    return true;
}

static void type32(struct smb *s)
{
    begin(s, T_BOOT, 0x2000);
    aml_zero(&s->body, 6);
    u8(s, 0); /* no errors detected */
    end(s);
}

/* ---- user input ---- */

static bool check_keys(struct opts *o, struct err **errp)
{
    static const char *const k0[] = {"type", "vendor", "version", "date", "release", "uefi", NULL};
    static const char *const k1[] = {"type", "manufacturer", "product", "version", "serial",
                                     "uuid", "sku",          "family",  NULL};
    static const char *const k2[] = {"type", "manufacturer", "product", "version", "serial", "asset", "location", NULL};
    static const char *const k3[] = {"type", "manufacturer", "version", "serial", "asset", "sku", NULL};
    static const char *const k4[] = {"type", "sock_pfx",  "manufacturer",  "version",      "serial", "asset",
                                     "part", "max-speed", "current-speed", "processor-id", NULL};
    static const char *const k8[] = {"type",           "internal_reference", "external_reference",
                                     "connector_type", "port_type",          NULL};
    static const char *const k9[] = {"type",
                                     "slot_designation",
                                     "slot_type",
                                     "slot_data_bus_width",
                                     "current_usage",
                                     "slot_length",
                                     "slot_id",
                                     "slot_characteristics1",
                                     "slot_characteristics2",
                                     NULL};
    static const char *const k11[] = {"type", "value", "path", NULL};
    static const char *const k17[] = {"type", "loc_pfx", "bank", "manufacturer", "serial", "asset",
                                      "part", "speed",   NULL};
    static const char *const none[] = {"type", NULL};
    static const struct {
        int type;
        const char *const *keys;
    } all[] = {{T_BIOS, k0},        {T_SYSTEM, k1}, {T_BOARD, k2}, {T_CHASSIS, k3},     {T_CPU, k4},
               {T_PORT, k8},        {T_SLOT, k9},   {T_OEM, k11},  {T_MEM_ARRAY, none}, {T_DIMM, k17},
               {T_MEM_RANGE, none}, {T_BOOT, none}, {T_END, none}};

    for (unsigned i = 0; i < ARRAY_LEN(all); i++)
        if (all[i].type == opts_type(o)) {
            for (const char *const *k = all[i].keys; *k; k++)
                opts_get(o, *k);
            return opts_done(o, "-smbios", all[i].keys, errp);
        }
    err_set(errp, "-smbios type=%s is not one this program builds", opts_peek(o, "type") ? opts_peek(o, "type") : "?");
    err_hint(errp, "Types are 0, 1, 2, 3, 4, 8, 9, 11, 16, 17, 19, 32 and 127; file= takes any.");
    return false;
}

/* Walks one structure of a table from outside: formatted area, then strings up to a double NUL. 0 = malformed. */
static size_t structure_len(const uint8_t *p, size_t left)
{
    size_t n;

    if (left < 6 || p[1] < 4 || p[1] > left)
        return 0;
    for (n = p[1]; n + 1 < left; n++)
        if (!p[n] && !p[n + 1])
            return n + 2;
    return 0;
}

static bool add_file(struct smb *s, const char *path, struct err **errp)
{
    size_t len;
    uint8_t AUTOFREE *data = pc_read_file(path, "SMBIOS file", MAX_TABLE_FILE, &len, errp);

    if (!data)
        return false;
    if (!len)
        return err_set(errp, "SMBIOS file '%s' is empty", path);
    for (size_t at = 0; at < len;) {
        size_t n = structure_len(data + at, len - at);

        if (!n)
            return err_set(errp, "SMBIOS file '%s' is malformed at byte %zu", path, at);
        s->replaced[data[at]] = 1;
        s->max_len = n > s->max_len ? (unsigned)n : s->max_len;
        s->nr++;
        aml_bytes(&s->out, data + at, n);
        at += n;
    }
    return true;
}

static bool read_user(struct smb *s, struct err **errp)
{
    static const char *const known[] = {"file", NULL};

    for (struct opts **o = s->p->cfg->smbios; o && *o; o++) {
        const char *file = opts_get(*o, "file");

        if (!file && !check_keys(*o, errp))
            return false;
        if (file && (!opts_done(*o, "-smbios", known, errp) || !add_file(s, file, errp)))
            return false;
    }
    for (int t = 0; t < 256; t++)
        if (s->replaced[t] && asked(s, t))
            return err_set(errp, "-smbios type=%d and -smbios file= with that type exclude each other", t);
    return true;
}

static bool repeated_types(struct smb *s)
{
    unsigned n8 = 0, n9 = 0;

    for (struct opts **o = s->p->cfg->smbios; o && *o; o++) {
        if (opts_type(*o) == T_PORT)
            type8(s, *o, n8++);
        else if (opts_type(*o) == T_SLOT)
            type9(s, *o, n9++);
    }
    return true;
}

static bool build_tables(struct smb *s, struct err **errp)
{
    if (!read_user(s, errp) || (asked(s, T_BIOS) && !type0(s, errp)) || (!s->replaced[T_SYSTEM] && !type1(s, errp)))
        return false;
    if (asked(s, T_BOARD))
        type2(s);
    if (!s->replaced[T_CHASSIS])
        type3(s);
    if ((!s->replaced[T_CPU] && !all_cpus(s, errp)) || !repeated_types(s) || (asked(s, T_OEM) && !type11(s, errp)) ||
        !memory_types(s, errp))
        return false;
    if (!s->replaced[T_BOOT])
        type32(s);
    if (!s->replaced[T_END]) {
        begin(s, T_END, 0x7f00);
        end(s);
    }
    return s->out.len <= UINT16_MAX || s->p->smbios_ep == 1 ||
           err_set(errp, "SMBIOS tables of %zu bytes are too large for the 32-bit entry point", s->out.len);
}

/* ---- entry points (5.2) ---- */

static uint8_t sum(const uint8_t *p, size_t n)
{
    uint8_t v = 0;

    while (n--)
        v += *p++;
    return (uint8_t)-v;
}

static bool add_anchor(struct smb *s, struct err **errp)
{
    uint8_t a[ANCHOR_LEN] = "_SM_";

    if (s->p->smbios_ep == 1) {
        memcpy(a, "_SM3_", 5);
        a[6] = ANCHOR3_LEN;
        a[7] = 3;
        a[10] = 1;
        put_le32(a + 12, (uint32_t)s->out.len);
        a[5] = sum(a, ANCHOR3_LEN);
        return fw_cfg_add_file(s->p->fw, "etc/smbios/smbios-anchor", a, ANCHOR3_LEN, errp);
    }
    a[5] = ANCHOR_LEN;
    a[6] = 2;
    a[7] = 8;
    put_le16(a + 8, (uint16_t)s->max_len);
    memcpy(a + 0x10, "_DMI_", 5);
    put_le16(a + 0x16, (uint16_t)s->out.len);
    put_le16(a + 0x1c, (uint16_t)s->nr);
    a[0x1e] = 0x28;
    a[0x15] = sum(a + 0x10, 15);
    a[4] = sum(a, ANCHOR_LEN);
    return fw_cfg_add_file(s->p->fw, "etc/smbios/smbios-anchor", a, ANCHOR_LEN, errp);
}

bool pc_setup_smbios(struct pc *p, struct err **errp)
{
    struct smb s = {.p = p};
    bool ok = build_tables(&s, errp) && fw_cfg_add_file(p->fw, "etc/smbios/smbios-tables", s.out.p, s.out.len, errp) &&
              add_anchor(&s, errp);

    aml_free(&s.out);
    aml_free(&s.body);
    aml_free(&s.text);
    return ok;
}
