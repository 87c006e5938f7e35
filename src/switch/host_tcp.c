// DNS over TCP (RFC 7766) at the switch's own addresses: the network's names. Where a VM may ask
// the host's name server for any name, its connection is that server's (host_gateway.c), and only
// answers to questions about the network's own names are slipped in; elsewhere the switch is the
// server, and has nothing to say about other names.
//
// Next to nothing is kept of a connection: a question in one segment, as everybody sends them, has
// its answer and the end of the connection in the next one. An answer that is lost is given again
// when the question comes again. That others could guess the switch's first number harms nobody:
// they cannot send as this VM. Not modelled: questions in pieces, several on one connection.
#include <string.h>

#include "base/bytes.h"
#include "switch/host.h"

enum { TCP_BYTES = 20, TCP_PUSH = 8, WINDOW = 4096, LENGTH_BYTES = 2, HEADER_SUM_MISSING = 1 };

struct segment {
    uint32_t seq, ack;
    uint8_t flags;
    const uint8_t *data;
    size_t len;
};

static bool read_segment(const struct frame *f, struct segment *s)
{
    size_t header = f->l4[12] / 16u * 4;
    if (f->more || header < TCP_BYTES || header > f->l4_len)
        return false;
    *s = (struct segment){.seq = load_be32(f->l4 + 4),
                          .ack = load_be32(f->l4 + 8),
                          .flags = f->l4[13],
                          .data = f->l4 + header,
                          .len = f->l4_len - header};
    return true;
}

// --- to the VM

static size_t ip_bytes(const struct frame *f)
{
    return f->kind == FRAME_IPV6 ? 40 : 20;
}

// Where the data of an answer to f goes, in host->out.
static uint8_t *begin(struct host *host, const struct frame *f)
{
    return host_frame(host, frame_mac_from(f), f->type) + ip_bytes(f) + TCP_BYTES;
}

// Everything that the segment s of f said is acknowledged.
static void reply(struct host *host, const struct frame *f, const struct segment *s, uint32_t seq,
                  uint8_t flags, size_t data, uint64_t now)
{
    bool v6 = f->kind == FRAME_IPV6;
    size_t size = TCP_BYTES + data;
    uint8_t *tcp = begin(host, f) - TCP_BYTES, *ip = tcp - ip_bytes(f);
    uint32_t said = (uint32_t)s->len + !!(s->flags & TCP_SYN) + !!(s->flags & TCP_FIN);
    memset(ip, 0, ip_bytes(f) + TCP_BYTES);
    store_be16(tcp, f->to);
    store_be16(tcp + 2, f->from);
    store_be32(tcp + 4, seq);
    store_be32(tcp + 8, s->seq + said);
    tcp[12] = TCP_BYTES / 4 << 4;
    tcp[13] = flags;
    store_be16(tcp + 14, WINDOW);
    ip[0] = v6 ? 0x60 : 0x45;
    ip[v6 ? 7 : 8] = 64;
    ip[v6 ? 6 : 9] = PROTOCOL_TCP;
    size_t address = v6 ? 16 : 4, from = v6 ? 8 : 12;
    memcpy(ip + from, f->l3 + from + address, address);
    memcpy(ip + from + address, f->l3 + from, address);
    (v6 ? ipv6_finish : ipv4_finish)(ip, ip_bytes(f) + size);
    host_send(host, ip_bytes(f) + size, now);
}

// --- connections that are the name server's, but for their answer

static struct host_answered *find_answered(struct host *host, const struct port *from,
                                           const struct frame *f)
{
    for (unsigned i = 0; i < HOST_ANSWERED; i++) {
        struct host_answered *a = &host->answered[i];
        if (a->used && a->port == from->index && a->from == f->from)
            return a;
    }
    return NULL;
}

static void remember(struct host *host, const struct port *from, const struct frame *f)
{
    host->answered[host->next_answered++ % HOST_ANSWERED] =
        (struct host_answered){true, from->index, f->from};
}

// The question becomes the end of the name server's connection: it is not to wait for one.
static void reset(struct frame *f)
{
    uint8_t before[2];
    memcpy(before, f->l4 + 12, 2);
    f->l4[13] = f->tcp_flags = TCP_RST | TCP_ACK;
    if (!(f->packet[0] & HEADER_SUM_MISSING))
        inet_fix(f->l4 + 16, before, f->l4 + 12, 2);
}

// --- questions

// Bytes of the answer, behind its length; 0: it is for the host's name server.
static size_t answer(struct host *host, struct port *from, const struct segment *s, bool ours,
                     uint8_t *out)
{
    struct dns_question q;
    const uint8_t *query = s->data + LENGTH_BYTES;
    if (s->len < LENGTH_BYTES || load_be16(s->data) != s->len - LENGTH_BYTES ||
        !dns_read_question(&q, query, s->len - LENGTH_BYTES))
        return 0;
    size_t len = host_answer_name(host, &q, query, out + LENGTH_BYTES);
    if (!len && ours)
        len = dns_refuse(&q, query, out + LENGTH_BYTES);
    store_be16(out, (uint16_t)len);
    return len ? LENGTH_BYTES + len : 0;
}

bool host_dns_tcp(struct host *host, struct port *from, struct frame *f, uint64_t now)
{
    bool ours = f->kind == FRAME_IPV6 || !host_may_ask(host, from, NULL);
    struct host_answered *answered = ours ? NULL : find_answered(host, from, f);
    struct segment s;
    if (!read_segment(f, &s))
        return true;
    if (s.flags & (TCP_SYN | TCP_RST)) {
        if (answered)
            answered->used = false;
        if (ours && (s.flags & (TCP_SYN | TCP_RST | TCP_ACK)) == TCP_SYN)
            reply(host, f, &s, ~s.seq, TCP_SYN | TCP_ACK, 0, now);
        return ours;
    }
    size_t len = s.len ? answer(host, from, &s, ours, begin(host, f)) : 0;
    if (len) {
        reply(host, f, &s, s.ack, TCP_ACK | TCP_PUSH | TCP_FIN, len, now);
        if (ours || answered)
            return true;
        remember(host, from, f);
        reset(f);
        return false;
    }
    if ((ours || answered) && s.flags & TCP_FIN)
        reply(host, f, &s, s.ack, TCP_ACK, 0, now);
    return ours || answered;
}
