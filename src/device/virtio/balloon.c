// The virtio memory balloon: takes pages that the guest can do without (inflate), hears when it
// takes them back (deflate), is told of memory that happens to be free (reporting), and asks for
// statistics.
//
// Specification: VIRTIO 1.2, 5.5. Offered: STATS_VQ, DEFLATE_ON_OOM, PAGE_POISON, REPORTING. Not
// offered: MUST_TELL_HOST, since pages come back by being touched, and FREE_PAGE_HINT, which is for
// migration. Not modelled: which pages are in the balloon; that is in nobody's interest but the
// guest's.
#include "device/virtio/balloon.h"

#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"
#include "device/virtio/virtio_pci.h"

enum {
    F_STATS_VQ = 1,
    F_DEFLATE_ON_OOM = 2,
    F_PAGE_POISON = 4,
    F_REPORTING = 5,

    CONFIG_TARGET = 0,
    CONFIG_ACTUAL = 4,
    CONFIG_POISON = 12,
    CONFIG_BYTES = 16,

    QUEUES = 5,
    QUEUE_SIZE = 256,
    QUEUE_INFLATE = 0,
    QUEUE_DEFLATE = 1,

    PFN_BYTES = 4,
    PFNS_MAX = 4096,      // in one chain; drivers send 256
    STAT_BYTES = 10,      // tag (2), value (8)
    PAGES_A_REQUEST = 16, // that cost as much of a callback's budget as a request does
};

struct virtio_balloon {
    struct virtio_pci virtio;
    struct virtio_balloon_config config;
    struct virtq_chain chain;
    uint64_t stat[BALLOON_STATS];
    ns_t stats_at;
    uint64_t reported; // bytes
    uint32_t stats;    // bits of the known ones
    uint32_t target;   // pages
    uint32_t actual;   // pages, as the driver says
    uint32_t poison;   // what it fills free pages with
    uint32_t stats_in; // the driver's buffer for statistics waits in the ring
    uint32_t pad;
};

static const struct state_field balloon_fields[] = {
    SUB(struct virtio_balloon, virtio, virtio_pci_state),
    SKIP(struct virtio_balloon, config, "wiring, rebuilt from configuration"),
    SKIP(struct virtio_balloon, chain, "scratch of one callback"),
    ARRAY(struct virtio_balloon, stat),
    FIELD(struct virtio_balloon, stats_at),
    FIELD(struct virtio_balloon, reported),
    FIELD(struct virtio_balloon, stats),
    FIELD(struct virtio_balloon, target),
    FIELD(struct virtio_balloon, actual),
    FIELD(struct virtio_balloon, poison),
    FIELD(struct virtio_balloon, stats_in),
    SKIP(struct virtio_balloon, pad, "padding"),
    FIELDS_END,
};
static const struct state_desc balloon_state =
    STATE_DESC("virtio-balloon", struct virtio_balloon, 1, balloon_fields);

const char *const balloon_stat_names[BALLOON_STATS] = {
    "swapped_in", "swapped_out", "major_faults", "minor_faults",   "free",
    "total",      "available",   "caches",       "huge_allocated", "huge_failed",
};

static struct virtio_balloon *balloon_of(struct virtio_pci *v)
{
    return container_of(v, struct virtio_balloon, virtio);
}

// The specification numbers the queues by their features; Linux gives those that it uses the next
// free numbers. Since free page hinting is not offered, the two meet here.
static bool is_stats_queue(const struct virtio_pci *v, unsigned queue)
{
    return queue == 2 && virtio_has(v, F_STATS_VQ);
}

static bool is_reporting_queue(const struct virtio_pci *v, unsigned queue)
{
    return queue >= 2 && !is_stats_queue(v, queue) && virtio_has(v, F_REPORTING);
}

// Much memory in few requests takes time too.
static void charge(struct virtio_pci *v, uint64_t pages)
{
    v->budget -= (uint32_t)min_u64(v->budget, pages / PAGES_A_REQUEST);
}

// --- The balloon itself ---

// A run of pages that is given back at once.
struct run {
    uint64_t first, end; // page numbers; end first: none
};

static void give_back(const struct virtio_balloon *b, struct run *run)
{
    if (run->end > run->first)
        b->config.discard(b->config.opaque, run->first << PAGE_SHIFT,
                          (run->end - run->first) << PAGE_SHIFT);
    *run = (struct run){0};
}

// Drivers go through memory upwards or downwards.
static void add_page(const struct virtio_balloon *b, struct run *run, uint64_t page)
{
    if (run->end > run->first && page == run->end) {
        run->end++;
    } else if (run->end > run->first && page + 1 == run->first) {
        run->first--;
    } else {
        give_back(b, run);
        *run = (struct run){page, page + 1};
    }
}

static void inflate(struct virtio_balloon *b)
{
    struct run run = {0};
    uint8_t pfn[PFN_BYTES];
    uint64_t pfns = b->chain.readable_bytes / PFN_BYTES;

    for (uint64_t i = 0; i < pfns; i++) {
        virtq_read(&b->chain, i * PFN_BYTES, pfn, sizeof pfn);
        add_page(b, &run, load_le32(pfn));
    }
    give_back(b, &run);
    charge(&b->virtio, pfns);
}

// Pages that leave the balloon need no work: they are backed again when they are touched.
static void serve_pages(struct virtio_balloon *b, unsigned queue)
{
    struct virtio_pci *v = &b->virtio;

    while (virtio_pop(v, queue, &b->chain)) {
        if (b->chain.readable_bytes > PFNS_MAX * PFN_BYTES) {
            virtio_broken(v, "too many pages in one request");
            return;
        }
        if (queue == QUEUE_INFLATE)
            inflate(b);
        virtio_push(v, queue, &b->chain, 0);
    }
    virtio_signal(v, queue);
}

// --- Reporting ---

// The whole pages of a buffer. A guest that fills its free pages with a pattern counts on finding
// it again.
static void report(struct virtio_balloon *b, gpa_t at, uint64_t len)
{
    gpa_t from = align_up(at, PAGE_SIZE), to = align_down(at + len, PAGE_SIZE);

    if (from >= to || (virtio_has(&b->virtio, F_PAGE_POISON) && b->poison))
        return;
    b->config.discard(b->config.opaque, from, to - from);
    b->reported += to - from;
    charge(&b->virtio, (to - from) >> PAGE_SHIFT >> 5);
}

static void serve_reports(struct virtio_balloon *b, unsigned queue)
{
    struct virtio_pci *v = &b->virtio;

    while (virtio_pop(v, queue, &b->chain)) {
        for (unsigned i = b->chain.readable; i < b->chain.readable + b->chain.writable; i++)
            report(b, b->chain.gpa[i], b->chain.iov[i].iov_len);
        virtio_push(v, queue, &b->chain, 0);
    }
    virtio_signal(v, queue);
}

// --- Statistics ---

// The driver's buffer is read when it comes and kept in the ring; giving it back asks for the next.
static void read_stats(struct virtio_balloon *b, unsigned queue)
{
    struct virtio_pci *v = &b->virtio;
    struct device *dev = &v->pci.dev;
    uint8_t stat[STAT_BYTES];

    if (!virtio_pop(v, queue, &b->chain))
        return;
    uint64_t n = min_u64(b->chain.readable_bytes / STAT_BYTES, 4 * BALLOON_STATS);
    b->stats = 0;
    for (uint64_t i = 0; i < n; i++) {
        virtq_read(&b->chain, i * STAT_BYTES, stat, sizeof stat);
        uint16_t tag = load_le16(stat);
        if (tag >= BALLOON_STATS)
            continue; // of a later version of the specification
        b->stat[tag] = load_le64(stat + 2);
        b->stats |= 1u << tag;
    }
    b->stats_at = dev->env->now(dev);
    b->stats_in = 1;
    virtq_unpop(&v->queues[queue], &b->chain);
}

static void ask_for_stats(struct virtio_balloon *b)
{
    struct virtio_pci *v = &b->virtio;

    if (!b->stats_in || !virtio_running(v) || !virtio_has(v, F_STATS_VQ))
        return;
    virtio_begin(v);
    b->stats_in = 0;
    if (virtio_pop(v, 2, &b->chain)) {
        virtio_push(v, 2, &b->chain, 0);
        virtio_signal(v, 2);
    }
}

// --- Outside ---

static void tell_config(struct virtio_balloon *b)
{
    store_le32(b->virtio.config + CONFIG_TARGET, b->target);
    store_le32(b->virtio.config + CONFIG_ACTUAL, b->actual);
    store_le32(b->virtio.config + CONFIG_POISON, b->poison);
}

void virtio_balloon_look(struct device *dev, struct balloon_view *out)
{
    struct virtio_balloon *b = balloon_of(virtio_of(dev));

    *out = (struct balloon_view){
        .target_pages = b->target,
        .inflated_pages = min_u64(b->actual, b->config.pages),
        .reported_bytes = b->reported,
        .stats = b->stats,
        .stats_at = b->stats_at,
        .driver = virtio_running(&b->virtio),
        .reports = virtio_running(&b->virtio) && virtio_has(&b->virtio, F_REPORTING),
    };
    memcpy(out->stat, b->stat, sizeof out->stat);
    ask_for_stats(b);
}

void virtio_balloon_set_target(struct device *dev, uint64_t pages)
{
    struct virtio_balloon *b = balloon_of(virtio_of(dev));

    if (b->target == pages)
        return;
    b->target = (uint32_t)min_u64(pages, b->config.pages);
    tell_config(b);
    virtio_config_changed(&b->virtio);
}

// --- The device ---

static void balloon_notify(struct virtio_pci *v, unsigned queue)
{
    struct virtio_balloon *b = balloon_of(v);

    if (queue == QUEUE_INFLATE || queue == QUEUE_DEFLATE)
        serve_pages(b, queue);
    else if (is_stats_queue(v, queue))
        read_stats(b, queue);
    else if (is_reporting_queue(v, queue))
        serve_reports(b, queue);
}

// Accesses of any size and place within the two registers that are the driver's.
static void balloon_config_written(struct virtio_pci *v, unsigned offset, unsigned size,
                                   uint32_t value)
{
    struct virtio_balloon *b = balloon_of(v);

    for (unsigned i = 0; i < size; i++) {
        unsigned at = offset + i;
        if ((at >= CONFIG_ACTUAL && at < CONFIG_ACTUAL + 4) || at >= CONFIG_POISON)
            v->config[at] = (uint8_t)(value >> (8 * i));
    }
    b->actual = load_le32(v->config + CONFIG_ACTUAL);
    b->poison = load_le32(v->config + CONFIG_POISON);
}

// The guest starts over: nothing is in the balloon, what the host wants stays.
static void balloon_restart(struct virtio_pci *v)
{
    struct virtio_balloon *b = balloon_of(v);

    b->actual = b->poison = b->stats = b->stats_in = 0;
    tell_config(b);
}

static const struct virtio_model balloon_model = {
    .class_code = 0xff0000, // no class fits
    .id = 5,
    .config_len = CONFIG_BYTES,
    .notify = balloon_notify,
    .config_written = balloon_config_written,
    .reset = balloon_restart,
};

static err_t balloon_init(struct device *dev, const void *config, struct error *e)
{
    struct virtio_balloon *b = balloon_of(virtio_of(dev));

    b->config = *(const struct virtio_balloon_config *)config;
    virtio_pci_init(&b->virtio, &balloon_model,
                    VIRTIO_FEATURE(F_STATS_VQ) | VIRTIO_FEATURE(F_DEFLATE_ON_OOM) |
                        VIRTIO_FEATURE(F_PAGE_POISON) | VIRTIO_FEATURE(F_REPORTING),
                    QUEUES, QUEUE_SIZE);
    return OK;
}

static void balloon_reset(struct device *dev)
{
    virtio_pci_reset(virtio_of(dev));
}

static err_t balloon_loaded(struct device *dev, struct error *e)
{
    struct virtio_balloon *b = balloon_of(virtio_of(dev));

    b->target = (uint32_t)min_u64(b->target, b->config.pages);
    b->stats &= BIT(BALLOON_STATS) - 1;
    b->stats_in = b->stats_in != 0;
    tell_config(b);
    return virtio_pci_loaded(&b->virtio, e);
}

static void balloon_timer(struct device *dev, unsigned timer)
{
    virtio_pci_timer(virtio_of(dev));
}

static void balloon_fini(struct device *dev)
{
    virtio_pci_fini(virtio_of(dev));
}

const struct device_type virtio_balloon_type = {
    .name = "virtio-balloon",
    .size = sizeof(struct virtio_balloon),
    .timers = 1,
    .lines = 1,
    .state = &balloon_state,
    .init = balloon_init,
    .reset = balloon_reset,
    .loaded = balloon_loaded,
    .timer = balloon_timer,
    .fini = balloon_fini,
};
