// The pcap format with nanoseconds (draft-ietf-opsawg-pcap), link type Ethernet. Large packets are
// shown as the segments they stand for. A record is one message, and so written whole or not at
// all.
#include "switch/capture.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAGIC 0xa1b23c4du
#define LINK_ETHERNET 1

struct file_header {
    uint32_t magic;
    uint16_t major, minor;
    uint32_t zone, accuracy, longest, link;
};

struct record {
    uint32_t seconds, nanoseconds, captured, length;
};

err_t capture_open(struct capture *capture, int port, int *reader, struct error *e)
{
    const struct file_header header = {MAGIC, 2, 4, 0, 0, NET_FRAME_MAX, LINK_ETHERNET};
    int pair[2], size = 1 << 20;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return error_set(e, err_from_errno(errno), "cannot begin a capture: %s", strerror(errno));
    setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    *capture = (struct capture){.used = true, .fd = pair[0], .port = port};
    *reader = pair[1];
    if (send(pair[0], &header, sizeof header, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof header)
        return OK;
    capture_close(capture);
    close(pair[1]);
    return error_set(e, ERR_IO, "cannot begin a capture");
}

void capture_close(struct capture *capture)
{
    if (capture->used)
        close(capture->fd);
    capture->used = false;
}

struct writing {
    struct capture *capture;
    int64_t when_ns;
    bool gone;
};

static void write_record(void *opaque, uint8_t *packet, size_t len)
{
    struct writing *w = opaque;
    uint32_t size = (uint32_t)(len - NET_HEADER_BYTES);
    struct record record = {(uint32_t)(w->when_ns / (int64_t)NS_PER_SEC),
                            (uint32_t)(w->when_ns % (int64_t)NS_PER_SEC), size, size};
    struct iovec data[] = {{&record, sizeof record}, {packet + NET_HEADER_BYTES, size}};
    struct msghdr message = {.msg_iov = data, .msg_iovlen = 2};
    if (sendmsg(w->capture->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
        w->capture->taken++;
    else if (errno == EAGAIN || errno == EINTR || errno == ENOBUFS)
        w->capture->missed++;
    else
        w->gone = true;
}

bool capture_packet(struct capture *capture, const uint8_t *packet, size_t len, int64_t when_ns,
                    uint8_t *scratch)
{
    struct writing w = {capture, when_ns, false};
    if (!net_packet_valid(packet, len, NET_TAKES_ALL))
        return true;
    memcpy(scratch, packet, len);
    net_packet_lower(scratch, len, 0, scratch + NET_PACKET_MAX, write_record, &w);
    return !w.gone;
}
