// Inside the NVMe model: nvme.c has registers and life, nvme_queue.c queues and data pointers,
// nvme_admin.c and nvme_io.c the two command sets, nvme_identify.c the pages that describe it.
#pragma once

#include "base/bytes.h"
#include "device/pci/pci.h"
#include "device/storage/nvme.h"
#include "device/storage/scatter.h"

#define NVME_QUEUES 17 // pairs: the admin's, and one for each of 16 vCPUs
#define NVME_QUEUE_ENTRIES 1024
#define NVME_COMMANDS 128 // in flight
#define NVME_PAGE 4096
#define NVME_TRANSFER (128 * NVME_PAGE) // most bytes of one command: MDTS 7
#define NVME_EVENTS 4                   // asynchronous event requests that may wait
#define NVME_FEATURES 16
#define NVME_SQE 64
#define NVME_CQE 16

// Status: type << 8 | code; NVMe 1.4, 4.6.1. DO_NOT_RETRY is ored to those that stay wrong.
enum {
    SC_OK = 0,
    SC_INVALID_OPCODE = 0x001,
    SC_INVALID_FIELD = 0x002,
    SC_DATA_TRANSFER_ERROR = 0x004,
    SC_INVALID_NAMESPACE = 0x00b,
    SC_INVALID_PRP_OFFSET = 0x013,
    SC_WRITE_PROTECTED = 0x020,
    SC_LBA_OUT_OF_RANGE = 0x080,
    SC_INVALID_COMPLETION_QUEUE = 0x100,
    SC_INVALID_QUEUE_ID = 0x101,
    SC_INVALID_QUEUE_SIZE = 0x102,
    SC_EVENT_LIMIT = 0x105,
    SC_INVALID_VECTOR = 0x108,
    SC_INVALID_LOG_PAGE = 0x109,
    SC_INVALID_QUEUE_DELETION = 0x10c,
    SC_NOT_SAVEABLE = 0x10d,
    SC_WRITE_FAULT = 0x280,
    SC_READ_ERROR = 0x281,
    DO_NOT_RETRY = 0x4000,
};

enum { FEATURE_WRITE_CACHE = 0x06, FEATURE_QUEUES = 0x07, FEATURE_EVENTS = 0x0b };

struct nvme_sq {
    uint64_t base;
    uint32_t size; // entries; 0: the queue does not exist
    uint16_t head;
    uint16_t tail;
    uint16_t cq;
    uint16_t pad;
    uint32_t outstanding; // commands that have not ended
};

struct nvme_cq {
    uint64_t base;
    uint32_t size; // 0: does not exist
    uint16_t head;
    uint16_t tail;
    uint16_t vector;
    uint8_t interrupts; // enabled
    uint8_t phase;
    uint32_t outstanding; // completions that room is kept for
};

struct nvme;

// The entry of a submission queue, as it was read.
struct nvme_entry {
    uint8_t opcode;
    uint8_t flags;
    uint16_t cid;
    uint32_t nsid;
    uint64_t prp[2];
    uint32_t cdw[6]; // dwords 10 to 15
};

// A command while it is carried out.
struct nvme_command {
    struct block_request io;
    struct nvme *nvme;
    struct nvme_command *next_free;
    struct nvme_entry entry;
    uint16_t sq;
    uint16_t ranges; // of a deallocation
    uint16_t next_range;
    uint16_t status; // result of io
    bool sync;       // flush after the write
    bool deletes;    // waits for the commands of a queue that it deletes: cdw[0]
    struct scatter data;
    uint8_t list[NVME_PAGE]; // the ranges
};

struct nvme {
    struct pci_function pci;
    struct nvme_config config;
    struct nvme_command *commands; // NVME_COMMANDS of them, owned
    struct nvme_command *free;
    struct block_request shutdown; // the flush of a shutdown
    struct nvme_sq sq[NVME_QUEUES];
    struct nvme_cq cq[NVME_QUEUES];
    uint64_t admin_sq; // ASQ, ACQ
    uint64_t admin_cq;
    uint64_t units_read; // 512 bytes each, for the health log
    uint64_t units_written;
    uint64_t reads;
    uint64_t writes;
    uint32_t admin_sizes; // AQA
    uint32_t cc;
    uint32_t csts;
    uint32_t masked; // INTMS
    uint32_t in_flight;
    uint32_t features[NVME_FEATURES];
    uint32_t events_waiting; // requests
    uint16_t event_cid[NVME_EVENTS];
    uint8_t event_masked; // error events, until the guest reads the log
    uint8_t stopping;     // the guest disabled the controller; waits for what is in flight
    uint8_t pad[6];
};

extern const struct state_desc nvme_sq_state, nvme_cq_state;

static inline struct nvme *nvme_of(struct device *dev)
{
    return container_of(pci_function_of(dev), struct nvme, pci);
}

// --- nvme.c

void nvme_fatal(struct nvme *n);   // the controller gives up until the next reset
void nvme_idle(struct nvme *n);    // nothing is in flight any more
void nvme_run_all(struct nvme *n); // every queue: there is a free command again

// --- nvme_queue.c

void nvme_run(struct nvme *n, unsigned sq);
void nvme_update_interrupt(struct nvme *n);                  // the pin
void nvme_tail(struct nvme *n, unsigned sq, uint32_t value); // doorbells
void nvme_head(struct nvme *n, unsigned cq, uint32_t value);
// Ends a command with a status and dword 0 of its completion, and frees it.
void nvme_finish(struct nvme_command *c, unsigned status, uint32_t result);
// Posts a completion for which room was kept.
void nvme_post(struct nvme *n, unsigned sq, uint16_t cid, unsigned status, uint32_t result);
// Maps the command's data pointer: exactly len bytes. SC_OK, or what is wrong with it.
unsigned nvme_map(struct nvme_command *c, uint64_t len);
// Ends a command with data for the guest.
void nvme_reply(struct nvme_command *c, const void *data, uint64_t len);
err_t nvme_queues_loaded(const struct nvme *n, struct error *e);

// --- nvme_admin.c

void nvme_admin(struct nvme_command *c);
void nvme_queue_idle(struct nvme *n, unsigned sq); // its last command has ended
void nvme_event(struct nvme *n, uint8_t info);     // an error event
void nvme_default_features(struct nvme *n);

// --- nvme_io.c

void nvme_io(struct nvme_command *c);
uint32_t nvme_lba_bytes(const struct nvme *n);

// --- nvme_identify.c

void nvme_identify_controller(const struct nvme *n, uint8_t page[NVME_PAGE]);
void nvme_identify_namespace(const struct nvme *n, uint8_t page[NVME_PAGE]);
void nvme_identify_descriptors(const struct nvme *n, uint8_t page[NVME_PAGE]);
void nvme_health_log(const struct nvme *n, uint8_t page[512]);
