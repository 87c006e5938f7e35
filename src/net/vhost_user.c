// Messages of vhost-user: a header of 12 bytes (request, flags, size), a payload, and descriptors
// that come with the header. unix(7).
//
// They are read as far as they have come, so that whoever stops in the middle of one stops nobody
// but itself.
#include "net/vhost_user.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "host/passing.h"

enum { HEADER_BYTES = 12, VERSION = 1, VERSION_MASK = 3, FLAG_REPLY = 4, SMALL = 512 };

_Static_assert(VHOST_FDS_MAX <= PASSING_MAX);

static ssize_t read_header(struct vhost_channel *c, int socket)
{
    struct vhost_message *m = &c->in;
    unsigned more = 0, room = VHOST_FDS_MAX - m->fds;
    size_t want = HEADER_BYTES - c->got;
    if (!room)
        return recv(socket, c->header + c->got, want, MSG_DONTWAIT);
    ssize_t n = passing_receive(socket, c->header + c->got, want, m->fd + m->fds, room, &more,
                                MSG_DONTWAIT);
    m->fds += more;
    return n;
}

// 1: more has come; 0: not now; -1: nothing will.
static int read_more(struct vhost_channel *c, int socket)
{
    struct vhost_message *m = &c->in;
    size_t done = c->got - HEADER_BYTES;
    ssize_t n = c->got < HEADER_BYTES
                    ? read_header(c, socket)
                    : recv(socket, m->payload + done, m->size - done, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    c->got += n > 0 ? (size_t)n : 0;
    return n > 0 ? 1 : -1;
}

static bool parse_header(struct vhost_channel *c)
{
    struct vhost_message *m = &c->in;
    m->request = load_le32(c->header);
    m->flags = load_le32(c->header + 4);
    m->size = load_le32(c->header + 8);
    return (m->flags & VERSION_MASK) == VERSION && m->size <= sizeof m->payload;
}

enum vhost_read vhost_channel_read(struct vhost_channel *c, int socket)
{
    while (c->got < HEADER_BYTES || c->got < HEADER_BYTES + c->in.size) {
        int more = read_more(c, socket);
        if (more <= 0)
            return more ? VHOST_GONE : VHOST_NOTHING;
        if (c->got == HEADER_BYTES && !parse_header(c))
            return VHOST_GONE;
    }
    return VHOST_MESSAGE;
}

void vhost_channel_clear(struct vhost_channel *c)
{
    for (unsigned i = 0; i < c->in.fds; i++) {
        if (c->in.fd[i] >= 0)
            close(c->in.fd[i]);
    }
    memset(c->in.payload, 0, c->in.size <= sizeof c->in.payload ? c->in.size : 0); // or unread
    c->in.request = c->in.flags = c->in.size = c->in.fds = 0;
    c->got = 0;
}

// A message is small and goes whole or not at all.
bool vhost_send(int socket, unsigned request, unsigned flags, const void *payload, size_t len,
                int fd)
{
    uint8_t bytes[HEADER_BYTES + SMALL];
    if (len > SMALL)
        return false;
    store_le32(bytes, request);
    store_le32(bytes + 4, flags | VERSION);
    store_le32(bytes + 8, (uint32_t)len);
    if (len)
        memcpy(bytes + HEADER_BYTES, payload, len);
    len += HEADER_BYTES;
    if (fd >= 0)
        return passing_send(socket, bytes, len, fd, MSG_DONTWAIT) == (ssize_t)len;
    return send(socket, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len;
}

bool vhost_answer(int socket, const struct vhost_message *m)
{
    return vhost_send(socket, m->request, FLAG_REPLY, m->payload, m->size, -1);
}
