// Inside qcow2: the open image, shared by the files qcow2_*.c.
//
// Threads. Everything structural (tables, reference counts, allocation) is done by one thread at a
// time, with `lock` held, which it drops around its own I/O: the image's worker, or a tool that has
// the image for itself. Other threads only look into cached L2 tables, and the ends of data writes
// change entries of tables that their writes have pinned.
//
// Order. What points follows what it points to: reference counts are on the medium before an L2
// entry that needs them, an L2 table before its L1 entry, data before its L2 entry; a count falls
// only after the last pointer has gone. So a crash leaks clusters at worst.
#pragma once

#include <pthread.h>

#include "block/file.h"
#include "block/qcow2.h"
#include "host/thread.h"

#define QCOW2_MAGIC 0x514649fbu
#define QCOW2_NAME_MAX 1024 // a backing file's name, with its terminator

#define L1_BYTES_MAX (32 * MIB)      // as others have it: bounds what is kept in memory
#define REFTABLE_BYTES_MAX (8 * MIB) //
#define L2_CACHE_BYTES (4 * MIB)
#define REF_CACHE_BYTES (1 * MIB)
#define CACHE_WAYS 8u
#define CACHE_TABLES_MAX 512u

#define ENTRY_COPIED BIT(63)
#define ENTRY_COMPRESSED BIT(62)
#define ENTRY_ZERO BIT(0)
#define ENTRY_OFFSET BITS(55, 9)

enum { // header features
    INCOMPATIBLE_DIRTY = 1,
    INCOMPATIBLE_CORRUPT = 2,
    INCOMPATIBLE_DATA_FILE = 4,
    INCOMPATIBLE_COMPRESSION = 8,
    INCOMPATIBLE_EXTENDED_L2 = 16,
    INCOMPATIBLE_KNOWN = 27, // the data file is known by name only
    COMPATIBLE_LAZY_REFCOUNTS = 1,
    AUTOCLEAR_BITMAPS = 1,
};

struct qcow2_header {
    uint32_t version, cluster_bits;
    uint64_t size; // of the virtual disk, bytes
    uint64_t l1_offset, reftable_offset, snapshots_offset;
    uint32_t l1_entries, reftable_clusters, snapshots;
    uint32_t refcount_order, compression;
    uint64_t incompatible, compatible, autoclear;
    char backing[QCOW2_NAME_MAX], backing_format[16];
    uint8_t *extensions; // those that we do not know, as they are in the file; owned
    uint32_t extensions_len;
};

// A cached L2 table or refcount block: one cluster, big-endian as in the file.
struct table {
    uint64_t offset;    // 0: none
    uint64_t used;      // the cache's clock
    uint64_t data_ends; // an L2 table: the image's count of them at the last entry set by one
    unsigned pins;
    bool dirty;
    uint8_t *data;
};

struct table_cache {
    struct table *tables; // sets of CACHE_WAYS
    unsigned sets;
    unsigned dirty; // tables
    uint64_t clock;
};

// Clusters that a pointer has left, to be released once that is on the medium.
struct pending_free {
    uint64_t cluster, count;
};
#define PENDING_FREES 1024

struct op;
struct part;
struct alloc;

struct qcow2 {
    struct block block;
    struct bfile *file;
    struct block *backing; // NULL: none
    char *path;            // owned
    struct qcow2_header header;
    uint64_t cluster; // bytes
    uint64_t unit;    // bytes that one allocation state covers: a subcluster, or a cluster
    unsigned entry_bytes, entries_bits; // of an L2 entry; log2 of entries in an L2 table
    bool extended, read_only, corrupt;
    bool complained; // an I/O error has been logged
    uint64_t align;  // of file I/O

    pthread_mutex_t lock;
    bool structural; // some thread is the structural one
    uint64_t *l1;    // host order
    uint64_t l1_dirty_from, l1_dirty_to;
    struct table_cache l2, refs;
    uint8_t *scratch; // one cluster, the structural thread's

    // Reference counts and allocation: the structural thread's.
    uint64_t *reftable; // host order
    uint64_t reftable_entries, reftable_dirty_from, reftable_dirty_to;
    uint64_t refs_per_block, ref_max;
    uint64_t free_hint;     // no cluster below is free
    uint64_t used_end;      // bytes; the file was never written from here on, and reads as zeros
    uint64_t snapshots_len; // bytes of the snapshot table, while it is changed

    struct pending_free frees[PENDING_FREES];
    unsigned free_count;
    unsigned free_sealed; // of these, being written: not to be extended

    // Requests (qcow2_io.c).
    pthread_cond_t work, changed;
    unsigned waiting; // threads on changed
    unsigned active;  // submitted, and done() has not returned
    bool stop, hold;  // hold: requests queue up, so that those in flight end
    bool writing;     // tables are being written
    struct block_request *queue, **queue_tail;
    struct op *ops, *op_pool, *in_flight;
    struct part *parts, *part_pool;
    unsigned parts_free;
    struct alloc *allocs, *alloc_pool, *allocating;
    uint64_t data_ends, data_synced; // allocating writes that ended; those known on the medium
    struct host_thread worker;

    // The compressed cluster that was read last, as plain data.
    uint8_t *plain, *packed;
    uint64_t plain_entry; // its descriptor; 0: none
    uint64_t packed_at;   // where the next one may be put; 0: in a new cluster
};

// --- header (qcow2_header.c)

err_t header_read(struct qcow2 *q, struct error *e);
// Checks what the header says against the limits of the format and ours.
err_t header_check(const struct qcow2 *q, struct error *e);
// Writes the header with its extensions, names included, anew.
err_t header_write(struct qcow2 *q, struct error *e);
// The same into a cluster-sized buffer.
err_t header_compose(const struct qcow2_header *h, uint8_t *out, size_t len, struct error *e);
// Sets and clears incompatible features, and syncs.
err_t header_features(struct qcow2 *q, uint64_t set, uint64_t clear, struct error *e);

// --- file I/O of the structural thread, without the lock

err_t meta_read(struct qcow2 *q, uint64_t offset, void *data, size_t len, struct error *e);
err_t meta_write(struct qcow2 *q, uint64_t offset, const void *data, size_t len, struct error *e);
err_t meta_sync(struct qcow2 *q, struct error *e);
// Big-endian words [from, to) of a table at offset, widened to the alignment of I/O.
err_t meta_write_words(struct qcow2 *q, uint64_t offset, const uint64_t *words, uint64_t count,
                       uint64_t from, uint64_t to, struct error *e);
err_t meta_read_words(struct qcow2 *q, uint64_t offset, uint64_t *words, uint64_t count,
                      struct error *e);

// The image contradicts itself: said once, marked in it, and not written any more.
err_t qcow2_corrupt(struct qcow2 *q, struct error *e, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

void qcow2_close(struct block *block);
// The last writes to an image, by its worker: who closes it may be confined to less.
void qcow2_finish(struct qcow2 *q);
// A flush, after which the counts are on the medium, too.
err_t qcow2_settle(struct qcow2 *q, struct error *e);
// All snapshots, to be freed, and the bytes of their table.
err_t snapshots_load(struct qcow2 *q, struct qcow2_snapshot **list, unsigned *count, uint64_t *len,
                     struct error *e);
// Declares void what this program does not keep up when it writes.
err_t qcow2_drop_bitmaps(struct qcow2 *q, struct error *e);
err_t qcow2_check_locked(struct qcow2 *q, enum qcow2_repair repair, struct qcow2_check *check,
                         struct error *e);

// --- tables (qcow2_table.c)

err_t cache_init(struct table_cache *cache, uint64_t budget, uint64_t cluster);
void cache_release(struct table_cache *cache);
void cache_forget(struct table_cache *cache); // all tables; none is pinned
struct table *cache_find(struct table_cache *cache, uint64_t offset);
// A pinned table; fresh: zeros, not read from the file.
err_t table_get(struct qcow2 *q, struct table_cache *cache, uint64_t offset, bool fresh,
                struct table **out, struct error *e);
void table_put(struct qcow2 *q, struct table *table);
void table_touch(struct table_cache *cache, struct table *table); // makes it dirty
// Writes all that is dirty, in order. Not synced.
err_t tables_write(struct qcow2 *q, struct error *e);
// Writes, syncs and releases what pending frees there are: all that ended before is on the medium.
err_t qcow2_flush(struct qcow2 *q, struct error *e);
// Between these the caller is the structural thread, and holds the lock.
void structure_begin(struct qcow2 *q);
void structure_end(struct qcow2 *q);
void wait_for_change(struct qcow2 *q);
void tell_change(struct qcow2 *q);

// --- reference counts (qcow2_refcount.c)

uint64_t ref_get(const uint8_t *block, unsigned order, uint64_t index);
void ref_set(uint8_t *block, unsigned order, uint64_t index, uint64_t value);
err_t refcount_get(struct qcow2 *q, uint64_t cluster, uint64_t *count, struct error *e);
err_t refcount_add(struct qcow2 *q, uint64_t cluster, uint64_t clusters, int delta,
                   struct error *e);
// Up to max contiguous free clusters, at least one; marked used. exact: max or nothing.
err_t clusters_alloc(struct qcow2 *q, uint64_t max, bool exact, uint64_t *first, uint64_t *count,
                     struct error *e);
// To be released by the next flush. Never fails: without room, the clusters leak.
void clusters_free_later(struct qcow2 *q, uint64_t cluster, uint64_t count);
void frees_apply(struct qcow2 *q, unsigned count);
err_t refcounts_write(struct qcow2 *q, struct error *e);
// Fails when a range holds the header, the active L1, the refcount or the snapshot table.
bool overlaps_metadata(const struct qcow2 *q, uint64_t offset, uint64_t len);

// --- mapping (qcow2_map.c)

enum unit_kind { UNIT_UNALLOCATED, UNIT_ZERO, UNIT_DATA, UNIT_COMPRESSED };

struct extent {
    enum unit_kind kind;
    bool copied;    // data may be written in place
    uint64_t host;  // of the first byte; for UNIT_DATA
    uint64_t len;   // bytes
    uint64_t entry; // the first cluster's
};

static inline uint64_t l1_index(const struct qcow2 *q, uint64_t offset)
{
    return offset >> (q->header.cluster_bits + q->entries_bits);
}
static inline uint64_t l2_index(const struct qcow2 *q, uint64_t offset)
{
    return offset >> q->header.cluster_bits & ((1ull << q->entries_bits) - 1);
}
uint64_t entry_get(const struct qcow2 *q, const struct table *l2, uint64_t index);
uint64_t entry_bitmap(const struct qcow2 *q, const struct table *l2, uint64_t index);
void entry_set(struct qcow2 *q, struct table *l2, uint64_t index, uint64_t entry, uint64_t bitmap);

// What [offset, offset + len) is, as far as it is one extent. l2: the table, NULL for none.
err_t map_units(struct qcow2 *q, const struct table *l2, uint64_t offset, uint64_t len,
                struct extent *out, struct error *e);
// The L2 table of offset, pinned; NULL when there is none.
err_t l2_load(struct qcow2 *q, uint64_t offset, struct table **out, struct error *e);
// The same, its own to write: allocated, or copied from one that snapshots share.
err_t l2_own(struct qcow2 *q, uint64_t offset, struct table **out, struct error *e);
err_t map_extent(struct qcow2 *q, uint64_t offset, uint64_t len, struct extent *out,
                 struct error *e);
// Where the compressed data of an entry is: any byte of the file.
void compressed_place(const struct qcow2 *q, uint64_t entry, uint64_t *offset, uint64_t *len);

// --- compression (qcow2_compress.c)

// The plain content of a compressed cluster, q->plain, valid until the next call.
err_t compressed_read(struct qcow2 *q, uint64_t entry, struct error *e);
// Packs a cluster; 0 when it does not get smaller.
size_t compress_cluster(unsigned type, const uint8_t *plain, size_t len, uint8_t *out);

// --- requests (qcow2_io.c) and allocating writes (qcow2_write.c, qcow2_zero.c)

struct op { // a request under way, in parts
    struct block_request *request;
    unsigned pending;
    err_t result;
    struct op *next, **at; // in flight; next also in the pool
};

struct part { // of an op: data in place, or what the backing file has
    struct block_request io;
    struct qcow2 *q;
    struct op *op;
    struct part *next;
};

void qcow2_submit(struct block *block, struct block_request *r);
bool qcow2_at_once(struct block *block, const struct block_request *r, err_t *result);
void qcow2_drain(struct block *block);
err_t requests_init(struct qcow2 *q, struct error *e); // and starts the worker
void requests_release(struct qcow2 *q);

struct op *op_get(struct qcow2 *q, struct block_request *r); // may wait; pending is 1
// Ends one of what is pending; with the last, the request. The lock is dropped for its done().
void op_put(struct qcow2 *q, struct op *op, err_t result);
// [offset, offset + len) of the disk is at host, for the op's request to read or change in place.
void part_data(struct qcow2 *q, struct op *op, uint64_t host, uint64_t offset, uint64_t len);
// Waits until no other request that touches [start, end) is in flight.
void wait_for_range(struct qcow2 *q, uint64_t start, uint64_t end, const struct op *but);
// Takes out of the queue a write that begins at offset and ends at end_max or before; NULL: none.
struct block_request *queue_take_write(struct qcow2 *q, uint64_t offset, uint64_t end_max,
                                       unsigned iovs_max);

// What [offset, offset + len) reads as, into memory, here and now.
err_t read_now(struct qcow2 *q, uint64_t offset, uint8_t *out, uint64_t len, struct error *e);

// Writes [offset, end) of the op's request: its data, or zeros when it is not a write.
err_t write_range(struct qcow2 *q, struct op *op, uint64_t offset, uint64_t end, struct error *e);
void wait_for_allocs(struct qcow2 *q, uint64_t start, uint64_t end);
err_t allocs_init(struct qcow2 *q);
void allocs_release(struct qcow2 *q);
// Releases, later, what an entry points to.
void entry_free_later(struct qcow2 *q, uint64_t entry);

err_t zero_request(struct qcow2 *q, struct op *op, struct error *e);
err_t discard_request(struct qcow2 *q, struct op *op, struct error *e);
