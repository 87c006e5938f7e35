// NVMe admin commands: queues, identify, log pages, features, events.
//
// Specification: NVMe 1.4, chapter 5. A queue that is deleted ends its commands first. Abort
// answers that nothing was aborted, which the specification allows and drivers expect. Events are
// those of wrong doorbells.
#include "base/bits.h"
#include "device/storage/nvme_impl.h"

#include <string.h>

enum {
    OP_DELETE_SQ = 0x00,
    OP_CREATE_SQ = 0x01,
    OP_GET_LOG = 0x02,
    OP_DELETE_CQ = 0x04,
    OP_CREATE_CQ = 0x05,
    OP_IDENTIFY = 0x06,
    OP_ABORT = 0x08,
    OP_SET_FEATURES = 0x09,
    OP_GET_FEATURES = 0x0a,
    OP_EVENT = 0x0c,

    LOG_ERRORS = 1,
    LOG_HEALTH = 2,
    LOG_FIRMWARE = 3,
    LOG_MAX = 512,

    CONTIGUOUS = 1,
    INTERRUPTS = 2,
};

static void fail(struct nvme_command *c, unsigned status)
{
    nvme_finish(c, status | DO_NOT_RETRY, 0);
}

// --- Queues ---

static uint32_t queue_id(const struct nvme_command *c)
{
    return c->entry.cdw[0] & 0xffff;
}

static uint32_t queue_size(const struct nvme_command *c)
{
    return (c->entry.cdw[0] >> 16) + 1;
}

// What creating either kind of queue checks alike.
static unsigned check_queue(const struct nvme_command *c, bool exists)
{
    uint32_t id = queue_id(c), size = queue_size(c);

    if (id == 0 || id >= NVME_QUEUES || exists)
        return SC_INVALID_QUEUE_ID;
    if (size < 2 || size > NVME_QUEUE_ENTRIES)
        return SC_INVALID_QUEUE_SIZE;
    if (!(c->entry.cdw[1] & CONTIGUOUS))
        return SC_INVALID_FIELD;
    return c->entry.prp[0] % NVME_PAGE ? SC_INVALID_PRP_OFFSET : SC_OK;
}

static void create_cq(struct nvme_command *c)
{
    struct nvme *n = c->nvme;
    uint32_t id = queue_id(c), vector = c->entry.cdw[1] >> 16;
    unsigned status = check_queue(c, id < NVME_QUEUES && n->cq[id].size);

    if (!status && vector >= NVME_QUEUES)
        status = SC_INVALID_VECTOR;
    if (status) {
        fail(c, status);
        return;
    }
    n->cq[id] = (struct nvme_cq){.base = c->entry.prp[0],
                                 .size = queue_size(c),
                                 .vector = (uint16_t)vector,
                                 .interrupts = !!(c->entry.cdw[1] & INTERRUPTS),
                                 .phase = 1};
    nvme_finish(c, SC_OK, 0);
}

static void create_sq(struct nvme_command *c)
{
    struct nvme *n = c->nvme;
    uint32_t id = queue_id(c), cq = c->entry.cdw[1] >> 16;
    unsigned status = check_queue(c, id < NVME_QUEUES && n->sq[id].size);

    if (!status && (cq == 0 || cq >= NVME_QUEUES || !n->cq[cq].size))
        status = SC_INVALID_COMPLETION_QUEUE;
    if (status) {
        fail(c, status);
        return;
    }
    n->sq[id] =
        (struct nvme_sq){.base = c->entry.prp[0], .size = queue_size(c), .cq = (uint16_t)cq};
    nvme_finish(c, SC_OK, 0);
}

static bool being_deleted(const struct nvme *n, uint32_t sq)
{
    for (unsigned i = 0; i < NVME_COMMANDS; i++)
        if (n->commands[i].deletes && queue_id(&n->commands[i]) == sq)
            return true;
    return false;
}

static void end_deletion(struct nvme_command *c)
{
    c->deletes = false;
    c->nvme->sq[queue_id(c)] = (struct nvme_sq){0};
    nvme_finish(c, SC_OK, 0);
}

void nvme_queue_idle(struct nvme *n, unsigned sq)
{
    for (unsigned i = 0; i < NVME_COMMANDS; i++) {
        if (n->commands[i].deletes && queue_id(&n->commands[i]) == sq) {
            end_deletion(&n->commands[i]);
            return;
        }
    }
}

static void delete_sq(struct nvme_command *c)
{
    struct nvme *n = c->nvme;
    uint32_t id = queue_id(c);

    if (id == 0 || id >= NVME_QUEUES || !n->sq[id].size || being_deleted(n, id)) {
        fail(c, SC_INVALID_QUEUE_ID);
        return;
    }
    c->deletes = true;
    n->sq[id].tail = n->sq[id].head; // what was not fetched never will be
    if (!n->sq[id].outstanding)
        end_deletion(c);
}

static void delete_cq(struct nvme_command *c)
{
    struct nvme *n = c->nvme;
    uint32_t id = queue_id(c);

    if (id == 0 || id >= NVME_QUEUES || !n->cq[id].size) {
        fail(c, SC_INVALID_QUEUE_ID);
        return;
    }
    for (unsigned i = 0; i < NVME_QUEUES; i++) {
        if (n->sq[i].size && n->sq[i].cq == id) {
            fail(c, SC_INVALID_QUEUE_DELETION);
            return;
        }
    }
    n->cq[id] = (struct nvme_cq){0};
    nvme_update_interrupt(n);
    nvme_finish(c, SC_OK, 0);
}

// --- Pages ---

static void identify(struct nvme_command *c)
{
    struct nvme *n = c->nvme;
    uint32_t nsid = c->entry.nsid;
    uint8_t page[NVME_PAGE] = {0};

    switch (c->entry.cdw[0] & 0xff) {
    case 0x00:
        if (nsid != 1 && nsid != UINT32_MAX) {
            fail(c, SC_INVALID_NAMESPACE);
            return;
        }
        nvme_identify_namespace(n, page);
        break;
    case 0x01: nvme_identify_controller(n, page); break;
    case 0x02: // active namespaces above this one
        if (nsid >= UINT32_MAX - 1) {
            fail(c, SC_INVALID_NAMESPACE);
            return;
        }
        store_le32(page, nsid == 0);
        break;
    case 0x03:
        if (nsid != 1) {
            fail(c, SC_INVALID_NAMESPACE);
            return;
        }
        nvme_identify_descriptors(n, page);
        break;
    default: fail(c, SC_INVALID_FIELD); return;
    }
    nvme_reply(c, page, sizeof page);
}

static void get_log(struct nvme_command *c)
{
    const uint32_t *cdw = c->entry.cdw;
    uint64_t len = (((uint64_t)(cdw[1] & 0xffff) << 16 | cdw[0] >> 16) + 1) * 4;
    uint64_t offset = cdw[2] | (uint64_t)cdw[3] << 32;
    uint8_t log[LOG_MAX] = {0};
    uint64_t size = LOG_MAX;

    switch (cdw[0] & 0xff) {
    case LOG_ERRORS:
        size = 64;
        if (!(cdw[0] & BIT(15))) // unless the event is to be kept
            c->nvme->event_masked = 0;
        break;
    case LOG_HEALTH: nvme_health_log(c->nvme, log); break;
    case LOG_FIRMWARE:
        log[0] = 1;
        memcpy(log + 8, "1.0     ", 8);
        break;
    default: fail(c, SC_INVALID_LOG_PAGE); return;
    }
    if (offset >= size || offset % 4)
        fail(c, SC_INVALID_FIELD);
    else
        nvme_reply(c, log + offset, min_u64(len, size - offset));
}

// --- Features ---

// One bit for each feature that exists: arbitration, power, temperature, error recovery, write
// cache, queues, interrupt coalescing and vectors, write atomicity, events.
#define FEATURES_KNOWN 0x0ff6u
#define FEATURES_CHANGEABLE 0x0976u
#define QUEUES_GRANTED ((NVME_QUEUES - 2u) << 16 | (NVME_QUEUES - 2u))

static uint32_t default_feature(unsigned id)
{
    switch (id) {
    case 0x04: return 343; // kelvins: the warning temperature
    case FEATURE_WRITE_CACHE: return 1;
    case FEATURE_QUEUES: return QUEUES_GRANTED;
    default: return 0;
    }
}

void nvme_default_features(struct nvme *n)
{
    for (unsigned i = 0; i < NVME_FEATURES; i++)
        n->features[i] = default_feature(i);
}

static bool feature_known(unsigned id)
{
    return id < NVME_FEATURES && (FEATURES_KNOWN >> id & 1);
}

static void set_features(struct nvme_command *c)
{
    struct nvme *n = c->nvme;
    unsigned id = c->entry.cdw[0] & 0xff;

    if (!feature_known(id)) {
        fail(c, SC_INVALID_FIELD);
    } else if (c->entry.cdw[0] & BIT(31)) {
        fail(c, SC_NOT_SAVEABLE);
    } else if (id == FEATURE_QUEUES) {
        nvme_finish(c, SC_OK, QUEUES_GRANTED);
    } else {
        if (FEATURES_CHANGEABLE >> id & 1)
            n->features[id] = c->entry.cdw[1];
        nvme_finish(c, SC_OK, 0);
    }
}

static void get_features(struct nvme_command *c)
{
    unsigned id = c->entry.cdw[0] & 0xff, select = (unsigned)bits_get(c->entry.cdw[0], 10, 8);

    if (!feature_known(id) || select > 3)
        fail(c, SC_INVALID_FIELD);
    else if (select == 3) // supported: changeable, not saveable
        nvme_finish(c, SC_OK, FEATURES_CHANGEABLE >> id & 1 ? 4 : 0);
    else
        nvme_finish(c, SC_OK, select ? default_feature(id) : c->nvme->features[id]);
}

// --- Events ---

// Kept without its record, so that waiting requests cost nothing.
static void wait_for_event(struct nvme_command *c)
{
    struct nvme *n = c->nvme;

    if (n->events_waiting == NVME_EVENTS) {
        fail(c, SC_EVENT_LIMIT);
        return;
    }
    n->event_cid[n->events_waiting++] = c->entry.cid;
    n->sq[0].outstanding--;
    n->cq[0].outstanding--;
    c->next_free = n->free;
    n->free = c;
}

void nvme_event(struct nvme *n, uint8_t info)
{
    const struct nvme_cq *q = &n->cq[0];
    unsigned in_use = (q->tail + q->size - q->head) % q->size + q->outstanding;

    if (n->event_masked || !n->events_waiting || in_use + 1 >= q->size)
        return;
    n->event_masked = 1;
    nvme_post(n, 0, n->event_cid[--n->events_waiting], SC_OK,
              (uint32_t)info << 8 | (uint32_t)LOG_ERRORS << 16);
}

// --- The table ---

void nvme_admin(struct nvme_command *c)
{
    switch (c->entry.opcode) {
    case OP_DELETE_SQ: delete_sq(c); break;
    case OP_CREATE_SQ: create_sq(c); break;
    case OP_GET_LOG: get_log(c); break;
    case OP_DELETE_CQ: delete_cq(c); break;
    case OP_CREATE_CQ: create_cq(c); break;
    case OP_IDENTIFY: identify(c); break;
    case OP_ABORT: nvme_finish(c, SC_OK, 1); break; // not aborted
    case OP_SET_FEATURES: set_features(c); break;
    case OP_GET_FEATURES: get_features(c); break;
    case OP_EVENT: wait_for_event(c); break;
    default: fail(c, SC_INVALID_OPCODE); break;
    }
}
