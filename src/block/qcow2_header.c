// The qcow2 header: fields, features, extensions, and the backing file's name behind them. All
// limits are checked here, before anything is allocated by a size from the file.
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "block/qcow2_impl.h"

#define V2_LEN 72u
#define V3_LEN 104u
#define OUR_LEN 112u // with the compression type and its padding
#define HEAD_BYTES (64 * KIB)

enum extension {
    EXT_END = 0,
    EXT_BACKING_FORMAT = (int)0xe2792aca,
    EXT_FEATURE_NAMES = 0x6803f857,
    EXT_BITMAPS = 0x23852875,
    EXT_ENCRYPTION = 0x0537be77,
    EXT_DATA_FILE = 0x44415441,
};

static const struct feature_name {
    uint8_t type, bit; // 0 incompatible, 1 compatible, 2 autoclear
    const char *name;
} feature_names[] = {
    {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
    {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
    {2, 0, "bitmaps"},          {2, 1, "raw external data"},
};
#define FEATURE_ROW 48u

// --- reading

static void read_fields(struct qcow2_header *h, const uint8_t *in)
{
    h->version = load_be32(in + 4);
    h->cluster_bits = load_be32(in + 20);
    h->size = load_be64(in + 24);
    h->l1_entries = load_be32(in + 36);
    h->l1_offset = load_be64(in + 40);
    h->reftable_offset = load_be64(in + 48);
    h->reftable_clusters = load_be32(in + 56);
    h->snapshots = load_be32(in + 60);
    h->snapshots_offset = load_be64(in + 64);
    h->refcount_order = 4;
    if (h->version < 3)
        return;
    h->incompatible = load_be64(in + 72);
    h->compatible = load_be64(in + 80);
    h->autoclear = load_be64(in + 88);
    h->refcount_order = load_be32(in + 96);
    if (load_be32(in + 100) > V3_LEN)
        h->compression = in[104];
}

// The name that the image itself gives an unknown feature, for the message that refuses it.
static void name_feature(const uint8_t *table, uint32_t len, unsigned bit, char *name, size_t size)
{
    for (uint32_t at = 0; at + FEATURE_ROW <= len; at += FEATURE_ROW) {
        if (table[at] == 0 && table[at + 1] == bit) {
            size_t n = min_u64(size - 1, FEATURE_ROW - 2);
            memcpy(name, table + at + 2, n);
            name[n] = '\0';
            for (char *c = name; *c; c++) {
                if (*c < ' ' || *c > '~')
                    *c = '?';
            }
        }
    }
}

static err_t check_features(const struct qcow2 *q, const uint8_t *names, uint32_t names_len,
                            struct error *e)
{
    uint64_t unknown = q->header.incompatible & ~(uint64_t)INCOMPATIBLE_KNOWN;
    char name[FEATURE_ROW] = "";

    if (q->header.incompatible & INCOMPATIBLE_DATA_FILE)
        return error_set(e, ERR_UNSUPPORTED,
                         "%s: keeps its data in an external data file, which is not supported; "
                         "convert it with qemu-img convert",
                         q->path);
    if (!unknown)
        return OK;
    unsigned bit = (unsigned)__builtin_ctzll(unknown);
    name_feature(names, names_len, bit, name, sizeof name);
    return error_set(e, ERR_UNSUPPORTED, "%s: uses a feature that is not known here: %s (bit %u)",
                     q->path, name[0] ? name : "without a name", bit);
}

struct reader {
    const uint8_t *head;
    uint64_t len; // of head that belongs to the first cluster
    const uint8_t *names;
    uint32_t names_len;
};

static err_t keep_extension(struct qcow2_header *h, const uint8_t *at, uint32_t whole)
{
    uint8_t *grown = realloc(h->extensions, h->extensions_len + whole);

    if (!grown)
        return ERR_NO_MEMORY;
    memcpy(grown + h->extensions_len, at, whole);
    h->extensions = grown;
    h->extensions_len += whole;
    return OK;
}

static err_t read_extension(struct qcow2_header *h, struct reader *r, uint64_t at, uint32_t len)
{
    const uint8_t *data = r->head + at + 8;

    switch ((int)load_be32(r->head + at)) {
    case EXT_BACKING_FORMAT:
        if (len >= sizeof h->backing_format)
            return ERR_UNSUPPORTED;
        memcpy(h->backing_format, data, len);
        h->backing_format[len] = '\0';
        return OK;
    case EXT_FEATURE_NAMES: r->names = data, r->names_len = len; return OK;
    case EXT_BITMAPS: return OK; // described as inconsistent once the image is written
    default:
        return keep_extension(h, r->head + at,
                              (uint32_t)min_u64(align_up(8 + len, 8), r->len - at));
    }
}

static err_t read_extensions(struct qcow2 *q, struct reader *r, uint64_t at, struct error *e)
{
    while (at + 8 <= r->len && load_be32(r->head + at) != EXT_END) {
        uint64_t len = load_be32(r->head + at + 4);
        if (len > r->len - at - 8)
            return error_set(e, ERR_CORRUPT, "%s: a header extension is longer than the header",
                             q->path);
        err_t err = read_extension(&q->header, r, at, (uint32_t)len);
        if (err != OK)
            return error_set(e, err, "%s: a header extension cannot be used", q->path);
        at += align_up(8 + len, 8);
    }
    return OK;
}

static err_t read_backing_name(struct qcow2 *q, const struct reader *r, struct error *e)
{
    uint64_t at = load_be64(r->head + 8);
    uint32_t len = load_be32(r->head + 16);

    if (!at)
        return OK;
    if (len >= QCOW2_NAME_MAX || !range_within(at, len, r->len))
        return error_set(e, ERR_CORRUPT, "%s: its backing file's name is not in the header",
                         q->path);
    memcpy(q->header.backing, r->head + at, len);
    q->header.backing[len] = '\0';
    if (strlen(q->header.backing) != len)
        return error_set(e, ERR_CORRUPT, "%s: its backing file's name holds a zero byte", q->path);
    return OK;
}

static err_t read_all(struct qcow2 *q, const uint8_t *head, struct error *e)
{
    struct qcow2_header *h = &q->header;
    struct reader r = {.head = head};

    if (load_be32(head) != QCOW2_MAGIC)
        return error_set(e, ERR_CORRUPT, "%s: not a qcow2 image", q->path);
    read_fields(h, head);
    if (h->version != 2 && h->version != 3)
        return error_set(e, ERR_UNSUPPORTED, "%s: qcow2 version %u is not supported", q->path,
                         h->version);
    if (load_be32(head + 32))
        return error_set(e, ERR_UNSUPPORTED,
                         "%s: is encrypted (%s), which is not supported; decrypt it with qemu-img "
                         "convert",
                         q->path, load_be32(head + 32) == 2 ? "LUKS" : "AES");
    if (h->cluster_bits < 9 || h->cluster_bits > 21)
        return error_set(e, ERR_CORRUPT, "%s: clusters of 2^%u bytes are not in the format",
                         q->path, h->cluster_bits);
    r.len = min_u64(1ull << h->cluster_bits, HEAD_BYTES);
    uint32_t own = h->version == 2 ? V2_LEN : load_be32(head + 100);
    if (own > r.len || (h->version == 3 && (own < V3_LEN || own % 8)))
        return error_set(e, ERR_CORRUPT, "%s: a header of %u bytes is not in the format", q->path,
                         own);
    err_t err = read_extensions(q, &r, own, e);
    if (err == OK)
        err = check_features(q, r.names, r.names_len, e);
    return err == OK ? read_backing_name(q, &r, e) : err;
}

err_t header_read(struct qcow2 *q, struct error *e)
{
    uint8_t *head = calloc(1, HEAD_BYTES);
    err_t err = head ? bfile_read(q->file, 0, head, HEAD_BYTES, e)
                     : error_set(e, ERR_NO_MEMORY, "%s: no memory", q->path);

    if (err == OK)
        err = read_all(q, head, e);
    free(head);
    return err;
}

// --- checking

static err_t bad(const struct qcow2 *q, struct error *e, const char *what)
{
    return error_set(e, ERR_CORRUPT, "%s: %s; try: berth disk check %s", q->path, what, q->path);
}

static bool table_fits(const struct qcow2 *q, uint64_t offset, uint64_t bytes)
{
    return offset % (1ull << q->header.cluster_bits) == 0 && range_within(offset, bytes, INT64_MAX);
}

static err_t check_disk_size(const struct qcow2 *q, struct error *e)
{
    const struct qcow2_header *h = &q->header;
    bool extended = h->incompatible & INCOMPATIBLE_EXTENDED_L2;
    uint64_t per_l1 = 1ull << (2 * h->cluster_bits - (extended ? 4 : 3));

    if (h->size > INT64_MAX - (1ull << 42))
        return bad(q, e, "its disk is larger than any file can be");
    if (h->l1_entries > L1_BYTES_MAX / 8)
        return bad(q, e, "its L1 table is larger than 32 MiB");
    if ((h->size + per_l1 - 1) / per_l1 > h->l1_entries)
        return bad(q, e, "its L1 table is smaller than the disk needs");
    if (!table_fits(q, h->l1_offset, h->l1_entries * 8ull) || (!h->l1_offset && h->l1_entries))
        return bad(q, e, "its L1 table is not at the start of a cluster");
    return OK;
}

err_t header_check(const struct qcow2 *q, struct error *e)
{
    const struct qcow2_header *h = &q->header;
    uint64_t cluster = 1ull << h->cluster_bits;

    if (h->refcount_order > 6)
        return bad(q, e, "its reference counts are wider than 64 bits");
    if ((h->incompatible & INCOMPATIBLE_EXTENDED_L2) && h->cluster_bits < 14)
        return bad(q, e, "it has subclusters in clusters smaller than 16 KiB");
    if (!!(h->incompatible & INCOMPATIBLE_COMPRESSION) != !!h->compression)
        return bad(q, e, "its compression type contradicts its features");
    if (h->compression > 1)
        return error_set(e, ERR_UNSUPPORTED, "%s: compression type %u is not supported", q->path,
                         h->compression);
    if (h->reftable_clusters > REFTABLE_BYTES_MAX / cluster || !h->reftable_clusters ||
        !h->reftable_offset || !table_fits(q, h->reftable_offset, REFTABLE_BYTES_MAX))
        return bad(q, e, "its refcount table is empty, too large or not at the start of a cluster");
    if (h->snapshots > 65536 || (h->snapshots && !h->snapshots_offset) ||
        !table_fits(q, h->snapshots_offset, 0))
        return bad(q, e, "its snapshot table is too large or not at the start of a cluster");
    return check_disk_size(q, e);
}

// --- writing

static uint8_t *put_extension(uint8_t *at, const uint8_t *end, enum extension type,
                              const void *data, size_t len)
{
    if (end - at < (ptrdiff_t)align_up(8 + len, 8))
        return NULL;
    store_be32(at, (uint32_t)type);
    store_be32(at + 4, (uint32_t)len);
    memcpy(at + 8, data, len);
    return at + align_up(8 + len, 8);
}

static uint8_t *put_feature_names(uint8_t *at, const uint8_t *end)
{
    uint8_t rows[ARRAY_LEN(feature_names) * FEATURE_ROW] = {0};

    for (size_t i = 0; i < ARRAY_LEN(feature_names); i++) {
        uint8_t *row = rows + i * FEATURE_ROW;
        row[0] = feature_names[i].type;
        row[1] = feature_names[i].bit;
        memcpy(row + 2, feature_names[i].name, strlen(feature_names[i].name));
    }
    return put_extension(at, end, EXT_FEATURE_NAMES, rows, sizeof rows);
}

static void put_fields(const struct qcow2_header *h, uint8_t *out)
{
    store_be32(out, QCOW2_MAGIC);
    store_be32(out + 4, h->version);
    store_be32(out + 20, h->cluster_bits);
    store_be64(out + 24, h->size);
    store_be32(out + 36, h->l1_entries);
    store_be64(out + 40, h->l1_offset);
    store_be64(out + 48, h->reftable_offset);
    store_be32(out + 56, h->reftable_clusters);
    store_be32(out + 60, h->snapshots);
    store_be64(out + 64, h->snapshots_offset);
    if (h->version < 3)
        return;
    store_be64(out + 72, h->incompatible);
    store_be64(out + 80, h->compatible);
    store_be64(out + 88, h->autoclear);
    store_be32(out + 96, h->refcount_order);
    store_be32(out + 100, OUR_LEN);
    out[104] = (uint8_t)h->compression;
}

err_t header_compose(const struct qcow2_header *h, uint8_t *out, size_t len, struct error *e)
{
    size_t name = strlen(h->backing), format = strlen(h->backing_format);
    uint8_t *end = out + min_u64(len, HEAD_BYTES), *at = out + (h->version == 2 ? V2_LEN : OUR_LEN);

    memset(out, 0, len);
    put_fields(h, out);
    if (format)
        at = put_extension(at, end, EXT_BACKING_FORMAT, h->backing_format, format);
    if (at && h->extensions_len) {
        if (end - at < (ptrdiff_t)h->extensions_len)
            at = NULL;
        else
            at = (uint8_t *)memcpy(at, h->extensions, h->extensions_len) + h->extensions_len;
    }
    // Names help only people: small clusters may have no room for them.
    if (at && h->version == 3) {
        uint8_t *more = put_feature_names(at, end - 8 - name);
        at = more ? more : at;
    }
    if (!at || end - at < (ptrdiff_t)(8 + name))
        return error_set(e, ERR_INVALID,
                         "the backing file's name does not fit the image's header; use larger "
                         "clusters or a shorter name");
    at += 8; // the end of the extensions
    if (name) {
        store_be64(out + 8, (uint64_t)(at - out));
        store_be32(out + 16, (uint32_t)name);
        memcpy(at, h->backing, name);
    }
    return OK;
}

err_t header_write(struct qcow2 *q, struct error *e)
{
    err_t err = header_compose(&q->header, q->scratch, q->cluster, e);

    if (err != OK)
        return error_in(e, "%s", q->path);
    // The rest of the cluster is empty; one small write is as close to all or nothing as it gets.
    return meta_write(q, 0, q->scratch, min_u64(q->cluster, HEAD_BYTES), e);
}

err_t header_features(struct qcow2 *q, uint64_t set, uint64_t clear, struct error *e)
{
    uint64_t features = (q->header.incompatible | set) & ~clear;
    uint64_t len = max_u64(512, q->align);

    if (q->header.version < 3 || features == q->header.incompatible)
        return OK;
    err_t err = meta_read(q, 0, q->scratch, min_u64(len, q->cluster), e);
    if (err != OK)
        return err;
    store_be64(q->scratch + 72, features);
    err = meta_write(q, 0, q->scratch, min_u64(len, q->cluster), e);
    if (err == OK)
        err = meta_sync(q, e);
    if (err == OK)
        q->header.incompatible = features;
    return err;
}
