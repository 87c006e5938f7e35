// A virtual machine: memory, buses, clock, interrupt routing, devices and vCPUs under one engine.
//
// Threads: everything here is called on the main loop's thread. Each vCPU runs on a thread of its
// own.
#pragma once

#include "device/virtio/vsock.h"
#include "display/display.h"
#include "engine/engine.h"
#include "host/clock.h"
#include "host/loop.h"
#include "machine/config.h"

struct vm;

enum vm_end {
    VM_END_POWEROFF,   // the guest switched itself off
    VM_END_RESET,      // the guest reset itself and the definition says no_reboot
    VM_END_PANIC,      // the guest said that it crashed
    VM_END_SHUTDOWN,   // triple fault, and no_reboot
    VM_END_DEBUG_EXIT, // status holds the exit status
    VM_END_FAILED,     // the engine gave up; text says why
};

struct vm_result {
    enum vm_end end;
    uint32_t status;
    char text[200];
};

struct vm_hooks {
    // Output of COM1 and of the virtio console; returns how many bytes were taken. Called with a
    // device's lock held: must not block or call back.
    size_t (*serial_out)(void *opaque, const uint8_t *data, size_t len);
    size_t (*console_out)(void *opaque, const uint8_t *data, size_t len);
    // Debug output of firmware, a line at a time; NULL: there is no port for it.
    void (*firmware_out)(void *opaque, const uint8_t *data, size_t len);
    // There is room again after vm_serial_in() or vm_console_in() took less than given.
    void (*serial_room)(void *opaque);
    void (*console_room)(void *opaque);
    // A packet (net/net.h) from network card nic, checked, valid during the call. False: there is
    // no room now, vm_nic_continue() follows. On a vCPU's thread with a device's lock held: must
    // not block or call back. NULL: packets are lost.
    bool (*nic_send)(void *opaque, unsigned nic, uint8_t *packet, size_t len);
    // vm_nic_receive() may be called again after it had no room. Likewise on a vCPU's thread.
    void (*nic_resume)(void *opaque, unsigned nic);
    // The host's ends of connections over the virtio socket device, with the device's lock held and
    // on any thread; NULL: the guest's requests are refused.
    const struct vsock_host *vsock;
    // The guest has let go of network card nic, which goes when this returns; on the main loop's
    // thread.
    void (*nic_removed)(void *opaque, unsigned nic);
    // The VM came to its end, once; on the main loop's thread, with the vCPUs stopped.
    void (*ended)(void *opaque, const struct vm_result *result);
    void (*rebooted)(void *opaque); // the guest was reset and starts anew
    void *opaque;
    const struct host_tsc_look *begun; // a look at the TSC some time ago; may be NULL
    struct cages *cages;               // for direct execution; used until vm_free. NULL: none,
    const char *no_cages;              // for this reason
};

// Chooses the engine that the definition's text names (debug: enum engine_debug bits); for "auto"
// the first usable one. *why (200 bytes) gets the reason for the choice or, with ERR_UNSUPPORTED, e
// the reason against it.
err_t vm_choose_engine(const char *text, uint32_t debug, const struct engine **out, char why[200],
                       struct error *e);

// Builds a machine that stands at its reset state with the kernel loaded. Opens all files the
// definition names; config, loop and hooks stay the caller's and valid until vm_free. On error
// nothing is left.
err_t vm_new(const struct vm_config *config, struct loop *loop, const struct vm_hooks *hooks,
             struct vm **out, struct error *e);
void vm_free(struct vm *vm); // stops it first; accepts NULL

const struct engine *vm_engine(const struct vm *vm);
const char *vm_engine_reason(const struct vm *vm); // why this engine
// Whether programs of the guest run in the cages. *why, if it is asked for: why not, or empty.
bool vm_direct(const struct vm *vm, const char **why);
const char *vm_firmware(const struct vm *vm); // "none", "bios" or "uefi"
// The host's image of "bios" or "uefi": the first that is there of the places where distributions
// put it, else Debian's.
const char *vm_firmware_path(const char *name);
ns_t vm_time(const struct vm *vm);       // virtual time
uint64_t vm_cpu_ns(const struct vm *vm); // of the host's CPUs, what it has used in all; any thread

// Starts the vCPU threads (they wait until vm_resume). Once.
err_t vm_start(struct vm *vm, struct error *e);
void vm_pause(struct vm *vm); // returns when no vCPU runs; virtual time stands still
void vm_resume(struct vm *vm);
bool vm_paused(const struct vm *vm); // by vm_pause()

// The same for a moment, around work that must not see the guest move; what vm_pause() said stays.
void vm_freeze(struct vm *vm);
void vm_thaw(struct vm *vm);

// The reset button: the machine starts anew, also where the definition says no_reboot.
err_t vm_reset(struct vm *vm, struct error *e);
void vm_nmi(struct vm *vm, unsigned vcpu);

// Presses the power button. False: the guest does not listen to it.
bool vm_power_button(struct vm *vm);

// Input for COM1 and the virtio console; returns how many bytes were taken.
size_t vm_serial_in(struct vm *vm, const uint8_t *data, size_t len);
size_t vm_console_in(struct vm *vm, const uint8_t *data, size_t len);
// The VM's screen, keyboard and mouse; valid as long as the VM. NULL: it has no display. Unlike the
// rest of this file its operations may be called by any thread.
const struct display *vm_display(const struct vm *vm);
// A packet for a network card, checked by net_packet_valid(); it may be changed. False: the guest
// has no room for it now. Links are down until they are set.
bool vm_nic_receive(struct vm *vm, unsigned nic, uint8_t *packet, size_t len);
void vm_nic_continue(struct vm *vm, unsigned nic); // nic_send() may have room again
void vm_nic_set_link(struct vm *vm, unsigned nic, bool up);
// A new card while the VM runs, as the definition's nic[nic] has come to say, in *slot. *heard: the
// guest listens, and will see it soon; else when it starts anew. ERR_NO_MEMORY: no slot is free.
err_t vm_nic_add(struct vm *vm, unsigned nic, unsigned *slot, bool *heard, struct error *e);
// Asks the guest to let go of a card; hooks.nic_removed() follows when it has, at the latest when
// it starts anew. *heard: it listens. ERR_NOT_FOUND: there is none.
err_t vm_nic_remove(struct vm *vm, unsigned nic, bool *heard, struct error *e);
// Output that was refused may be tried again.
void vm_serial_writable(struct vm *vm);
void vm_console_writable(struct vm *vm);

// CPU time of the host, in thousandths of a CPU; 0: no limit. Beside its own limit a VM has what a
// coordinator of several VMs says: the bound is what limits above it leave it, as its pool's, and
// stays; the grant is its part while they want more than there is, and falls away by itself.
struct vm_cpu {
    uint32_t limit, bound;
    uint32_t rate;    // what holds now
    uint64_t held_ns; // all vCPUs: how long they were ready to run but held back
};
void vm_set_cpu_limit(struct vm *vm, uint32_t millis);
void vm_set_cpu_bound(struct vm *vm, uint32_t millis);
void vm_set_cpu_grant(struct vm *vm, uint32_t millis, ns_t lasting);
void vm_cpu(struct vm *vm, struct vm_cpu *out);
// Memory that the guest may use. A target below what it was given makes its balloon driver give the
// rest back to the host, sooner or later; one that has none gives nothing.
struct balloon_view;
void vm_set_memory_target(struct vm *vm, uint64_t bytes);
void vm_balloon(struct vm *vm, struct balloon_view *out); // device/virtio/balloon.h
// Which of the host's CPUs the vCPUs run on from now on: vm_cpu_pin_parse().
err_t vm_pin(struct vm *vm, const char *cpus, struct error *e);

// Connections over the virtio socket device (device/virtio/vsock.h has the contracts). -1: the VM
// has no such device, or as there.
int vm_vsock_connect(struct vm *vm, enum vsock_type type, uint32_t guest_port);
size_t vm_vsock_send(struct vm *vm, unsigned connection, const uint8_t *data, size_t len);
void vm_vsock_consumed(struct vm *vm, unsigned connection, size_t len);
void vm_vsock_shutdown(struct vm *vm, unsigned connection, bool both);
void vm_vsock_release(struct vm *vm, unsigned connection);

// Disks, by their place in the definition; false: there is none, or no disc in the drive. Limits
// hold from now on, until the VM ends.
bool vm_disk_set_limits(struct vm *vm, unsigned disk, const struct throttle_limits *limits);
bool vm_disk_limits(struct vm *vm, unsigned disk, struct throttle_limits *out);
bool vm_disk_counters(struct vm *vm, unsigned disk, struct block_counters *out);
const char *vm_disk_io(struct vm *vm, unsigned disk); // how the host is asked; "": not at all

// Named counters of the engine and, as DEVICE.NAME, of the devices; values only grow.
struct vm_counter {
    char name[48];
    uint64_t value;
};
#define VM_COUNTERS_MAX 512
// Fills at most max counters, returns how many it filled.
unsigned vm_counters(struct vm *vm, struct vm_counter *out, unsigned max);

// State of all vCPUs and devices, while paused: save appends a stream, load replaces, compare names
// the first difference. RAM is not part of it. For tests of engines and, later, snapshots.
void vm_state_save(struct vm *vm, struct buffer *out);
err_t vm_state_load(struct vm *vm, const void *data, size_t len, struct error *e);
