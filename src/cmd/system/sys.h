/* The system emulator program: what its files share. One instance (g_sys) per process.
 *
 * Options are collected from the command line and -readconfig files as items in order, then carried out by stage, so
 * that a device may name a back end written after it. Each option is one row of the table in options.c. */
#ifndef CMD_SYSTEM_SYS_H
#define CMD_SYSTEM_SYS_H

#include "accel/accel.h"
#include "aud/aud.h"
#include "base/str.h"
#include "board/board.h"
#include "mon/mon.h"
#include "mon/qtest.h"
#include "ui/ui.h"

/* Carried out in this order; within a stage in the order written. */
enum stage {
    ST_NOW,     /* while the command line is read: -h, -version, -readconfig */
    ST_EARLY,   /* settings of the program itself: log, paths, display, -nodefaults */
    ST_MACHINE, /* -machine and what fills board_cfg */
    ST_OBJECT,  /* objects without back ends of other kinds */
    ST_CHARDEV,
    ST_BLOCK,
    ST_DRIVE,
    ST_NETDEV,
    ST_NIC,
    ST_OBJECT2, /* objects that name a chardev, netdev or drive */
    ST_SERIAL,  /* -serial, -parallel, -debugcon */
    ST_DEVICE,  /* after the board stands */
    ST_MONITOR,
    ST_LAST,
    ST_NR
};
enum opt_group { G_MACHINE, G_CPU, G_ACCEL, G_DEVICE, G_BLOCK, G_NET, G_CHAR, G_DISPLAY, G_BOOT, G_DEBUG, G_NR };

struct sys;
struct option;
typedef bool opt_fn(struct sys *s, const struct option *o, const char *val, struct err **errp);
typedef void opt_help_fn(struct sys *s, const char *what /* "X" of X,help; NULL = the list */);

struct option {
    const char *name;
    const char *alias; /* second spelling or NULL */
    const char *arg;   /* how help shows the value; NULL = takes none */
    enum opt_group group;
    enum stage stage;
    opt_fn *fn;             /* NULL: not built into this program */
    opt_help_fn *help_list; /* for `help` and `X,help`; NULL = arg and text */
    const char *help;
};

struct item {
    const struct option *o;
    char *val; /* owned, NULL without value */
    bool done;
};

/* A -drive in the making: its place is settled after all were read. */
struct sys {
    const char *prog; /* base name of argv[0] */
    const char *arch; /* "x86_64" or "i386" */
    bool is_microvm, is_spice;
    struct item *items;
    unsigned nr_items;

    struct run *run;
    struct machine *m;
    struct chr_set *chrs;
    struct net_set *nets;
    struct aud_set *auds;
    struct blk_set *blks;
    struct mon_set *mons;
    struct state_move *move;
    struct qtest *qtest;

    const struct board_class *board;
    struct board_cfg cfg;
    struct strbuf machine_text; /* merged -machine values */
    char *accels[16];           /* -accel values in order, owned */
    unsigned nr_accels;
    bool accel_asked, accel_kvm_flag;
    struct opts *icount; /* owned; NULL: not given */
    struct opts *tcg;    /* what options of their own say to the translator, owned */
    char *accel_line;    /* which accelerator and why, owned */

    struct drive_cfg drives[512];
    struct nic_cfg nics[32];
    struct chr *mon_mux; /* a mon:... serial port: a monitor joins it */
    unsigned nr_serial_opts, nr_parallel_opts, nr_debugcon, nr_monitor_opts;
    struct opts *smbios[128], *fw_cfg[128], *acpi[64];
    const char *fw_dirs[32];
    unsigned nr_fw_dirs;

    bool default_serial, default_parallel, default_monitor, default_cdrom, default_floppy, default_net, default_vga;
    bool display_set, start_paused, daemonize, snapshot, no_user_config, usb;
    const char *pidfile, *runas, *chroot, *name, *process_name, *qtest_chr, *qtest_log, *keyboard, *loadvm, *incoming;
    bool pidfile_ours;
    int action_watchdog; /* index in on_action's list; watchdog devices read it once they exist */
    uint64_t run_uid, run_gid;
    unsigned net_clients; /* legacy -net entries */
    int ready_fd;         /* to the waiting parent of -daemonize, -1 = none */
    bool running_down;
};
extern struct sys g_sys;

/* options.c */
extern const struct option sys_options[];
const struct option *option_find(const char *name);
bool options_collect(struct sys *s, int argc, char **argv, struct err **errp);
bool options_add(struct sys *s, const struct option *o, const char *val, struct err **errp);
bool options_run(struct sys *s, enum stage st, struct err **errp);
bool options_given(const struct sys *s, const char *name);
void options_print_help(const struct sys *s);
NORETURN void sys_exit(int code); /* main.c: restores the terminal, removes sockets and pid file, then exit() */

/* Handlers by file; each follows opt_fn. */
#define H(n) bool n(struct sys *s, const struct option *o, const char *val, struct err **errp)
/* conf.c: the machine's measures */
H(on_machine);
H(on_tcg);
H(on_icount);
H(on_memory);
H(on_smp);
H(on_cpu);
H(on_boot);
H(on_rtc);
H(on_name);
H(on_uuid);
H(on_string);
H(on_flag);
H(on_smbios);
H(on_fw_cfg);
H(on_acpitable);
H(on_numa);
H(on_kernel_file);
H(on_fw_dir);
H(on_action);
H(on_global);
H(on_set);
H(on_machine_flag);
H(on_accel);
H(on_enable_kvm);
H(on_overcommit);
H(on_seed);
H(on_compat);
/* back.c: back ends */
H(on_object);
H(on_object2);
H(on_chardev);
H(on_blockdev);
H(on_drive);
H(on_disk);
H(on_pflash);
H(on_audio);
H(on_audiodev);
H(on_netdev);
H(on_nic);
H(on_net);
H(on_serial);
H(on_parallel);
H(on_debugcon);
H(on_monitor);
H(on_mon);
H(on_qtest);
H(on_usbdevice);
/* front.c: devices, display, log and the rest */
H(on_device);
H(on_display);
H(on_nographic);
H(on_vga);
H(on_log);
H(on_logfile);
H(on_help);
H(on_version);
H(on_readconfig);
H(on_ignored);
H(on_refused);
H(on_run_with);
H(on_runas);
H(on_nodefaults);
H(on_vnc);
#undef H
#define L(n) void n(struct sys *s, const char *what)
L(help_machine);
L(help_device);
L(help_object);
L(help_chardev);
L(help_audio);
L(help_audiodev);
L(help_netdev);
L(help_cpu);
L(help_accel);
L(help_display);
L(help_log);
L(help_vga);
L(help_nic);
L(help_fw_dir);
#undef L

void finish_fw_dirs(struct sys *s);                     /* -L first, then the standard places */
bool conf_finish(struct sys *s, struct err **errp);     /* after ST_MACHINE: board chosen, sizes settled */
bool accel_start(struct sys *s, struct err **errp);     /* chooses and initialises */
bool back_finish(struct sys *s, struct err **errp);     /* default chardevs, drives, NICs into cfg */
bool monitors_finish(struct sys *s, struct err **errp); /* the default monitor */
bool devices_create(struct sys *s, struct err **errp);
void display_default(struct sys *s);
void devices_scan(struct sys *s); /* which -device switch off which defaults */
bool file_readable(const char *path, const char *what, struct err **errp);

/* proc.c */
bool proc_daemonize(struct sys *s, struct err **errp); /* forks; the parent waits and exits */
void proc_ready(struct sys *s);                        /* lets the parent go */
bool proc_pidfile(struct sys *s, struct err **errp);
bool proc_drop(struct sys *s, struct err **errp); /* -runas, -chroot */
bool proc_parse_user(struct sys *s, const char *text, struct err **errp);
void proc_signals(struct sys *s);

#endif
