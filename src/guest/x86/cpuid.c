/* The CPUID instruction: leaves 0 to 1fh, the hypervisor's 40000000h.., and 80000000h to 8000001fh, after Intel SDM
 * vol. 2 (CPUID) and AMD APM vol. 3 appendix E.
 *
 * Feature words come from the model (models.c); the rest - caches, topology, XSAVE sizes - is computed here. Live bits:
 * OSXSAVE, OSPKE, the APIC id, APIC in leaf 1 (IA32_APIC_BASE). Leaf 40000000h answers our own signature, KVM's when
 * the accelerator is KVM, Microsoft's when hv_* was asked for. Left out: performance monitoring, tracing, SGX, SEV,
 * AMX. */
#include "base/bytes.h"
#include "guest/x86/cpuid_int.h"
#include "guest/x86/state.h"

enum { EAX, EBX, ECX, EDX };

struct cache {
    uint8_t level, type; /* 1 data, 2 code, 3 both */
    uint16_t ways;
    uint32_t sets, kib;
};
struct caches {
    struct cache l1d, l1i, l2, l3;
    bool inclusive_l3, indexed_l3;
};
static const struct caches cache_shapes[] = {
    [CACHE_LEGACY] =
        {{1, 1, 8, 64, 32}, {1, 2, 8, 64, 32}, {2, 3, 16, 4096, 4096}, {3, 3, 16, 16384, 16384}, true, true},
    [CACHE_ZEN] = {{1, 1, 8, 64, 32}, {1, 2, 4, 256, 64}, {2, 3, 8, 1024, 512}, {3, 3, 16, 8192, 8192}, true, true},
    [CACHE_ZEN2] = {{1, 1, 8, 64, 32}, {1, 2, 8, 64, 32}, {2, 3, 8, 1024, 512}, {3, 3, 16, 16384, 16384}, true, true},
    [CACHE_ZEN3] = {{1, 1, 8, 64, 32}, {1, 2, 8, 64, 32}, {2, 3, 8, 1024, 512}, {3, 3, 16, 32768, 32768}, true, true},
};

static bool is_intel(const struct x86_features *f)
{
    return strcmp(f->vendor, "GenuineIntel") == 0;
}

static unsigned bits_for(unsigned n) /* bits that count n things */
{
    unsigned b = 0;

    while (b < 31 && (1u << b) < n)
        b++;
    return b;
}

struct topo_bits {
    unsigned threads, cores, dies; /* per core, die, package */
    unsigned smt, core, die;       /* shifts of the APIC id to the next level */
    unsigned logical;              /* logical CPUs of a package */
};

static struct topo_bits topology(const struct x86_cpu *c)
{
    struct topo_bits t = {.threads = c->topo.threads ? c->topo.threads : 1,
                          .cores = c->topo.cores ? c->topo.cores : 1,
                          .dies = c->topo.dies ? c->topo.dies : 1};

    t.smt = bits_for(t.threads);
    t.core = t.smt + bits_for(t.cores);
    t.die = t.core + bits_for(t.dies);
    t.logical = t.threads * t.cores * t.dies;
    return t;
}

static void leaf_1(struct x86_cpu *c, uint32_t *r)
{
    const struct x86_features *f = &c->feat;
    struct topo_bits t = topology(c);
    unsigned fam = f->family, ext = 0;

    if (fam > 15) {
        ext = fam - 15;
        fam = 15;
    }
    r[EAX] = f->stepping | (f->model & 15) << 4 | fam << 8 | (f->model >> 4) << 16 | ext << 20;
    r[EBX] = c->port.apic_id << 24 | 8 << 8; /* CLFLUSH line of 64 bytes */
    r[ECX] = f->w[X86_FW_1_ECX];
    r[EDX] = f->w[X86_FW_1_EDX];
    if (t.logical > 1) {
        r[EBX] |= (1u << t.die) << 16;
        r[EDX] |= 1u << 28; /* HTT */
    }
    if (c->cr4 & X86_CR4_OSXSAVE)
        r[ECX] |= 1u << 27;
    if (c->port.apic && c->port.apic_base_get && !(c->port.apic_base_get(c->port.apic) & 1u << 11))
        r[EDX] &= ~(1u << 9);
}

static void cache_leaf_4(const struct cache *k, const struct caches *s, unsigned sharing, unsigned cores, uint32_t *r)
{
    r[EAX] = k->type | k->level << 5 | 1 << 8 | (sharing - 1) << 14 | (cores - 1) << 26;
    r[EBX] = 63 | (uint32_t)(k->ways - 1) << 22;
    r[ECX] = k->sets - 1;
    r[EDX] = k->level == 3 ? (s->inclusive_l3 ? 2 : 0) | (s->indexed_l3 ? 4 : 0) : 0;
}

/* Cache number sub of the model, and how many logical CPUs share it. */
static const struct cache *cache_nr(const struct x86_cpu *c, unsigned sub, unsigned *sharing)
{
    const struct caches *s = &cache_shapes[c->feat.cache];
    struct topo_bits t = topology(c);

    *sharing = 1u << t.smt;
    switch (sub) {
    case 0:
        return &s->l1d;
    case 1:
        return &s->l1i;
    case 2:
        return &s->l2;
    case 3:
        *sharing = 1u << t.core;
        return c->feat.l3_cache ? &s->l3 : NULL;
    default:
        return NULL;
    }
}

static void leaf_4(struct x86_cpu *c, uint32_t sub, uint32_t *r)
{
    unsigned sharing;
    const struct cache *k = cache_nr(c, sub, &sharing);
    struct topo_bits t = topology(c);
    unsigned ids = 1u << (t.die - t.smt);

    if (k)
        cache_leaf_4(k, &cache_shapes[c->feat.cache], (unsigned)min_u64(sharing, 4096), (unsigned)min_u64(ids, 64), r);
}

static void leaf_7(struct x86_cpu *c, uint32_t sub, uint32_t *r)
{
    const struct x86_features *f = &c->feat;

    if (sub == 0) {
        r[EAX] = f->w[X86_FW_7_1_EAX] ? 1 : 0;
        r[EBX] = f->w[X86_FW_7_EBX];
        r[ECX] = f->w[X86_FW_7_ECX];
        r[EDX] = f->w[X86_FW_7_EDX];
        if ((r[ECX] & 1u << 3) && (c->cr4 & X86_CR4_PKE))
            r[ECX] |= 1u << 4; /* OSPKE */
    } else if (sub == 1) {
        r[EAX] = f->w[X86_FW_7_1_EAX];
    }
}

/* Leaves 0bh (v1: threads, cores of a package) and 1fh (with dies). */
static void leaf_topology(struct x86_cpu *c, uint32_t sub, bool dies, uint32_t *r)
{
    struct topo_bits t = topology(c);

    r[ECX] = sub & 0xff;
    r[EDX] = c->port.apic_id;
    if (sub == 0) {
        r[EAX] = t.smt;
        r[EBX] = t.threads;
        r[ECX] |= 1 << 8;
    } else if (sub == 1 && dies) {
        r[EAX] = t.core;
        r[EBX] = t.threads * t.cores;
        r[ECX] |= 2 << 8;
    } else if (sub == 1) {
        r[EAX] = t.die;
        r[EBX] = t.logical;
        r[ECX] |= 2 << 8;
    } else if (sub == 2 && dies) {
        r[EAX] = t.die;
        r[EBX] = t.logical;
        r[ECX] |= 5 << 8;
    }
}

static void leaf_d(struct x86_cpu *c, uint32_t sub, uint32_t *r)
{
    uint64_t mask = x86_xcr0_mask(&c->feat);
    uint32_t size, off;

    if (!mask)
        return;
    if (sub == 0) {
        r[EAX] = (uint32_t)mask;
        r[EDX] = (uint32_t)(mask >> 32);
        r[EBX] = x86_xsave_size(&c->feat, c->xcr0, false);
        r[ECX] = x86_xsave_size(&c->feat, mask, false);
    } else if (sub == 1) {
        r[EAX] = c->feat.w[X86_FW_D_1_EAX];
        r[EBX] = r[EAX] & 2 ? x86_xsave_size(&c->feat, c->xcr0 | c->xss, true) : 0;
    } else if (sub < 63 && (mask >> sub & 1)) {
        x86_xsave_component(&c->feat, sub, &size, &off);
        r[EAX] = size;
        r[EBX] = off;
    }
}

/* host-cache-info=on: what the host says about its caches. */
static bool host_cache_leaf(const struct x86_features *f, uint32_t leaf, uint32_t sub, uint32_t *r)
{
    if (!f->host_cache || (leaf != 2 && leaf != 4 && leaf != 0x80000005 && leaf != 0x80000006 && leaf != 0x8000001d))
        return false;
    x86_host_cpuid(leaf, sub, &r[EAX], &r[EBX], &r[ECX], &r[EDX]);
    return true;
}

static void basic_leaf(struct x86_cpu *c, uint32_t leaf, uint32_t sub, uint32_t *r)
{
    const struct x86_features *f = &c->feat;

    switch (leaf) {
    case 0:
        r[EAX] = f->level;
        r[EBX] = get_le32(f->vendor);
        r[EDX] = get_le32(f->vendor + 4);
        r[ECX] = get_le32(f->vendor + 8);
        break;
    case 1:
        leaf_1(c, r);
        break;
    case 2: /* descriptors: 32K 8-way L1D and L1I, 4M L2, 16M L3; TLBs by leaf 18h's rules are not given */
        r[EAX] = 1;
        r[ECX] = f->l3_cache ? 0x4d : 0;
        r[EDX] = 0x2c307d;
        break;
    case 4:
        leaf_4(c, sub, r);
        break;
    case 5:
        if (x86_has(f, X86_F_MONITOR)) {
            r[EAX] = r[EBX] = 64;
            r[ECX] = 3; /* extensions listed; interrupts break MWAIT */
        }
        break;
    case 6:
        r[EAX] = f->w[X86_FW_6_EAX];
        break;
    case 7:
        leaf_7(c, sub, r);
        break;
    case 0xb:
        leaf_topology(c, sub, false, r);
        break;
    case 0xd:
        leaf_d(c, sub, r);
        break;
    case 0x15: /* TSC = crystal * EBX / EAX */
        if (c->port.tsc_hz && f->level >= 0x15 && x86_has(f, X86_F_TSC) && is_intel(f)) {
            r[EAX] = 1;
            r[EBX] = (uint32_t)(c->port.tsc_hz / 1000000);
            r[ECX] = 1000000;
        }
        break;
    case 0x1f:
        if (c->topo.dies > 1)
            leaf_topology(c, sub, true, r);
        break;
    default: /* 3 serial number, 9 0ah 14h ..: nothing to tell */
        break;
    }
}

static uint32_t amd_ways(unsigned ways) /* associativity code of 80000006h */
{
    static const struct {
        uint8_t ways, code;
    } t[] = {{1, 1}, {2, 2}, {4, 4}, {8, 6}, {16, 8}, {32, 10}, {48, 11}, {64, 12}, {96, 13}, {128, 14}};

    for (size_t i = 0; i < ARRAY_LEN(t); i++)
        if (t[i].ways == ways)
            return t[i].code;
    return 0;
}

static void leaf_8(struct x86_cpu *c, uint32_t *r)
{
    const struct x86_features *f = &c->feat;
    struct topo_bits t = topology(c);

    r[EAX] = f->phys_bits | (x86_has(f, X86_F_LM) ? f->virt_bits << 8 : 0);
    r[EBX] = f->w[X86_FW_80000008_EBX];
    if (t.logical > 1)
        r[ECX] = (t.logical - 1) | t.die << 12;
}

static void leaf_1d(struct x86_cpu *c, uint32_t sub, uint32_t *r)
{
    unsigned sharing;
    const struct cache *k = cache_nr(c, sub, &sharing);

    if (!k || !(c->feat.w[X86_FW_80000001_ECX] & 1u << 22))
        return;
    cache_leaf_4(k, &cache_shapes[c->feat.cache], (unsigned)min_u64(sharing, 4096), 1, r);
}

static void leaf_1e(struct x86_cpu *c, uint32_t *r)
{
    struct topo_bits t = topology(c);

    if (!(c->feat.w[X86_FW_80000001_ECX] & 1u << 22))
        return;
    r[EAX] = c->port.apic_id;
    r[EBX] = (c->port.apic_id >> t.smt & 0xff) | (t.threads - 1) << 8;
    r[ECX] = (c->port.apic_id >> t.die & 0xff) | 0 << 8; /* one node per package */
}

static void extended_leaf(struct x86_cpu *c, uint32_t leaf, uint32_t sub, uint32_t *r)
{
    const struct x86_features *f = &c->feat;
    const struct caches *k = &cache_shapes[f->cache];

    switch (leaf) {
    case 0x80000000:
        r[EAX] = f->xlevel;
        r[EBX] = get_le32(f->vendor);
        r[EDX] = get_le32(f->vendor + 4);
        r[ECX] = get_le32(f->vendor + 8);
        break;
    case 0x80000001:
        r[ECX] = f->w[X86_FW_80000001_ECX];
        r[EDX] = f->w[X86_FW_80000001_EDX];
        if (topology(c).logical > 1 && !is_intel(f))
            r[ECX] |= 1 << 1; /* CmpLegacy */
        if (is_intel(f) && c->mode != X86_MODE_64)
            r[EDX] &= ~(1u << 11); /* SYSCALL exists in 64-bit mode only */
        break;
    case 0x80000002:
    case 0x80000003:
    case 0x80000004:
        for (unsigned i = 0; i < 4; i++)
            r[i] = get_le32(f->model_id + (leaf - 0x80000002) * 16 + i * 4);
        break;
    case 0x80000005: /* first level: TLBs of 256 entries, then caches in KiB */
        r[EAX] = r[EBX] = 0x01ff01ff;
        r[ECX] = k->l1d.kib << 24 | (uint32_t)k->l1d.ways << 16 | 1 << 8 | 64;
        r[EDX] = k->l1i.kib << 24 | (uint32_t)k->l1i.ways << 16 | 1 << 8 | 64;
        break;
    case 0x80000006:
        r[EBX] = 0x42004200; /* 512 entries, 4-way */
        r[ECX] = k->l2.kib << 16 | amd_ways(k->l2.ways) << 12 | 1 << 8 | 64;
        r[EDX] = f->l3_cache ? (k->l3.kib / 512) << 18 | amd_ways(k->l3.ways) << 12 | 1 << 8 | 64 : 0;
        break;
    case 0x80000007:
        r[EDX] = f->w[X86_FW_80000007_EDX];
        break;
    case 0x80000008:
        leaf_8(c, r);
        break;
    case 0x8000000a:
        if (x86_has(f, X86_F_SVM)) {
            r[EAX] = 1;
            r[EBX] = 16;
            r[EDX] = f->w[X86_FW_8000000A_EDX];
        }
        break;
    case 0x8000001d:
        leaf_1d(c, sub, r);
        break;
    case 0x8000001e:
        leaf_1e(c, r);
        break;
    default: /* 9..19h reserved or about parts not offered, 1fh memory encryption: none */
        break;
    }
}

/* Microsoft's leaves (Hypervisor Top-Level Functional Specification, "Feature and interface discovery"). */
static bool hv_leaf(struct x86_cpu *c, uint32_t leaf, uint32_t *r)
{
    const struct x86_features *f = &c->feat;

    switch (leaf) {
    case 0x40000000:
        r[EAX] = 0x40000005;
        r[EBX] = get_le32(f->hv_vendor);
        r[ECX] = get_le32(f->hv_vendor + 4);
        r[EDX] = get_le32(f->hv_vendor + 8);
        return true;
    case 0x40000001:
        r[EAX] = 0x31237648; /* "Hv#1" */
        return true;
    case 0x40000002: /* build, version of what Windows Server 2016 ran on */
        r[EAX] = 0x3839;
        r[EBX] = 0x000a0000;
        return true;
    case 0x40000003: /* privileges: which MSRs exist */
        r[EAX] = 1 << 5 /* hypercall MSRs */ | (f->hv_vpindex ? 1 << 6 : 0) | (f->hv_runtime ? 1 : 0) |
                 (f->hv_time ? 1 << 1 | 1 << 9 : 0) | (f->hv_vapic ? 1 << 4 : 0) | (f->hv_reset ? 1 << 7 : 0) |
                 (f->hv_frequencies ? 1 << 11 : 0);
        r[EDX] = f->hv_frequencies ? 1 << 8 : 0;
        return true;
    case 0x40000004: /* recommendations */
        r[EAX] = (f->hv_relaxed ? 1 << 5 : 0) | (f->hv_vapic ? 1 << 3 : 0) | 1 << 10;
        r[EBX] = f->hv_spinlocks ? f->hv_spinlocks : UINT32_MAX;
        return true;
    case 0x40000005: /* limits: virtual processors */
        r[EAX] = 240;
        r[EBX] = 64;
        return true;
    default:
        return false;
    }
}

static void hypervisor_leaf(struct x86_cpu *c, uint32_t leaf, uint32_t *r)
{
    const struct x86_features *f = &c->feat;
    bool hv = *f->hv_vendor;
    uint32_t base = hv && f->kvm_leaves ? 0x40000100 : 0x40000000;
    const char *sig = f->kvm_leaves ? "KVMKVMKVM\0\0\0" : "LyrebirdVMM\0";

    if (hv && hv_leaf(c, leaf, r))
        return;
    if (f->kvm_leaves && f->kvm_hidden)
        return;
    if (leaf == base && !(hv && !f->kvm_leaves)) {
        r[EAX] = base + 1;
        r[EBX] = get_le32(sig);
        r[ECX] = get_le32(sig + 4);
        r[EDX] = get_le32(sig + 8);
    } else if (leaf == base + 1 && f->kvm_leaves) {
        r[EAX] = f->w[X86_FW_KVM_EAX];
    }
}

void x86_cpuid(struct x86_cpu *c, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    const struct x86_features *f = &c->feat;

    memset(out, 0, 4 * sizeof out[0]);
    if (host_cache_leaf(f, leaf, subleaf, out))
        return;
    if (leaf >= 0x40000000 && leaf <= 0x400001ff) {
        if (f->hypervisor)
            hypervisor_leaf(c, leaf, out);
        return;
    }
    if (leaf >= 0x80000000 && leaf <= f->xlevel) {
        extended_leaf(c, leaf, subleaf, out);
        return;
    }
    if (leaf > (f->level > 0x1f || c->topo.dies <= 1 ? f->level : (uint32_t)max_u64(f->level, 0x1f))) {
        if (!is_intel(f))
            return;
        leaf = f->level; /* Intel: the highest basic leaf */
    }
    basic_leaf(c, leaf, subleaf, out);
}
