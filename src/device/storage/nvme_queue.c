// NVMe queues: fetching commands, data pointers, completions and interrupts.
//
// A command is fetched only when there is a free record for it and room for its completion, so that
// the end of a command never has to wait. What a guest writes into doorbells and lists is checked
// where it is used; a list of pages is followed as far as the transfer is long.
//
// Specification: NVMe 1.4, 3.1.24 and 3.1.25 (doorbells), 4.1, 4.6 (queues), 4.3 (PRPs), 7.5
// (interrupts).
#include "base/bits.h"
#include "device/storage/nvme_impl.h"

enum { INFO_BAD_DOORBELL = 0, INFO_BAD_VALUE = 1, PRPS_AT_ONCE = NVME_PAGE / 8 };

static const struct state_field sq_fields[] = {
    FIELD(struct nvme_sq, base),
    FIELD(struct nvme_sq, size),
    FIELD(struct nvme_sq, head),
    FIELD(struct nvme_sq, tail),
    FIELD(struct nvme_sq, cq),
    SKIP(struct nvme_sq, pad, "padding"),
    SKIP(struct nvme_sq, outstanding, "none is in flight when state is saved"),
    FIELDS_END,
};
const struct state_desc nvme_sq_state = STATE_DESC("nvme-sq", struct nvme_sq, 1, sq_fields);

static const struct state_field cq_fields[] = {
    FIELD(struct nvme_cq, base),
    FIELD(struct nvme_cq, size),
    FIELD(struct nvme_cq, head),
    FIELD(struct nvme_cq, tail),
    FIELD(struct nvme_cq, vector),
    FIELD(struct nvme_cq, interrupts),
    FIELD(struct nvme_cq, phase),
    SKIP(struct nvme_cq, outstanding, "follows the commands in flight"),
    FIELDS_END,
};
const struct state_desc nvme_cq_state = STATE_DESC("nvme-cq", struct nvme_cq, 1, cq_fields);

// --- Interrupts ---

// Pin-based, all completion queues share it.
void nvme_update_interrupt(struct nvme *n)
{
    bool level = false;

    for (unsigned i = 0; i < NVME_QUEUES; i++) {
        const struct nvme_cq *q = &n->cq[i];
        level |= q->size && q->interrupts && q->head != q->tail && !(n->masked & 1);
    }
    pci_set_intx(&n->pci, level);
}

// --- Completions ---

static unsigned used(const struct nvme_cq *q)
{
    return (q->tail + q->size - q->head) % q->size;
}

void nvme_post(struct nvme *n, unsigned sq, uint16_t cid, unsigned status, uint32_t result)
{
    struct device *dev = &n->pci.dev;
    struct nvme_cq *q = &n->cq[n->sq[sq].cq];
    gpa_t at = q->base + (uint64_t)NVME_CQE * q->tail;
    uint8_t *entry = dev->env->dma_map(dev, at, NVME_CQE);

    if (!entry) {
        nvme_fatal(n);
        return;
    }
    store_le32(entry, result);
    store_le32(entry + 4, 0);
    store_le32(entry + 8, n->sq[sq].head | sq << 16);
    // The guest reads the phase first, then the rest.
    __atomic_store_n((uint32_t *)(entry + 12), cid | (uint32_t)q->phase << 16 | status << 17,
                     __ATOMIC_RELEASE);
    dev->env->dma_done(dev, at, NVME_CQE);
    if (++q->tail == q->size) {
        q->tail = 0;
        q->phase ^= 1;
    }
    if (!q->interrupts)
        return;
    pci_send_msix(&n->pci, q->vector);
    nvme_update_interrupt(n);
}

void nvme_finish(struct nvme_command *c, unsigned status, uint32_t result)
{
    struct nvme *n = c->nvme;
    struct nvme_sq *sq = &n->sq[c->sq];

    sq->outstanding--;
    n->cq[sq->cq].outstanding--;
    if (!n->stopping)
        nvme_post(n, c->sq, c->entry.cid, status, result);
    c->next_free = n->free;
    n->free = c;
}

// --- Data pointers ---

static unsigned add_page(struct nvme_command *c, uint64_t page, uint64_t *left)
{
    uint64_t len = min_u64(NVME_PAGE - page % NVME_PAGE, *left);

    if (!scatter_add(&c->data, &c->nvme->pci.dev, page, len))
        return SC_DATA_TRANSFER_ERROR;
    *left -= len;
    return SC_OK;
}

// One page of a PRP list, from `at` on. When more is left than its entries cover, the last of them
// is the next page of the list (*next).
static unsigned add_list_page(struct nvme_command *c, uint64_t at, uint64_t *left, uint64_t *next)
{
    struct device *dev = &c->nvme->pci.dev;
    uint64_t prps[PRPS_AT_ONCE];
    unsigned room = (unsigned)(NVME_PAGE - at % NVME_PAGE) / 8;
    uint64_t pages = (*left + NVME_PAGE - 1) / NVME_PAGE;
    unsigned count = pages < room ? (unsigned)pages : room;
    bool chained = pages > room;

    *next = 0;
    if (dev->env->dma_read(dev, at, prps, 8 * (size_t)count) != OK)
        return SC_DATA_TRANSFER_ERROR;
    for (unsigned i = 0; i < count - chained; i++) {
        unsigned status;
        if (prps[i] % NVME_PAGE)
            return SC_INVALID_PRP_OFFSET;
        status = add_page(c, prps[i], left);
        if (status)
            return status;
    }
    if (chained)
        *next = prps[count - 1];
    return SC_OK;
}

// Every page of a list but the first is whole, so each one brings the transfer forward.
static unsigned add_list(struct nvme_command *c, uint64_t list, uint64_t *left)
{
    if (list % 8)
        return SC_INVALID_PRP_OFFSET;
    for (;;) {
        uint64_t next;
        unsigned status = add_list_page(c, list, left, &next);
        if (status || !*left)
            return status;
        if (next % NVME_PAGE)
            return SC_INVALID_PRP_OFFSET;
        list = next;
    }
}

unsigned nvme_map(struct nvme_command *c, uint64_t len)
{
    const struct nvme_entry *entry = &c->entry;
    uint64_t left = len;
    unsigned status;

    scatter_clear(&c->data);
    if (entry->flags >> 6)
        return SC_INVALID_FIELD | DO_NOT_RETRY; // SGLs are not declared
    if (len > NVME_TRANSFER)
        return SC_INVALID_FIELD | DO_NOT_RETRY;
    if (entry->prp[0] % 4)
        return SC_INVALID_PRP_OFFSET | DO_NOT_RETRY;
    status = add_page(c, entry->prp[0], &left);
    if (status || !left)
        return status;
    if (left > NVME_PAGE)
        return add_list(c, entry->prp[1], &left);
    if (entry->prp[1] % NVME_PAGE)
        return SC_INVALID_PRP_OFFSET | DO_NOT_RETRY;
    return add_page(c, entry->prp[1], &left);
}

void nvme_reply(struct nvme_command *c, const void *data, uint64_t len)
{
    unsigned status = nvme_map(c, len);

    if (!status) {
        scatter_write(&c->data, 0, data, len);
        scatter_filled(&c->data, &c->nvme->pci.dev, len);
    }
    nvme_finish(c, status, 0);
}

// --- Fetching ---

static bool fetch(struct nvme *n, struct nvme_sq *q, struct nvme_entry *entry)
{
    struct device *dev = &n->pci.dev;
    uint8_t raw[NVME_SQE];

    if (dev->env->dma_read(dev, q->base + (uint64_t)NVME_SQE * q->head, raw, sizeof raw) != OK)
        return false;
    *entry = (struct nvme_entry){.opcode = raw[0],
                                 .flags = raw[1],
                                 .cid = load_le16(raw + 2),
                                 .nsid = load_le32(raw + 4),
                                 .prp = {load_le64(raw + 24), load_le64(raw + 32)}};
    for (unsigned i = 0; i < ARRAY_LEN(entry->cdw); i++)
        entry->cdw[i] = load_le32(raw + 40 + 4 * (size_t)i);
    q->head = (uint16_t)((q->head + 1) % q->size);
    return true;
}

static void start(struct nvme *n, unsigned sq)
{
    struct nvme_command *c = n->free;
    struct nvme_sq *q = &n->sq[sq];

    if (!fetch(n, q, &c->entry)) {
        nvme_fatal(n);
        q->tail = q->head;
        return;
    }
    n->free = c->next_free;
    c->sq = (uint16_t)sq;
    c->sync = c->deletes = false;
    q->outstanding++;
    n->cq[q->cq].outstanding++;
    if (sq == 0)
        nvme_admin(c);
    else
        nvme_io(c);
}

void nvme_run(struct nvme *n, unsigned sq)
{
    struct nvme_sq *q = &n->sq[sq];

    // A command may delete the very queue it came from, or end all of them.
    while (q->size && n->free && q->head != q->tail && n->cq[q->cq].size &&
           used(&n->cq[q->cq]) + n->cq[q->cq].outstanding + 1 < n->cq[q->cq].size)
        start(n, sq);
}

void nvme_tail(struct nvme *n, unsigned sq, uint32_t value)
{
    if (sq >= NVME_QUEUES || !n->sq[sq].size) {
        nvme_event(n, INFO_BAD_DOORBELL);
        return;
    }
    if (value >= n->sq[sq].size) {
        nvme_event(n, INFO_BAD_VALUE);
        return;
    }
    n->sq[sq].tail = (uint16_t)value;
    nvme_run(n, sq);
}

void nvme_head(struct nvme *n, unsigned cq, uint32_t value)
{
    struct nvme_cq *q = cq < NVME_QUEUES ? &n->cq[cq] : NULL;

    if (!q || !q->size) {
        nvme_event(n, INFO_BAD_DOORBELL);
        return;
    }
    // The new head lies between the old one and the tail.
    if (value >= q->size || (value + q->size - q->head) % q->size > used(q)) {
        nvme_event(n, INFO_BAD_VALUE);
        return;
    }
    bool was_full = used(q) + q->outstanding + 1 >= q->size;
    q->head = (uint16_t)value;
    nvme_update_interrupt(n);
    if (was_full)
        nvme_run_all(n);
}

static bool sq_possible(const struct nvme *n, const struct nvme_sq *q)
{
    return q->size <= NVME_QUEUE_ENTRIES * 4u && q->base % NVME_PAGE == 0 &&
           (!q->size ||
            (q->head < q->size && q->tail < q->size && q->cq < NVME_QUEUES && n->cq[q->cq].size));
}

static bool cq_possible(const struct nvme_cq *q)
{
    return q->size <= NVME_QUEUE_ENTRIES * 4u && q->base % NVME_PAGE == 0 && q->interrupts <= 1 &&
           q->phase <= 1 && q->vector < NVME_QUEUES &&
           (!q->size || (q->head < q->size && q->tail < q->size));
}

err_t nvme_queues_loaded(const struct nvme *n, struct error *e)
{
    for (unsigned i = 0; i < NVME_QUEUES; i++) {
        if (!sq_possible(n, &n->sq[i]) || !cq_possible(&n->cq[i]))
            return error_set(e, ERR_CORRUPT, "NVMe queue %u has impossible values", i);
    }
    return OK;
}
