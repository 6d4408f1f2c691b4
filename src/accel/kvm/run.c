/* The loop of a vCPU under KVM: enter the guest, serve the exit, look at requests, again.
 *
 * A kick sets kvm_run.immediate_exit and sends the thread a signal: whichever side of the entry the thread is on,
 * KVM_RUN returns at once. Registers come back from the kernel when the loop is left, and go in when it is entered. */
#include "accel/kvm/kvm_int.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/ioctl.h>

enum { KICK_SIGNAL = SIGUSR1 };

static void on_kick(int sig)
{
    (void)sig; /* its arrival is the message: it ends KVM_RUN with EINTR */
}

/* On the vCPU's own thread, once. */
static void signal_setup(struct kvm_vcpu *k)
{
    struct sigaction sa = {.sa_handler = on_kick};
    sigset_t set;

    sigaction(KICK_SIGNAL, &sa, NULL);
    sigemptyset(&set);
    sigaddset(&set, KICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    atomic_store((_Atomic bool *)&k->sig_ready, true);
}

/* The view of memory in SMM exists once the board is complete. */
static void start_smm(struct vcpu *c, struct kvm_vm *vm)
{
    struct mem_space *as = x86_cpu(c)->as_smm;
    struct err *e = NULL;
    RUN_LOCK_SCOPE(c->m->run);

    if (vm->cap_smm && as && !vm->smm.slot && !kvm_view_start(vm, &vm->smm, as, 1, &e))
        err_report(e);
}

void kvm_kick(struct vcpu *c)
{
    struct kvm_vcpu *k = kvm_vcpu(c);

    __atomic_store_n(&k->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    if (atomic_load((_Atomic bool *)&k->sig_ready) && vcpu_self() != c)
        pthread_kill(c->thread, KICK_SIGNAL);
}

/* ---- exits ---- */

static void exit_io(struct vcpu *c, struct kvm_run *r)
{
    uint8_t *p = (uint8_t *)r + r->io.data_offset;

    for (uint32_t i = 0; i < r->io.count; i++, p += r->io.size) {
        if (r->io.direction == KVM_EXIT_IO_OUT)
            mem_write(c->m->io, r->io.port, p, r->io.size);
        else
            mem_read(c->m->io, r->io.port, p, r->io.size);
    }
}

static void exit_mmio(struct vcpu *c, struct kvm_run *r)
{
    struct mem_space *as = r->flags & KVM_RUN_X86_SMM ? x86_cpu(c)->as_smm : c->as;
    uint32_t n = (uint32_t)min_u64(r->mmio.len, sizeof r->mmio.data);

    if (r->mmio.is_write)
        mem_write(as, r->mmio.phys_addr, r->mmio.data, n);
    else
        mem_read(as, r->mmio.phys_addr, r->mmio.data, n);
}

static enum vcpu_exit exit_error(struct vcpu *c, const char *what, unsigned long long code)
{
    AUTOFREE char *where = kvm_x86_where(c);

    warn_report("KVM: CPU %u stopped: %s (%#llx) at %s", c->index, what, code, where);
    return VCPU_EXIT_ERROR;
}

static const char *suberror(uint32_t s)
{
    switch (s) {
    case KVM_INTERNAL_ERROR_EMULATION:
        return "the kernel could not carry out an instruction";
    case KVM_INTERNAL_ERROR_SIMUL_EX:
        return "an exception arose while another was delivered";
    case KVM_INTERNAL_ERROR_DELIVERY_EV:
        return "an exit arose while an event was delivered";
    default:
        return "internal error of the kernel";
    }
}

/* True: go on. False: leave the loop with *out. */
static bool serve_exit(struct vcpu *c, struct kvm_run *r, enum vcpu_exit *out)
{
    switch (r->exit_reason) {
    case KVM_EXIT_IO:
        exit_io(c, r);
        return true;
    case KVM_EXIT_MMIO:
        exit_mmio(c, r);
        return true;
    case KVM_EXIT_HLT:
        if (c->arch->has_work(c))
            return true;
        *out = VCPU_EXIT_HALTED;
        return false;
    case KVM_EXIT_SHUTDOWN:
        *out = VCPU_EXIT_SHUTDOWN;
        return false;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_INTR:
    case KVM_EXIT_SET_TPR:
        return true;
    case KVM_EXIT_INTERNAL_ERROR:
        *out = exit_error(c, suberror(r->internal.suberror), r->internal.suberror);
        return false;
    case KVM_EXIT_FAIL_ENTRY:
        *out = exit_error(c, "the processor refused to enter the guest", r->fail_entry.hardware_entry_failure_reason);
        return false;
    case KVM_EXIT_UNKNOWN:
        *out = exit_error(c, "the processor gave an unknown reason", r->hw.hardware_exit_reason);
        return false;
    default:
        *out = exit_error(c, "exit that is not served", r->exit_reason);
        return false;
    }
}

/* One entry. 0 = an exit is there to serve, 1 = look at requests again, -errno = refused. */
static int enter(struct kvm_vcpu *k)
{
    int r = ioctl(k->fd, KVM_RUN, 0);

    if (r >= 0)
        return 0;
    return errno == EINTR || errno == EAGAIN ? 1 : -errno;
}

enum vcpu_exit kvm_run(struct vcpu *c)
{
    struct kvm_vcpu *k = kvm_vcpu(c);
    enum vcpu_exit out = VCPU_EXIT_KICKED;

    if (!k->sig_ready) {
        start_smm(c, k->vm);
        signal_setup(k);
    }
    kvm_x86_put(c);
    for (;;) {
        int r;

        __atomic_store_n(&k->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
        if (c->exit_request || c->halted)
            break;
        if (kvm_x86_pre_run(c))
            continue;
        r = enter(k);
        kvm_x86_post_run(c);
        if (r == 1)
            continue;
        if (r < 0) {
            out = exit_error(c, strerror(-r), (unsigned long long)-r);
            break;
        }
        c->stat_exits++;
        k->exits[min_u64(k->run->exit_reason, ARRAY_LEN(k->exits) - 1)]++;
        if (!serve_exit(c, k->run, &out))
            break;
    }
    kvm_x86_get(c);
    if (c->halted && out == VCPU_EXIT_KICKED)
        out = VCPU_EXIT_HALTED;
    return out;
}
