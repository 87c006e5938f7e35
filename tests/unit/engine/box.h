// A small machine for tests of the translator: one vCPU, 4 MiB of RAM at 0, tables at fixed places,
// and upcalls that note what was asked. Each IDT vector leads to a HLT of its own.
#pragma once

#include "cpu/x86.h"
#include "engine/translate/system_impl.h"
#include "engine/translate/tvm.h"
#include "host/ram_file.h"
#include "test.h"

#define BOX_RAM (4 * MIB)
#define BOX_GDT 0x1000
#define BOX_IDT 0x2000
#define BOX_TSS 0x3000
#define BOX_TSS2 0x3100
#define BOX_STACK 0x7000  // ring 0, grows down
#define BOX_USTACK 0x6000 // ring 3
#define BOX_CODE 0x8000
#define BOX_HANDLER 0x9000 // + 16 * vector
#define BOX_TABLES 0x10000 // page tables: top, then lower levels a page each

// Selectors.
#define SEL_CODE 0x08
#define SEL_DATA 0x10
#define SEL_UCODE 0x18
#define SEL_UDATA 0x20
#define SEL_CODE16 0x28
#define SEL_SPARE 0x30
#define SEL_TSS 0x38 // 16 bytes in long mode
#define SEL_TSS2 0x48
#define SEL_GATE 0x58

struct box {
    struct engine_vm *vm;
    struct engine_vcpu *vcpu;
    struct tcpu *c;
    uint8_t *ram;
    struct ram_file file;         // the same
    struct cpu_state s;           // to be set; as it was after the last run
    uint64_t mmio_at, mmio_value; // of the last access
    unsigned mmio_reads, mmio_writes, mmio_size;
    int vector; // that intr_ack gives, -1: none
};

struct box *box_new(uint32_t debug);
struct box *box_new_caged(uint32_t debug, struct cages *cages); // with direct execution
void box_free(struct box *b);

// The tables, and b->s as that mode begins: flat segments, ring 0, rip at BOX_CODE, IF clear.
void box_real(struct box *b);
void box_protected(struct box *b); // 32 bits, no paging
void box_long(struct box *b);      // RAM mapped one to one with 4 KiB pages, user-accessible
void box_ring3(struct box *b);     // after protected or long: user segments and stack

void box_gdt(struct box *b, unsigned selector, uint32_t base, uint32_t limit, unsigned attr);
void box_gate(struct box *b, unsigned vector, unsigned type_dpl, unsigned selector,
              uint32_t offset);
uint64_t *box_pte(struct box *b, gva_t at); // long: the entry of a page below 2 MiB

void box_put(struct box *b, uint64_t at, const void *bytes, size_t len);
uint64_t box_read(struct box *b, uint64_t at, unsigned size);
void box_write(struct box *b, uint64_t at, unsigned size, uint64_t value);

// Puts code at rip, runs it until HLT, shutdown or a kick, and fetches b->s.
enum engine_exit box_run(struct box *b, const void *code, size_t len);
#define BOX_RUN(b, ...) \
    box_run(b, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))
// The vector whose handler stopped the run, or -1.
int box_stopped_in(const struct box *b);

// One memory access in the state b->s: 0, or 1 + error code of the #PF it raised (other faults:
// ~0).
uint64_t box_access(struct box *b, gva_t at, enum access access, bool user);
