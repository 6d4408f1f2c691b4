/* What others may ask the KVM accelerator. */
#ifndef ACCEL_KVM_KVM_H
#define ACCEL_KVM_KVM_H

#include "guest/x86/cpuid.h"

struct machine;

/* Whether a host of one architecture runs guests of another under KVM: the matrix of host and guest architectures.
 * Names: i386 x86_64 arm aarch64 riscv64 ppc64 s390x mips64 and their usual spellings. */
bool kvm_can_run(const char *host, const char *guest);
/* What this host's KVM lets a guest CPU have: the mask for x86_cpu_parse_model. */
bool kvm_cpu_features(struct machine *m, struct x86_features *out, struct err **errp);

#endif
