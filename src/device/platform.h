// The pc board's fixed addresses and interrupt numbers: one list for device models, firmware tables
// and the board. The chipset presented is Intel's Q35 host bridge with the ICH9 LPC bridge, because
// firmware and guests know it. Sources: Intel 3 Series chipset and ICH9 datasheets; PC/AT
// conventions.
#pragma once

#include "base/types.h"

// Guest-physical memory map.
// Firmware wants no RAM above 2 GiB below 4 GiB: SeaBIOS puts its windows at 0xb0000000, OVMF at
// 0x80000000.
#define PC_LOW_RAM_MAX 0x80000000ull // the rest continues at 4 GiB
#define PC_HIGH_RAM 0x100000000ull
#define PC_MMIO32 0x80000000ull // BARs below 4 GiB, and again behind the configuration window
#define PC_MMIO32_END 0xfec00000ull
#define PC_ECAM 0xe0000000ull // 256 buses; where direct boot opens it, firmware decides itself
#define PC_ECAM_SIZE 0x10000000ull
#define PC_IOAPIC 0xfec00000ull
#define PC_HPET 0xfed00000ull
#define PC_LAPIC 0xfee00000ull
#define PC_MMIO64 0x8000000000ull // 64-bit BARs: 512 GiB up
#define PC_MMIO64_SIZE 0x8000000000ull
#define PC_RAM_MAX (PC_MMIO64 - PC_HIGH_RAM)

// Ports.
#define PC_PORT_PIC_MASTER 0x20
#define PC_PORT_PIT 0x40
#define PC_PORT_8042 0x60 // 0x60 and 0x64
#define PC_PORT_SPEAKER 0x61
#define PC_PORT_RTC 0x70
#define PC_PORT_FAST_A20 0x92 // bit 0: fast reset
#define PC_PORT_PIC_SLAVE 0xa0
#define PC_PORT_DEBUG_EXIT 0xf4
#define PC_PORT_COM1 0x3f8
#define PC_PORT_COM2 0x2f8
#define PC_PORT_ELCR 0x4d0
#define PC_PORT_PANIC 0x505
#define PC_PORT_FW_CFG 0x510
#define PC_PORT_PM 0x600 // ICH9 PMBASE: PM1 event +0, PM1 control +4, PM timer +8, GPE0 +0x20
#define PC_PM_LEN 0x80
#define PC_GPE_HOTPLUG 1 // the general purpose event of PCI hot-plug
#define PC_PORT_HOTPLUG 0x680
#define PC_PM_S5 7 // SLP_TYP of soft off (the only sleep state there is)
#define PC_PORT_SMI_CMD 0xb2
#define PC_ACPI_ENABLE 2 // written to PC_PORT_SMI_CMD: sets SCI_EN
#define PC_ACPI_DISABLE 3
#define PC_PORT_PCI_ADDRESS 0xcf8
#define PC_PORT_RESET 0xcf9
#define PC_PORT_PCI_DATA 0xcfc
#define PC_IO_BARS 0xc000 // port BARs: 0xc000..0xffff
#define PC_IO_BARS_END 0x10000

// Global system interrupts: 0..15 are the ISA lines, 16..23 PIRQ A..H. The PIT's line 0 arrives at
// IOAPIC pin 2.
#define PC_IRQ_PIT 0
#define PC_IRQ_KEYBOARD 1
#define PC_IRQ_COM2 3
#define PC_IRQ_COM1 4
#define PC_IRQ_RTC 8
#define PC_IRQ_SCI 9 // level, active high
#define PC_IRQ_MOUSE 12
#define PC_GSI_PIRQ 16
#define PC_GSIS 24
#define PC_IOAPIC_ID 0

// PIRQ (0..7) of a PCI slot's pin (0 = INTA#). The slots of the ICH9's own functions do not rotate
// (its reset routing, and what firmware assumes).
#define PC_PIRQ(slot, pin) ((slot) > 24 ? (pin)&3 : ((slot) + (pin)) & 7)

// PCI slots on bus 0; other slots are free for devices.
#define PC_SLOT_HOST 0
#define PC_SLOT_LPC 31

#define PC_PM_TIMER_HZ 3579545
#define PC_PM_TIMER_BITS 24     // TMR_VAL_EXT stays clear in the FADT
#define PC_APIC_BUS_KHZ 1000000 // local APIC timer: 1 tick a ns before the divider
