// Writing AML, the byte code in ACPI's DSDT (ACPI 6.4 section 20): each function appends one term.
// Terms are prefix notation, so an expression is written operator first, then its operands:
//     aml_op(a, AML_STORE); aml_op(a, AML_ARG(0)); aml_path(a, "PICF");
// Blocks (scopes, methods, packages, buffers) last until aml_end(), which fills in their length.
#pragma once

#include "base/buffer.h"

#define AML_DEPTH 12

struct aml {
    struct buffer *out;
    struct {
        size_t at;     // where the package length belongs
        bool template; // resource template: its byte count follows
    } block[AML_DEPTH];
    unsigned depth;
};

enum aml_op {
    AML_ZERO = 0x00,
    AML_ONE = 0x01,
    AML_STORE = 0x70,
    AML_AND = 0x7b,
    AML_OR = 0x7d,
    AML_NOTIFY = 0x86,
    AML_CREATE_DWORD_FIELD = 0x8a,
    AML_LNOT = 0x92,
    AML_LEQUAL = 0x93,
    AML_LLESS = 0x95,
    AML_RETURN = 0xa4,
};
#define AML_LOCAL(n) (0x60 + (n))
#define AML_ARG(n) (0x68 + (n))

enum aml_space { AML_MEMORY = 0, AML_IO = 1, AML_PCI_CONFIG = 2 };

void aml_op(struct aml *a, unsigned op); // enum aml_op, AML_LOCAL, AML_ARG
void aml_int(struct aml *a, uint64_t value);
void aml_string(struct aml *a, const char *text);
void aml_path(struct aml *a, const char *path);               // "\\_SB.PCI0", "PICF", "^LPC"
void aml_eisaid(struct aml *a, const char *id);               // "PNP0A08"
void aml_bytes(struct aml *a, const void *data, uint8_t len); // a buffer

void aml_scope(struct aml *a, const char *path);
void aml_device(struct aml *a, const char *name);
void aml_method(struct aml *a, const char *name, unsigned args, bool serialized);
void aml_if(struct aml *a); // the condition follows
void aml_else(struct aml *a);
void aml_package(struct aml *a, uint8_t elements);
void aml_end(struct aml *a);

void aml_name(struct aml *a, const char *name); // the value follows
void aml_name_int(struct aml *a, const char *name, uint64_t value);
void aml_region(struct aml *a, const char *name, enum aml_space space, uint64_t at, uint64_t len);
// A field list of a region, accessed by bytes and preserving other bits; elements follow, then
// aml_end().
void aml_field(struct aml *a, const char *region);
void aml_field_entry(struct aml *a, const char *name, uint8_t bits); // NULL: skip so many bits

// Resource templates: aml_resources(), descriptors, aml_end().
void aml_resources(struct aml *a);
void aml_resource_io(struct aml *a, uint16_t at, uint8_t len);
void aml_resource_irq(struct aml *a, unsigned irq); // ISA: edge, active high, exclusive
void aml_resource_interrupts(struct aml *a, const uint32_t *irq, uint8_t count); // level, shared
void aml_resource_memory(struct aml *a, uint32_t at, uint32_t len);
// What a host bridge passes on: [from, to].
void aml_resource_bus_window(struct aml *a, uint16_t from, uint16_t to);
void aml_resource_io_window(struct aml *a, uint16_t from, uint16_t to);
void aml_resource_memory_window(struct aml *a, uint64_t from, uint64_t to);
