// Starts a kernel directly: recognises its format by its content, copies it and what it is given
// into guest memory, and sets the registers it expects.
//
// Formats: Linux bzImage (boot protocol 2.06 and later, 64-bit or 32-bit entry), ELF with a PVH
// entry note (a Linux vmlinux among others), multiboot 1.
#pragma once

#include "cpu/cpu_state.h"
#include "firmware/e820.h"
#include "firmware/guest_memory.h"

struct boot_request {
    const uint8_t *kernel; // the file's bytes; not changed, not kept
    size_t kernel_len;
    const uint8_t *initrd; // NULL: none
    size_t initrd_len;
    const char *name;    // of the kernel file, for messages
    const char *cmdline; // NULL: empty
    gpa_t rsdp;          // from tables_install; 0: none
};

struct boot_result {
    const char *format; // "Linux bzImage, 64-bit entry": static
    gpa_t entry;
    gpa_t kernel_at; // what the kernel occupies, its zero-filled tail included
    gpa_t kernel_end;
    gpa_t initrd_at;  // 0: none
    char version[64]; // the kernel's own words, printable; may be empty
};

// s holds the state after RESET (cpu_state_reset) and becomes the boot processor's state at entry;
// on error it is unchanged, guest memory may not be. The error is one line that names the file and
// ends with what to try next.
err_t loader_load(const struct boot_request *request, const struct guest_memory *memory,
                  struct cpu_state *s, struct boot_result *out, struct error *e);

// What firmware leaves in every processor, boot processor or not, before a kernel runs: caches on
// and memory types (MTRRs) that follow the board's memory map. phys_bits: what CPUID shows, 36..52.
void loader_cpu_defaults(struct cpu_state *s, unsigned phys_bits);
