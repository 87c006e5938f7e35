// Frames and fields (docs/formats/agent.md).
#include "control/agent_wire.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"

#define TEXT_MAX 200 // of an error from the other side

// --- bytes

static err_t wait_for(const struct agent_link *link, short events, struct error *e)
{
    struct pollfd ready = {.fd = link->fd, .events = events};
    int n;
    do
        n = poll(&ready, 1, link->timeout_ms);
    while (n < 0 && errno == EINTR);
    return n > 0 ? OK
                 : error_set(e, ERR_BUSY, "no answer in %d s", (link->timeout_ms + 999) / 1000);
}

static err_t read_all(const struct agent_link *link, uint8_t *data, size_t len, struct error *e)
{
    for (size_t at = 0; at < len;) {
        err_t err = wait_for(link, POLLIN, e);
        if (err)
            return err;
        ssize_t n = read(link->fd, data + at, len - at);
        if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
            return error_set(e, ERR_IO, "the connection has ended");
        at += n > 0 ? (size_t)n : 0;
    }
    return OK;
}

static err_t write_all(const struct agent_link *link, const uint8_t *data, size_t len,
                       struct error *e)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = send(link->fd, data + at, len - at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return error_set(e, ERR_IO, "the connection has ended");
        at += n > 0 ? (size_t)n : 0;
        err_t err = n < 0 && errno == EAGAIN ? wait_for(link, POLLOUT, e) : OK;
        if (err)
            return err;
    }
    return OK;
}

// --- fields

// Every text has its end in the frame, so all that is done with one stays inside.
static bool well_formed(const struct agent_link *link)
{
    return link->len == 0 || link->data[link->len - 1] == 0;
}

const char *agent_next(const struct agent_link *link, const char *key, const char *after)
{
    const char *at = (const char *)link->data, *end = at + link->len;
    size_t len = strlen(key);
    if (!well_formed(link))
        return NULL;
    if (after)
        at = after + strlen(after) + 1;
    for (; at < end; at += strlen(at) + 1)
        if (!strncmp(at, key, len) && at[len] == '=')
            return at + len + 1;
    return NULL;
}

uint64_t agent_number(const struct agent_link *link, const char *key, uint64_t max,
                      uint64_t otherwise)
{
    const char *text = agent_get(link, key);
    char *end;
    if (!text || *text < '0' || *text > '9')
        return otherwise;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    return errno || *end || n > max ? otherwise : n;
}

void agent_add(struct agent_fields *fields, const char *key, const char *fmt, ...)
{
    size_t room = sizeof fields->data - fields->len;
    int start = snprintf(fields->data + fields->len, room, "%s=", key), len = -1;
    if (start > 0 && (size_t)start < room) {
        va_list ap;
        va_start(ap, fmt);
        len = vsnprintf(fields->data + fields->len + start, room - (size_t)start, fmt, ap);
        va_end(ap);
    }
    if (len < 0 || (size_t)start + (size_t)len + 1 > room)
        fields->overflow = true;
    else
        fields->len += (size_t)start + (size_t)len + 1;
}

void agent_make_plain(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            *text = '?';
}

// --- frames

err_t agent_send(struct agent_link *link, uint8_t type, const void *data, size_t len,
                 struct error *e)
{
    uint8_t header[AGENT_HEADER] = {0};
    store_le32(header, (uint32_t)len);
    header[4] = type;
    err_t err = write_all(link, header, sizeof header, e);
    return err ? err : write_all(link, data, len, e);
}

err_t agent_send_fields(struct agent_link *link, uint8_t type, const struct agent_fields *fields,
                        struct error *e)
{
    if (fields->overflow)
        return error_set(e, ERR_INVALID, "that is more than %d KiB of words",
                         (int)(AGENT_FRAME_MAX / KIB));
    return agent_send(link, type, fields->data, fields->len, e);
}

err_t agent_send_error(struct agent_link *link, const struct error *said, struct error *e)
{
    char data[TEXT_MAX + 64];
    int len = snprintf(data, sizeof data, "code=%s%ctext=%.*s", err_name(said->code), 0, TEXT_MAX,
                       said->text);
    return agent_send(link, AGENT_ERROR, data, (size_t)len + 1, e);
}

err_t agent_receive(struct agent_link *link, struct error *e)
{
    uint8_t header[AGENT_HEADER];
    err_t err = read_all(link, header, sizeof header, e);
    if (err)
        return err;
    link->len = load_le32(header);
    link->type = header[4];
    if (link->len > AGENT_FRAME_MAX || header[5] || header[6] || header[7])
        return error_set(e, ERR_CORRUPT, "the other side sends what is no frame");
    err = read_all(link, link->data, link->len, e);
    link->data[link->len] = 0;
    return err;
}

err_t agent_refused(const struct agent_link *link, struct error *e)
{
    const char *code = agent_get(link, "code"), *said = agent_get(link, "text");
    char text[TEXT_MAX + 1];
    err_t err = ERR_IO;
    if (link->type != AGENT_ERROR)
        return error_set(e, ERR_CORRUPT, "the other side sends a frame that is not due (%u)",
                         link->type);
    for (err_t known = ERR_INVALID; code && known <= ERR_DENIED; known++)
        if (!strcmp(err_name(known), code))
            err = known;
    snprintf(text, sizeof text, "%s", said ? said : "the guest refuses");
    agent_make_plain(text);
    return error_set(e, err, "%s", text);
}

err_t agent_expect(struct agent_link *link, uint8_t type, struct error *e)
{
    err_t err = agent_receive(link, e);
    return err || link->type == type ? err : agent_refused(link, e);
}
