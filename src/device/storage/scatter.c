// See scatter.h.
#include "device/storage/scatter.h"

#include <string.h>

#include "base/bits.h"

bool scatter_add(struct scatter *s, struct device *dev, gpa_t at, uint64_t len)
{
    struct iovec *last = s->count ? &s->iov[s->count - 1] : NULL;
    void *host;

    if (len == 0)
        return true;
    host = dev->env->dma_map(dev, at, len);
    if (!host)
        return false;
    if (last && s->gpa[s->count - 1] + last->iov_len == at &&
        (char *)last->iov_base + last->iov_len == host) {
        last->iov_len += len;
    } else {
        if (s->count == SCATTER_MAX)
            return false;
        s->iov[s->count] = (struct iovec){host, len};
        s->gpa[s->count++] = at;
    }
    s->bytes += len;
    return true;
}

static size_t copy(const struct scatter *s, uint64_t skip, char *flat, size_t len, bool to_guest)
{
    size_t done = 0;

    for (unsigned i = 0; i < s->count && done < len; i++) {
        const struct iovec *part = &s->iov[i];
        size_t n;
        if (skip >= part->iov_len) {
            skip -= part->iov_len;
            continue;
        }
        n = min_u64(part->iov_len - skip, len - done);
        if (to_guest)
            memcpy((char *)part->iov_base + skip, flat + done, n);
        else
            memcpy(flat + done, (char *)part->iov_base + skip, n);
        done += n;
        skip = 0;
    }
    return done;
}

size_t scatter_read(const struct scatter *s, uint64_t skip, void *data, size_t len)
{
    return copy(s, skip, data, len, false);
}

size_t scatter_write(const struct scatter *s, uint64_t skip, const void *data, size_t len)
{
    return copy(s, skip, (char *)data, len, true);
}

void scatter_filled(const struct scatter *s, struct device *dev, uint64_t bytes)
{
    for (unsigned i = 0; i < s->count && bytes; i++) {
        uint64_t part = min_u64(s->iov[i].iov_len, bytes);
        dev->env->dma_done(dev, s->gpa[i], part);
        bytes -= part;
    }
}
