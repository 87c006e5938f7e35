// The NVMe controller: its PCI function and registers, enabling, disabling and shutting down.
//
// Disabling waits for what is in flight (RDY says so to the guest), because data that moves in
// guest memory cannot be called back.
//
// Specification: NVMe 1.4, chapters 3 (registers), 7.6 (initialisation, shutdown). Not modelled:
// several namespaces, SGLs, controller memory buffer, subsystem reset, namespace management,
// firmware update, security, metadata and protection information.
#include "device/storage/nvme.h"

#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "device/storage/nvme_impl.h"

enum {
    BAR_REGISTERS = 0,
    BAR_MSIX = 4,
    BAR_BYTES = 0x4000,
    DOORBELLS = 0x1000,

    REG_CAP = 0x00,
    REG_VS = 0x08,
    REG_INTMS = 0x0c,
    REG_INTMC = 0x10,
    REG_CC = 0x14,
    REG_CSTS = 0x1c,
    REG_AQA = 0x24,
    REG_ASQ = 0x28,
    REG_ACQ = 0x30,

    CC_EN = 1,
    CC_KEPT = 0x00fffff1,
    CSTS_RDY = 1,
    CSTS_CFS = 2,
    SHST_OCCURRING = 1 << 2,
    SHST_DONE = 2 << 2,
    SHST = 3 << 2,
    VERSION = 0x00010400,
};

// 1024 entries, contiguous queues, ready within 20 s, NVM command set, 4 KiB pages.
#define CAP (1ull << 37 | 40ull << 24 | 1ull << 16 | (NVME_QUEUE_ENTRIES - 1))

static const struct state_field nvme_fields[] = {
    SUB(struct nvme, pci, pci_function_state),
    SKIP(struct nvme, config, "wiring, rebuilt from configuration"),
    SKIP(struct nvme, commands, "none is in flight when state is saved"),
    SKIP(struct nvme, free, "none is in flight when state is saved"),
    SKIP(struct nvme, shutdown, "none is in flight when state is saved"),
    SUB_ARRAY(struct nvme, sq, nvme_sq_state),
    SUB_ARRAY(struct nvme, cq, nvme_cq_state),
    FIELD(struct nvme, admin_sq),
    FIELD(struct nvme, admin_cq),
    FIELD(struct nvme, units_read),
    FIELD(struct nvme, units_written),
    FIELD(struct nvme, reads),
    FIELD(struct nvme, writes),
    FIELD(struct nvme, admin_sizes),
    FIELD(struct nvme, cc),
    FIELD(struct nvme, csts),
    FIELD(struct nvme, masked),
    SKIP(struct nvme, in_flight, "none is in flight when state is saved"),
    ARRAY(struct nvme, features),
    FIELD(struct nvme, events_waiting),
    ARRAY(struct nvme, event_cid),
    FIELD(struct nvme, event_masked),
    SKIP(struct nvme, stopping, "over when nothing is in flight"),
    SKIP(struct nvme, pad, "padding"),
    FIELDS_END,
};
static const struct state_desc nvme_state = STATE_DESC("nvme", struct nvme, 1, nvme_fields);

// --- Enabling, disabling, shutting down ---

void nvme_fatal(struct nvme *n)
{
    n->csts |= CSTS_CFS;
}

static bool settings_usable(const struct nvme *n)
{
    unsigned page_size = bits_get(n->cc, 10, 7), set = bits_get(n->cc, 6, 4),
             arbitration = bits_get(n->cc, 13, 11);

    return !page_size && !set && !arbitration && n->admin_sq && n->admin_cq &&
           bits_get(n->admin_sizes, 11, 0) && bits_get(n->admin_sizes, 27, 16);
}

static void enable(struct nvme *n)
{
    if (n->stopping || !settings_usable(n)) {
        nvme_fatal(n);
        return;
    }
    n->sq[0] = (struct nvme_sq){.base = n->admin_sq,
                                .size = (uint32_t)bits_get(n->admin_sizes, 11, 0) + 1};
    n->cq[0] = (struct nvme_cq){.base = n->admin_cq,
                                .size = (uint32_t)bits_get(n->admin_sizes, 27, 16) + 1,
                                .interrupts = 1,
                                .phase = 1};
    n->csts = CSTS_RDY;
}

// The queues go, and with them whatever was not fetched.
static void forget_queues(struct nvme *n)
{
    memset(n->sq, 0, sizeof n->sq);
    memset(n->cq, 0, sizeof n->cq);
    memset(n->event_cid, 0, sizeof n->event_cid);
    n->events_waiting = 0;
    n->event_masked = 0;
    n->masked = 0;
    n->csts = 0;
    n->stopping = 0;
    nvme_default_features(n);
    nvme_update_interrupt(n);
}

static void disable(struct nvme *n)
{
    n->stopping = 1;
    if (!n->in_flight)
        forget_queues(n);
}

void nvme_idle(struct nvme *n)
{
    if (n->stopping)
        forget_queues(n);
}

static void flushed(struct device *dev, void *argument)
{
    struct nvme *n = nvme_of(dev);

    n->csts = (n->csts & ~(uint32_t)SHST) | SHST_DONE;
    if (--n->in_flight == 0)
        nvme_idle(n);
}

static void flush_done(struct block_request *io, err_t result)
{
    struct nvme *n = container_of(io, struct nvme, shutdown);

    storage_enter(n->config.enter, &n->pci.dev, flushed, NULL);
}

static void shut_down(struct nvme *n)
{
    struct block *block = n->config.block;

    if (n->csts & SHST)
        return;
    n->csts |= SHST_OCCURRING;
    n->shutdown = (struct block_request){.op = BLOCK_FLUSH, .done = flush_done};
    n->in_flight++;
    block->type->submit(block, &n->shutdown);
}

static void write_cc(struct nvme *n, uint32_t value)
{
    uint32_t was = n->cc;

    n->cc = value & CC_KEPT;
    if (!(was & CC_EN) && (value & CC_EN))
        enable(n);
    else if ((was & CC_EN) && !(value & CC_EN))
        disable(n);
    if (bits_get(value, 15, 14) && !bits_get(was, 15, 14) && !n->stopping)
        shut_down(n);
}

// --- Registers ---

static uint32_t read_register(const struct nvme *n, uint64_t offset)
{
    switch (offset) {
    case REG_CAP: return (uint32_t)CAP;
    case REG_CAP + 4: return (uint32_t)(CAP >> 32);
    case REG_VS: return VERSION;
    case REG_INTMS:
    case REG_INTMC: return n->masked;
    case REG_CC: return n->cc;
    case REG_CSTS: return n->csts;
    case REG_AQA: return n->admin_sizes;
    case REG_ASQ: return (uint32_t)n->admin_sq;
    case REG_ASQ + 4: return (uint32_t)(n->admin_sq >> 32);
    case REG_ACQ: return (uint32_t)n->admin_cq;
    case REG_ACQ + 4: return (uint32_t)(n->admin_cq >> 32);
    default: return 0;
    }
}

static void write_address(uint64_t *address, bool upper, uint32_t value)
{
    *address = upper ? bits_set(*address, 63, 32, value)
                     : bits_set(*address, 31, 0, value & ~(uint32_t)(NVME_PAGE - 1));
}

static void write_register(struct nvme *n, uint64_t offset, uint32_t value)
{
    switch (offset) {
    case REG_INTMS: n->masked |= value; break;
    case REG_INTMC: n->masked &= ~value; break;
    case REG_CC: write_cc(n, value); break;
    case REG_AQA: n->admin_sizes = value & 0x0fff0fff; break;
    case REG_ASQ:
    case REG_ASQ + 4: write_address(&n->admin_sq, offset & 4, value); break;
    case REG_ACQ:
    case REG_ACQ + 4: write_address(&n->admin_cq, offset & 4, value); break;
    default: break;
    }
    nvme_update_interrupt(n);
}

static bool running(const struct nvme *n)
{
    return n->csts & CSTS_RDY && !(n->csts & CSTS_CFS) && !n->stopping && pci_is_master(&n->pci);
}

void nvme_run_all(struct nvme *n)
{
    for (unsigned i = 0; i < NVME_QUEUES && running(n); i++)
        nvme_run(n, i);
}

static void ring(struct nvme *n, unsigned which, uint32_t value)
{
    if (!running(n))
        return;
    if (which % 2)
        nvme_head(n, which / 2, value);
    else
        nvme_tail(n, which / 2, value);
}

static uint64_t bar_read(struct device *dev, uint64_t offset, unsigned size)
{
    const struct nvme *n = nvme_of(dev);
    uint64_t value;

    if (offset % 4)
        return 0;
    value = read_register(n, offset);
    return size == 8 ? value | (uint64_t)read_register(n, offset + 4) << 32 : value;
}

static void bar_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct nvme *n = nvme_of(dev);

    if (offset % 4)
        return;
    if (offset >= DOORBELLS) {
        ring(n, (unsigned)(offset - DOORBELLS) / 4, (uint32_t)value);
        return;
    }
    write_register(n, offset, (uint32_t)value);
    if (size == 8)
        write_register(n, offset + 4, (uint32_t)(value >> 32));
}

static const struct io_ops bar_ops = {bar_read, bar_write, .min_size = 4, .max_size = 8};

// --- Life ---

static void init_function(struct nvme *n)
{
    static const struct pci_id id = {.vendor = 0x1234,
                                     .device = 0x0010,
                                     .subsystem_vendor = 0x1af4,
                                     .subsystem = 0x1100,
                                     .class_code = 0x010802,
                                     .pin = 1};

    pci_init(&n->pci, &id, NULL);
    pci_add_bar(&n->pci, BAR_REGISTERS, PCI_BAR_MEM64, BAR_BYTES, &bar_ops);
    pci_add_msix(&n->pci, NVME_QUEUES, BAR_MSIX);
}

static err_t nvme_init(struct device *dev, const void *config, struct error *e)
{
    struct nvme *n = nvme_of(dev);

    n->config = *(const struct nvme_config *)config;
    init_function(n);
    n->commands = calloc(NVME_COMMANDS, sizeof *n->commands);
    if (!n->commands)
        return error_set(e, ERR_NO_MEMORY, "no memory for the commands of an NVMe disk");
    for (unsigned i = 0; i < NVME_COMMANDS; i++) {
        n->commands[i].nvme = n;
        n->commands[i].next_free = n->free;
        n->free = &n->commands[i];
    }
    return OK;
}

static void nvme_reset(struct device *dev)
{
    struct nvme *n = nvme_of(dev);

    n->admin_sq = n->admin_cq = 0;
    n->admin_sizes = n->cc = 0;
    forget_queues(n);
    pci_reset(&n->pci);
}

static err_t nvme_loaded(struct device *dev, struct error *e)
{
    struct nvme *n = nvme_of(dev);
    bool enabled = n->csts & CSTS_RDY;

    n->stopping = 0;
    if (n->cc & ~(uint32_t)CC_KEPT || n->csts & ~(uint32_t)(CSTS_RDY | CSTS_CFS | SHST_DONE) ||
        n->admin_sizes & ~0x0fff0fffu || n->admin_sq % NVME_PAGE || n->admin_cq % NVME_PAGE ||
        n->events_waiting > NVME_EVENTS || n->event_masked > 1 ||
        enabled != (n->sq[0].size && n->cq[0].size))
        return error_set(e, ERR_CORRUPT, "the NVMe controller's registers have impossible values");
    if (nvme_queues_loaded(n, e) != OK)
        return e->code;
    return pci_loaded(&n->pci, e);
}

static void nvme_fini(struct device *dev)
{
    struct nvme *n = nvme_of(dev);

    pci_fini(&n->pci);
    free(n->commands);
    n->commands = n->free = NULL;
}

const struct device_type nvme_type = {
    .name = "nvme",
    .size = sizeof(struct nvme),
    .lines = 1,
    .state = &nvme_state,
    .init = nvme_init,
    .reset = nvme_reset,
    .loaded = nvme_loaded,
    .fini = nvme_fini,
};
