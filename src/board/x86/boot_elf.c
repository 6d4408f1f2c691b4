/* ELF kernels: the PVH entry point (Xen "PVH direct boot", start_info version 1) and multiboot 0.6.96 with modules.
 *
 * Both kinds are laid out on the host as one memory image; the 32-bit option ROM copies it, an optional RAM disk and an
 * information block into guest memory, adds the firmware's memory map and jumps. */
#include "board/x86/boot_int.h"

#include "base/bytes.h"
#include "base/str.h"
#include "board/x86/aml.h"
#include "board/x86/rom/rom.h"

#include <elf.h>

enum {
    MB_MAGIC = 0x1badb002,
    MB_BOOT_MAGIC = 0x2badb002,
    MB_SEARCH = 8192,
    MB_AOUT = 1 << 16,
    MB_MEMORY = 1,
    MB_CMDLINE = 4,
    MB_MODULES = 8,
    MB_MAP = 64,
    MB_LOADER_NAME = 512
};
enum {
    PVH_NOTE = 18,
    PVH_MAGIC = 0x336ec578,
    PVH_INFO_LEN = 56,
    PVH_MODLIST = INFO_REST,
    PVH_CMDLINE = INFO_REST + 32
};
enum { MAX_PHNUM = 256, MAX_MODULES = 128 };
#define MAX_SPAN   (UINT64_C(3) << 30)
#define MAX_MODULE (UINT64_C(2) << 30)

/* ---- ELF ---- */

struct phdr {
    uint32_t type;
    uint64_t off, paddr, filesz, memsz;
};

static bool elf_phdr(const uint8_t *e, size_t len, bool is64, unsigned n, struct phdr *out)
{
    uint64_t phoff = is64 ? get_le64(e + 0x20) : get_le32(e + 0x1c);
    unsigned size = get_le16(e + (is64 ? 0x36 : 0x2a)), want = is64 ? 56 : 32;
    const uint8_t *p;

    if (size < want || phoff > len || (uint64_t)(n + 1) * size > len - phoff)
        return false;
    p = e + phoff + (uint64_t)n * size;
    out->type = get_le32(p);
    out->off = is64 ? get_le64(p + 8) : get_le32(p + 4);
    out->paddr = is64 ? get_le64(p + 24) : get_le32(p + 12);
    out->filesz = is64 ? get_le64(p + 32) : get_le32(p + 16);
    out->memsz = is64 ? get_le64(p + 40) : get_le32(p + 20);
    return out->filesz <= len && out->off <= len - out->filesz;
}

static uint64_t find_pvh_note(const uint8_t *p, uint64_t len)
{
    while (len >= 12) {
        uint64_t nsz = align_up(get_le32(p), 4), dsz = align_up(get_le32(p + 4), 4);

        if (nsz > len - 12 || dsz > len - 12 - nsz)
            return 0;
        if (get_le32(p + 8) == PVH_NOTE && get_le32(p) == 4 && !memcmp(p + 12, "Xen", 4) && dsz >= 4)
            return get_le32(p + 12 + nsz);
        p += 12 + nsz + dsz;
        len -= 12 + nsz + dsz;
    }
    return 0;
}

static bool elf_measure(const uint8_t *e, size_t len, struct boot_elf *out, unsigned nr, struct err **errp)
{
    out->start = UINT64_MAX;
    for (unsigned i = 0; i < nr; i++) {
        struct phdr ph;
        uint64_t end;

        if (!elf_phdr(e, len, out->is64, i, &ph) || !add_ok_u64(ph.paddr, ph.memsz, &end))
            return err_set(errp, "the kernel's ELF program headers are damaged");
        if (ph.type == PT_NOTE && !out->pvh_entry)
            out->pvh_entry = find_pvh_note(e + ph.off, ph.filesz);
        if (ph.type != PT_LOAD || !ph.memsz)
            continue;
        if (ph.filesz > ph.memsz)
            return err_set(errp, "the kernel's ELF program headers are damaged");
        out->start = min_u64(out->start, ph.paddr);
        out->end = max_u64(out->end, end);
    }
    return out->end > out->start || err_set(errp, "the kernel's ELF file has nothing to load");
}

bool boot_elf_load(const uint8_t *e, size_t len, uint64_t limit, struct boot_elf *out, struct err **errp)
{
    unsigned nr;

    *out = (struct boot_elf){.is64 = e[EI_CLASS] == ELFCLASS64};
    if (len < (out->is64 ? 0x40 : 0x34) || e[EI_DATA] != ELFDATA2LSB ||
        get_le16(e + 0x12) != (out->is64 ? EM_X86_64 : EM_386))
        return err_set(errp, "the kernel is an ELF file for another processor");
    nr = get_le16(e + (out->is64 ? 0x38 : 0x2c));
    out->entry = out->is64 ? get_le64(e + 0x18) : get_le32(e + 0x18);
    if (nr > MAX_PHNUM)
        return err_set(errp, "the kernel's ELF file has too many program headers");
    if (!elf_measure(e, len, out, nr, errp))
        return false;
    if (out->end > limit || out->end - out->start > MAX_SPAN) {
        err_set(errp, "the kernel needs memory up to %" PRIu64 " MiB, the guest has %" PRIu64, out->end >> 20,
                limit >> 20);
        err_hint(errp, "Give the guest more memory with -m.");
        return false;
    }
    out->mem = try_alloc(1, out->end - out->start);
    if (!out->mem)
        return err_set(errp, "no memory for the kernel image");
    for (unsigned i = 0; i < nr; i++) {
        struct phdr ph;

        if (elf_phdr(e, len, out->is64, i, &ph) && ph.type == PT_LOAD && ph.memsz)
            memcpy(out->mem + (ph.paddr - out->start), e + ph.off, ph.filesz);
    }
    return true;
}

/* ---- the information block ---- */

static void info_init(struct aml *b, uint32_t eax, uint32_t entry_off, uint32_t count_at, bool in_bytes)
{
    aml_zero(b, INFO_REST);
    put_le32(b->p + INFO_EAX, eax);
    put_le32(b->p + INFO_ENTRY_OFF, entry_off);
    put_le32(b->p + INFO_COUNT_AT, count_at);
    put_le32(b->p + INFO_IN_BYTES, in_bytes);
}

/* Appends a string; its guest-physical address. */
static uint32_t info_str(struct aml *b, const char *s)
{
    size_t at = b->len;

    aml_bytes(b, s, strlen(s) + 1);
    return (uint32_t)(INFO_ADDR + at);
}

static bool publish(struct pc *p, struct aml *info, uint64_t entry, uint64_t start, uint8_t *mem, uint64_t len,
                    struct err **errp)
{
    if (info->len > INFO_MAX) {
        free(mem);
        aml_free(info);
        return err_set(errp, "the kernel's command line and module list are too long");
    }
    fw_cfg_add_u32(p->fw, FW_CFG_KERNEL_ENTRY, (uint32_t)entry);
    boot_set_blob(p, FW_CFG_KERNEL_ADDR, start, mem, len);
    boot_set_blob(p, FW_CFG_SETUP_ADDR, INFO_ADDR, info->p, info->len); /* takes the bytes */
    return boot_add_rom(p, "boot32.bin", rom_boot32, rom_boot32_len, errp);
}

/* ---- PVH ---- */

static bool pvh_initrd(struct pc *p, struct aml *info, uint64_t kernel_end, struct err **errp)
{
    uint64_t addr, end = boot_ram_end(p);
    uint8_t *data;
    size_t len;

    if (!p->cfg->initrd)
        return true;
    data = pc_read_file(p->cfg->initrd, "initial RAM disk", MAX_MODULE, &len, errp);
    if (!data)
        return false;
    if (end < kernel_end || len > end - kernel_end) {
        free(data);
        return err_set(errp, "initial RAM disk '%s' is too large: %zu bytes, %" PRIu64 " fit behind the kernel",
                       p->cfg->initrd, len, end > kernel_end ? end - kernel_end : 0);
    }
    addr = align_down(end - len, 4096);
    put_le32(info->p + 12, 1);
    put_le64(info->p + 16, INFO_ADDR + PVH_MODLIST);
    put_le64(info->p + PVH_MODLIST, addr);
    put_le64(info->p + PVH_MODLIST + 8, len);
    boot_set_blob(p, FW_CFG_INITRD_ADDR, addr, data, len);
    return true;
}

bool boot_pvh(struct pc *p, uint8_t *image, size_t len, struct err **errp)
{
    struct aml info = {0};
    struct boot_elf elf;
    uint32_t cmdline;

    if (!boot_elf_load(image, len, boot_ram_end(p), &elf, errp))
        return false;
    if (!elf.pvh_entry) {
        free(elf.mem);
        err_set(errp, "ELF kernel '%s' has no PVH entry", p->cfg->kernel);
        err_hint(errp, "Use its bzImage, or build it with CONFIG_PVH.");
        return false;
    }
    info_init(&info, 0, 0, 48, false);
    put_le32(info.p, PVH_MAGIC);
    put_le32(info.p + 4, 1);
    put_le64(info.p + 40, INFO_ADDR + INFO_MAP);
    aml_zero(&info, PVH_CMDLINE - PVH_MODLIST);
    cmdline = info_str(&info, p->cfg->append ? p->cfg->append : "");
    put_le64(info.p + 24, cmdline);
    if (!pvh_initrd(p, &info, elf.end, errp)) {
        free(elf.mem);
        aml_free(&info);
        return false;
    }
    return publish(p, &info, elf.pvh_entry, elf.start, elf.mem, elf.end - elf.start, errp);
}

/* ---- multiboot ---- */

struct mboot {
    uint64_t start, end, entry; /* physical */
    uint8_t *mem;               /* owned: everything from start on, modules too */
    uint64_t len;
    struct {
        uint32_t start, end, text;
    } mod[MAX_MODULES];
    unsigned nr_mods;
};

static const uint8_t *mb_header(const uint8_t *image, size_t len)
{
    for (size_t i = 0; i + 12 <= len && i < MB_SEARCH; i += 4)
        if (get_le32(image + i) == MB_MAGIC &&
            get_le32(image + i) + get_le32(image + i + 4) + get_le32(image + i + 8) == 0)
            return image + i;
    return NULL;
}

/* The header names the addresses itself (a.out kludge). */
static bool mb_load_flat(const uint8_t *image, size_t len, const uint8_t *h, uint64_t limit, struct mboot *mb,
                         struct err **errp)
{
    uint64_t off = (uint64_t)(h - image), header = get_le32(h + 12), load = get_le32(h + 16),
             load_end = get_le32(h + 20);
    uint64_t bss_end = get_le32(h + 24), file_off, file_len;

    if ((size_t)(h - image) + 32 > len || header < load || off < header - load)
        return err_set(errp, "the multiboot header's addresses do not fit the file");
    file_off = off - (header - load);
    file_len = load_end ? load_end - load : len - file_off;
    if (load_end && load_end < load)
        return err_set(errp, "the multiboot header's addresses do not fit the file");
    if (file_len > len - file_off)
        file_len = len - file_off;
    mb->start = load;
    mb->end = max_u64(load + file_len, bss_end);
    mb->entry = get_le32(h + 28);
    if (mb->end > limit)
        return err_set(errp, "the kernel needs memory up to %" PRIu64 " MiB, the guest has %" PRIu64, mb->end >> 20,
                       limit >> 20);
    mb->len = mb->end - mb->start;
    mb->mem = try_alloc(1, mb->len + 1);
    if (!mb->mem)
        return err_set(errp, "no memory for the kernel image");
    memcpy(mb->mem, image + file_off, file_len);
    return true;
}

static bool mb_load(struct pc *p, const uint8_t *image, size_t len, const uint8_t *h, struct mboot *mb,
                    struct err **errp)
{
    struct boot_elf elf;

    if (get_le32(h + 4) & MB_AOUT)
        return mb_load_flat(image, len, h, boot_ram_end(p), mb, errp);
    if (!boot_is_elf(image, len))
        return err_set(errp, "multiboot image '%s' has neither load addresses nor an ELF header", p->cfg->kernel);
    if (image[EI_CLASS] == ELFCLASS64) {
        err_set(errp, "multiboot kernel '%s' is a 64-bit ELF file; multiboot starts 32-bit ones", p->cfg->kernel);
        return false;
    }
    if (!boot_elf_load(image, len, boot_ram_end(p), &elf, errp))
        return false;
    *mb = (struct mboot){
        .start = elf.start, .end = elf.end, .entry = elf.entry, .mem = elf.mem, .len = elf.end - elf.start};
    return true;
}

/* One "file arguments" entry of -initrd, placed on the next page behind what is there. */
static bool mb_add_module(struct pc *p, struct mboot *mb, struct aml *info, const char *text, struct err **errp)
{
    char AUTOFREE *path = xstrndup(text, strcspn(text, " "));
    uint64_t at = align_up(mb->start + mb->len, 4096), skip = at - mb->start;
    uint8_t AUTOFREE *data = NULL;
    uint8_t *mem;
    size_t len;

    if (mb->nr_mods == MAX_MODULES)
        return err_set(errp, "more than %d multiboot modules", MAX_MODULES);
    data = pc_read_file(path, "multiboot module", MAX_MODULE, &len, errp);
    if (!data)
        return false;
    if (at + len > boot_ram_end(p))
        return err_set(errp, "multiboot module '%s' does not fit into %" PRIu64 " MiB of memory", path,
                       p->below_4g >> 20);
    mem = realloc(mb->mem, skip + len + 1);
    if (!mem)
        return err_set(errp, "no memory for multiboot module '%s'", path);
    memset(mem + mb->len, 0, skip - mb->len);
    memcpy(mem + skip, data, len);
    mb->mem = mem;
    mb->len = skip + len;
    mb->mod[mb->nr_mods].start = (uint32_t)at;
    mb->mod[mb->nr_mods].end = (uint32_t)(at + len);
    mb->mod[mb->nr_mods++].text = info_str(info, text);
    return true;
}

/* "file args,file args": a comma separates, two commas are one. */
static bool mb_add_modules(struct pc *p, struct mboot *mb, struct aml *info, struct err **errp)
{
    const char *s = p->cfg->initrd;
    struct strbuf CLEANUP(str_free) one = {0};

    while (s && *s) {
        if (*s == ',' && s[1] == ',') {
            str_add(&one, ",");
            s += 2;
        } else if (*s != ',') {
            str_addn(&one, s++, 1);
        } else {
            s++;
            if (one.len && !mb_add_module(p, mb, info, one.s, errp))
                return false;
            str_free(&one);
            one = (struct strbuf){0};
        }
    }
    return !one.len || mb_add_module(p, mb, info, one.s, errp);
}

static bool mb_info(struct pc *p, struct mboot *mb, struct aml *info, struct err **errp)
{
    char AUTOFREE *cmdline =
        xasprintf("%s%s%s", p->cfg->kernel, p->cfg->append ? " " : "", p->cfg->append ? p->cfg->append : "");
    uint32_t text;

    info_init(info, MB_BOOT_MAGIC, 4, 44, true);
    put_le32(info->p, MB_MEMORY | MB_CMDLINE | MB_MODULES | MB_MAP | MB_LOADER_NAME);
    for (unsigned i = 0; i < INFO_MAP_MAX; i++)
        put_le32(info->p + INFO_MAP + i * INFO_MAP_ENTRY, 20);
    put_le32(info->p + 48, INFO_ADDR + INFO_MAP);
    text = info_str(info, cmdline);
    put_le32(info->p + 16, text);
    text = info_str(info, "lyrebird");
    put_le32(info->p + 64, text);
    if (!mb_add_modules(p, mb, info, errp))
        return false;
    aml_zero(info, align_up(info->len, 16) - info->len);
    put_le32(info->p + 20, mb->nr_mods);
    put_le32(info->p + 24, (uint32_t)(INFO_ADDR + info->len));
    for (unsigned i = 0; i < mb->nr_mods; i++) {
        aml_raw(info, mb->mod[i].start, 4);
        aml_raw(info, mb->mod[i].end, 4);
        aml_raw(info, mb->mod[i].text, 4);
        aml_raw(info, 0, 4);
    }
    return true;
}

bool boot_multiboot(struct pc *p, uint8_t *image, size_t len, bool *taken, struct err **errp)
{
    const uint8_t *h = mb_header(image, len);
    struct mboot mb = {0};
    struct aml info = {0};

    *taken = h != NULL;
    if (!h)
        return true;
    if (!mb_load(p, image, len, h, &mb, errp))
        return false;
    if (!mb_info(p, &mb, &info, errp)) {
        free(mb.mem);
        aml_free(&info);
        return false;
    }
    return publish(p, &info, mb.entry, mb.start, mb.mem, mb.len, errp);
}
