// How firmware code reaches guest memory: it never sees a host pointer to it.
//
// The board fills this in while it builds the VM, before the first vCPU runs. Everything from 0 to
// the end of low RAM except the VGA window (0xa0000..0xbffff) is backed by bytes that can be
// written so, also 0xc0000..0xfffff, where a PC has its option ROMs and BIOS.
#pragma once

#include "base/error.h"

struct guest_memory {
    // Copies len bytes into RAM at `at`. ERR_INVALID if any byte is outside RAM (nothing is copied
    // then).
    err_t (*write)(void *opaque, gpa_t at, const void *data, size_t len);
    void *opaque;
    uint64_t ram_bytes; // all RAM of the VM; see firmware/e820.h for where it lies
};
