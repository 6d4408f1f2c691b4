/* Boards: named machines that wire devices, memory and CPUs together. cmd/system fills a board_cfg from the command
 * line and calls create; nothing else above this room knows a device by its struct. */
#ifndef BOARD_BOARD_H
#define BOARD_BOARD_H

#include "base/opts.h"
#include "blk/blk.h"
#include "chr/chr.h"
#include "cpu/cpu.h"
#include "net/net.h"

enum drive_if { IF_DEFAULT, IF_NONE, IF_IDE, IF_SCSI, IF_FLOPPY, IF_PFLASH, IF_MTD, IF_SD, IF_VIRTIO, IF_SATA };
struct drive_cfg { /* a -drive (or -hda, -cdrom ...) with its place */
    enum drive_if iface;
    int bus, unit, index; /* -1 = not given; the board assigns */
    bool cdrom;
    struct blk *blk; /* attached by the board's device */
    const char *id;
    struct opts *opts; /* left-over device properties: serial, ... */
    bool used;         /* set by the board; others are reported as not connectable */
};
struct nic_cfg {              /* -nic / -net nic */
    const char *model;        /* NULL = board default */
    const char *id;           /* device id, may be NULL */
    struct net_peer *backend; /* may be NULL */
    struct mac mac;           /* zero = assign */
    bool used;
};
struct numa_cfg {
    unsigned nodes;
    struct {
        uint64_t mem;
        struct obj *memdev;
        char *cpus;
    } node[128];
};
struct board_class;
struct board_cfg {
    const struct board_class *board; /* whose create is called: versions share one function */
    const char *cpu_model;           /* NULL = board default; the whole -cpu text */
    struct {
        unsigned cpus, sockets, dies, cores, threads, maxcpus;
    } smp; /* complete and consistent */
    uint64_t ram_size, maxram_size;
    unsigned ram_slots;
    const char *mem_path; /* -mem-path */
    bool mem_prealloc;
    struct obj *memdev; /* -machine memory-backend= / single numa memdev; NULL = allocate */
    struct numa_cfg numa;
    const char *kernel, *initrd, *append, *dtb, *shim;
    const char *bios;           /* -bios; NULL = board default */
    const char *const *fw_dirs; /* where firmware and option ROMs are searched, NULL-terminated: -L first */
    struct {
        const char *order, *once;
        bool menu, menu_set, strict;
        int splash_time, reboot_timeout;
        const char *splash;
    } boot;
    struct blk *pflash[2]; /* -machine pflash0=, pflash1= */
    struct drive_cfg *drives;
    unsigned nr_drives;
    struct nic_cfg *nics;
    unsigned nr_nics;
    bool default_net; /* no network option was given */
    struct chr *serial[8], *parallel[4], *debugcon;
    unsigned nr_serial, nr_parallel;
    const char *vga; /* "std", "none", ...; NULL = board default; set to "none" when -device replaces it */
    bool nographic, nodefaults, usb;
    bool default_cdrom, default_floppy, default_serial, default_monitor;
    struct {
        int base; /* 0 utc, 1 localtime, 2 offset */
        int64_t offset;
        bool driftfix_slew;
    } rtc;
    struct opts **smbios, **fw_cfg_items, **acpi_tables; /* raw option lists in order, NULL-terminated */
    struct opts *machine_opts;                           /* all of -machine except type= and accel= */
    uint8_t uuid[16];
    bool uuid_set;
};
struct board_class {
    struct obj_class;    /* name is machine + "-machine"; props: what -machine NAME,help lists and takes */
    const char *machine; /* what -machine takes and -machine help lists: "pc-i440fx-7.2" */
    const char *alias;   /* e.g. "pc" for "pc-i440fx-..." */
    bool is_default;
    const char *arch; /* "x86_64"; also offered to its 32-bit name */
    const char *default_cpu, *default_nic, *default_display;
    unsigned max_cpus;
    uint64_t default_ram;
    enum drive_if default_if;
    unsigned ide_units; /* disks per IDE or SATA bus when -drive index=N is placed; 0 = 2 */
    bool no_cdrom, no_floppy, no_serial, no_vga;
    const char *deprecated;
    /* Builds everything, vCPUs too (finish starts their threads, paused); -device devices come after. cfg is
     * borrowed until finish has returned. */
    bool (*create)(struct machine *m, struct board_cfg *cfg, struct err **errp);
    /* All -device devices exist: ACPI tables, boot order, kernel. */
    bool (*finish)(struct machine *m, struct board_cfg *cfg, struct err **errp);
    /* A vCPU by number for hot-plug, its thread running; may be NULL. */
    bool (*cpu_plug)(struct machine *m, unsigned index, struct err **errp);
};
#define BOARD_REGISTER(cls_) OBJ_REGISTER_AS(cls_, board)
const struct board_class *board_find(const char *arch, const char *name);
const struct board_class *board_next(const char *arch, const struct board_class *prev);
const struct board_class *board_default(const char *arch);
/* Finds a firmware or ROM file in cfg->fw_dirs; absolute or existing paths are taken as they are. Caller frees, NULL =
 * absent. */
char *board_find_file(const struct board_cfg *cfg, const char *name);

#endif
