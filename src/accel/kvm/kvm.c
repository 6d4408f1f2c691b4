/* KVM: the kernel runs the guest's code on the processor's virtualisation extension.
 *
 * This file: the device node, the virtual machine, memory slots and dirty logs, and the accelerator class. The
 * interrupt controllers are our own models; the kernel gets single vectors (KVM_INTERRUPT). Follows
 * Documentation/virt/kvm/api.rst. Left out: the in-kernel irqchip and PIT, coalesced MMIO, nested state, KVM clocks. */
#include "accel/kvm/kvm_int.h"
#include "base/log.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

enum { PAGE = 4096, MAX_SLOTS = 512, DIRTY_MS = 30 };
/* Three pages the processor's real-mode support needs on some hosts; below the firmware, in no use on a PC. */
enum { IDENTITY_MAP = 0xfeffc000u, TSS = 0xfeffd000u };

/* ---- which guests ---- */

static const char *canon_arch(const char *a)
{
    static const struct {
        const char *name, *canon;
    } t[] = {{"amd64", "x86_64"}, {"x86-64", "x86_64"}, {"i486", "i386"},     {"i586", "i386"},
             {"i686", "i386"},    {"armv6", "arm"},     {"armv7", "arm"},     {"armv6l", "arm"},
             {"armv7l", "arm"},   {"arm64", "aarch64"}, {"ppc64le", "ppc64"}, {"mips64el", "mips64"}};

    for (size_t i = 0; i < ARRAY_LEN(t); i++)
        if (strcmp(t[i].name, a) == 0)
            return t[i].canon;
    return a;
}

bool kvm_can_run(const char *host, const char *guest)
{
    static const struct {
        const char *host, *guests;
    } t[] = {{"x86_64", " i386 x86_64 "}, {"i386", " i386 "},   {"aarch64", " arm aarch64 "}, {"riscv64", " riscv64 "},
             {"ppc64", " ppc ppc64 "},    {"s390x", " s390x "}, {"mips64", " mips mips64 "}};
    AUTOFREE char *word = xasprintf(" %s ", canon_arch(guest));

    for (size_t i = 0; i < ARRAY_LEN(t); i++)
        if (strcmp(t[i].host, canon_arch(host)) == 0)
            return strstr(t[i].guests, word);
    return false;
}

/* ---- device node ---- */

static int open_device(struct err **errp)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd >= 0)
        return fd;
    switch (errno) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
        err_set_errno(errp, errno, "KVM is not available: cannot open /dev/kvm");
        err_hint(errp, "Load the module (modprobe kvm_intel or kvm_amd), switch virtualisation on in the firmware's "
                       "set-up, or use "
                       "-accel tcg.");
        break;
    case EACCES:
    case EPERM:
        err_set_errno(errp, errno, "KVM: no permission to open /dev/kvm");
        err_hint(
            errp,
            "Add yourself to the group that owns it (usermod -aG kvm USER, then log in again), or use -accel tcg.");
        break;
    default:
        err_set_errno(errp, errno, "KVM: cannot open /dev/kvm");
        break;
    }
    return -1;
}

static bool check_device(int fd, struct err **errp)
{
    int v = ioctl(fd, KVM_GET_API_VERSION, 0);

    if (v != KVM_API_VERSION)
        return err_set(errp, "KVM: the kernel's interface has version %d, %d is needed", v, KVM_API_VERSION);
    if (ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) <= 0 ||
        ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT) <= 0)
        return err_set(errp, "KVM: the kernel is too old (it lacks user memory slots or immediate exit)");
    return true;
}

static bool kvm_probe(const char *arch, struct err **errp)
{
    struct utsname u;
    int fd;
    bool ok;

    uname(&u);
    if (!kvm_can_run(u.machine, arch)) {
        err_set(errp, "KVM on this %s host cannot run %s guests", u.machine, arch);
        err_hint(errp, "Use -accel tcg.");
        return false;
    }
    fd = open_device(errp);
    if (fd < 0)
        return false;
    ok = check_device(fd, errp);
    close(fd);
    return ok;
}

/* ---- memory slots ---- */

static int set_slot(struct kvm_view *v, struct kvm_slot *s)
{
    struct kvm_userspace_memory_region r = s->r;

    r.slot |= v->id << 16;
    v->vm->slot_changes++;
    if (ioctl(v->vm->vm, KVM_SET_USER_MEMORY_REGION, &r) == 0)
        return 0;
    warn_report("KVM: memory slot %u at %#llx of %#llx bytes: %s", s->r.slot, s->r.guest_phys_addr, s->r.memory_size,
                strerror(errno));
    return -errno;
}

static void drop_slot(struct kvm_view *v, struct kvm_slot *s)
{
    s->r.memory_size = 0;
    set_slot(v, s);
    s->used = false;
    mem_ram_unref(s->ram);
    s->ram = NULL;
}

/* The plain memory of one section as KVM wants it: whole pages. */
static bool slot_of(const struct kvm_view *v, const struct mem_section *sec, struct kvm_slot *out)
{
    uint64_t skip = align_up(sec->start, PAGE) - sec->start;

    memset(out, 0, sizeof *out);
    if (!sec->host || sec->len < skip || sec->len - skip < PAGE || ((uintptr_t)sec->host + skip) % PAGE)
        return false;
    if (sec->readonly && !v->vm->cap_readonly)
        return false;
    out->r.guest_phys_addr = sec->start + skip;
    out->r.memory_size = align_down(sec->len - skip, PAGE);
    out->r.userspace_addr = (uintptr_t)sec->host + skip;
    out->r.flags = sec->readonly                            ? KVM_MEM_READONLY
                   : sec->region->dirty_log & MEM_DIRTY_VGA ? KVM_MEM_LOG_DIRTY_PAGES
                                                            : 0;
    out->ram = sec->ram;
    out->ram_off = sec->ram_off + skip;
    return true;
}

static bool same_slot(const struct kvm_slot *a, const struct kvm_slot *b)
{
    return a->r.guest_phys_addr == b->r.guest_phys_addr && a->r.memory_size == b->r.memory_size &&
           a->r.userspace_addr == b->r.userspace_addr && a->r.flags == b->r.flags && a->ram == b->ram;
}

static void mark_section(const struct mem_section *sec, void *opaque)
{
    struct kvm_view *v = opaque;
    struct kvm_slot want;

    if (!slot_of(v, sec, &want))
        return;
    for (unsigned i = 0; i < v->vm->nr_slots; i++)
        if (v->slot[i].used && same_slot(&v->slot[i], &want))
            v->slot[i].seen = true;
}

static void add_section(const struct mem_section *sec, void *opaque)
{
    struct kvm_view *v = opaque;
    struct kvm_slot want, *free_slot = NULL;

    if (!slot_of(v, sec, &want))
        return;
    for (unsigned i = 0; i < v->vm->nr_slots; i++) {
        if (v->slot[i].used && same_slot(&v->slot[i], &want))
            return;
        if (!v->slot[i].used && !free_slot) {
            free_slot = &v->slot[i];
            want.r.slot = i;
        }
    }
    if (!free_slot) {
        warn_report("KVM: more than %u pieces of memory; the one at %#" PRIx64 " is left out", v->vm->nr_slots,
                    sec->start);
        return;
    }
    if (set_slot(v, &want))
        return;
    want.used = true;
    mem_ram_ref(want.ram);
    *free_slot = want;
}

static void note_logging(struct kvm_vm *vm)
{
    bool on = false;

    for (unsigned i = 0; i < vm->nr_slots; i++)
        on |= vm->mem.slot[i].used && (vm->mem.slot[i].r.flags & KVM_MEM_LOG_DIRTY_PAGES);
    if (on && !vm->logging)
        clk_timer_set(&vm->dirty_timer, clk_now(vm->m->run->real) + DIRTY_MS * NS_PER_MS);
    vm->logging = on;
}

/* The address space changed: slots that are gone first, since KVM allows no overlap. */
static void view_changed(void *opaque)
{
    struct kvm_view *v = opaque;

    for (unsigned i = 0; i < v->vm->nr_slots; i++)
        v->slot[i].seen = false;
    mem_space_each(v->as, mark_section, v);
    for (unsigned i = 0; i < v->vm->nr_slots; i++)
        if (v->slot[i].used && !v->slot[i].seen)
            drop_slot(v, &v->slot[i]);
    mem_space_each(v->as, add_section, v);
    note_logging(v->vm);
}

bool kvm_view_start(struct kvm_vm *vm, struct kvm_view *v, struct mem_space *as, unsigned id, struct err **errp)
{
    v->vm = vm;
    v->as = as;
    v->id = id;
    v->slot = try_alloc(vm->nr_slots, sizeof *v->slot);
    if (!v->slot)
        return err_set(errp, "KVM: no memory for %u slots", vm->nr_slots);
    mem_space_listen(as, view_changed, v);
    view_changed(v);
    return true;
}

static void collect_dirty(struct kvm_vm *vm, struct kvm_slot *s)
{
    uint64_t pages = s->r.memory_size / PAGE, words = div_up(pages, 64);
    AUTOFREE uint64_t *map = try_alloc(words, 8);
    struct kvm_dirty_log log = {.slot = s->r.slot, .dirty_bitmap = map};

    if (!map || ioctl(vm->vm, KVM_GET_DIRTY_LOG, &log) < 0)
        return;
    for (uint64_t p = 0; p < pages; p++)
        if (map[p / 64] >> (p % 64) & 1)
            mem_ram_written(s->ram, s->ram_off + p * PAGE, PAGE);
}

/* Display memory the guest has written becomes dirty in our own flags. */
static void dirty_tick(void *opaque)
{
    struct kvm_vm *vm = opaque;

    if (!vm->logging)
        return;
    for (unsigned i = 0; i < vm->nr_slots; i++)
        if (vm->mem.slot[i].used && (vm->mem.slot[i].r.flags & KVM_MEM_LOG_DIRTY_PAGES))
            collect_dirty(vm, &vm->mem.slot[i]);
    clk_timer_set(&vm->dirty_timer, clk_now(vm->m->run->real) + DIRTY_MS * NS_PER_MS);
}

/* ---- what the kernel offers ---- */

static unsigned cap(const struct kvm_vm *vm, long c)
{
    int r = ioctl(vm->fd, KVM_CHECK_EXTENSION, c);

    return r > 0 ? (unsigned)r : 0;
}

static bool read_cpuid(struct kvm_vm *vm, struct err **errp)
{
    for (unsigned n = 64; n <= 1024; n *= 2) {
        vm->cpuid = xcalloc(1, sizeof *vm->cpuid + n * sizeof vm->cpuid->entries[0]);
        vm->cpuid->nent = n;
        if (ioctl(vm->fd, KVM_GET_SUPPORTED_CPUID, vm->cpuid) == 0)
            return true;
        free(vm->cpuid);
        vm->cpuid = NULL;
        if (errno != E2BIG)
            break;
    }
    return err_set_errno(errp, errno, "KVM: cannot read the supported CPUID");
}

static void read_msr_list(struct kvm_vm *vm)
{
    struct kvm_msr_list probe = {0};

    ioctl(vm->fd, KVM_GET_MSR_INDEX_LIST, &probe);
    vm->msrs = xcalloc(1, sizeof *vm->msrs + min_u64(probe.nmsrs, 4096) * sizeof vm->msrs->indices[0]);
    vm->msrs->nmsrs = (uint32_t)min_u64(probe.nmsrs, 4096);
    if (ioctl(vm->fd, KVM_GET_MSR_INDEX_LIST, vm->msrs) < 0)
        vm->msrs->nmsrs = 0;
}

static uint32_t entry(const struct kvm_vm *vm, uint32_t leaf, uint32_t sub, unsigned reg)
{
    for (unsigned i = 0; i < vm->cpuid->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &vm->cpuid->entries[i];

        if (e->function == leaf && (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == sub))
            return reg == 0 ? e->eax : reg == 1 ? e->ebx : reg == 2 ? e->ecx : e->edx;
    }
    return 0;
}

static void features_of(const struct kvm_vm *vm, struct x86_features *out)
{
    static const struct {
        uint8_t word, reg;
        uint32_t leaf, sub;
    } t[] = {{X86_FW_1_EDX, 3, 1, 0},
             {X86_FW_1_ECX, 2, 1, 0},
             {X86_FW_7_EBX, 1, 7, 0},
             {X86_FW_7_ECX, 2, 7, 0},
             {X86_FW_7_EDX, 3, 7, 0},
             {X86_FW_7_1_EAX, 0, 7, 1},
             {X86_FW_80000001_EDX, 3, 0x80000001, 0},
             {X86_FW_80000001_ECX, 2, 0x80000001, 0},
             {X86_FW_80000007_EDX, 3, 0x80000007, 0},
             {X86_FW_80000008_EBX, 1, 0x80000008, 0},
             {X86_FW_D_1_EAX, 0, 0xd, 1},
             {X86_FW_6_EAX, 0, 6, 0},
             {X86_FW_8000000A_EDX, 3, 0x8000000a, 0},
             {X86_FW_KVM_EAX, 0, 0x40000001, 0}};

    x86_features_host(out);
    memset(out->w, 0, sizeof out->w);
    for (size_t i = 0; i < ARRAY_LEN(t); i++)
        out->w[t[i].word] = entry(vm, t[i].leaf, t[i].sub, t[i].reg);
    /* Ours to give, whatever the kernel lists. */
    x86_features_set(out, "hypervisor", true);
    x86_features_set(out, "x2apic", false); /* the local APIC is ours: the kernel has nobody to send its MSRs to */
    x86_features_set(out, "tsc-deadline", false);
    x86_features_set(out, "arat", true);
    out->kvm_leaves = true;
}

bool kvm_cpu_features(struct machine *m, struct x86_features *out, struct err **errp)
{
    struct kvm_vm *vm = m->accel_data;

    if (!vm)
        return err_set(errp, "KVM is not the accelerator of this machine");
    features_of(vm, out);
    return true;
}

/* ---- class ---- */

static void vm_free(struct kvm_vm *vm)
{
    if (vm->vm >= 0)
        close(vm->vm);
    if (vm->fd >= 0)
        close(vm->fd);
    free(vm->cpuid);
    free(vm->msrs);
    free(vm);
}

static bool vm_create(struct kvm_vm *vm, struct err **errp)
{
    uint64_t ident = IDENTITY_MAP;
    int r;

    do
        vm->vm = ioctl(vm->fd, KVM_CREATE_VM, 0);
    while (vm->vm < 0 && errno == EINTR);
    if (vm->vm < 0) {
        err_set_errno(errp, errno, "KVM: cannot create a virtual machine");
        if (errno == EBUSY)
            err_hint(errp, "Another hypervisor may hold the processor's virtualisation extension.");
        return false;
    }
    if (cap(vm, KVM_CAP_SET_IDENTITY_MAP_ADDR) && ioctl(vm->vm, KVM_SET_IDENTITY_MAP_ADDR, &ident) < 0)
        log_unimp("kvm: KVM_SET_IDENTITY_MAP_ADDR refused: %s\n", strerror(errno));
    r = cap(vm, KVM_CAP_SET_TSS_ADDR) ? ioctl(vm->vm, KVM_SET_TSS_ADDR, (unsigned long)TSS) : 0;
    if (r < 0)
        log_unimp("kvm: KVM_SET_TSS_ADDR refused: %s\n", strerror(errno));
    return true;
}

static bool opts_check(struct opts *o, struct err **errp)
{
    const char *chip = o ? opts_get(o, "kernel-irqchip") : NULL;
    bool on = false;

    if (!o)
        return true;
    if (chip && strcmp(chip, "split") != 0 && !str_to_bool(chip, &on))
        return err_set(errp, "-accel kvm: kernel-irqchip takes on, off or split, not '%s'", chip);
    if (chip && strcmp(chip, "off") != 0)
        warn_report("-accel kvm: interrupt controllers run in this program; kernel-irqchip=%s changes nothing", chip);
    opts_get(o, "kvm-shadow-mem");
    opts_get(o, "dirty-ring-size");
    opts_get(o, "notify-vmexit");
    return true;
}

static bool kvm_init(struct machine *m, struct opts *o, struct err **errp)
{
    struct kvm_vm *vm = xnew(struct kvm_vm);

    vm->m = m;
    vm->vm = -1;
    vm->fd = open_device(errp);
    if (vm->fd < 0 || !check_device(vm->fd, errp) || !opts_check(o, errp) || !vm_create(vm, errp) ||
        !read_cpuid(vm, errp)) {
        vm_free(vm);
        return false;
    }
    read_msr_list(vm);
    vm->run_size =
        (unsigned)max_u64((uint64_t)max_i64(ioctl(vm->fd, KVM_GET_VCPU_MMAP_SIZE, 0), 0), sizeof(struct kvm_run));
    vm->nr_slots = (unsigned)min_u64(max_u64(cap(vm, KVM_CAP_NR_MEMSLOTS), 32), MAX_SLOTS);
    vm->cap_readonly = cap(vm, KVM_CAP_READONLY_MEM);
    vm->cap_xsave = cap(vm, KVM_CAP_XSAVE);
    vm->xsave_size = (unsigned)max_u64(cap(vm, KVM_CAP_XSAVE2), 4096);
    vm->cap_xcrs = cap(vm, KVM_CAP_XCRS);
    vm->cap_debugregs = cap(vm, KVM_CAP_DEBUGREGS);
    vm->cap_events = cap(vm, KVM_CAP_VCPU_EVENTS);
    vm->cap_nmi = cap(vm, KVM_CAP_USER_NMI);
    vm->cap_smm = cap(vm, KVM_CAP_X86_SMM) && cap(vm, KVM_CAP_MULTI_ADDRESS_SPACE) > 1;
    clk_timer_init(&vm->dirty_timer, m->run->real, dirty_tick, vm);
    m->accel_data = vm;
    if (!kvm_view_start(vm, &vm->mem, m->mem, 0, errp)) {
        m->accel_data = NULL;
        vm_free(vm);
        return false;
    }
    return true;
}

static bool kvm_vcpu_create(struct vcpu *c, struct err **errp)
{
    struct kvm_vm *vm = c->m->accel_data;
    struct kvm_vcpu *k = xnew(struct kvm_vcpu);

    k->vm = vm;
    k->fd = ioctl(vm->vm, KVM_CREATE_VCPU, (unsigned long)c->index);
    if (k->fd < 0) {
        err_set_errno(errp, errno, "KVM: cannot create CPU %u", c->index);
        free(k);
        return false;
    }
    k->run = mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd, 0);
    k->xsave = try_alloc_aligned(4096, align_up(vm->xsave_size, 4096));
    if (k->run == MAP_FAILED || !k->xsave) {
        err_set_errno(errp, errno, "KVM: cannot map the control block of CPU %u", c->index);
        if (k->run != MAP_FAILED)
            munmap(k->run, vm->run_size);
        free(k->xsave);
        close(k->fd);
        free(k);
        return false;
    }
    c->accel_data = k;
    c->run = kvm_run;
    c->kick = kvm_kick;
    vm->nr_cpus++;
    return kvm_x86_vcpu_init(c, errp);
}

static void kvm_vcpu_free(struct vcpu *c)
{
    struct kvm_vcpu *k = kvm_vcpu(c);

    if (!k)
        return;
    munmap(k->run, k->vm->run_size);
    free(k->xsave);
    close(k->fd);
    free(k);
    c->accel_data = NULL;
}

static const char *exit_name(unsigned reason)
{
    static const char *const names[] = {[KVM_EXIT_UNKNOWN] = "unknown",   [KVM_EXIT_IO] = "port",
                                        [KVM_EXIT_MMIO] = "mmio",         [KVM_EXIT_HLT] = "halt",
                                        [KVM_EXIT_SHUTDOWN] = "shutdown", [KVM_EXIT_FAIL_ENTRY] = "fail-entry",
                                        [KVM_EXIT_INTR] = "signal",       [KVM_EXIT_IRQ_WINDOW_OPEN] = "irq-window",
                                        [KVM_EXIT_SET_TPR] = "set-tpr",   [KVM_EXIT_INTERNAL_ERROR] = "internal-error"};

    return reason < ARRAY_LEN(names) && names[reason] ? names[reason] : "other";
}

static char *kvm_info(struct machine *m)
{
    struct kvm_vm *vm = m->accel_data;
    struct strbuf b = {0};
    unsigned used = 0;

    if (!vm)
        return xstrdup("kvm: not started\n");
    for (unsigned i = 0; i < vm->nr_slots; i++)
        used += vm->mem.slot[i].used;
    str_addf(&b, "memory slots: %u of %u, %" PRIu64 " changes\n", used, vm->nr_slots, vm->slot_changes);
    str_addf(&b, "kernel offers: read-only memory %s, SMM %s, NMI %s, XSAVE %s\n", vm->cap_readonly ? "yes" : "no",
             vm->cap_smm ? "yes" : "no", vm->cap_nmi ? "yes" : "no", vm->cap_xsave ? "yes" : "no");
    for (unsigned i = 0; i < m->nr_cpus; i++) {
        struct kvm_vcpu *k = kvm_vcpu(m->cpus[i]);

        str_addf(&b, "CPU %u exits:", i);
        for (unsigned r = 0; k && r < ARRAY_LEN(k->exits); r++)
            if (k->exits[r])
                str_addf(&b, " %s %" PRIu64, exit_name(r), k->exits[r]);
        str_add(&b, "\n");
    }
    return str_take(&b);
}

static bool kvm_has_smm(struct machine *m)
{
    return ((struct kvm_vm *)m->accel_data)->cap_smm;
}

static const char *const kvm_keys[] = {"kernel-irqchip", "kvm-shadow-mem", "dirty-ring-size", "notify-vmexit", NULL};
static const struct accel_class kvm_class = {.name = "kvm",
                                             .desc = "hardware virtualisation through /dev/kvm",
                                             .keys = kvm_keys,
                                             .probe = kvm_probe,
                                             .init = kvm_init,
                                             .vcpu_init = kvm_vcpu_create,
                                             .vcpu_free = kvm_vcpu_free,
                                             .cpu_features = kvm_cpu_features,
                                             .has_smm = kvm_has_smm,
                                             .info = kvm_info,
                                             .get_state = kvm_x86_get,
                                             .put_state = kvm_x86_put};
ACCEL_REGISTER(kvm_class)
