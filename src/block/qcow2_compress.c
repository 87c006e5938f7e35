// Compressed clusters of qcow2: raw deflate (zlib) or zstd. A compressed cluster lies at any byte
// of the file; the last one that was read is kept as plain data, because reads are mostly smaller.
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/bits.h"
#include "block/qcow2_impl.h"

#define WINDOW_BITS 12 // what other readers of the format allow for

static bool inflate_cluster(const uint8_t *in, size_t in_len, uint8_t *out, size_t len)
{
    z_stream z = {
        .next_in = (Bytef *)in, .avail_in = (uInt)in_len, .next_out = out, .avail_out = (uInt)len};

    if (inflateInit2(&z, -15) != Z_OK)
        return false;
    int result = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    // The last sector may hold somebody else's data behind ours.
    return z.avail_out == 0 && (result == Z_STREAM_END || result == Z_BUF_ERROR || result == Z_OK);
}

static bool zstd_cluster(const uint8_t *in, size_t in_len, uint8_t *out, size_t len)
{
    ZSTD_DCtx *d = ZSTD_createDCtx();
    ZSTD_inBuffer from = {in, in_len, 0};
    ZSTD_outBuffer to = {out, len, 0};
    size_t left = 1;

    while (d && to.pos < len && left) {
        size_t before = from.pos + to.pos;
        left = ZSTD_decompressStream(d, &to, &from);
        if (ZSTD_isError(left) || from.pos + to.pos == before)
            break;
    }
    ZSTD_freeDCtx(d);
    return to.pos == len;
}

static err_t unpack(struct qcow2 *q, uint64_t len, struct error *e)
{
    bool good;

    pthread_mutex_unlock(&q->lock);
    if (q->header.compression)
        good = zstd_cluster(q->packed, len, q->plain, q->cluster);
    else
        good = inflate_cluster(q->packed, len, q->plain, q->cluster);
    pthread_mutex_lock(&q->lock);
    if (good)
        return OK;
    return qcow2_corrupt(q, e, "a compressed cluster cannot be unpacked");
}

err_t compressed_read(struct qcow2 *q, uint64_t entry, struct error *e)
{
    uint64_t offset, len;

    if (q->plain_entry == entry)
        return OK;
    q->plain_entry = 0;
    if (!q->plain) {
        q->plain = malloc(q->cluster);
        q->packed = malloc(2 * q->cluster + 512);
    }
    if (!q->plain || !q->packed)
        return error_set(e, ERR_NO_MEMORY, "%s: no memory", q->path);
    compressed_place(q, entry, &offset, &len);
    len = min_u64(len, 2 * q->cluster + 512);
    err_t err = meta_read(q, offset, q->packed, len, e);
    if (err == OK)
        err = unpack(q, len, e);
    if (err == OK)
        q->plain_entry = entry;
    return err;
}

static size_t deflate_cluster(const uint8_t *plain, size_t len, uint8_t *out)
{
    z_stream z = {.next_in = (Bytef *)plain,
                  .avail_in = (uInt)len,
                  .next_out = out,
                  .avail_out = (uInt)len - 1};

    if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -WINDOW_BITS, 9, Z_DEFAULT_STRATEGY))
        return 0;
    int result = deflate(&z, Z_FINISH);
    deflateEnd(&z);
    return result == Z_STREAM_END ? len - 1 - z.avail_out : 0;
}

size_t compress_cluster(unsigned type, const uint8_t *plain, size_t len, uint8_t *out)
{
    if (!type)
        return deflate_cluster(plain, len, out);
    size_t packed = ZSTD_compress(out, len - 1, plain, len, ZSTD_CLEVEL_DEFAULT);
    return ZSTD_isError(packed) ? 0 : packed;
}
