// Drives the virtio socket device as a hostile guest and an untidy host would: any packets on few
// ports, so that they meet, any calls at any time. A connection is told about in order, never has
// more bytes waiting than its credit, and is closed once.
#include <stdlib.h>
#include <string.h>

#include "../unit/device/fake_driver.h"
#include "base/bytes.h"
#include "device/virtio/vsock.h"
#include "input.h"
#include "standalone.h"

#define TX 0x80000ull
#define RX 0x90000ull
#define HEADER 44

struct fuzz {
    struct fake_driver d;
    struct input in;
    bool there[VSOCK_CONNECTIONS], closed[VSOCK_CONNECTIONS];
    uint32_t waiting[VSOCK_CONNECTIONS];
    enum vsock_type type[VSOCK_CONNECTIONS];
    enum vsock_type asking;
    uint32_t ports[4]; // of the host's ends, as the guest has seen them
};

// --- the host

static void begin(struct fuzz *f, unsigned c)
{
    if (f->there[c])
        abort();
    f->there[c] = true;
    f->closed[c] = false;
    f->waiting[c] = 0;
}

static bool request(void *opaque, unsigned c, enum vsock_type type, uint32_t guest_port,
                    uint32_t host_port)
{
    if (host_port & 1)
        return false;
    begin(opaque, c);
    ((struct fuzz *)opaque)->type[c] = type;
    return true;
}

static void asked(void *opaque, unsigned c)
{
    struct fuzz *f = opaque;
    begin(f, c);
    f->type[c] = f->asking;
}

static void open_only(void *opaque, unsigned c)
{
    struct fuzz *f = opaque;
    if (!f->there[c] || f->closed[c])
        abort();
}

static void received(void *opaque, unsigned c, const uint8_t *data, size_t len, bool end)
{
    struct fuzz *f = opaque;
    open_only(f, c);
    f->waiting[c] += (uint32_t)len;
    if (f->waiting[c] > VSOCK_CREDIT || (!len && !end) || (end && f->type[c] == VSOCK_STREAM))
        abort();
}

static void closed(void *opaque, unsigned c)
{
    struct fuzz *f = opaque;
    open_only(f, c);
    f->closed[c] = true;
}

static const struct vsock_host host = {.request = request,
                                       .asked = asked,
                                       .opened = open_only,
                                       .received = received,
                                       .ended = open_only,
                                       .resume = open_only,
                                       .closed = closed};

static void host_acts(struct fuzz *f)
{
    static const uint8_t text[3000];
    unsigned c = (unsigned)take(&f->in, 1) % 8, n = (unsigned)take(&f->in, 2);

    switch (take(&f->in, 1) % 6) {
    case 0:
        f->asking = n & 16 ? VSOCK_SEQPACKET : VSOCK_STREAM;
        (void)virtio_vsock_connect(f->d.dev, f->asking, n % 4);
        break;
    case 1:
        if (virtio_vsock_send(f->d.dev, c, text, n % sizeof text) > n % sizeof text)
            abort();
        break;
    case 2:
        n = n < f->waiting[c] ? n : f->waiting[c];
        virtio_vsock_consumed(f->d.dev, c, n);
        f->waiting[c] -= n;
        break;
    case 3: virtio_vsock_shutdown(f->d.dev, c, n & 1); break;
    case 4:
        virtio_vsock_release(f->d.dev, c);
        f->there[c] = false;
        break;
    default: fake_pass_time(f->d.g, f->d.dev, n * NS_PER_MS); break;
    }
}

// --- the guest

static void send_packet(struct fuzz *f)
{
    uint8_t *at = f->d.g->ram + TX;
    uint32_t len = (uint32_t)take(&f->in, 2), more = (uint32_t)take(&f->in, 1) & 3;
    unsigned port = (unsigned)take(&f->in, 1);
    struct fake_buffer b = {TX, HEADER + len - (more == 3), false};
    uint32_t written;

    store_le64(at, VSOCK_GUEST_CID);
    store_le64(at + 8, VSOCK_HOST_CID);
    store_le32(at + 16, port % 4);
    store_le32(at + 20, port & 16 ? f->ports[port / 32 % 4] : port / 32);
    store_le32(at + 24, len);
    store_le16(at + 28, 1 + (more == 2));
    store_le16(at + 30, (uint16_t)take(&f->in, 1) % 9);
    store_le32(at + 32, (uint32_t)take(&f->in, 1));
    store_le32(at + 36, (uint32_t)take(&f->in, 4));
    store_le32(at + 40, (uint32_t)take(&f->in, 4));
    fake_put(&f->d, 1, &b, 1, false);
    fake_kick(&f->d, 1);
    (void)fake_get(&f->d, 1, &written);
}

static void receive(struct fuzz *f)
{
    struct fake_buffer b = {RX, 16 + (uint32_t)take(&f->in, 1) * 8, true};
    uint32_t written;

    fake_put(&f->d, 0, &b, 1, false);
    fake_kick(&f->d, 0);
    while (fake_get(&f->d, 0, &written))
        f->ports[load_le32(f->d.g->ram + RX + 20) % 4] = load_le32(f->d.g->ram + RX + 16);
}

static void act(struct fuzz *f)
{
    switch (take(&f->in, 1) % 8) {
    case 0:
    case 1: host_acts(f); break;
    case 2:
    case 3: receive(f); break;
    case 4:
        if (take(&f->in, 1) < 8)
            fake_set_common(&f->d, 0x14, 1, 0);
        if (take(&f->in, 1) < 64)
            fake_driver_start(&f->d, f->d.g, f->d.dev, ~0ull, 3, false);
        break;
    default: send_packet(f); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz f = {.in = {data, data + size}}, moved = {0};
    struct fake_guest *g = fake_guest_new(), *other = fake_guest_new();
    const struct virtio_vsock_config config = {.host = &host, .opaque = &f};
    const struct virtio_vsock_config there = {.host = &host, .opaque = &moved};
    struct device *dev = fake_device(g, &virtio_vsock_type, &config);

    f.d.g = g;
    f.d.dev = dev;
    fake_driver_start(&f.d, g, dev, ~0ull, 3, false);
    while (input_left(&f.in))
        act(&f);
    fake_device_free(fake_migrate(other, dev, &there));
    fake_device_free(dev);
    fake_guest_free(other);
    fake_guest_free(g);
    return 0;
}
