/* AML writer: appends ACPI Machine Language (ACPI 6.4 chapter 20) and resource descriptors (chapter 6.4) to a byte
 * buffer.
 *
 * AML is prefix notation, so terms are written in reading order: the operator, then its operands. Constructs with a
 * length (scope, device, method, package, if, field ...) are opened by their function and closed by aml_end(); lengths
 * are filled in there. Names are ASL paths ("\\_SB.PCI0", "^X", "_CRS"); segments are padded to four characters. */
#ifndef BOARD_X86_AML_H
#define BOARD_X86_AML_H

#include "base/util.h"

enum { AML_MAX_DEPTH = 16 };
struct aml {
    uint8_t *p; /* owned */
    size_t len, cap;
    struct {
        size_t at;
        uint8_t kind;
    } open[AML_MAX_DEPTH];
    unsigned depth;
};
void aml_free(struct aml *a); /* for CLEANUP too */

/* Raw bytes, little-endian. */
void aml_bytes(struct aml *a, const void *p, size_t n);
void aml_zero(struct aml *a, size_t n);
void aml_raw(struct aml *a, uint64_t v, unsigned size);

enum aml_op { /* 0x5bXX: extended operators */
              AML_ZERO = 0x00,
              AML_ONE = 0x01,
              AML_NAME = 0x08,
              AML_STORE = 0x70,
              AML_ADD = 0x72,
              AML_CONCAT = 0x73,
              AML_SUBTRACT = 0x74,
              AML_INCREMENT = 0x75,
              AML_SHIFT_LEFT = 0x79,
              AML_SHIFT_RIGHT = 0x7a,
              AML_AND = 0x7b,
              AML_OR = 0x7d,
              AML_NOT = 0x80,
              AML_DEREF_OF = 0x83,
              AML_NOTIFY = 0x86,
              AML_SIZE_OF = 0x87,
              AML_INDEX = 0x88,
              AML_CREATE_DWORD_FIELD = 0x8a,
              AML_LAND = 0x90,
              AML_LOR = 0x91,
              AML_LNOT = 0x92,
              AML_LEQUAL = 0x93,
              AML_LGREATER = 0x94,
              AML_LLESS = 0x95,
              AML_RETURN = 0xa4,
              AML_BREAK = 0xa5,
              AML_ONES = 0xff,
              AML_MUTEX = 0x5b01,
              AML_ACQUIRE = 0x5b23,
              AML_RELEASE = 0x5b27,
              AML_OPREGION = 0x5b80,
};
void aml_op(struct aml *a, enum aml_op op);
void aml_int(struct aml *a, uint64_t v);   /* shortest encoding */
void aml_dword(struct aml *a, uint32_t v); /* always five bytes, for values patched later */
void aml_str(struct aml *a, const char *s);
void aml_path(struct aml *a, const char *path); /* a name used as operand or call; arguments follow */
void aml_arg(struct aml *a, unsigned n);
void aml_local(struct aml *a, unsigned n);

/* Constructs: close each with aml_end. */
void aml_scope(struct aml *a, const char *path);
void aml_device(struct aml *a, const char *name);
void aml_method(struct aml *a, const char *name, unsigned nr_args, bool serialized);
void aml_package(struct aml *a, unsigned nr);
void aml_if(struct aml *a); /* condition, then the body */
void aml_else(struct aml *a);
void aml_while(struct aml *a);
void aml_buffer(struct aml *a); /* bytes follow */
enum aml_access { AML_ANY_ACC, AML_BYTE_ACC, AML_WORD_ACC, AML_DWORD_ACC };
enum { AML_PRESERVE = 0, AML_WRITE_AS_ONES = 1 << 5, AML_WRITE_AS_ZEROS = 2 << 5, AML_LOCK = 1 << 4 };
void aml_field(struct aml *a, const char *region, unsigned access_and_flags);
void aml_field_unit(struct aml *a, const char *name, unsigned bits); /* name NULL: skipped bits */
void aml_resources(struct aml *a);                                   /* ResourceTemplate: descriptors follow */
void aml_end(struct aml *a);

/* Name (X, ...) in one call. */
void aml_name(struct aml *a, const char *name); /* the object follows */
void aml_name_int(struct aml *a, const char *name, uint64_t v);
void aml_name_str(struct aml *a, const char *name, const char *s);
void aml_name_eisa(struct aml *a, const char *name, const char *id); /* "PNP0A03" */
enum aml_space { AML_SYSTEM_MEMORY, AML_SYSTEM_IO, AML_PCI_CONFIG };
void aml_region(struct aml *a, const char *name, enum aml_space space, uint64_t off, uint64_t len);
void aml_mutex(struct aml *a, const char *name);
void aml_return_int(struct aml *a, uint64_t v);

/* Resource descriptors, inside aml_resources. */
void aml_io(struct aml *a, uint16_t min, uint16_t max, uint8_t align, uint8_t len);
void aml_irq(struct aml *a, uint16_t mask);                         /* edge, active high, exclusive */
void aml_ext_irq(struct aml *a, const uint32_t *irqs, unsigned nr); /* level, active high, shared */
void aml_dma(struct aml *a, uint8_t mask);                          /* compatibility, 8 bit, not a master */
void aml_mem32(struct aml *a, uint32_t base, uint32_t len, bool writable);
void aml_word_bus(struct aml *a, uint16_t min, uint16_t max);
void aml_word_io(struct aml *a, uint16_t min, uint16_t max);
void aml_dword_mem(struct aml *a, uint32_t min, uint32_t max, bool cacheable);
void aml_qword_mem(struct aml *a, uint64_t min, uint64_t max);

#endif
