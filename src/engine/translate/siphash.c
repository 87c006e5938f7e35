// SipHash-1-3-128 (see siphash.h).
#include "engine/translate/siphash.h"

#include "base/bytes.h"

struct sip {
    uint64_t v0, v1, v2, v3;
};

static uint64_t rotate(uint64_t x, unsigned by)
{
    return x << by | x >> (64 - by);
}

static void rounds(struct sip *s, unsigned n)
{
    while (n--) {
        s->v0 += s->v1;
        s->v2 += s->v3;
        s->v1 = rotate(s->v1, 13) ^ s->v0;
        s->v3 = rotate(s->v3, 16) ^ s->v2;
        s->v0 = rotate(s->v0, 32) + s->v3;
        s->v2 += s->v1;
        s->v1 = rotate(s->v1, 17) ^ s->v2;
        s->v3 = rotate(s->v3, 21) ^ s->v0;
        s->v2 = rotate(s->v2, 32);
    }
}

static void take(struct sip *s, uint64_t word)
{
    s->v3 ^= word;
    rounds(s, 1);
    s->v0 ^= word;
}

void siphash128(const uint64_t key[2], const void *data, size_t len, uint64_t out[2])
{
    struct sip s = {key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d ^ 0xee,
                    key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573};
    const uint8_t *p = data;
    uint64_t last = (uint64_t)len << 56;
    for (size_t n = len; n >= 8; n -= 8, p += 8)
        take(&s, load_le64(p));
    for (unsigned i = 0; i < len % 8; i++)
        last |= (uint64_t)p[i] << 8 * i;
    take(&s, last);
    s.v2 ^= 0xee;
    rounds(&s, 3);
    out[0] = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
    s.v1 ^= 0xdd;
    rounds(&s, 3);
    out[1] = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}
