// Rings and buffers of a window. memfd_create(2), F_SEAL_SHRINK.
#include "net/window.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/bytes.h"

enum {
    DESC_NEXT = 1,
    DESC_WRITE = 2,
    NO_NOTIFY = 1,    // of the used ring's flags
    NO_INTERRUPT = 1, // of the available ring's
    F_MERGEABLE = 15,
    F_EVENT_INDEX = 29,
    NUM_BUFFERS_AT = 10,
    CHAIN_MAX = (NET_PACKET_MAX + WINDOW_BUFFER - 1) / WINDOW_BUFFER,
};

#define RING_BYTES (sizeof(struct window_shared) + (size_t)WINDOW_ENTRIES * WINDOW_BUFFER)

const size_t window_bytes = WINDOW_RINGS * RING_BYTES;

_Static_assert(CHAIN_MAX < WINDOW_ENTRIES / 2);

err_t window_new(struct window *w, struct error *e)
{
    w->at = MAP_FAILED;
    w->fd = memfd_create("berth-window", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (w->fd >= 0 && !ftruncate(w->fd, (off_t)window_bytes) &&
        !fcntl(w->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
        w->at = mmap(NULL, window_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, w->fd, 0);
    if (w->at != MAP_FAILED)
        return OK;
    err_t err = error_set(e, err_from_errno(errno), "cannot share memory with the network: %s",
                          strerror(errno));
    w->at = NULL;
    window_free(w);
    return err;
}

void window_free(struct window *w)
{
    if (w->at)
        munmap(w->at, window_bytes);
    if (w->fd >= 0)
        close(w->fd);
    w->at = NULL;
    w->fd = -1;
}

uint64_t window_address(const struct window *w, const void *at)
{
    return WINDOW_BASE + (uint64_t)((const uint8_t *)at - w->at);
}

// --- either ring

static uint8_t *buffer(const struct window_ring *r, unsigned i)
{
    return r->buffers + (size_t)i * WINDOW_BUFFER;
}

static void give(struct window_ring *r, uint16_t head)
{
    r->shared->avail.ring[r->avail % WINDOW_ENTRIES] = head;
    r->avail++;
    __atomic_store_n(&r->shared->avail.index, r->avail, __ATOMIC_RELEASE);
}

bool window_wants_kick(struct window *w, enum window_ring_name ring)
{
    struct window_ring *r = &w->ring[ring];
    uint16_t before = r->told;
    if (r->broken || r->avail == before)
        return false;
    r->told = r->avail;
    // Pairs with the back end's barrier between asking for kicks and looking at the ring again.
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    const struct window_used *used = &r->shared->used;
    if (!r->event_index)
        return !(__atomic_load_n(&used->flags, __ATOMIC_RELAXED) & NO_NOTIFY);
    uint16_t event = __atomic_load_n(&used->avail_event, __ATOMIC_RELAXED);
    return (uint16_t)(r->avail - event - 1) < (uint16_t)(r->avail - before);
}

// Buffers that came back and were not looked at yet.
static uint16_t returned(struct window_ring *r)
{
    uint16_t n = (uint16_t)(__atomic_load_n(&r->shared->used.index, __ATOMIC_ACQUIRE) - r->used);
    if (n > (uint16_t)(r->avail - r->used))
        r->broken = true; // more than were given
    return r->broken ? 0 : n;
}

// Asks for a call when `more` buffers have come back from now on; 0: for none. True: there are so
// many already.
static bool ask_for_call(struct window_ring *r, uint16_t more)
{
    struct window_avail *avail = &r->shared->avail;
    if (!r->event_index)
        __atomic_store_n(&avail->flags, more ? 0 : NO_INTERRUPT, __ATOMIC_RELAXED);
    else
        __atomic_store_n(&avail->used_event, (uint16_t)(r->used + more - 1), __ATOMIC_RELAXED);
    if (!more)
        return false;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return returned(r) >= more;
}

// The next entry's head and length, checked. False: the ring is broken.
static bool take(struct window_ring *r, uint16_t *head, uint32_t *len)
{
    unsigned slot = r->used % WINDOW_ENTRIES;
    uint32_t id = __atomic_load_n(&r->shared->used.ring[slot].id, __ATOMIC_RELAXED);
    *len = __atomic_load_n(&r->shared->used.ring[slot].len, __ATOMIC_RELAXED);
    *head = (uint16_t)id;
    r->broken |= id >= WINDOW_ENTRIES || !r->count[id < WINDOW_ENTRIES ? id : 0];
    return !r->broken;
}

static void start_ring(struct window *w, enum window_ring_name name, uint64_t features)
{
    struct window_ring *r = &w->ring[name];
    uint8_t *at = w->at + name * RING_BYTES;
    *r = (struct window_ring){.shared = (struct window_shared *)at,
                              .buffers = at + sizeof(struct window_shared),
                              .event_index = features >> F_EVENT_INDEX & 1};
    memset(r->shared, 0, sizeof *r->shared);
    for (unsigned i = 0; i < WINDOW_ENTRIES; i++)
        r->shared->desc[i].address = window_address(w, buffer(r, i));
}

void window_start(struct window *w, uint64_t features)
{
    w->mergeable = features >> F_MERGEABLE & 1;
    start_ring(w, WINDOW_RECEIVE, features);
    start_ring(w, WINDOW_TRANSMIT, features);
    struct window_ring *in = &w->ring[WINDOW_RECEIVE], *out = &w->ring[WINDOW_TRANSMIT];
    for (uint16_t i = 0; i < WINDOW_ENTRIES; i++) {
        in->shared->desc[i].len = WINDOW_BUFFER;
        in->shared->desc[i].flags = DESC_WRITE;
        in->count[i] = 1;
        give(in, i);
        out->free[i] = (uint16_t)(WINDOW_ENTRIES - 1 - i);
    }
    out->frees = WINDOW_ENTRIES;
    (void)ask_for_call(in, 1);
    (void)ask_for_call(out, 0);
}

// --- to the back end

// Buffers go on a stack, so that those just used, which the caches have, are used next.
static void reclaim(struct window_ring *r)
{
    uint16_t head, n = returned(r);
    uint32_t len;
    while (n-- && take(r, &head, &len)) {
        unsigned count = r->count[head];
        r->count[head] = 0;
        for (uint16_t i = head; count--; i = r->next[i])
            r->free[r->frees++] = i;
        r->used++;
    }
}

bool window_send(struct window *w, const uint8_t *packet, size_t len)
{
    struct window_ring *r = &w->ring[WINDOW_TRANSMIT];
    unsigned count = (unsigned)((len + WINDOW_BUFFER - 1) / WINDOW_BUFFER);
    reclaim(r);
    if (r->frees < count || r->broken)
        return r->broken; // nobody reads it any more
    uint16_t head = r->free[r->frees - 1];
    r->count[head] = (uint16_t)count;
    for (; count; count--) {
        uint16_t i = r->free[--r->frees];
        size_t part = min_u64(len, WINDOW_BUFFER);
        memcpy(buffer(r, i), packet, part);
        packet += part;
        len -= part;
        r->next[i] = count > 1 ? r->free[r->frees - 1] : 0;
        r->shared->desc[i].len = (uint32_t)part;
        r->shared->desc[i].flags = count > 1 ? DESC_NEXT : 0;
        r->shared->desc[i].next = r->next[i];
    }
    give(r, head);
    return true;
}

bool window_room(struct window *w)
{
    struct window_ring *r = &w->ring[WINDOW_TRANSMIT];
    for (;;) {
        reclaim(r);
        if (r->frees >= CHAIN_MAX || r->broken) {
            (void)ask_for_call(r, 0);
            return true;
        }
        uint16_t chains = (uint16_t)(r->avail - r->used);
        if (!ask_for_call(r, (uint16_t)(chains > 1 ? chains / 2 : 1)))
            return false;
    }
}

// --- from the back end

// How many buffers the next packet is spread over, as its first one says: read once. 0: nonsense.
static unsigned parts_of(struct window *w)
{
    struct window_ring *r = &w->ring[WINDOW_RECEIVE];
    uint16_t head;
    uint32_t len;
    if (!take(r, &head, &len) || !w->mergeable)
        return r->broken ? 0 : 1;
    const uint8_t *at = buffer(r, head) + NUM_BUFFERS_AT;
    unsigned parts = __atomic_load_n((const uint16_t *)at, __ATOMIC_RELAXED);
    r->broken = !parts || parts > CHAIN_MAX;
    return r->broken ? 0 : parts;
}

static size_t copy_parts(struct window_ring *r, unsigned parts, uint8_t *packet)
{
    size_t done = 0;
    for (unsigned i = 0; i < parts; i++) {
        uint16_t head;
        uint32_t len;
        if (!take(r, &head, &len) || len > WINDOW_BUFFER || len > NET_PACKET_MAX - done) {
            r->broken = true;
            return 0;
        }
        memcpy(packet + done, buffer(r, head), len);
        done += len;
        r->used++;
        give(r, head);
    }
    return done;
}

size_t window_receive(struct window *w, uint8_t *packet)
{
    struct window_ring *r = &w->ring[WINDOW_RECEIVE];
    if (!returned(r) && !ask_for_call(r, 1))
        return 0;
    unsigned parts = r->broken ? 0 : parts_of(w);
    if (!parts || (returned(r) < parts && !ask_for_call(r, (uint16_t)parts)))
        return 0;
    return copy_parts(r, parts, packet);
}
