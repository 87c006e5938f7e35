// Internal snapshots of a qcow2 image: L1 tables of their own that share clusters with the disk's.
//
// An operation first makes what it adds safe, then switches the header, then releases. The dirty
// bit is set meanwhile: a crash leaves leaks and wrong "copied" flags, which the next opening
// repairs.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bits.h"
#include "base/bytes.h"
#include "base/log.h"
#include "block/qcow2_impl.h"

#define TABLE_BYTES_MAX (16 * MIB)
#define ENTRY_FIXED 40u
#define EXTRA_MAX (64 * KIB)
#define OUR_EXTRA 16u

// --- the snapshot table: its bytes, as in the file

struct snaps {
    uint8_t *bytes;
    uint64_t len;
    unsigned count;
};

static uint64_t entry_len(const uint8_t *at)
{
    return align_up(
        ENTRY_FIXED + (uint64_t)load_be32(at + 36) + load_be16(at + 12) + load_be16(at + 14), 8);
}

static err_t load_entry(struct qcow2 *q, struct snaps *s, struct error *e)
{
    uint8_t fixed[ENTRY_FIXED];
    uint64_t at = q->header.snapshots_offset + s->len;
    err_t err = meta_read(q, at, fixed, sizeof fixed, e);

    if (err != OK)
        return err;
    uint64_t len = entry_len(fixed);
    if (load_be32(fixed + 36) > EXTRA_MAX || s->len + len > TABLE_BYTES_MAX)
        return error_set(e, ERR_CORRUPT, "%s: its snapshot table is too large", q->path);
    uint8_t *grown = realloc(s->bytes, s->len + len);
    if (!grown)
        return error_set(e, ERR_NO_MEMORY, "%s: no memory", q->path);
    s->bytes = grown;
    err = meta_read(q, at, s->bytes + s->len, len, e);
    s->len += len;
    s->count++;
    return err;
}

static err_t load(struct qcow2 *q, struct snaps *s, struct error *e)
{
    err_t err = OK;

    *s = (struct snaps){0};
    while (err == OK && s->count < q->header.snapshots)
        err = load_entry(q, s, e);
    return err;
}

static void text(char *out, size_t size, const uint8_t *from, size_t len)
{
    len = min_u64(len, size - 1);
    memcpy(out, from, len);
    out[len] = '\0';
    for (char *c = out; *c; c++) {
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
    }
}

static void decode(const struct qcow2 *q, const uint8_t *at, struct qcow2_snapshot *out)
{
    uint32_t extra = load_be32(at + 36);
    const uint8_t *id = at + ENTRY_FIXED + extra;

    *out = (struct qcow2_snapshot){
        .l1_offset = load_be64(at),
        .l1_entries = load_be32(at + 8),
        .date_sec = load_be32(at + 16),
        .date_nsec = load_be32(at + 20),
        .clock_ns = load_be64(at + 24),
        .vm_state_bytes = extra >= 8 ? load_be64(at + 40) : load_be32(at + 32),
        .size_bytes = extra >= 16 ? load_be64(at + 48) : q->header.size,
    };
    text(out->id, sizeof out->id, id, load_be16(at + 12));
    text(out->name, sizeof out->name, id + load_be16(at + 12), load_be16(at + 14));
}

err_t snapshots_load(struct qcow2 *q, struct qcow2_snapshot **list, unsigned *count, uint64_t *len,
                     struct error *e)
{
    struct snaps s;
    err_t err = load(q, &s, e);

    *list = err == OK ? calloc(s.count + 1, sizeof **list) : NULL;
    *count = 0;
    if (err == OK && !*list)
        err = error_set(e, ERR_NO_MEMORY, "%s: no memory", q->path);
    for (uint64_t at = 0; err == OK && *count < s.count; at += entry_len(s.bytes + at))
        decode(q, s.bytes + at, &(*list)[(*count)++]);
    *len = s.len;
    free(s.bytes);
    return err;
}

err_t qcow2_snapshots(struct qcow2 *q, struct qcow2_snapshot **list, unsigned *count,
                      struct error *e)
{
    uint64_t len;

    structure_begin(q);
    err_t err = snapshots_load(q, list, count, &len, e);
    structure_end(q);
    return err;
}

// By name first: ids are numbers, and a name may be one. *at: where in the table.
static err_t find(const struct qcow2 *q, const struct snaps *s, const char *name,
                  struct qcow2_snapshot *out, uint64_t *at, struct error *e)
{
    for (int by_id = 0; by_id < 2; by_id++) {
        *at = 0;
        for (unsigned i = 0; i < s->count; i++, *at += entry_len(s->bytes + *at)) {
            decode(q, s->bytes + *at, out);
            if (!strcmp(by_id ? out->id : out->name, name))
                return OK;
        }
    }
    return error_set(e, ERR_NOT_FOUND, "%s: has no snapshot '%s'; try: berth disk snapshot list %s",
                     q->path, name, q->path);
}

// Writes the table anew and lets the header point to it.
static err_t store(struct qcow2 *q, const struct snaps *s, struct error *e)
{
    struct qcow2_header *h = &q->header;
    uint64_t old = h->snapshots_offset, old_len = q->snapshots_len, first = 0, count;
    uint64_t clusters = (s->len + q->cluster - 1) / q->cluster;
    err_t err = clusters ? clusters_alloc(q, clusters, true, &first, &count, e) : OK;
    uint8_t *padded = calloc(1, clusters * q->cluster + 1);

    if (err == OK && !padded)
        err = error_set(e, ERR_NO_MEMORY, "%s: no memory", q->path);
    if (err == OK && s->len) {
        memcpy(padded, s->bytes, s->len);
        err = meta_write(q, first * q->cluster, padded, clusters * q->cluster, e);
    }
    free(padded);
    if (err == OK)
        err = refcounts_write(q, e);
    if (err == OK)
        err = meta_sync(q, e);
    if (err != OK)
        return err;
    h->snapshots_offset = first * q->cluster;
    h->snapshots = s->count;
    err = header_write(q, e);
    if (err == OK)
        err = meta_sync(q, e);
    if (err == OK && old_len)
        clusters_free_later(q, old / q->cluster, (old_len + q->cluster - 1) / q->cluster);
    return err;
}

// --- what an L1 table refers to

static err_t release_some(struct qcow2 *q, unsigned above)
{
    if (q->free_count > above)
        frees_apply(q, q->free_count);
    return OK;
}

static err_t count_l2(struct qcow2 *q, const struct table *l2, int delta, struct error *e)
{
    uint64_t bits = q->header.cluster_bits, offset, len;
    err_t err = OK;

    for (uint64_t i = 0; err == OK && i < 1ull << q->entries_bits; i++) {
        uint64_t entry = entry_get(q, l2, i);
        if (delta < 0) {
            entry_free_later(q, entry);
            err = release_some(q, PENDING_FREES / 2);
        } else if (entry & ENTRY_COMPRESSED) {
            compressed_place(q, entry, &offset, &len);
            err = refcount_add(q, offset >> bits,
                               ((offset + len - 1) >> bits) - (offset >> bits) + 1, 1, e);
        } else if (entry & ENTRY_OFFSET) {
            err = refcount_add(q, (entry & ENTRY_OFFSET) >> bits, 1, 1, e);
        }
    }
    return err;
}

// Changes the counts of all that an L1 table refers to. Those that fall must have lost their
// pointers on the medium.
static err_t count_l1(struct qcow2 *q, const uint64_t *l1, uint64_t entries, int delta,
                      struct error *e)
{
    err_t err = OK;

    for (uint64_t i = 0; err == OK && i < entries; i++) {
        uint64_t at = l1[i] & ENTRY_OFFSET;
        struct table *l2;
        if (!at)
            continue;
        if (at % q->cluster)
            return qcow2_corrupt(q, e, "an L1 table points to no L2 table");
        if ((err = table_get(q, &q->l2, at, false, &l2, e)) != OK)
            break;
        err = count_l2(q, l2, delta, e);
        table_put(q, l2);
        if (err == OK && delta > 0)
            err = refcount_add(q, at / q->cluster, 1, 1, e);
        else if (err == OK)
            clusters_free_later(q, at / q->cluster, 1);
    }
    return err == OK && delta < 0 ? release_some(q, 0) : err;
}

static err_t flags_l2(struct qcow2 *q, struct table *l2, struct error *e)
{
    uint64_t count;
    err_t err = OK;

    for (uint64_t i = 0; err == OK && i < 1ull << q->entries_bits; i++) {
        uint64_t entry = entry_get(q, l2, i), host = entry & ENTRY_OFFSET;
        if (!host || entry & ENTRY_COMPRESSED)
            continue;
        err = refcount_get(q, host / q->cluster, &count, e);
        uint64_t now = (entry & ~ENTRY_COPIED) | (count == 1 ? ENTRY_COPIED : 0);
        if (err == OK && now != entry)
            entry_set(q, l2, i, now, entry_bitmap(q, l2, i));
    }
    return err;
}

// The flags "copied" of the active tables, by the counts.
static err_t set_flags(struct qcow2 *q, struct error *e)
{
    uint64_t count;
    err_t err = OK;

    for (uint64_t i = 0; err == OK && i < q->header.l1_entries; i++) {
        uint64_t at = q->l1[i] & ENTRY_OFFSET;
        struct table *l2;
        if (!at)
            continue;
        if ((err = refcount_get(q, at / q->cluster, &count, e)) != OK ||
            (err = table_get(q, &q->l2, at, false, &l2, e)) != OK)
            break;
        uint64_t now = at | (count == 1 ? ENTRY_COPIED : 0);
        if (now != q->l1[i]) {
            q->l1[i] = now;
            q->l1_dirty_from = min_u64(q->l1_dirty_from, i);
            q->l1_dirty_to = max_u64(q->l1_dirty_to, i + 1);
        }
        err = flags_l2(q, l2, e);
        table_put(q, l2);
    }
    return err == OK ? qcow2_flush(q, e) : err;
}

static err_t copy_l1(struct qcow2 *q, const uint64_t *l1, uint64_t entries, uint64_t *offset,
                     struct error *e)
{
    uint64_t clusters = max_u64(align_up(entries * 8, q->cluster) / q->cluster, 1), first, count;
    err_t err = clusters_alloc(q, clusters, true, &first, &count, e);

    *offset = first * q->cluster;
    if (err == OK)
        err = meta_write_words(q, *offset, l1, entries, 0, clusters * q->cluster / 8, e);
    return err;
}

static uint64_t l1_clusters(const struct qcow2 *q, uint64_t entries)
{
    return max_u64((entries * 8 + q->cluster - 1) / q->cluster, 1);
}

// --- the three operations, each between begin and end

static err_t begin(struct qcow2 *q, struct snaps *s, struct error *e)
{
    *s = (struct snaps){0};
    err_t err = qcow2_settle(q, e);
    if (err == OK)
        err = load(q, s, e);
    q->snapshots_len = s->len;
    return err == OK ? header_features(q, INCOMPATIBLE_DIRTY, 0, e) : err;
}

static err_t end(struct qcow2 *q, struct snaps *s, err_t err, struct error *e)
{
    struct qcow2_check check = {0};
    struct error ignored;

    free(s->bytes);
    if (err != OK) { // back to counts that are right for what the header says
        if (!q->corrupt && qcow2_check_locked(q, QCOW2_REPAIR_ALL, &check, &ignored) != OK)
            log_line(LOG_WARN, "disk %s: %s", q->block.name, ignored.text);
        return err;
    }
    return qcow2_settle(q, e);
}

static unsigned next_id(const struct qcow2 *q, const struct snaps *s)
{
    struct qcow2_snapshot one;
    unsigned long most = 0, id;
    uint64_t at = 0;

    for (unsigned i = 0; i < s->count; i++, at += entry_len(s->bytes + at)) {
        decode(q, s->bytes + at, &one);
        id = strtoul(one.id, NULL, 10);
        most = id > most ? id : most;
    }
    return (unsigned)most + 1;
}

static err_t append(struct qcow2 *q, struct snaps *s, const char *name, uint64_t l1_offset,
                    struct error *e)
{
    char id[16];
    size_t name_len = strlen(name);
    int id_len = snprintf(id, sizeof id, "%u", next_id(q, s));
    uint64_t len = align_up(ENTRY_FIXED + OUR_EXTRA + (unsigned)id_len + name_len, 8);
    uint8_t *grown = realloc(s->bytes, s->len + len), *at;
    struct timespec now;

    if (!grown)
        return error_set(e, ERR_NO_MEMORY, "%s: no memory", q->path);
    s->bytes = grown;
    at = grown + s->len;
    clock_gettime(CLOCK_REALTIME, &now);
    memset(at, 0, len);
    store_be64(at, l1_offset);
    store_be32(at + 8, q->header.l1_entries);
    store_be16(at + 12, (uint16_t)id_len);
    store_be16(at + 14, (uint16_t)name_len);
    store_be32(at + 16, (uint32_t)now.tv_sec);
    store_be32(at + 20, (uint32_t)now.tv_nsec);
    store_be32(at + 36, OUR_EXTRA);
    store_be64(at + 48, q->header.size);
    memcpy(at + ENTRY_FIXED + OUR_EXTRA, id, (size_t)id_len);
    memcpy(at + ENTRY_FIXED + OUR_EXTRA + id_len, name, name_len);
    s->len += len;
    s->count++;
    return OK;
}

static err_t check_name(const struct qcow2 *q, const struct snaps *s, const char *name,
                        struct error *e)
{
    struct qcow2_snapshot one;
    uint64_t at = 0;

    if (!name[0] || strlen(name) > 255)
        return error_set(e, ERR_INVALID, "a snapshot's name has 1 to 255 bytes");
    for (unsigned i = 0; i < s->count; i++, at += entry_len(s->bytes + at)) {
        decode(q, s->bytes + at, &one);
        if (!strcmp(one.name, name))
            return error_set(e, ERR_EXISTS, "%s: has a snapshot '%s' already", q->path, name);
    }
    return OK;
}

static err_t create(struct qcow2 *q, struct snaps *s, const char *name, struct error *e)
{
    uint64_t l1_offset = 0;
    err_t err = count_l1(q, q->l1, q->header.l1_entries, 1, e);

    if (err == OK)
        err = set_flags(q, e);
    if (err == OK)
        err = copy_l1(q, q->l1, q->header.l1_entries, &l1_offset, e);
    if (err == OK)
        err = append(q, s, name, l1_offset, e);
    return err == OK ? store(q, s, e) : err;
}

// A snapshot's L1 table, to be freed.
static err_t load_l1(struct qcow2 *q, const struct qcow2_snapshot *s, uint64_t **l1,
                     struct error *e)
{
    if (s->l1_entries > L1_BYTES_MAX / 8 || s->l1_offset % q->cluster)
        return error_set(e, ERR_CORRUPT, "%s: the snapshot's L1 table cannot be", q->path);
    *l1 = calloc(1, align_up(s->l1_entries * 8ull + 8, 4096));
    if (!*l1)
        return error_set(e, ERR_NO_MEMORY, "%s: no memory", q->path);
    err_t err = meta_read_words(q, s->l1_offset, *l1, s->l1_entries, e);
    for (uint32_t i = 0; i < s->l1_entries; i++)
        (*l1)[i] &= ENTRY_OFFSET; // nothing that a snapshot has is the disk's alone
    return err;
}

static void l1_replace(struct qcow2 *q, uint64_t *l1, uint64_t offset, uint32_t entries)
{
    q->l1 = l1;
    q->header.l1_offset = offset;
    q->header.l1_entries = entries;
    q->l1_dirty_from = UINT64_MAX;
    q->l1_dirty_to = 0;
}

static err_t apply(struct qcow2 *q, const struct qcow2_snapshot *snap, struct error *e)
{
    uint64_t *l1 = NULL, *old = q->l1, old_offset = q->header.l1_offset, offset = 0;
    uint32_t old_entries = q->header.l1_entries;
    uint64_t old_size = q->header.size;
    err_t err = load_l1(q, snap, &l1, e);

    if (err == OK)
        err = count_l1(q, l1, snap->l1_entries, 1, e);
    if (err == OK)
        err = copy_l1(q, l1, snap->l1_entries, &offset, e);
    if (err == OK)
        err = refcounts_write(q, e);
    if (err == OK)
        err = meta_sync(q, e);
    if (err != OK) {
        free(l1);
        return err;
    }
    l1_replace(q, l1, offset, snap->l1_entries);
    q->header.size = snap->size_bytes;
    err = header_check(q, e);
    if (err == OK)
        err = header_write(q, e);
    if (err == OK)
        err = meta_sync(q, e);
    if (err != OK) {
        free(l1);
        l1_replace(q, old, old_offset, old_entries);
        q->header.size = old_size;
        return err;
    }
    q->plain_entry = 0;
    q->block.limits.size_bytes = align_up(q->header.size, q->block.limits.logical_block);
    clusters_free_later(q, old_offset / q->cluster, l1_clusters(q, old_entries));
    err = count_l1(q, old, old_entries, -1, e);
    free(old);
    return err == OK ? set_flags(q, e) : err;
}

static err_t drop(struct qcow2 *q, struct snaps *s, uint64_t at, const struct qcow2_snapshot *snap,
                  struct error *e)
{
    uint64_t *l1 = NULL, len = entry_len(s->bytes + at);
    err_t err = load_l1(q, snap, &l1, e);

    memmove(s->bytes + at, s->bytes + at + len, s->len - at - len);
    s->len -= len;
    s->count--;
    if (err == OK)
        err = store(q, s, e);
    if (err == OK) {
        clusters_free_later(q, snap->l1_offset / q->cluster, l1_clusters(q, snap->l1_entries));
        err = count_l1(q, l1, snap->l1_entries, -1, e);
    }
    free(l1);
    return err == OK ? set_flags(q, e) : err;
}

// --- emptying

static err_t empty(struct qcow2 *q, struct error *e)
{
    uint32_t entries = q->header.l1_entries;
    uint64_t *old = q->l1, *none = calloc(1, align_up(entries * 8ull + 8, 4096));

    if (!none)
        return error_set(e, ERR_NO_MEMORY, "%s: no memory", q->path);
    err_t err = meta_write_words(q, q->header.l1_offset, none, entries, 0, entries, e);
    if (err == OK)
        err = meta_sync(q, e);
    if (err != OK) {
        free(none);
        return err;
    }
    l1_replace(q, none, q->header.l1_offset, entries);
    q->plain_entry = 0;
    err = count_l1(q, old, entries, -1, e);
    free(old);
    return err == OK ? set_flags(q, e) : err;
}

err_t qcow2_empty(struct qcow2 *q, struct error *e)
{
    structure_begin(q);
    err_t err = qcow2_settle(q, e);
    if (err == OK)
        err = empty(q, e);
    if (err == OK)
        err = qcow2_settle(q, e);
    structure_end(q);
    return err;
}

enum action { CREATE, APPLY, DELETE };

static err_t act(struct qcow2 *q, enum action action, const char *name, struct error *e)
{
    struct qcow2_snapshot snap;
    struct snaps s;
    uint64_t at;

    structure_begin(q);
    err_t err = begin(q, &s, e);
    if (err == OK)
        err = action == CREATE ? check_name(q, &s, name, e) : find(q, &s, name, &snap, &at, e);
    if (err != OK) { // nothing was changed
        free(s.bytes);
        if (header_features(q, 0, INCOMPATIBLE_DIRTY, NULL) != OK)
            err = ERR_IO;
    } else {
        err = action == CREATE  ? create(q, &s, name, e)
              : action == APPLY ? apply(q, &snap, e)
                                : drop(q, &s, at, &snap, e);
        err = end(q, &s, err, e);
    }
    structure_end(q);
    return err;
}

err_t qcow2_snapshot_create(struct qcow2 *q, const char *name, struct error *e)
{
    return act(q, CREATE, name, e);
}

err_t qcow2_snapshot_apply(struct qcow2 *q, const char *name, struct error *e)
{
    return act(q, APPLY, name, e);
}

err_t qcow2_snapshot_delete(struct qcow2 *q, const char *name, struct error *e)
{
    return act(q, DELETE, name, e);
}

// --- looking at one

static err_t show(struct qcow2 *q, const struct qcow2_snapshot *snap, struct error *e)
{
    uint64_t *l1 = NULL, *old = q->l1;
    err_t err = load_l1(q, snap, &l1, e);

    if (err != OK) {
        free(l1);
        return err;
    }
    l1_replace(q, l1, snap->l1_offset, snap->l1_entries);
    free(old);
    q->header.size = snap->size_bytes;
    q->block.limits.size_bytes = align_up(q->header.size, q->block.limits.logical_block);
    q->plain_entry = 0;
    return header_check(q, e);
}

err_t qcow2_snapshot_show(struct qcow2 *q, const char *name, struct error *e)
{
    struct qcow2_snapshot snap;
    struct snaps s;
    uint64_t at;

    if (!q->read_only)
        return error_set(e, ERR_INVALID, "%s: is open for writing", q->path);
    structure_begin(q);
    err_t err = load(q, &s, e);
    if (err == OK)
        err = find(q, &s, name, &snap, &at, e);
    if (err == OK)
        err = show(q, &snap, e);
    free(s.bytes);
    structure_end(q);
    return err;
}
