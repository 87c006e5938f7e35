// Who gets what of the host: pools form a tree, VMs are its leaves. Each has shares, reservations
// and limits of CPU time, memory, disks' bytes and operations, network bandwidth. What is promised
// is checked here when it is promised; coordinator.h carries it out.
//
// A reservation is a promise whether its VM runs or not. What a pool's members were promised counts
// against its own reservation where it has one, else against its parent's, and in the end against
// the host.
#pragma once

#include <sched.h>

#include "control/request.h"
#include "machine/config.h"
#include "manager/divide.h"
#include "manager/manager.h"

enum resource { RES_CPU, RES_MEMORY, RES_DISK, RES_IOPS, RES_NET, RESOURCES };

#define SHARES_DEFAULT 100
#define SHARES_MAX 1000000
#define POOL_DEPTH_MAX 8

// Thousandths of a CPU, bytes, bytes a second, operations a second, bits a second each way. 0: no
// reservation, no limit.
struct allotment {
    uint64_t shares[RESOURCES];
    uint64_t reservation[RESOURCES];
    uint64_t limit[RESOURCES];
};

struct pool {
    char name[REGISTRY_NAME_MAX + 1]; // "": the root, which is the host
    struct pool *parent, *next;       // next: in the order of their names
    struct allotment a;
    double debt_ns;     // CPU time that its VMs had beyond its limit
    struct slice slice; // of one division
};

#define TENANT_NICS 8 // cards of a VM whose bandwidth is divided

// What the coordinator knows of a running VM.
struct tenant_use {
    int pid;
    uint64_t at, cpu_ns;         // the last look: host_now(), ns so far
    uint64_t spent_ns;           // of its process, since the look before
    uint64_t ran_ns, wait_ns;    // of its threads, while it is busy
    uint64_t held_ns, held_then; // as it said last, and at the last look
    cpu_set_t cpus;              // where its vCPUs may run, while it is busy
    int group;                   // of VMs that share CPUs with it; -1: it does not count
    double used, wanted;         // thousandths of a CPU, lately
    double progress;             // how much of what it was given it has used, ns
    uint64_t told_at;            // host_now() of the latest grant
    uint64_t given;              // thousandths of a CPU
    uint64_t granted;            // as the VM was told; 0: nothing holds
    uint64_t limit_told;         // likewise its own limit
    uint64_t bound, bound_told;  // what limits of pools leave it; 0: there are none
    bool short_of;               // it was given less than it wants
    bool asked;                  // an answer is owed
    bool in_group;               // of its own control group
    uint64_t weight;             // in its control group: its part if all wanted all they can use
    uint64_t group_least, group_most; // memory, as that was told

    uint64_t memory_size, memory_guest, memory_target; // bytes; size 0: not known
    uint64_t memory_available;                         // in the guest; 0: not known
    uint64_t memory_share;                             // of the latest division
    bool balloon, memory_asked;

    struct disk_use {
        uint64_t count[2]; // so far: bytes, operations
        uint64_t rate[2];  // a second
        uint64_t told[2];  // its bounds; 0: none
        bool heard;        // they are what the VM knows
    } disk[VM_DISKS_MAX];
    uint32_t disks;         // bit for each that there is
    uint64_t disk_at;       // host_now() of the latest look; 0: none yet
    uint64_t disk_rate[2];  // all together
    uint64_t disk_given[2]; // a second
    bool disk_asked;

    struct net_use {
        char network[REGISTRY_NAME_MAX + 1];
        unsigned nic;
        uint64_t at;       // host_now() of the latest look
        uint64_t bytes[2]; // so far: to the VM, from it
        uint64_t rate[2];  // bits a second
        uint64_t told[2];  // its bounds; 0: none
        uint64_t shares;   // as its network was told
    } net[TENANT_NICS];
    unsigned nets;
    uint64_t net_given[2]; // bits a second
};

// A VM's place in the tree.
struct tenant {
    struct managed *vm;
    struct tenant *next;
    struct pool *pool;
    struct allotment a;
    struct slice slice;
    struct tenant_use use; // zero when it begins to run
};

struct pools {
    struct manager *manager;
    struct pool root;
    struct pool *list; // all but the root
    struct tenant *tenants;
    uint64_t host[RESOURCES]; // what there is; 0: not known
};

// Reads the inventory; VMs are there already.
err_t pools_open(struct manager *manager, struct pools **out, struct error *e);
void pools_close(struct pools *pools); // accepts NULL

// The VM's place, made where it has none yet; NULL: no memory.
struct tenant *pools_tenant(struct pools *pools, struct managed *vm);
void pools_forget(struct pools *pools, const struct managed *vm); // it is removed

// Makes the tree of slices for a division of one resource: only tenants that `takes` says yes to.
// Their slices' demand is the caller's to set.
void pools_slices(struct pools *pools, enum resource what,
                  bool (*takes)(void *opaque, const struct tenant *t), void *opaque);

extern const struct request_field pool_fields[], pool_name_fields[], share_fields[];
err_t pool_create_request(void *context, const json_t *args, struct reply *reply, struct error *e);
err_t pool_set_request(void *context, const json_t *args, struct reply *reply, struct error *e);
err_t pool_ls_request(void *context, const json_t *args, struct reply *reply, struct error *e);
err_t pool_rm_request(void *context, const json_t *args, struct reply *reply, struct error *e);
err_t share_request(void *context, const json_t *args, struct reply *reply, struct error *e);
