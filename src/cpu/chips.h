// The registers of a PC's interrupt controllers and interval timer as plain data. Device models and
// engines that keep such chips themselves hand them to each other in this form.
// Sources: Intel SDM vol. 3 chapter 11; 82093AA, 8259A and 8254 datasheets.
#pragma once

#include "base/types.h"

#define CHIP_LAPIC_REGISTERS 64
#define CHIP_IOAPIC_PINS 24
#define CHIP_PIT_CHANNELS 3

// A local APIC. The ID register is as in xAPIC mode, the interrupt command's upper half as the mode
// has it.
struct chip_lapic {
    uint64_t base;                      // IA32_APIC_BASE
    uint64_t deadline;                  // IA32_TSC_DEADLINE; 0: not armed
    uint32_t reg[CHIP_LAPIC_REGISTERS]; // the register page: offset / 16
};

// Which initialization command word a PIC waits for.
enum chip_pic_step { PIC_READY, PIC_ICW2, PIC_ICW3, PIC_ICW4, PIC_DEAD /* never initialized */ };

// One 8259A.
struct chip_pic {
    uint8_t lines; // input levels
    uint8_t latch; // edges not yet acknowledged
    uint8_t isr;
    uint8_t imr;
    uint8_t elcr;
    uint8_t all_level; // LTIM of ICW1
    uint8_t base;      // vector of input 0
    uint8_t lowest;    // the input with the lowest priority
    uint8_t step;      // enum chip_pic_step
    uint8_t icw1;
    uint8_t auto_eoi;
    uint8_t rotate_auto;
    uint8_t special_mask;
    uint8_t special_nested;
    uint8_t read_isr;
    uint8_t poll;
};

struct chip_ioapic {
    uint64_t entry[CHIP_IOAPIC_PINS]; // redirection entries
    uint32_t lines;                   // input levels
    uint8_t index;                    // the register select
    uint8_t id;
};

struct chip_pit_channel {
    uint32_t reload; // 1..65536; 0: none was written yet
    uint16_t latch;
    uint8_t latched; // bytes of latch that are still to be read
    uint8_t status;
    uint8_t status_latched;
    uint8_t control;    // bits 5..0 of the control word
    uint8_t low;        // first byte of a two-byte write
    uint8_t write_high; // the second one is next
    uint8_t read_high;
    uint8_t gate;
};

struct chip_pit {
    struct chip_pit_channel channel[CHIP_PIT_CHANNELS];
    uint8_t port61; // the bits that can be written
};

// What is on the board besides the processors' own.
struct chip_board {
    struct chip_pic pic[2]; // master, slave
    struct chip_ioapic ioapic;
    struct chip_pit pit;
    bool pit_muted; // HPET has taken over the timer's interrupt line
};
