// Lets a test play a host on a port with rings: a vhost-user front end on one descriptor, packets
// as messages on the other, a SOCK_SEQPACKET socket.
//
//     ring_host RINGS PACKETS
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/vhost_front.h"

static struct {
    struct loop *loop;
    struct loop_fd packets;
    struct vhost_front front;
    bool started;
    size_t in_len, out_len; // of packets that wait for room; 0: none does
    uint8_t in[NET_PACKET_MAX], out[70000];
} host;

static void watch(void)
{
    loop_fd_set(host.loop, &host.packets,
                (host.started && !host.out_len ? EPOLLIN : 0u) | (host.in_len ? EPOLLOUT : 0u));
}

static void to_test(void *opaque)
{
    while (host.in_len || (host.in_len = vhost_front_receive(&host.front, host.in))) {
        if (send(host.packets.fd, host.in, host.in_len, MSG_DONTWAIT) < 0 && errno == EAGAIN)
            break;
        host.in_len = 0;
    }
    vhost_front_received(&host.front);
    watch();
}

static void from_test(void *opaque)
{
    for (int i = 0; i < 64; i++) {
        if (!host.out_len) {
            ssize_t n = recv(host.packets.fd, host.out, sizeof host.out, MSG_DONTWAIT);
            if (n == 0 || (n < 0 && errno != EAGAIN))
                loop_stop(host.loop);
            if (n <= 0)
                break;
            host.out_len = (size_t)n;
        }
        if (!vhost_front_send(&host.front, host.out, host.out_len))
            break;
        host.out_len = 0;
    }
    watch();
}

static void started(void *opaque)
{
    host.started = true;
    watch();
    to_test(NULL);
}

static void gone(void *opaque, const char *why)
{
    if (*why)
        fprintf(stderr, "ring_host: %s\n", why);
    loop_stop(host.loop);
}

static void ready(void *opaque, uint32_t events)
{
    if (events & EPOLLOUT && host.started)
        to_test(NULL);
    if (events & EPOLLIN)
        from_test(NULL);
    else if (events & (EPOLLHUP | EPOLLERR))
        loop_stop(host.loop);
}

int main(int argc, char **argv)
{
    static const struct vhost_front_ops ops = {started, to_test, from_test, gone};
    struct error e = {.text = "usage: ring_host RINGS PACKETS"};
    signal(SIGPIPE, SIG_IGN);
    if (argc != 3 || loop_new(&host.loop, &e))
        goto fail;
    host.packets = (struct loop_fd){.fd = atoi(argv[2]), .ready = ready};
    host.front.loop = host.loop;
    host.front.ops = &ops;
    vhost_front_init(&host.front);
    if (loop_fd_add(host.loop, &host.packets, &e) ||
        vhost_front_open(&host.front, atoi(argv[1]), &e))
        goto fail;
    loop_run(host.loop);
    return 0;
fail:
    fprintf(stderr, "ring_host: %s\n", e.text);
    return 1;
}
