/* -kernel, -initrd, -append on a PC: Linux bzImage by the Linux/x86 boot protocol, and the choice among the other
 * kinds.
 *
 * The host splits the image, patches the fields a boot loader owns, and hands everything over in fw_cfg; an option ROM
 * of ours (rom/boot.S) or OVMF loads and enters it. Document: the kernel's x86 boot protocol, versions 2.02 to 2.15. */
#include "board/x86/boot_int.h"

#include "base/bytes.h"
#include "base/str.h"
#include "board/x86/rom/rom.h"

#include <stdio.h>

enum { /* setup header offsets */
       HDR_SETUP_SECTS = 0x1f1,
       HDR_VID_MODE = 0x1fa,
       HDR_MAGIC = 0x202,
       HDR_VERSION = 0x206,
       HDR_LOADER = 0x210,
       HDR_LOADFLAGS = 0x211,
       HDR_RAMDISK = 0x218,
       HDR_RAMDISK_SIZE = 0x21c,
       HDR_HEAP_END = 0x224,
       HDR_CMD_LINE = 0x228,
       HDR_INITRD_MAX = 0x22c,
       HDR_CMDLINE_SIZE = 0x238,
       HDR_LEN = 0x250,
};
enum {
    HDRS = 0x53726448,
    LOADED_HIGH = 0x01,
    CAN_USE_HEAP = 0x80,
    LOADER_ID = 0xff,
    DFLT_SETUP_SECTS = 4,
    DFLT_CMDLINE = 255
};
enum { REAL_ADDR = 0x10000, CMDLINE_ADDR = 0x20000, KERNEL_ADDR = 0x100000, DFLT_INITRD_MAX = 0x37ffffff };
#define MAX_KERNEL (UINT64_C(1) << 30)
#define MAX_INITRD (UINT64_C(3) << 30)

uint64_t boot_ram_end(const struct pc *p)
{
    return p->below_4g > 8 * MIB ? p->below_4g - MIB : p->below_4g;
}

bool boot_is_elf(const uint8_t *image, size_t len)
{
    return len >= 0x34 && !memcmp(image,
                                  "\x7f"
                                  "ELF",
                                  4);
}

bool boot_add_rom(struct pc *p, const char *name, const uint8_t *rom, unsigned len, struct err **errp)
{
    char AUTOFREE *file = xasprintf("genroms/%s", name);
    uint8_t AUTOFREE *copy = xmalloc(len);
    uint8_t pnp = 0, all = 0;

    memcpy(copy, rom, len);
    for (unsigned i = 0x20; i < 0x40; i++)
        pnp += copy[i];
    copy[0x29] -= pnp;
    for (unsigned i = 0; i < len; i++)
        all += copy[i];
    copy[6] -= all;
    p->kernel_rom = name;
    return fw_cfg_add_file(p->fw, file, copy, len, errp);
}

void boot_set_blob(struct pc *p, uint16_t addr_key, uint64_t addr, uint8_t *data, size_t len)
{
    static const struct {
        uint16_t addr, size, data;
    } keys[] = {{FW_CFG_KERNEL_ADDR, FW_CFG_KERNEL_SIZE, FW_CFG_KERNEL_DATA},
                {FW_CFG_INITRD_ADDR, FW_CFG_INITRD_SIZE, FW_CFG_INITRD_DATA},
                {FW_CFG_CMDLINE_ADDR, FW_CFG_CMDLINE_SIZE, FW_CFG_CMDLINE_DATA},
                {FW_CFG_SETUP_ADDR, FW_CFG_SETUP_SIZE, FW_CFG_SETUP_DATA}};

    for (unsigned i = 0; i < ARRAY_LEN(keys); i++)
        if (keys[i].addr == addr_key) {
            fw_cfg_add_u32(p->fw, keys[i].addr, (uint32_t)addr);
            fw_cfg_add_u32(p->fw, keys[i].size, (uint32_t)len);
            fw_cfg_add_key_owned(p->fw, keys[i].data, data, len);
        }
}

/* ---- Linux ---- */

/* "vga=" of the command line becomes the header's video mode. */
static uint16_t video_mode(const char *cmdline)
{
    const char *v = strstr(cmdline, "vga=");
    char word[16];
    uint64_t n;

    if (!v)
        return 0xffff;
    snprintf(word, sizeof word, "%.*s", (int)strcspn(v + 4, " "), v + 4);
    if (!strcmp(word, "ext"))
        return 0xfffe;
    if (!strcmp(word, "ask"))
        return 0xfffd;
    return strcmp(word, "normal") && str_to_u64(word, &n) ? (uint16_t)n : 0xffff;
}

static bool place_initrd(struct pc *p, uint8_t *hdr, uint64_t kernel_end, struct err **errp)
{
    uint64_t max = get_le16(hdr + HDR_VERSION) >= 0x203 ? get_le32(hdr + HDR_INITRD_MAX) : DFLT_INITRD_MAX, addr;
    uint8_t *data;
    size_t len;

    if (!p->cfg->initrd)
        return true;
    data = pc_read_file(p->cfg->initrd, "initial RAM disk", MAX_INITRD, &len, errp);
    if (!data)
        return false;
    max = min_u64(max ? max + 1 : DFLT_INITRD_MAX, boot_ram_end(p));
    if (max < kernel_end || len > max - kernel_end) {
        err_set(errp, "initial RAM disk '%s' is too large: %zu bytes, %" PRIu64 " fit behind the kernel",
                p->cfg->initrd, len, max > kernel_end ? max - kernel_end : 0);
        err_hint(errp, "Give the guest more memory with -m.");
        free(data);
        return false;
    }
    addr = align_down(max - len, 4096);
    put_le32(hdr + HDR_RAMDISK, (uint32_t)addr);
    put_le32(hdr + HDR_RAMDISK_SIZE, (uint32_t)len);
    boot_set_blob(p, FW_CFG_INITRD_ADDR, addr, data, len);
    return true;
}

static bool set_cmdline(struct pc *p, uint8_t *hdr, struct err **errp)
{
    const char *text = p->cfg->append ? p->cfg->append : "";
    size_t len = strlen(text) + 1,
           max = get_le16(hdr + HDR_VERSION) >= 0x206 ? get_le32(hdr + HDR_CMDLINE_SIZE) : DFLT_CMDLINE;

    if (len - 1 > max || len > 0x10000)
        return err_set(errp, "the kernel command line has %zu bytes, this kernel takes %zu", len - 1, max);
    put_le32(hdr + HDR_CMD_LINE, CMDLINE_ADDR);
    put_le16(hdr + HDR_VID_MODE, video_mode(text));
    boot_set_blob(p, FW_CFG_CMDLINE_ADDR, CMDLINE_ADDR, (uint8_t *)xstrdup(text), len);
    return true;
}

static bool check_linux(struct pc *p, const uint8_t *image, size_t len, size_t *setup, struct err **errp)
{
    unsigned sects = image[HDR_SETUP_SECTS] ? image[HDR_SETUP_SECTS] : DFLT_SETUP_SECTS;

    *setup = (sects + 1) * 512;
    if (get_le16(image + HDR_VERSION) < 0x202 || !(image[HDR_LOADFLAGS] & LOADED_HIGH))
        return err_set(errp, "kernel '%s' speaks boot protocol %u.%02u; 2.02 (bzImage) is the oldest supported",
                       p->cfg->kernel, image[HDR_VERSION + 1], image[HDR_VERSION]);
    if (*setup >= len)
        return err_set(errp, "kernel '%s' is shorter than its header says", p->cfg->kernel);
    return true;
}

static bool boot_linux(struct pc *p, const uint8_t *image, size_t len, struct err **errp)
{
    uint8_t *setup, *rest;
    size_t setup_len;

    if (!check_linux(p, image, len, &setup_len, errp))
        return false;
    if (KERNEL_ADDR + (len - setup_len) > boot_ram_end(p)) {
        err_set(errp, "kernel '%s' does not fit into %" PRIu64 " MiB of memory", p->cfg->kernel, p->below_4g >> 20);
        err_hint(errp, "Give the guest more memory with -m.");
        return false;
    }
    setup = xmalloc(max_u64(setup_len, HDR_LEN));
    memcpy(setup, image, setup_len);
    setup[HDR_LOADER] = LOADER_ID;
    setup[HDR_LOADFLAGS] |= CAN_USE_HEAP;
    put_le16(setup + HDR_HEAP_END, CMDLINE_ADDR - REAL_ADDR - 0x200);
    if (!set_cmdline(p, setup, errp) || !place_initrd(p, setup, KERNEL_ADDR + (len - setup_len), errp)) {
        free(setup);
        return false;
    }
    rest = try_alloc(1, len - setup_len);
    if (!rest) {
        free(setup);
        return err_set(errp, "no memory for kernel '%s'", p->cfg->kernel);
    }
    memcpy(rest, image + setup_len, len - setup_len);
    boot_set_blob(p, FW_CFG_SETUP_ADDR, REAL_ADDR, setup, setup_len);
    boot_set_blob(p, FW_CFG_KERNEL_ADDR, KERNEL_ADDR, rest, len - setup_len);
    return boot_add_rom(p, "linuxboot.bin", rom_linuxboot, rom_linuxboot_len, errp);
}

/* ---- entry ---- */

static bool is_linux(const uint8_t *image, size_t len)
{
    return len > HDR_LEN && get_le32(image + HDR_MAGIC) == HDRS;
}

static bool not_a_kernel(struct pc *p, const uint8_t *image, size_t len, struct err **errp)
{
    err_set(errp, "'%s' is not a kernel this machine can start", p->cfg->kernel);
    if (len > 2 && image[0] == 0x1f && image[1] == 0x8b)
        err_hint(errp, "It is compressed with gzip: unpack it first.");
    else
        err_hint(errp, "Kernels are Linux bzImage files, ELF files with a PVH note, and multiboot images.");
    return false;
}

static bool boot_any(struct pc *p, uint8_t *image, size_t len, struct err **errp)
{
    bool taken = false;

    if (is_linux(image, len))
        return boot_linux(p, image, len, errp);
    if (!boot_multiboot(p, image, len, &taken, errp))
        return false;
    if (taken)
        return true;
    return boot_is_elf(image, len) ? boot_pvh(p, image, len, errp) : not_a_kernel(p, image, len, errp);
}

static bool add_shim(struct pc *p, struct err **errp)
{
    uint8_t AUTOFREE *data = NULL;
    size_t len;

    if (!p->cfg->shim)
        return true;
    data = pc_read_file(p->cfg->shim, "EFI shim", MAX_KERNEL, &len, errp);
    return data && fw_cfg_add_file(p->fw, "etc/boot/shim", data, len, errp);
}

bool pc_setup_kernel(struct pc *p, struct err **errp)
{
    struct board_cfg *c = p->cfg;
    uint8_t AUTOFREE *image = NULL;
    size_t len;

    if (!c->kernel && (c->initrd || c->append || c->shim))
        return err_set(errp, "%s needs -kernel", c->append ? "-append" : c->initrd ? "-initrd" : "-shim");
    if (c->dtb)
        return err_set(errp, "-dtb: a PC has no device tree");
    if (!c->kernel)
        return true;
    if (p->kind == PC_ISA && p->below_4g < 8 * MIB)
        return err_set(errp, "-kernel needs at least 8 MiB of memory");
    image = pc_read_file(c->kernel, "kernel", MAX_KERNEL, &len, errp);
    return image && boot_any(p, image, len, errp) && add_shim(p, errp);
}
