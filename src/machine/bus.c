#include "machine/bus.h"

#include "base/bits.h"
#include "base/checked.h"

#define LOAD(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)
#define STORE(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELAXED)

void bus_init(struct bus *bus)
{
    bus->generation = bus->count = 0; // the table is large, and not looked at beyond count
    pthread_mutex_init(&bus->lock, NULL);
}

void bus_release(struct bus *bus)
{
    pthread_mutex_destroy(&bus->lock);
}

static void copy_range(struct bus_range *to, const struct bus_range *from)
{
    STORE(to->at, from->at);
    STORE(to->len, from->len);
    STORE(to->dev, from->dev);
    STORE(to->ops, from->ops);
}

static void begin_change(struct bus *bus)
{
    STORE(bus->generation, bus->generation + 1);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); // pairs with the reader's fence before its second look
}

static void end_change(struct bus *bus)
{
    __atomic_store_n(&bus->generation, bus->generation + 1, __ATOMIC_RELEASE);
}

static err_t insert(struct bus *bus, const struct bus_range *new)
{
    unsigned i = bus->count;
    for (unsigned j = 0; j < bus->count; j++)
        if (ranges_overlap(bus->range[j].at, bus->range[j].len, new->at, new->len))
            return ERR_EXISTS;
    if (bus->count == BUS_RANGES)
        return ERR_NO_MEMORY;
    begin_change(bus);
    for (; i > 0 && bus->range[i - 1].at > new->at; i--)
        copy_range(&bus->range[i], &bus->range[i - 1]);
    copy_range(&bus->range[i], new);
    STORE(bus->count, bus->count + 1);
    end_change(bus);
    return OK;
}

err_t bus_map(struct bus *bus, uint64_t at, uint64_t len, struct device *dev,
              const struct io_ops *ops)
{
    uint64_t end;
    if (!len || !checked_add(at, len - 1, &end))
        return ERR_INVALID;
    struct bus_range range = {at, len, dev, ops};
    pthread_mutex_lock(&bus->lock);
    err_t err = insert(bus, &range);
    pthread_mutex_unlock(&bus->lock);
    return err;
}

void bus_unmap(struct bus *bus, uint64_t at, struct device *dev)
{
    pthread_mutex_lock(&bus->lock);
    unsigned i = 0;
    while (i < bus->count && (bus->range[i].at != at || bus->range[i].dev != dev))
        i++;
    if (i < bus->count) {
        begin_change(bus);
        for (; i + 1 < bus->count; i++)
            copy_range(&bus->range[i], &bus->range[i + 1]);
        STORE(bus->count, bus->count - 1);
        end_change(bus);
    }
    pthread_mutex_unlock(&bus->lock);
}

// Binary search; a torn read is caught by the caller's generation check, so indexes are kept in
// bounds and nothing is followed here.
static bool search(const struct bus *bus, uint64_t at, struct bus_range *out)
{
    uint32_t lo = 0, hi = LOAD(bus->count);
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        uint64_t start = LOAD(bus->range[mid].at);
        uint64_t len = LOAD(bus->range[mid].len);
        if (at < start) {
            hi = mid;
        } else if (at - start >= len) {
            lo = mid + 1;
        } else {
            *out = (struct bus_range){start, len, LOAD(bus->range[mid].dev),
                                      LOAD(bus->range[mid].ops)};
            return true;
        }
    }
    return false;
}

static bool find(const struct bus *bus, uint64_t at, struct bus_range *out)
{
    for (;;) {
        uint32_t before = __atomic_load_n(&bus->generation, __ATOMIC_ACQUIRE);
        bool found = search(bus, at, out);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (!(before & 1) && LOAD(bus->generation) == before)
            return found;
    }
}

// A register narrower than its smallest access is read whole and cut.
static uint64_t read_part(const struct bus_range *r, uint64_t offset, unsigned size)
{
    unsigned min = r->ops->min_size;
    if (size >= min)
        return r->ops->read(r->dev, offset, size);
    uint64_t start = align_down(offset, min);
    if (!range_within(start, min, r->len))
        return size_mask(size);
    return r->ops->read(r->dev, start, min) >> (8 * (offset - start));
}

uint64_t bus_read(struct bus *bus, const struct bus_locks *locks, uint64_t at, unsigned size)
{
    struct bus_range r;
    if (!find(bus, at, &r)) {
        if (size == 1)
            return 0xff;
    } else if (r.len == 1 ? size <= r.ops->max_size : range_within(at - r.at, size, r.len)) {
        uint64_t value = 0;
        unsigned step = size < r.ops->max_size ? size : r.ops->max_size;
        locks->lock(r.dev);
        for (unsigned i = 0; i < size; i += step)
            value |= (read_part(&r, at - r.at + i, step) & size_mask(step)) << (8 * i);
        locks->unlock(r.dev);
        return value;
    }
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= bus_read(bus, locks, at + i, 1) << (8 * i);
    return value;
}

void bus_write(struct bus *bus, const struct bus_locks *locks, uint64_t at, unsigned size,
               uint64_t value)
{
    struct bus_range r;
    if (!find(bus, at, &r)) {
        if (size == 1)
            return;
    } else if (r.len == 1 ? size <= r.ops->max_size : range_within(at - r.at, size, r.len)) {
        unsigned step = size < r.ops->max_size ? size : r.ops->max_size;
        locks->lock(r.dev);
        for (unsigned i = 0; i < size && step >= r.ops->min_size; i += step)
            r.ops->write(r.dev, at - r.at + i, step, (value >> (8 * i)) & size_mask(step));
        locks->unlock(r.dev);
        return;
    }
    for (unsigned i = 0; i < size; i++)
        bus_write(bus, locks, at + i, 1, value >> (8 * i) & 0xff);
}
