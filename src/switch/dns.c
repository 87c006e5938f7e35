// DNS messages (RFC 1035, 3596, 2308): questions are read, the network's own answered, and the
// addresses in others' answers found. The network is authoritative for "berth", for names of one
// label, and for the reverse names of its subnets. Not modelled: EDNS (its record is not answered,
// which says so), zone transfers, types other than A, AAAA and PTR.
#include "switch/dns.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

#define HEADER 12
#define LABEL_MAX 63

enum {
    QUERY_RESPONSE = 0x8000,
    AUTHORITATIVE = 0x0400,
    TRUNCATED = 0x0200,
    RECURSION_DESIRED = 0x0100,
    RECURSION_AVAILABLE = 0x0080,
    OPCODE = 0x7800,
    REFUSED = 5,
    NO_SUCH_NAME = 3,

    TYPE_A = 1,
    TYPE_PTR = 12,
    TYPE_AAAA = 28,
    TYPE_ANY = 255,
    CLASS_IN = 1,
};

// --- reading

// A name without pointers, as questions have them. Labels with dots or bytes that are no text in
// them are refused: they would read like other names.
static bool read_name(const uint8_t *message, size_t len, size_t *at, char out[DNS_NAME_MAX])
{
    size_t used = 0;
    for (;;) {
        if (*at >= len)
            return false;
        uint8_t label = message[(*at)++];
        if (label == 0)
            break;
        if (label > LABEL_MAX || label > len - *at || used + label + 1 >= DNS_NAME_MAX)
            return false;
        if (used)
            out[used++] = '.';
        for (; label; label--) {
            uint8_t c = message[(*at)++];
            if (c <= ' ' || c >= 0x7f || c == '.' || c == '\\')
                return false;
            out[used++] = (char)tolower(c);
        }
    }
    out[used] = '\0';
    return true;
}

static bool read_question(struct dns_question *q, const uint8_t *message, size_t len)
{
    size_t at = HEADER;
    if (len < HEADER || load_be16(message + 2) & OPCODE || load_be16(message + 4) != 1 ||
        !read_name(message, len, &at, q->name) || len - at < 4)
        return false;
    q->type = load_be16(message + at);
    q->class = load_be16(message + at + 2);
    q->end = at + 4;
    return true;
}

bool dns_read_question(struct dns_question *q, const uint8_t *message, size_t len)
{
    return len >= HEADER && !(load_be16(message + 2) & QUERY_RESPONSE) &&
           read_question(q, message, len);
}

// Steps over a name, which may end in a pointer.
static bool skip_name(const uint8_t *message, size_t len, size_t *at)
{
    while (*at < len) {
        uint8_t label = message[(*at)++];
        if (label == 0)
            return true;
        if (label >= 0xc0) {
            (*at)++;
            return *at <= len;
        }
        if (label > LABEL_MAX)
            return false;
        *at += label;
    }
    return false;
}

void dns_each_address(const uint8_t *message, size_t len, struct dns_question *q,
                      void (*found)(void *opaque, const struct dns_question *q,
                                    const uint8_t address[16], uint32_t ttl),
                      void *opaque)
{
    if (len < HEADER || !(load_be16(message + 2) & QUERY_RESPONSE) ||
        !read_question(q, message, len))
        return;
    size_t at = q->end;
    for (unsigned n = load_be16(message + 6); n; n--) {
        if (!skip_name(message, len, &at) || len - at < 10)
            return;
        uint16_t type = load_be16(message + at), size = load_be16(message + at + 8);
        uint16_t class = load_be16(message + at + 2);
        uint32_t ttl = load_be32(message + at + 4);
        at += 10;
        if (size > len - at)
            return;
        uint8_t address[16] = {[10] = 0xff, [11] = 0xff};
        bool a = type == TYPE_A && size == 4, aaaa = type == TYPE_AAAA && size == 16;
        if (a || aaaa)
            memcpy(a ? address + 12 : address, message + at, size);
        if (class == CLASS_IN && (a || aaaa))
            found(opaque, q, address, ttl);
        at += size;
    }
}

// --- writing

static size_t begin(const struct dns_question *q, const uint8_t *query, uint8_t *reply,
                    unsigned flags)
{
    memcpy(reply, query, q->end);
    store_be16(reply + 2, (uint16_t)(QUERY_RESPONSE | RECURSION_AVAILABLE | flags |
                                     (load_be16(query + 2) & RECURSION_DESIRED)));
    memset(reply + 6, 0, 6);
    return q->end;
}

// A record about the question's name; data of a size that fits is the caller's.
static void add(uint8_t *reply, size_t *at, uint16_t type, const void *data, size_t size)
{
    uint8_t *p = reply + *at;
    if (*at + 12 + size > DNS_REPLY_MAX) {
        reply[2] |= TRUNCATED >> 8;
        return;
    }
    store_be16(p, 0xc000 | HEADER);
    store_be16(p + 2, type);
    store_be16(p + 4, CLASS_IN);
    store_be32(p + 6, DNS_TTL);
    store_be16(p + 10, (uint16_t)size);
    memcpy(p + 12, data, size);
    *at += 12 + size;
    store_be16(reply + 6, (uint16_t)(load_be16(reply + 6) + 1));
}

static size_t write_name(uint8_t *out, const char *name)
{
    uint8_t *at = out;
    while (*name) {
        size_t len = strcspn(name, ".");
        *at++ = (uint8_t)len;
        memcpy(at, name, len);
        at += len;
        name += len + (name[len] == '.');
    }
    *at++ = 0;
    return (size_t)(at - out);
}

static bool wants(const struct dns_question *q, uint16_t type)
{
    return q->class == CLASS_IN && (q->type == type || q->type == TYPE_ANY);
}

static void add_addresses(const struct dns_question *q, uint8_t *reply, size_t *at,
                          const struct dns_addresses *a)
{
    uint8_t bytes[4];
    for (unsigned i = 0; i < a->count4 && wants(q, TYPE_A); i++) {
        store_be32(bytes, a->ipv4[i]);
        add(reply, at, TYPE_A, bytes, sizeof bytes);
    }
    for (unsigned i = 0; i < a->count6 && wants(q, TYPE_AAAA); i++)
        add(reply, at, TYPE_AAAA, a->ipv6[i], 16);
}

// --- reverse names

static bool ends_with(const char *name, const char *tail)
{
    size_t len = strlen(name), n = strlen(tail);
    return len >= n && !strcmp(name + len - n, tail);
}

static bool reverse4(const char *name, uint32_t *address)
{
    unsigned b[4];
    int used = 0;
    if (sscanf(name, "%3u.%3u.%3u.%3u.in-addr.arpa%n", &b[3], &b[2], &b[1], &b[0], &used) != 4 ||
        name[used] || !used || b[0] > 255 || b[1] > 255 || b[2] > 255 || b[3] > 255)
        return false;
    *address = b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3];
    return true;
}

static bool reverse6(const char *name, uint8_t address[16])
{
    if (strlen(name) != 64 + strlen("ip6.arpa") || !ends_with(name, ".ip6.arpa"))
        return false;
    for (int i = 0; i < 32; i++) {
        char c = name[2 * i];
        if (!isxdigit((unsigned char)c) || name[2 * i + 1] != '.')
            return false;
        unsigned digit = (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
        uint8_t *byte = &address[15 - i / 2];
        *byte = (uint8_t)(i % 2 ? *byte | digit << 4 : digit);
    }
    return true;
}

// 0: not about an address of the network.
static size_t answer_reverse(const struct dns_zone *zone, const struct dns_question *q,
                             const uint8_t *query, uint8_t *reply)
{
    uint32_t ipv4;
    uint8_t ipv6[16], data[64 + sizeof DNS_DOMAIN + 2];
    char name[64], full[64 + sizeof DNS_DOMAIN + 1];
    bool four = reverse4(q->name, &ipv4), ours = false;
    if (!four && !reverse6(q->name, ipv6))
        return 0;
    bool known = zone->name(zone->opaque, four ? &ipv4 : NULL, four ? NULL : ipv6, &ours, name);
    if (!ours)
        return 0;
    size_t at = begin(q, query, reply, AUTHORITATIVE | (known ? 0 : NO_SUCH_NAME));
    snprintf(full, sizeof full, "%s." DNS_DOMAIN, name);
    if (known && wants(q, TYPE_PTR))
        add(reply, &at, TYPE_PTR, data, write_name(data, full));
    return at;
}

// --- names

// The part before the domain, where the name is one of the network's.
static bool own_name(const char *name, char host[64])
{
    size_t len = strlen(name);
    if (!strcmp(name, DNS_DOMAIN)) {
        host[0] = '\0';
        return true;
    }
    if (ends_with(name, "." DNS_DOMAIN))
        len -= strlen("." DNS_DOMAIN);
    else if (!len || strchr(name, '.'))
        return false;
    // A name that no VM can have is known to be nobody's.
    snprintf(host, 64, "%.*s", (int)(len < 64 ? len : 0), name);
    return true;
}

size_t dns_answer(const struct dns_zone *zone, const struct dns_question *q, const uint8_t *query,
                  uint8_t *reply)
{
    char host[64];
    struct dns_addresses addresses = {0};
    if (!own_name(q->name, host))
        return answer_reverse(zone, q, query, reply);
    bool known = !strcmp(q->name, DNS_DOMAIN) ||
                 (host[0] && zone->addresses(zone->opaque, host, &addresses));
    size_t at = begin(q, query, reply, AUTHORITATIVE | (known ? 0 : NO_SUCH_NAME));
    add_addresses(q, reply, &at, &addresses);
    return at;
}

size_t dns_refuse(const struct dns_question *q, const uint8_t *query, uint8_t *reply)
{
    return begin(q, query, reply, REFUSED);
}
