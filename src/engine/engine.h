// The engine contract: what runs guest code. Drawn so that the translator, KVM and the bare-metal
// core all fit; nothing here is named after one of them. See docs/engine.md.
//
// Threads: vm_* calls are made while no vCPU runs, except written() and take_dirty(). vcpu_* calls
// are made on the vCPU's own thread, except kick() and set_intr(), which any thread may call at any
// time. Upcalls come on the vCPU's thread, with no engine lock held.
#pragma once

#include <sched.h>

#include "base/error.h"
#include "cpu/chips.h"
#include "cpu/cpu_state.h"
#include "cpu/cpuid.h"
#include "cpu/tsc.h"

struct engine_vm;   // owned by the engine
struct engine_vcpu; // owned by the engine
struct cages;       // host/cage.h
struct ram_file;    // host/ram_file.h

// How the machine answers what the engine cannot do itself. opaque is what vm_new was given.
struct engine_upcalls {
    // Port and memory-mapped I/O outside RAM. size is 1, 2, 4 (also 8 for memory). Never fails:
    // what nobody answers reads as all ones, as on a PC.
    uint64_t (*pio_read)(void *opaque, unsigned vcpu, uint16_t port, unsigned size);
    void (*pio_write)(void *opaque, unsigned vcpu, uint16_t port, unsigned size, uint64_t value);
    uint64_t (*mmio_read)(void *opaque, unsigned vcpu, gpa_t at, unsigned size);
    void (*mmio_write)(void *opaque, unsigned vcpu, gpa_t at, unsigned size, uint64_t value);

    // MSRs that the engine does not keep itself: APIC base, x2APIC, TSC deadline, paravirtual ones.
    // Anything but OK makes the guest's access a #GP.
    err_t (*msr_read)(void *opaque, unsigned vcpu, uint32_t msr, uint64_t *value);
    err_t (*msr_write)(void *opaque, unsigned vcpu, uint32_t msr, uint64_t value);

    // The guest set its TSC ahead of virtual time by this much, the value of TSC_ADJUST. May be
    // NULL.
    void (*tsc_adjusted)(void *opaque, unsigned vcpu, uint64_t adjust);

    // The vCPU can take an external interrupt now and set_intr(true) was said: acknowledges it and
    // returns its vector (0..255), or -1 when it has gone away.
    int (*intr_ack)(void *opaque, unsigned vcpu);

    // A paravirtual call (VMCALL or VMMCALL in ring 0) by the numbers of Linux's KVM; the answer is
    // what the guest finds in RAX. wide: the guest runs 64-bit code, else arguments have 32 bits.
    // NULL: there are none. An engine with local APICs of its own answers itself.
    uint64_t (*hypercall)(void *opaque, unsigned vcpu, uint64_t call, const uint64_t arg[4],
                          bool wide);

    // Engines that keep the local APICs only: the processors have finished a level-triggered
    // interrupt with this vector, of which await_eoi() asked to be told.
    void (*eoi)(void *opaque, unsigned vcpu, uint8_t vector);

    // CR8, the task priority (0..15) of the vCPU's local APIC.
    uint8_t (*cr8_read)(void *opaque, unsigned vcpu);
    void (*cr8_write)(void *opaque, unsigned vcpu, uint8_t value);
};

// Why run() returned.
enum engine_exit {
    ENGINE_KICKED,   // kick() was called, or some event the machine must look at
    ENGINE_HALTED,   // HLT with nothing to wake it: wait, then run() again
    ENGINE_SHUTDOWN, // triple fault
    ENGINE_FAILED,   // the engine cannot go on; vcpu_error() has the words
    ENGINE_STOPPED,  // at what watch() asked for; stopped() says which
};

// What a debugger wants to stop at. The guest sees nothing of it, but its own debug registers do
// nothing while there are points. A vCPU that stands at an EXEC point does not get past it: the
// debugger steps it there without that point.
enum engine_point_kind { ENGINE_POINT_EXEC, ENGINE_POINT_WRITE, ENGINE_POINT_ACCESS };

struct engine_point {
    gva_t at; // aligned to bytes
    enum engine_point_kind kind;
    uint8_t bytes; // 1, 2, 4 or 8; EXEC: 1
};

#define ENGINE_POINTS 4

struct engine_watch {
    unsigned points; // at most ENGINE_POINTS
    struct engine_point point[ENGINE_POINTS];
    bool int3; // also at each INT3, which the debugger may have written there
    bool step; // after one instruction; no interrupt is taken before it
    bool pass; // the INT3 at which the vCPU stands is the guest's: this time it has its #BP
};

// Why a vCPU stopped: before an instruction (EXEC, INT3), after it (all else).
struct engine_stop {
    gva_t at;  // linear address of the instruction that comes next
    int point; // which one it hit; -1: none
    bool int3; // it stands at one
    bool step;
};

// Groups of cpu_state for get and set.
enum engine_group {
    ENGINE_REGS = 1,   // gpr, rip, rflags
    ENGINE_SYSTEM = 2, // segments, tables, control and debug registers
    ENGINE_MSRS = 4,
    ENGINE_FPU = 8,     // xcr0, xsave
    ENGINE_EVENTS = 16, // activity, shadow, nmi, pending event
    ENGINE_ALL = 31,
};

struct engine_probe {
    bool usable;
    const char *reason; // when not usable: one word for scripts; may be NULL
    char why[200];      // the same in one line
    char fix[200];      // what the person can do about it; may be empty
};

// Which of the board's interrupt controllers an engine keeps itself while the VM runs.
enum engine_chips {
    ENGINE_CHIPS_NONE,  // all of them are the machine's
    ENGINE_CHIPS_LAPIC, // the local APICs are the engine's; PIC, IOAPIC and PIT the machine's
    ENGINE_CHIPS_ALL,   // local APICs, IOAPIC, PIC and PIT are the engine's
    ENGINE_CHIPS_BEST,  // asking: whatever the engine does best
};

// Guest writes to ROM go to mmio_write. A logged range has its dirty log on at all times (a frame
// buffer).
enum engine_map_flags { ENGINE_MAP_RAM = 0, ENGINE_MAP_ROM = 1, ENGINE_MAP_LOGGED = 2 };

#define ENGINE_POLL_NEVER UINT32_MAX
#define ENGINE_POLL_MAX 1000000

struct engine_vm_config {
    unsigned vcpus;
    const struct cpuid_table *cpuid; // leaves that differ per vCPU are patched by vcpu index
    uint64_t tsc_khz;                // frequency of the guest's TSC
    // guest TSC = (host TSC + tsc_offset) while the VM runs; see machine/clock.h
    uint32_t poll_ns; // how long a vCPU that halts inside the engine looks for work before it
                      // sleeps, ENGINE_POLL_NEVER, or 0: as long as the engine thinks best
    enum engine_chips chips;       // an engine without any takes BEST and NONE
    uint64_t code_cache_bytes;     // translator, for each vCPU; 0 means its default
    uint64_t shared_code_bytes;    // translator, for what its vCPUs share; 0 means its default
    const char *translation_cache; // translator: file of translations from run to run; NULL: none
    const char *perf_map;          // translator: name its code for perf (perfmap.h); NULL: no
    uint32_t debug;                // enum engine_debug bits, for tests
    // Translator: may programs of the guest run on the CPU itself, in these cages? Then RAM is a
    // file, whose byte 0 is at ram_host; all that is ever mapped of RAM lies within ram_bytes.
    // Where this is all that cannot be had, vm_new() is ERR_UNSUPPORTED, and may be asked without.
    bool direct;
    int ram_fd;                // -1: RAM is no file
    struct ram_file *ram_file; // the same; NULL: it is none. To be touched before it is used.
    void *ram_host;
    uint64_t ram_bytes;
    struct cages *cages; // NULL: none
};

// Forced paths for tests; an engine ignores those that mean nothing to it.
enum engine_debug {
    ENGINE_DEBUG_INTERPRET = 1,        // never translate
    ENGINE_DEBUG_TINY_TLB = 2,         // as few TLB entries as possible
    ENGINE_DEBUG_TINY_CACHE = 4,       // 64 KiB of code cache
    ENGINE_DEBUG_POLL_EVERY_BLOCK = 8, // leave translated code after every block
    ENGINE_DEBUG_FLAGS_LIVE = 16,      // treat the flags as live everywhere
    ENGINE_DEBUG_LOCKSTEP = 32,        // replay sampled blocks in the interpreter and compare
    ENGINE_DEBUG_ANY_KVM = 64,         // also a KVM that cannot run ordinary guests
    ENGINE_DEBUG_DIRTY_BITMAP = 128,   // log changed pages in a bitmap, though there are rings
    ENGINE_DEBUG_ALL_HOT = 256,        // translate each block as a hot one at once
    ENGINE_DEBUG_SLOTS_MISS = 512,     // never fill what remembers the page of one access
    ENGINE_DEBUG_COPY_BLOCKS = 1024,   // run copies of blocks, and see that they can be copied
    ENGINE_DEBUG_ALL_DIRECT = 2048,    // run all user code directly that can be, worth it or not
    ENGINE_DEBUG_OPEN_PAGES = 4096,    // protect no code: all blocks compare their own bytes
};

// A named counter for berth stats; values only grow.
struct engine_counter {
    const char *name;
    uint64_t value;
};

#define ENGINE_SIGNALS 256

// Chips that the engine keeps while the VM runs. get and set are called while no vCPU runs, on any
// thread: set before they start, get after they have stopped; set puts nothing into the past, so
// that timers go on where they were. All else is called on any thread at any time in between.
// With local APICs of its own an engine sees INIT, SIPI and HLT itself, cpu_state.activity says
// where a vCPU stands, and set_intr() is not the APIC's but (with ENGINE_CHIPS_LAPIC) the PIC's
// output, said to the boot processor only.
struct engine_irqchip {
    enum engine_chips (*kept)(const struct engine_vm *vm);

    // With the local APICs, before board chips. Its deadline is armed by the next tsc_offset().
    err_t (*get_lapic)(struct engine_vcpu *vcpu, struct chip_lapic *out, struct error *e);
    err_t (*set_lapic)(struct engine_vcpu *vcpu, const struct chip_lapic *in, struct error *e);
    // A message (MSI) to the local APICs. False: nobody took it.
    bool (*message)(struct engine_vm *vm, uint64_t address, uint32_t data);
    // Signal n (below ENGINE_SIGNALS): from now on (on) adding to this eventfd is this message, and
    // empties it; off: what is added stays in it. Called again with another message while it is on.
    // The machine calls for one signal at a time. On error it is off. NULL: the engine has none.
    err_t (*signal)(struct engine_vm *vm, unsigned n, int eventfd, uint64_t address, uint32_t data,
                    bool on, struct error *e);
    // ENGINE_CHIPS_LAPIC: the machine's IOAPIC sends such messages (on: from now on) for a
    // level-triggered pin and must hear of their end through the upcall eoi.
    void (*await_eoi)(struct engine_vm *vm, unsigned pin, uint64_t address, uint32_t data, bool on);

    // ENGINE_CHIPS_ALL. Levels of the PIC's lines and IOAPIC's pins that devices drive; the PIT is
    // wired by the engine to line 0 and pin 2, unless it is muted. In what get says, lines are not.
    err_t (*get_board)(struct engine_vm *vm, struct chip_board *out, struct error *e);
    err_t (*set_board)(struct engine_vm *vm, const struct chip_board *in, struct error *e);
    void (*pic_line)(struct engine_vm *vm, unsigned line, bool level);
    void (*ioapic_pin)(struct engine_vm *vm, unsigned pin, bool level);
    void (*mute_pit)(struct engine_vm *vm, bool muted);
    // After every start of the vCPUs, on the main loop: what takes long and no guest waits for.
    void (*settle)(struct engine_vm *vm);
};

struct engine {
    const char *name; // "translate", "kvm"
    bool direct;      // has a use for direct of engine_vm_config
    // Usable here? debug: enum engine_debug. thorough: also look where looking takes milliseconds.
    void (*probe)(uint32_t debug, bool thorough, struct engine_probe *out);

    err_t (*vm_new)(const struct engine_vm_config *config, const struct engine_upcalls *upcalls,
                    void *opaque, struct engine_vm **out, struct error *e);
    void (*vm_free)(struct engine_vm *vm); // after all vCPUs are freed; accepts NULL

    // Guest-physical ranges backed by host memory. Page-aligned; ranges do not overlap. host stays
    // the caller's and valid until unmap or vm_free.
    err_t (*map)(struct engine_vm *vm, gpa_t at, uint64_t len, void *host,
                 enum engine_map_flags flags, struct error *e);
    err_t (*unmap)(struct engine_vm *vm, gpa_t at, uint64_t len, struct error *e);

    // Somebody other than a vCPU changed guest memory (DMA, loaders). Any thread; call it after the
    // bytes are in place and before the guest is told.
    void (*written)(struct engine_vm *vm, gpa_t at, uint64_t len);

    // Dirty log: while on, take_dirty() moves the set bits (one a page, from `at`) into bitmap
    // (len / 4096 bits, ORed) and clears them.
    err_t (*log_dirty)(struct engine_vm *vm, bool on, struct error *e);
    err_t (*take_dirty)(struct engine_vm *vm, gpa_t at, uint64_t len, uint64_t *bitmap);

    // Doorbell: from now on (on) a write of any size to `at`, outside RAM, adds one to the eventfd
    // and is no upcall; its value is lost. Any thread. NULL: the engine has none.
    err_t (*doorbell)(struct engine_vm *vm, gpa_t at, int eventfd, bool on, struct error *e);

    err_t (*vcpu_new)(struct engine_vm *vm, unsigned index, struct engine_vcpu **out,
                      struct error *e);
    void (*vcpu_free)(struct engine_vcpu *vcpu); // accepts NULL

    // Called once on the vCPU's thread before the first run, get or set.
    err_t (*vcpu_attach)(struct engine_vcpu *vcpu, struct error *e);
    void (*get)(struct engine_vcpu *vcpu, unsigned groups, struct cpu_state *out);
    err_t (*set)(struct engine_vcpu *vcpu, unsigned groups, const struct cpu_state *in,
                 struct error *e);
    // While no vCPU runs: from now on the guest's TSC has this frequency, and is the host's by that
    // ratio wherever the host's is spoken of. NULL: it always has the host's.
    err_t (*scale_tsc)(struct engine_vm *vm, uint64_t khz, struct tsc_ratio *out, struct error *e);
    // The guest's TSC is the host's plus this, plus the guest's own TSC_ADJUST: the same on all
    // vCPUs to the tick, which set() cannot be. NULL: set() is all there is.
    void (*tsc_offset)(struct engine_vcpu *vcpu, uint64_t offset);
    // The guest's MSR_KVM_STEAL_TIME. True: halts are within run(), and the engine adds by itself
    // to the guest's record what the thread waits for the host's CPUs. NULL: no engine's matter.
    bool (*steal_time)(struct engine_vcpu *vcpu, uint64_t msr);
    // CPU time in ns that other processes have spent in the stead of the vCPU's thread. Any thread.
    // NULL: none do.
    uint64_t (*cpu_elsewhere)(const struct engine_vcpu *vcpu);
    // On the vCPU's thread, which has moved to these CPUs of the host: what works in its stead
    // follows. NULL: nothing does.
    void (*moved)(struct engine_vcpu *vcpu, const cpu_set_t *cpus);
    // Forgets all translations of addresses. NULL: nobody can ask for it from outside the engine.
    void (*flush_tlb)(struct engine_vcpu *vcpu);
    enum engine_exit (*run)(struct engine_vcpu *vcpu);
    const char *(*vcpu_error)(struct engine_vcpu *vcpu); // words after ENGINE_FAILED

    // Debugging: replaces what was watched before; NULL: nothing. Engines without it have both
    // NULL. stopped() is for after ENGINE_STOPPED.
    err_t (*watch)(struct engine_vcpu *vcpu, const struct engine_watch *watch, struct error *e);
    void (*stopped)(struct engine_vcpu *vcpu, struct engine_stop *out);

    void (*kick)(struct engine_vcpu *vcpu); // run() returns soon; sticky until it does
    void (*set_intr)(struct engine_vcpu *vcpu, bool pending); // level of the CPU's INTR input
    void (*nmi)(struct engine_vcpu *vcpu);                    // edge; any thread
    // The same for an SMI. NULL: there is no system management mode, set() refuses a vCPU in it,
    // and SMIs go nowhere.
    void (*smi)(struct engine_vcpu *vcpu);

    const struct engine_irqchip *irqchip; // NULL: it keeps no chips

    // Fills at most max counters, returns how many there are. Any thread.
    unsigned (*counters)(struct engine_vm *vm, struct engine_counter *out, unsigned max);
};

extern const struct engine engine_translate;
extern const struct engine engine_kvm;

// All engines, best first, ended by NULL.
extern const struct engine *const engines[];
