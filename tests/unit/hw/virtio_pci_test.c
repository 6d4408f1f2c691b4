/* The PCI transport and the devices behind it, driven as a guest would drive them. */
#include "unit.h"

#include "hw/vio_guest.h"
#include <fcntl.h>
#include <unistd.h>

/* proves: F-VIO-04, S269 */
static void the_entropy_device_gives_bytes_through_the_modern_interface(void **state)
{
    struct bare *b = bare_new();
    struct pci_dev *d = bare_device(b, "virtio-rng-pci,id=r");
    struct vio v;
    struct vio_part p = {.len = 64};
    unsigned same = 0;

    bare_start(b);
    assert_int_equal(pci_cfg_read(b->bus, 0, d->devfn, PCI_VENDOR_ID, 4), 0x10051af4);
    vio_start(&v, b, d, 0);
    assert_int_equal(vio_do(&v, 0, &p, 1), 64);
    for (unsigned i = 0; i < 64; i++)
        same += b->mem[p.at + i] == 0xee;
    assert_true(same < 16);
    assert_int_equal(b->irq, 1);
    assert_int_equal(vio_ld(&v, v.isr, 1), 1);
    assert_int_equal(b->irq, 0); /* reading ISR acknowledges */
    bare_free(b);
}

static void max_bytes_bounds_a_period(void **state)
{
    struct bare *b = bare_new();
    struct pci_dev *d = bare_device(b, "virtio-rng-pci,max-bytes=16,period=1000000");
    struct vio v;
    struct vio_part p = {.len = 64};

    bare_start(b);
    vio_start(&v, b, d, 0);
    assert_int_equal(vio_do(&v, 0, &p, 1), 16);
    vio_post(&v, 0, &p, 1);
    bare_turns(b, 20);
    assert_int_equal(get_le16(b->mem + v.q[0].used + 2), 1);
    bare_free(b);
}

/* proves: F-VIO-12, F-VIO-13, S132, S268 */
static void names_choose_the_interfaces(void **state)
{
    struct bare *b = bare_new();
    struct pci_dev *d;

    d = bare_device(b, "virtio-rng");
    assert_string_equal(d->dev.obj.cls->name, "virtio-rng-pci");
    assert_non_null(d->bar[0]);
    assert_non_null(d->bar[4]);
    d = bare_device(b, "virtio-rng-pci-non-transitional");
    assert_null(d->bar[0]);
    assert_int_equal(get_le16(d->config + PCI_DEVICE_ID), 0x1044);
    assert_int_equal(d->config[PCI_REVISION_ID], 1);
    d = bare_device(b, "virtio-rng-pci,disable-modern=on");
    assert_null(d->bar[4]);
    d = bare_device(b, "virtio-rng-pci,disable-legacy=on,vectors=0");
    assert_null(d->bar[0]);
    assert_null(d->bar[1]);
    bare_refuses(b, "virtio-rng-pci,disable-modern=on,disable-legacy=on", "both interfaces");
    bare_refuses(b, "virtio-rng-pci,iommu_platform=on", "IOMMU");
    bare_refuses(b, "virtio-rng-pci,packed=on,disable-modern=on", "packed");
    bare_free(b);
}

static void features_without_version_1_are_refused(void **state)
{
    struct bare *b = bare_new();
    struct pci_dev *d = bare_device(b, "virtio-rng-pci");
    struct vio v;

    bare_start(b);
    vio_start(&v, b, d, 0);
    vio_st(&v, v.common + 20, 1, 0);
    assert_int_equal(vio_ld(&v, v.common + 20, 1), 0);
    vio_st(&v, v.common + 20, 1, 3);
    vio_st(&v, v.common + 20, 1, 11);
    assert_int_equal(vio_ld(&v, v.common + 20, 1), 3);
    bare_free(b);
}

static void the_window_in_configuration_space_reaches_the_registers(void **state)
{
    struct bare *b = bare_new();
    struct pci_dev *d = bare_device(b, "virtio-rng-pci");
    unsigned cap;

    bare_start(b);
    bare_map(d, 4, BARE_MMIO);
    for (cap = d->config[PCI_CAPABILITY_LIST]; cap; cap = d->config[cap + 1])
        if (d->config[cap] == PCI_CAP_VENDOR && d->config[cap + 3] == 5)
            break;
    assert_int_not_equal(cap, 0);
    pci_cfg_write(b->bus, 0, d->devfn, cap + 4, 4, 1);  /* BAR 4 */
    pci_cfg_write(b->bus, 0, d->devfn, cap + 8, 20, 4); /* device_status */
    pci_cfg_write(b->bus, 0, d->devfn, cap + 12, 1, 4);
    pci_cfg_write(b->bus, 0, d->devfn, cap + 16, 1, 1);
    assert_int_equal(mem_ld(b->m->mem, BARE_MMIO + 20, 1), 1);
    assert_int_equal(pci_cfg_read(b->bus, 0, d->devfn, cap + 16, 1), 1);
    pci_cfg_write(b->bus, 0, d->devfn, cap + 8, 0xfffffff0, 4); /* outside: nothing happens */
    assert_int_equal(pci_cfg_read(b->bus, 0, d->devfn, cap + 16, 1), 1);
    bare_free(b);
}

static struct bare *with_disk(char *path, const char *more)
{
    struct bare *b = bare_new();
    struct err *e = NULL;
    char text[256];
    int fd;

    strcpy(path, "/tmp/vblk-XXXXXX");
    fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    assert_int_equal(pwrite(fd, "first sector", 12, 512), 12);
    close(fd);
    snprintf(text, sizeof text, "file=%s,format=raw%s", path, more);
    struct opts *o = opts_parse(text, NULL, NULL);
    if (!blk_drive_add(b->blk, "d0", o, &e))
        fail_msg("%s", e->msg);
    opts_free(o);
    return b;
}

static uint8_t blk_req(struct vio *v, uint32_t type, uint64_t sector, const void *out, uint32_t n, gpa_t *data)
{
    uint8_t hdr[16] = {0};
    struct vio_part p[3] = {{.out = hdr, .len = 16}, {.out = out, .len = n}, {.len = 1}};

    put_le32(hdr, type);
    put_le64(hdr + 8, sector);
    if (!n)
        p[1] = p[2];
    if (vio_do(v, 0, p, n ? 3 : 2) < 0)
        return 0xff;
    if (data)
        *data = p[1].at;
    return v->b->mem[p[n ? 2 : 1].at];
}

/* proves: F-VIO-01, S083, S268 */
static void a_disk_is_read_and_written(void **state)
{
    char path[32], back[512] = "", sector[512] = "written by the guest";
    struct bare *b = with_disk(path, "");
    struct pci_dev *d = bare_device(b, "virtio-blk-pci,drive=d0,serial=SERIAL-1");
    uint8_t range[16] = {0};
    struct vio v;
    gpa_t at;

    bare_start(b);
    vio_start(&v, b, d, VIRTIO_BIT(9) | VIRTIO_BIT(13) | VIRTIO_BIT(14));
    assert_int_equal(vio_ld(&v, v.device, 8), 2048);
    assert_int_equal(blk_req(&v, 0, 1, NULL, 512, &at), 0);
    assert_string_equal((char *)b->mem + at, "first sector");
    assert_int_equal(blk_req(&v, 1, 7, sector, 512, NULL), 0);
    assert_int_equal(blk_req(&v, 4, 0, NULL, 0, NULL), 0);
    int fd = open(path, O_RDONLY);
    assert_int_equal(pread(fd, back, 512, 7 * 512), 512);
    assert_string_equal(back, sector);
    assert_int_equal(blk_req(&v, 8, 0, NULL, 20, &at), 0);
    assert_string_equal((char *)b->mem + at, "SERIAL-1");
    assert_int_equal(blk_req(&v, 0, 2048, NULL, 512, NULL), 1); /* behind the end */
    assert_int_equal(blk_req(&v, 0, UINT64_MAX / 512, NULL, 512, NULL), 1);
    assert_int_equal(blk_req(&v, 0, 0, NULL, 100, NULL), 1); /* no whole sectors */
    assert_int_equal(blk_req(&v, 99, 0, NULL, 0, NULL), 2);  /* unsupported */
    put_le64(range, 7);
    put_le32(range + 8, 1);
    assert_int_equal(blk_req(&v, 13, 0, range, 16, NULL), 0);
    assert_int_equal(pread(fd, back, 512, 7 * 512), 512);
    assert_int_equal(back[0], 0);
    put_le32(range + 8, 0xffffffff);
    assert_int_equal(blk_req(&v, 13, 0, range, 16, NULL), 1);
    close(fd);
    unlink(path);
    bare_free(b);
}

static void a_read_only_disk_refuses_writes(void **state)
{
    char path[32], sector[512] = "x";
    struct bare *b = with_disk(path, ",readonly=on");
    struct pci_dev *d = bare_device(b, "virtio-blk-pci,drive=d0");
    struct vio v;

    bare_start(b);
    vio_start(&v, b, d, 0);
    assert_true(vio_features(&v) & VIRTIO_BIT(5));
    assert_int_equal(blk_req(&v, 1, 0, sector, 512, NULL), 1);
    unlink(path);
    bare_free(b);
}

/* proves: F-STO-03 */
static void secure_erase_is_refused_and_harms_nothing(void **state)
{
    char path[32];
    struct bare *b = with_disk(path, "");
    struct pci_dev *d = bare_device(b, "virtio-blk-pci,drive=d0,num-queues=4");
    uint8_t range[16] = {1, [8] = 1}; /* one sector from sector 1 */
    struct vio v;
    gpa_t at;

    bare_start(b);
    vio_start(&v, b, d, VIRTIO_BIT(12) | VIRTIO_BIT(13) | VIRTIO_BIT(14) | VIRTIO_BIT(16));
    assert_false(vio_features(&v) & VIRTIO_BIT(16)); /* VIRTIO_BLK_F_SECURE_ERASE */
    assert_true(vio_features(&v) & VIRTIO_BIT(12));
    assert_int_equal(vio_ld(&v, v.device + 34, 2), 4);        /* num_queues */
    assert_int_equal(blk_req(&v, 14, 0, range, 16, NULL), 2); /* unsupported */
    assert_int_equal(blk_req(&v, 0, 1, NULL, 512, &at), 0);
    assert_string_equal((char *)b->mem + at, "first sector");
    unlink(path);
    bare_free(b);
}

static void a_request_without_status_byte_breaks_the_device_only(void **state)
{
    char path[32];
    struct bare *b = with_disk(path, "");
    struct pci_dev *d = bare_device(b, "virtio-blk-pci,drive=d0");
    uint8_t hdr[16] = {0};
    struct vio_part p = {.out = hdr, .len = 16};
    struct vio v;

    bare_start(b);
    vio_start(&v, b, d, 0);
    vio_post(&v, 0, &p, 1);
    bare_turns(b, 5);
    assert_int_equal(vio_ld(&v, v.common + 20, 1) & 0x40, 0x40);
    vio_start(&v, b, d, 0);
    assert_int_equal(blk_req(&v, 0, 0, NULL, 512, NULL), 0);
    unlink(path);
    bare_free(b);
}

/* The 0.9.5 way: one I/O BAR, page frame numbers, no FEATURES_OK. proves: F-VIO-13 */
static void the_legacy_interface_reads_a_disk(void **state)
{
    char path[32];
    struct bare *b = with_disk(path, "");
    struct pci_dev *d = bare_device(b, "virtio-blk-pci-transitional,drive=d0");
    const unsigned io = 0xc000;
    uint8_t *desc, *avail, *used;
    unsigned num;

    bare_start(b);
    bare_map(d, 0, io);
    mem_store(b->m->io, io + 18, 1, 0);
    mem_store(b->m->io, io + 18, 1, 3);
    assert_int_equal(mem_ld(b->m->io, io + 20, 4), 2048); /* capacity */
    mem_store(b->m->io, io + 4, 4, 0);
    mem_store(b->m->io, io + 14, 2, 0);
    num = mem_ld(b->m->io, io + 12, 2);
    assert_int_equal(num, 256);
    mem_store(b->m->io, io + 8, 4, 0x10);
    desc = b->mem + 0x10000;
    avail = desc + 16 * num;
    used = b->mem + align_up(0x10000 + 16 * num + 6 + 2 * num, 4096);
    memset(b->mem + 0x20000, 0, 16);
    put_le64(b->mem + 0x20008, 1);
    for (unsigned i = 0; i < 3; i++) {
        put_le64(desc + 16 * i, 0x20000 + 0x1000 * i);
        put_le32(desc + 16 * i + 8, i == 0 ? 16 : i == 1 ? 512 : 1);
        put_le16(desc + 16 * i + 12, (i < 2 ? 1 : 0) | (i ? 2 : 0));
        put_le16(desc + 16 * i + 14, i + 1);
    }
    put_le16(avail + 4, 0);
    put_le16(avail + 2, 1);
    mem_store(b->m->io, io + 18, 1, 7);
    mem_store(b->m->io, io + 16, 2, 0);
    assert_true(bare_wait16(b, used - b->mem + 2, 0));
    assert_string_equal((char *)b->mem + 0x21000, "first sector");
    assert_int_equal(b->mem[0x22000], 0);
    assert_int_equal(mem_ld(b->m->io, io + 19, 1), 1);
    unlink(path);
    bare_free(b);
}

struct far_end {
    unsigned frames;
    uint8_t last[2048];
    size_t len;
};
static size_t far_receive(void *opaque, const struct iov *f)
{
    struct far_end *s = opaque;

    s->frames++;
    s->len = iov_to_buf(f, 0, s->last, sizeof s->last);
    return f->len;
}
static const struct net_ops far_ops = {.type = "far", .receive = far_receive};

/* proves: F-VIO-03, F-NET-23, S132 */
static void frames_go_out_and_come_in_over_several_buffers(void **state)
{
    struct bare *b = bare_new();
    struct far_end fe = {0};
    struct net_peer *far = net_peer_new(b->net, "n0", &far_ops, &fe);
    struct pci_dev *d = bare_device(b, "virtio-net-pci,netdev=n0,mac=52:54:00:aa:bb:cc");
    uint8_t frame[1000], hdr[12] = {0}, in[1000];
    struct vio v;
    struct vio_part tx[2] = {{.out = hdr, .len = 12}, {.out = frame, .len = sizeof frame}},
                    rx[3] = {{.len = 400}, {.len = 400}, {.len = 400}};

    bare_start(b);
    vio_start(&v, b, d,
              VIRTIO_BIT(15) | VIRTIO_BIT(5) | VIRTIO_BIT(16) | VIRTIO_BIT(17) | VIRTIO_BIT(18) | VIRTIO_BIT(23));
    assert_int_equal(vio_ld(&v, v.device, 4), 0xaa005452);
    for (unsigned i = 0; i < sizeof frame; i++)
        frame[i] = i * 7;
    assert_int_equal(vio_do(&v, 1, tx, 2), 0);
    assert_int_equal(fe.frames, 1);
    assert_int_equal(fe.len, sizeof frame);
    assert_memory_equal(fe.last, frame, sizeof frame);
    /* Nothing is lost while the guest has no buffers. */
    memcpy(frame, "\x52\x54\x00\xaa\xbb\xcc", 6);
    net_send_buf(far, frame, sizeof frame);
    for (unsigned i = 0; i < 3; i++)
        vio_post(&v, 0, &rx[i], 1);
    assert_int_equal(vio_used(&v, 0), 400);
    assert_int_equal(vio_used(&v, 0), 400);
    assert_int_equal(vio_used(&v, 0), 212);
    assert_int_equal(get_le16(b->mem + rx[0].at + 10), 3); /* num_buffers */
    memcpy(in, b->mem + rx[0].at + 12, 388);
    memcpy(in + 388, b->mem + rx[1].at, 400);
    memcpy(in + 788, b->mem + rx[2].at, 212);
    assert_memory_equal(in, frame, sizeof frame);
    bare_free(b);
}

static void the_guests_filter_is_obeyed(void **state)
{
    struct bare *b = bare_new();
    struct far_end fe = {0};
    struct net_peer *far = net_peer_new(b->net, "n0", &far_ops, &fe);
    struct pci_dev *d = bare_device(b, "virtio-net-pci,netdev=n0");
    uint8_t off = 0, cmd[2] = {0, 0}, table[2 + 4 + 4 + 6] = {1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0x33, 0x33, 0, 0, 0, 1},
            frame[60] = {0};
    struct vio_part c[3] = {{.out = cmd, .len = 2}, {.out = &off, .len = 1}, {.len = 1}}, rx = {.len = 200};
    struct vio v;

    bare_start(b);
    vio_start(&v, b, d, VIRTIO_BIT(15) | VIRTIO_BIT(17) | VIRTIO_BIT(18));
    assert_int_equal(vio_do(&v, 2, c, 3), 1); /* promiscuous off */
    assert_int_equal(b->mem[c[2].at], 0);
    struct vio_part t[2] = {{.out = table, .len = sizeof table}, {.len = 1}};
    assert_int_equal(vio_do(&v, 2, t, 2), 1);
    assert_int_equal(b->mem[t[1].at], 0);
    vio_post(&v, 0, &rx, 1);
    memcpy(frame, "\x52\x54\x00\x99\x99\x99", 6);
    net_send_buf(far, frame, sizeof frame);
    memcpy(frame, "\x33\x33\x00\x00\x00\x02", 6);
    net_send_buf(far, frame, sizeof frame);
    bare_turns(b, 3);
    assert_int_equal(get_le16(b->mem + v.q[0].used + 2), 0);
    memcpy(frame, "\x33\x33\x00\x00\x00\x01", 6);
    net_send_buf(far, frame, sizeof frame);
    assert_int_equal(vio_used(&v, 0), 72);
    put_le32(table + 2, 0x10000000); /* a table longer than the command */
    assert_int_equal(vio_do(&v, 2, t, 2), 1);
    assert_int_equal(b->mem[t[1].at], 1);
    bare_free(b);
}

/* proves: F-VIO-06, S218 */
static void a_serial_port_is_announced_and_carries_bytes(void **state)
{
    struct bare *b = bare_new();
    struct opts *o = opts_parse("ringbuf,id=c0,size=64", "backend", NULL);
    struct err *e = NULL;
    uint8_t msg[8] = {0};
    struct vio v;
    struct vio_part ctl[6], m = {.out = msg, .len = 8}, data = {.out = "to the host", .len = 11};

    if (!chr_create(b->chr, o, &e))
        fail_msg("%s", e->msg);
    opts_free(o);
    struct pci_dev *d = bare_device(b, "virtio-serial-pci,id=vs");
    struct opts *po = opts_parse("virtserialport,chardev=c0,name=org.test.0", "driver", NULL);
    if (!dev_create(b->m, po, &e))
        fail_msg("%s", e->msg);
    opts_free(po);
    bare_start(b);
    vio_start(&v, b, d, VIRTIO_BIT(1));
    for (unsigned i = 0; i < 6; i++) {
        ctl[i] = (struct vio_part){.len = 64};
        vio_post(&v, 2, &ctl[i], 1);
    }
    put_le16(msg + 6, 1); /* DEVICE_READY */
    assert_int_equal(vio_do(&v, 3, &m, 1), 0);
    assert_int_equal(vio_used(&v, 2), 8);
    assert_int_equal(get_le32(b->mem + ctl[0].at), 1);     /* port 1 */
    assert_int_equal(get_le16(b->mem + ctl[0].at + 4), 1); /* DEVICE_ADD */
    put_le32(msg, 1);
    put_le16(msg + 4, 3); /* PORT_READY */
    assert_int_equal(vio_do(&v, 3, &m, 1), 0);
    assert_int_equal(vio_used(&v, 2), 8 + 11);
    assert_int_equal(get_le16(b->mem + ctl[1].at + 4), 7); /* PORT_NAME */
    assert_string_equal((char *)b->mem + ctl[1].at + 8, "org.test.0");
    put_le16(msg + 4, 6); /* PORT_OPEN */
    assert_int_equal(vio_do(&v, 3, &m, 1), 0);
    assert_int_equal(vio_do(&v, 5, &data, 1), 0);
    bare_free(b);
}

/* proves: F-VIO-05, S274 */
static void pages_in_the_balloon_are_given_back(void **state)
{
    struct bare *b = bare_new();
    struct pci_dev *d = bare_device(b, "virtio-balloon-pci,id=bal");
    uint8_t pfns[8];
    struct vio v;
    struct vio_part p = {.out = pfns, .len = 8};

    bare_refuses(b, "virtio-balloon-pci", "already");
    bare_start(b);
    vio_start(&v, b, d, 0);
    memset(b->mem + 0x200000, 0x55, 8192);
    put_le32(pfns, 0x200);
    put_le32(pfns + 4, 0xffffffff); /* no memory there: logged, no more */
    assert_int_equal(vio_do(&v, 0, &p, 1), 0);
    assert_int_equal(b->mem[0x200000], 0);
    assert_int_equal(b->mem[0x201000], 0x55);
    bare_free(b);
}

UNIT_MAIN(cmocka_unit_test(the_entropy_device_gives_bytes_through_the_modern_interface),
          cmocka_unit_test(max_bytes_bounds_a_period), cmocka_unit_test(names_choose_the_interfaces),
          cmocka_unit_test(features_without_version_1_are_refused),
          cmocka_unit_test(the_window_in_configuration_space_reaches_the_registers),
          cmocka_unit_test(a_disk_is_read_and_written), cmocka_unit_test(a_read_only_disk_refuses_writes),
          cmocka_unit_test(secure_erase_is_refused_and_harms_nothing),
          cmocka_unit_test(a_request_without_status_byte_breaks_the_device_only),
          cmocka_unit_test(the_legacy_interface_reads_a_disk),
          cmocka_unit_test(frames_go_out_and_come_in_over_several_buffers),
          cmocka_unit_test(the_guests_filter_is_obeyed), cmocka_unit_test(a_serial_port_is_announced_and_carries_bytes),
          cmocka_unit_test(pages_in_the_balloon_are_given_back))
