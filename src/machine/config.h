// One VM's definition: what the command line, a file or the manager asks for, and what berth-vmm
// gets. JSON form: docs/formats/vm-definition.md.
#pragma once

#include <jansson.h>
#include <sched.h>

#include "base/error.h"
#include "block/throttle.h"
#include "engine/engine.h"

#define VM_VCPUS_MAX 64
#define VM_MEMORY_MIN (1 * MIB)
#define VM_MEMORY_MAX (256 * GIB)
#define VM_DISKS_MAX 16
#define VM_CPU_LIMIT_MIN 10 // thousandths of a CPU
#define VM_BIOS_MEMORY_MIN (16 * MIB)
#define VM_UEFI_MEMORY_MIN (96 * MIB)

enum vm_disk_bus { VM_BUS_VIRTIO, VM_BUS_AHCI, VM_BUS_NVME, VM_BUSES };
#define VM_AHCI_MAX 6 // drives on that bus

struct vm_disk {
    char *path;           // owned; NULL: a CD-ROM drive without a disc
    char *format;         // owned; "raw", "qcow2" or NULL: guessed
    char *serial;         // owned; at most 20 bytes; NULL: "disk0" and so on
    enum vm_disk_bus bus; // AHCI for a CD-ROM drive
    bool cdrom;           // read-only
    bool read_only;
    bool snapshot; // what the guest writes is dropped at the end
    bool direct;   // past the host's page cache
    struct throttle_limits limits;
};

enum vm_nic_model { VM_NIC_VIRTIO, VM_NIC_E1000, VM_NIC_MODELS };
extern const char *const vm_nic_model_names[VM_NIC_MODELS];
#define VM_NICS_MAX 8
#define VM_NIC_QUEUES_MAX 4

struct vm_nic {
    char *network;  // owned; its name, or "vhost-user:PATH"; NULL: none
    char *mac;      // owned; "52:54:00:12:34:56"; NULL: one that follows from the VM's name
    char *forwards; // owned; ports of the host that lead to the guest, as berth-switch reads them
    char *rom;      // owned; file of its expansion ROM, or "none"; NULL: what firmware may need
    uint32_t mtu;   // told to the guest; 0: not told
    char *policy;   // owned; where the guest may connect to (net/policy.h); NULL: the network's
    char *
        address; // owned; the IPv4 address that it would like; NULL: one that follows from its name
    uint64_t in, out;  // limits to and from the guest, bits a second; 0: the network's
    uint32_t priority; // share of a busy network, 0..7
    uint32_t vlan;     // 0: none
    uint32_t queues;   // pairs, 1..VM_NIC_QUEUES_MAX
    uint32_t slot;     // of PCI; 0: the next one. Not said by people
    bool absent;       // there was one, and it was removed
    bool isolated;     // it reaches the network's gateway only
    bool trunk;        // it gets tagged frames of all VLANs
    bool trusting;     // it may use any address
    bool socket;       // packets go through a socket; else through memory shared with the network
    enum vm_nic_model model;
};

// Whether rom names a file.
bool vm_nic_rom_file(const struct vm_nic *nic);

// Strings are owned by the struct; NULL or "" where nothing was given.
struct vm_config {
    char *name;            // vm_name_valid()
    uint32_t vcpus;        // 1..VM_VCPUS_MAX
    uint64_t memory_bytes; // a multiple of 1 MiB
    uint32_t cpu_limit;    // thousandths of a CPU; 0: none
    uint32_t cpu_bound;    // likewise, of what is above it, at its start
    char *cpu_pin;         // the host's CPUs that vCPUs run on (vm_cpu_pin_parse()); NULL: any
    bool memory_huge;      // its RAM is made of reserved huge pages
    bool memory_merge;     // the host may merge equal pages of its RAM with others' (KSM)
    char *kernel;          // bzImage, ELF (vmlinux, multiboot)
    char *initrd;
    char *append;       // kernel command line
    char *firmware;     // "auto", "none", "bios", "uefi", the latter two also with :FILE;
                        // NULL: none with a kernel, else auto, which looks at the disks
    char *firmware_log; // its debug output, a chardev specification; NULL: none
    char *uefi_vars;    // file that keeps UEFI variables, made when missing; NULL: none does
    struct vm_disk disk[VM_DISKS_MAX];
    uint32_t disks;
    struct vm_nic nic[VM_NICS_MAX];
    uint32_t nics;
    char *engine;     // "auto" or an engine's name, and its options; see vm_engine_parse()
    char *cpu;        // model name; NULL: the default one
    char *serial;     // COM1, a chardev specification: "stdio", "pty", "file:PATH", "none"
    char *console;    // the virtio console, likewise
    char *vga;        // "std" or "none"; NULL: std where firmware boots, else none
    char *display;    // "vnc=..." (display/vnc.h) or "none"; NULL: none
    bool exit_device; // the port that ends the VM with a status (tests)
    bool no_reboot;   // a guest's reset ends the VM
    bool no_vsock;    // no socket device, and so no way to the guest's agent
    bool agent;       // the guest was given Berth's agent; it will say when it is ready
    bool json;        // events and result as JSON lines
    uint32_t debug;   // enum engine_debug bits
};

// Letters and digits of ASCII, and inside a name also . _ -: safe as a file's name, too.
bool vm_name_valid(const char *name);
#define VM_NAME_RULE "use 1 to 63 of A-Z a-z 0-9 . _ -, a letter or digit first"

// The definition of a VM about which nothing was said: "vm", 1 vCPU, 256 MiB, engine auto, serial
// stdio. ERR_NO_MEMORY.
err_t vm_config_init(struct vm_config *config, struct error *e);
void vm_config_release(struct vm_config *config);

// Replaces a string member; value may be NULL.
err_t vm_config_set(char **member, const char *value, struct error *e);
void vm_disk_release(struct vm_disk *disk);
err_t vm_config_add_disk(struct vm_config *config, const char *path, bool read_only,
                         struct error *e);
// A disk as the command line has it: "PATH[,WORD][,KEY=VALUE]...", ",," for a comma in the path.
err_t vm_disk_parse(struct vm_config *config, const char *text, struct error *e);
// A CD-ROM drive; "none": without a disc.
err_t vm_cdrom_parse(struct vm_config *config, const char *text, struct error *e);

// A network card as the command line has it: "NETWORK[,KEY=VALUE]...".
err_t vm_nic_parse(struct vm_config *config, const char *text, struct error *e);
// What a card may be plugged into: a virtual network, by its name, or another program's vhost-user
// back end, "vhost-user:PATH", whose socket is at PATH (else NULL).
bool vm_network_valid(const char *network);
const char *vm_network_vhost(const char *network);

// While a VM runs: where its next network card goes, the first place of one that was removed or
// behind the last; and puts one there, as the object says with the keys of a definition.
// ERR_EXISTS: there is one.
unsigned vm_nic_place(const struct vm_config *config);
err_t vm_nic_put(struct vm_config *config, unsigned number, const json_t *value, struct error *e);
void vm_nic_mac(const struct vm_config *config, unsigned nic, uint8_t mac[6]);

// The member of limits that a name means, "bps", "iops-read" or "bps_burst" (- and _ are one);
// NULL: none.
uint64_t *vm_limit_member(struct throttle_limits *limits, const char *name, size_t len);
// "10M" and the like: K, M and G are powers of 1024. The name is for the words of an error.
err_t vm_rate_parse(const char *name, size_t name_len, const char *text, size_t len, uint64_t *out,
                    struct error *e);
err_t vm_limits_check(const struct throttle_limits *limits, struct error *e);

// Ranges and names, not whether files exist. The text says which key, what is wrong and what is
// right.
err_t vm_config_check(const struct vm_config *config, struct error *e);

// JSON text, allocated with malloc(); and back (config is initialised here; on an error it is
// released). Unknown, repeated, mistyped and out-of-range keys are ERR_INVALID with the key's path.
err_t vm_config_save(const struct vm_config *config, char **text, struct error *e);
err_t vm_config_load(struct vm_config *config, const char *text, size_t len, struct error *e);

#define ENGINE_OPTION_MAX 256

enum vm_direct { VM_DIRECT_AUTO, VM_DIRECT_ON, VM_DIRECT_OFF };

// "kvm,irqchip=split": the engine's name, or auto, and options. ERR_INVALID for what there is not.
struct vm_engine {
    char name[16];
    enum engine_chips chips;    // irqchip=kernel, split or user; else ENGINE_CHIPS_BEST
    uint32_t poll_ns;           // halt-poll=NS, as engine_vm_config has it
    uint64_t code_cache_bytes;  // code-cache=SIZE, likewise
    uint64_t shared_code_bytes; // shared-code=SIZE, likewise
    enum vm_direct direct;      // direct=on, off or auto: wherever it can be had
    char translation_cache[ENGINE_OPTION_MAX]; // translation-cache=FILE; empty: none
    char perf_map[ENGINE_OPTION_MAX];          // perf-map=FILE or none; empty: not asked for
};
err_t vm_engine_parse(const char *text, struct vm_engine *out, struct error *e);

// Firmware starts the VM (auto: if there is a disk).
bool vm_config_has_firmware(const struct vm_config *config);

// Whether the VM gets a VGA.
bool vm_config_has_vga(const struct vm_config *config);

// "interpret,tiny-tlb" to engine_debug bits.
err_t vm_debug_parse(const char *list, uint32_t *debug, struct error *e);

// "50%", "1.5" (CPUs) or "none" to thousandths of a CPU.
err_t vm_cpu_amount_parse(const char *text, uint32_t *millis, struct error *e);
err_t vm_cpu_limit_check(uint32_t millis, struct error *e);
// "0-3,6": CPUs for all vCPUs; "0:2;1:3,4": for some of them. out (may be NULL) has one for each
// vCPU; those that are not named stay as they are.
err_t vm_cpu_pin_parse(const char *text, unsigned vcpus, cpu_set_t *out, struct error *e);

// "512", "512M", "2G" to bytes; a bare number is MiB.
err_t vm_memory_parse(const char *text, uint64_t *bytes, struct error *e);
