/* The KVM accelerator on small real-mode programs, and its refusals. Skips where /dev/kvm cannot be used.
 * proves: F-ACC-01, F-ACC-09, F-ACC-10, F-ACC-11, F-ACC-12, F-ACC-13, F-ACC-14, S355 */
#include "unit.h"

#include "accel/accel.h"
#include "accel/kvm/kvm.h"
#include "base/bytes.h"
#include "guest/x86/state.h"
#include <stdio.h>
#include <string.h>

enum { RAM = 16 << 20, CODE = 0x7c00, PORT = 0x80, MMIO = 0xd0000 };

struct vm {
    struct machine *m;
    struct x86_cpu *c;
    const struct accel_class *kvm;
    struct mem_region ram, port, mmio;
    uint64_t ports[16], words[16];
    unsigned nr_ports, nr_words;
    int vector;
};

static void port_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct vm *v = opaque;

    v->ports[v->nr_ports++ % 16] = val;
}

static uint64_t port_read(void *opaque, gpa_t off, unsigned size)
{
    return 0x5a;
}

static void mmio_write(void *opaque, gpa_t off, uint64_t val, unsigned size)
{
    struct vm *v = opaque;

    v->words[v->nr_words++ % 16] = val << 16 | off;
}

static uint64_t mmio_read(void *opaque, gpa_t off, unsigned size)
{
    return 0x1234;
}
static const struct mem_ops port_ops = {.read = port_read, .write = port_write},
                            mmio_ops = {.read = mmio_read, .write = mmio_write};

/* The simplest interrupt controller: one vector at a time, on the wire until it is acknowledged. */
static int pic_ack(void *opaque)
{
    struct vm *v = opaque;
    int vec = v->vector;

    v->vector = -1;
    vcpu_lower(&v->c->vcpu, X86_PIN_INTR);
    return vec;
}

static void real_mode_at(struct x86_cpu *c, uint16_t ip)
{
    for (int s = X86_ES; s <= X86_GS; s++)
        c->seg[s] = (struct x86_seg){.limit = 0xffff, .flags = X86_SEG_P | X86_SEG_S | X86_SEG_W | X86_SEG_A};
    c->seg[X86_CS].flags |= X86_SEG_CODE;
    c->rip = ip;
    c->regs[X86_RSP] = 0x7000;
    c->rflags = 2;
    x86_update_mode(c);
}

static struct vm *all[8]; /* machines live to the end of the program */

/* NULL: KVM cannot be used here, and the reason has been printed. */
static struct vm *vm_new(const void *code, size_t n)
{
    struct vm *v = xnew(struct vm);
    struct err *e = NULL;

    v->vector = -1;
    v->kvm = accel_find("kvm");
    assert_non_null(v->kvm);
    if (!v->kvm->probe("x86_64", &e)) {
        print_message("skipped: %s\n", e->msg);
        err_free(e);
        free(v);
        return NULL;
    }
    v->m = machine_new(run_new());
    assert_true(mem_region_init_ram(&v->ram, v->m->mem_sys, "ram", RAM, &e));
    mem_region_add(&v->m->sysmem, 0, &v->ram);
    mem_region_init_io(&v->mmio, v->m->mem_sys, &mmio_ops, v, "mmio", 0x1000);
    mem_region_add_prio(&v->m->sysmem, MMIO, &v->mmio, 1);
    mem_region_init_io(&v->port, v->m->mem_sys, &port_ops, v, "port", 1);
    mem_region_add(&v->m->sysio, PORT, &v->port);
    assert_true(v->kvm->init(v->m, NULL, &e));
    v->c = x86_cpu_new(v->m, &e);
    assert_non_null(v->c);
    if (!v->c->feat.level) /* the board has not parsed a model */
        assert_true(x86_cpu_parse_model("qemu64,check=off", NULL, &v->c->feat, NULL, &e));
    v->c->port.pic = v;
    v->c->port.pic_ack = pic_ack;
    assert_true(v->kvm->vcpu_init(&v->c->vcpu, &e));
    memcpy(v->ram.ram->host + CODE, code, n);
    real_mode_at(v->c, CODE);
    v->c->vcpu.exit_request = false;
    v->c->vcpu.halted = false;
    for (unsigned i = 0; i < ARRAY_LEN(all); i++)
        if (!all[i]) {
            all[i] = v;
            break;
        }
    run_unlock(v->m->run); /* run takes it around device accesses */
    return v;
}
#define NEED_VM(v, code)                                                                                               \
    struct vm *v = vm_new(code, sizeof(code) - 1);                                                                     \
    if (!v) {                                                                                                          \
        skip();                                                                                                        \
        return;                                                                                                        \
    }

static void ports_and_mmio_reach_the_devices(void **state)
{
    /* in al,80h; inc al; out 80h,al; mov ax,d000h; mov ds,ax; mov ax,[4]; mov [8],ax; hlt */
    NEED_VM(v, "\xe4\x80\xfe\xc0\xe6\x80\xb8\x00\xd0\x8e\xd8\xa1\x04\x00\xa3\x08\x00\xf4")

    assert_int_equal(v->c->vcpu.run(&v->c->vcpu), VCPU_EXIT_HALTED);
    assert_int_equal(v->nr_ports, 1);
    assert_int_equal(v->ports[0], 0x5b);
    assert_int_equal(v->nr_words, 1);
    assert_int_equal(v->words[0], 0x12340008);
    assert_int_equal(v->c->rip, CODE + 18); /* registers are back in the struct */
    assert_int_equal(v->c->regs[X86_RAX] & 0xffff, 0x1234);
    assert_int_equal(v->c->seg[X86_DS].base, MMIO);
}

static void a_vector_is_delivered_when_the_guest_opens_the_window(void **state)
{
    /* mov al,77h; sti; nop; hlt; hlt; the handler at 0:600h: out 80h,al; iret */
    NEED_VM(v, "\xb0\x77\xfb\x90\xf4\xf4")

    put_le16(v->ram.ram->host + 0x21 * 4, 0x600);
    memcpy(v->ram.ram->host + 0x600, "\xe6\x80\xcf", 3);
    v->vector = 0x21;
    vcpu_raise(&v->c->vcpu, X86_PIN_INTR);
    v->c->vcpu.exit_request = false;
    assert_int_equal(v->c->vcpu.run(&v->c->vcpu), VCPU_EXIT_HALTED);
    assert_int_equal(v->nr_ports, 1);
    assert_int_equal(v->ports[0], 0x77);
    assert_int_equal(v->vector, -1);
}

static void *kicker(void *arg)
{
    struct vm *v = arg;
    struct timespec ts = {.tv_nsec = 50000000};

    nanosleep(&ts, NULL);
    v->c->vcpu.exit_request = true;
    v->c->vcpu.kick(&v->c->vcpu);
    return NULL;
}

static void a_kick_ends_an_endless_loop(void **state)
{
    pthread_t t;
    NEED_VM(v, "\xeb\xfe")

    v->c->vcpu.thread = pthread_self();
    assert_int_equal(pthread_create(&t, NULL, kicker, v), 0);
    assert_int_equal(v->c->vcpu.run(&v->c->vcpu), VCPU_EXIT_KICKED);
    pthread_join(t, NULL);
    assert_int_equal(v->c->rip, CODE);
}

static void memory_that_comes_and_goes_is_seen(void **state)
{
    /* mov ax,d000h; mov ds,ax; mov ax,[0]; out 80h,al; hlt; then the same again */
    NEED_VM(v, "\xb8\x00\xd0\x8e\xd8\xa1\x00\x00\xe6\x80\xf4")

    v->ram.ram->host[MMIO] = 0x42;
    assert_int_equal(v->c->vcpu.run(&v->c->vcpu), VCPU_EXIT_HALTED);
    run_lock(v->m->run);
    mem_region_set_enabled(&v->mmio, false); /* the RAM below shows */
    run_unlock(v->m->run);
    real_mode_at(v->c, CODE);
    v->c->vcpu.halted = false;
    assert_int_equal(v->c->vcpu.run(&v->c->vcpu), VCPU_EXIT_HALTED);
    assert_int_equal(v->ports[0], 0x34);
    assert_int_equal(v->ports[1], 0x42);
}

static void the_matrix_of_hosts_and_guests_holds(void **state)
{
    assert_true(kvm_can_run("x86_64", "i386"));
    assert_true(kvm_can_run("x86_64", "x86_64"));
    assert_true(kvm_can_run("amd64", "amd64"));
    assert_false(kvm_can_run("x86_64", "aarch64"));
    assert_false(kvm_can_run("i386", "x86_64")); /* a 32-bit host kernel cannot */
    assert_true(kvm_can_run("i686", "i386"));
    assert_true(kvm_can_run("aarch64", "armv7"));
    assert_false(kvm_can_run("armv7", "armv7")); /* KVM on Arm is 64-bit only */
    assert_false(kvm_can_run("x86_64", "riscv64"));
}

static void a_guest_of_another_architecture_is_refused_with_the_way_out(void **state)
{
    struct err *e = NULL;

    assert_false(accel_find("kvm")->probe("aarch64", &e));
    assert_non_null(strstr(e->msg, "cannot run aarch64 guests"));
    assert_non_null(strstr(e->hint, "tcg"));
    err_free(e);
}

UNIT_MAIN(cmocka_unit_test(ports_and_mmio_reach_the_devices),
          cmocka_unit_test(a_vector_is_delivered_when_the_guest_opens_the_window),
          cmocka_unit_test(a_kick_ends_an_endless_loop), cmocka_unit_test(memory_that_comes_and_goes_is_seen),
          cmocka_unit_test(the_matrix_of_hosts_and_guests_holds),
          cmocka_unit_test(a_guest_of_another_architecture_is_refused_with_the_way_out))
