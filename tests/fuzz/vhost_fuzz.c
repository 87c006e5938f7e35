// Rings in shared memory, with either side hostile: a back end that writes what it likes into a
// window, and a front end that says what it likes to a careful back end and fills its rings so.
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "device/vhost/back.h"
#include "input.h"
#include "net/window.h"
#include "standalone.h"

// Writes into one of the shared structures, where it matters most.
static void scribble(struct input *in, struct window *w, bool used)
{
    struct window_shared *s = w->ring[(unsigned)take(in, 1) % 2].shared;
    uint8_t *at = used ? (uint8_t *)&s->used : (uint8_t *)s;
    size_t bytes = used ? sizeof s->used : sizeof *s;
    unsigned how = (unsigned)take(in, 1), where = (unsigned)take(in, 1);
    if (how < 100)
        s->used.index = (uint16_t)(s->used.index + where % 8);
    else if (how < 140 && !used)
        s->avail.index = (uint16_t)(s->avail.index + where % 8);
    else if (how < 180)
        store_le32(at + 4 + 4 * where % 512, (unsigned)take(in, 1)); // an entry of a ring
    else if (how < 220)
        w->at[sizeof *s + (size_t)where % 32 * WINDOW_BUFFER + how % 12] = (uint8_t)take(in, 1);
    else
        at[(where << 8 | (unsigned)take(in, 1)) % bytes] = (uint8_t)take(in, 1);
}

static uint8_t packet[NET_PACKET_MAX + 1];

// --- a hostile back end

static void play_back_end(struct input *in)
{
    struct window w;
    require(!window_new(&w, NULL));
    window_start(&w, take(in, 1) << 29 | take(in, 1) << 15);
    while (input_left(in)) {
        unsigned what = (unsigned)take(in, 1);
        if (what < 120)
            scribble(in, &w, true);
        else if (what < 170)
            (void)window_send(&w, packet, 26 + ((unsigned)take(in, 1) << 8 | what));
        else if (what < 220)
            require(window_receive(&w, packet) <= NET_PACKET_MAX);
        else if (what < 235)
            (void)window_room(&w);
        else
            (void)window_wants_kick(&w, what % 2);
        require(w.ring[1].frees <= WINDOW_ENTRIES);
    }
    window_free(&w);
}

// --- a hostile front end

static struct vhost_back back;

static void sent(void *opaque)
{
    for (int i = 0; i < 300; i++) {
        ssize_t len = vhost_back_pull(&back, packet, sizeof packet);
        if (len < 0)
            break;
        require(len <= (ssize_t)sizeof packet);
    }
    vhost_back_pulled(&back);
}

static void room(void *opaque)
{
    memset(packet, 0, 64);
    (void)vhost_back_give(&back, packet, 64);
    memset(packet, 0, NET_HEADER_BYTES);
    (void)vhost_back_give(&back, packet, 30000);
}

static void broken(void *opaque, const char *why)
{
    require(*why);
}

static const struct vhost_back_ops ops = {sent, room, broken, broken};

static void say(unsigned request, const uint8_t *payload, size_t len, int fd)
{
    static struct vhost_message m;
    struct error e;
    bool answer;
    m = (struct vhost_message){.request = request, .flags = 8, .size = (uint32_t)len};
    memcpy(m.payload, payload, len);
    if (fd >= 0)
        m.fd[m.fds++] = dup(fd);
    (void)vhost_obey(&back, &m, &answer, &e);
    if (m.fds && m.fd[0] >= 0)
        close(m.fd[0]);
}

static void say_ring(unsigned request, unsigned ring, uint32_t number)
{
    uint8_t payload[8];
    store_le32(payload, ring);
    store_le32(payload + 4, number);
    say(request, payload, sizeof payload, -1);
}

static void say_address(const struct window *w, unsigned ring, unsigned by)
{
    const struct window_shared *s = w->ring[ring % 2].shared;
    uint8_t payload[40] = {(uint8_t)ring};
    store_le64(payload + 8, window_address(w, s->desc) + by);
    store_le64(payload + 16, window_address(w, &s->used) + by);
    store_le64(payload + 24, window_address(w, &s->avail) + by);
    say(VHOST_SET_VRING_ADDR, payload, sizeof payload, -1);
}

// As a good front end begins.
static void set_up(const struct window *w, uint64_t features)
{
    uint8_t table[40] = {1}, bits[8];
    store_le64(table + 8, WINDOW_BASE);
    store_le64(table + 16, window_bytes);
    store_le64(table + 24, WINDOW_BASE);
    store_le64(bits, features);
    say(VHOST_SET_FEATURES, bits, sizeof bits, -1);
    say(VHOST_SET_MEM_TABLE, table, sizeof table, w->fd);
    for (unsigned i = 0; i < 2; i++) {
        say_ring(VHOST_SET_VRING_NUM, i, WINDOW_ENTRIES);
        say_address(w, i, 0);
        say_ring(VHOST_VRING_KICK, i, 0);
        say_ring(VHOST_SET_VRING_ENABLE, i, 1);
    }
}

static void speak(struct input *in, const struct window *w)
{
    static const uint8_t known[] = {1,  2,  3,  4,  5,  8,  9,  10, 11,
                                    12, 13, 14, 15, 16, 17, 18, 21, 35};
    uint8_t payload[64];
    unsigned request = (unsigned)take(in, 1), how = (unsigned)take(in, 1);
    size_t len = how % sizeof payload;
    request = request < 240 ? known[request % ARRAY_LEN(known)] : request;
    for (size_t i = 0; i < len; i++)
        payload[i] = (uint8_t)(how < 160 && i >= 2 ? 0 : (unsigned)take(in, 1));
    if (request == VHOST_SET_VRING_ADDR)
        say_address(w, (unsigned)take(in, 1) % 9, how < 200 ? 0 : (unsigned)take(in, 1));
    else
        say(request, payload, len, how % 5 ? -1 : w->fd);
}

static void play_front_end(struct input *in)
{
    struct window w;
    int pair[2];
    require(!window_new(&w, NULL) && !socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    window_start(&w, 1ull << 29 | 1ull << 15);
    back = (struct vhost_back){.ops = &ops, .careful = true};
    vhost_back_init(&back);
    back.client.fd = -1;
    set_up(&w, 1ull << 32 | 1ull << 29 | (uint64_t)((unsigned)take(in, 1) % 2) << 28 | 1ull << 15);
    while (input_left(in)) {
        unsigned what = (unsigned)take(in, 1);
        if (what < 130)
            scribble(in, &w, false);
        else if (what < 180)
            (void)window_send(&w, packet, 26 + ((unsigned)take(in, 1) << 8 | what));
        else if (what < 220)
            say_ring(VHOST_VRING_KICK, what % 2, 0);
        else if (what < 228)
            set_up(&w, 1ull << 32 | 1ull << 29);
        else
            speak(in, &w);
    }
    if (back.calls >= 0)
        close(back.calls);
    vhost_memory_release(&back.memory);
    window_free(&w);
    close(pair[0]);
    close(pair[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    if (take(&in, 1) % 2)
        play_back_end(&in);
    else
        play_front_end(&in);
    return 0;
}
