// Lines of JSON to and from one VM. Answers come in the order of the questions, so a queue of them
// is all that is kept.
#include "manager/link.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buffer.h"
#include "host/clock.h"
#include "host/passing.h"

#define LINE_MAX_BYTES (1 * MIB)
#define EVENT_MAX_BYTES (4 * KIB) // longer ones are not passed on: they would choke who listens
#define OUT_MAX (256 * KIB)
#define QUESTIONS_MAX 64
#define ANSWER_WITHIN (10 * NS_PER_SEC)
#define STEP (16 * KIB)
#define STEPS 16 // of one VM's words before the others have their turn

struct question {
    void (*done)(void *opaque, json_t *result, const struct error *e);
    void *opaque;
    struct question *next;
};

struct link {
    struct loop *loop;
    struct loop_fd fd;
    struct loop_timer timer; // the first question's answer is due
    struct link_user user;
    struct buffer in, out;
    size_t sent;
    struct question *first, **last;
    unsigned questions;
    bool freed, busy; // busy: our callbacks are on the stack
};

static void lose(struct link *link);

static void set_timer(struct link *link)
{
    loop_timer_set(link->loop, &link->timer, link->first ? host_now() + ANSWER_WITHIN : NS_NEVER);
}

static void too_late(void *opaque)
{
    lose(opaque);
}

static void answer(struct link *link, json_t *result, const struct error *e)
{
    struct question *q = link->first;
    link->first = q->next;
    if (!link->first)
        link->last = &link->first;
    link->questions--;
    q->done(q->opaque, result, e);
    free(q);
}

// --- input

static err_t code_of(const char *name)
{
    for (err_t known = ERR_INVALID; name && known <= ERR_DENIED; known++) {
        if (!strcmp(err_name(known), name))
            return known;
    }
    return ERR_IO;
}

static void refusal(const json_t *line, struct error *e)
{
    const json_t *error = json_object_get(line, "error");
    const char *text = json_string_value(json_object_get(error, "text"));
    const char *hint = json_string_value(json_object_get(error, "hint"));
    (void)!error_set(e, code_of(json_string_value(json_object_get(error, "code"))), "%s%s%s",
                     text ? text : "it refuses", hint ? "; " : "", hint ? hint : "");
}

// False: nobody asked for this.
static bool take_line(struct link *link, json_t *line, size_t len)
{
    if (json_is_string(json_object_get(line, "event"))) {
        if (len <= EVENT_MAX_BYTES)
            link->user.event(link->user.opaque, line);
        return true;
    }
    if (!link->first)
        return false;
    json_t *ok = json_object_get(line, "ok");
    struct error e = {0};
    if (!json_is_object(ok))
        refusal(line, &e);
    answer(link, json_is_object(ok) ? json_incref(ok) : NULL, &e);
    set_timer(link);
    return true;
}

static bool take_lines(struct link *link, size_t seen)
{
    uint8_t *end;
    size_t at = 0;
    bool fine = true;
    while (fine && !link->freed && link->in.len > at &&
           (end = memchr(link->in.data + (at > seen ? at : seen), '\n',
                         link->in.len - (at > seen ? at : seen)))) {
        size_t len = (size_t)(end - (link->in.data + at));
        json_t *line = json_loadb((char *)link->in.data + at, len, 0, NULL);
        fine = line && take_line(link, line, len);
        json_decref(line);
        at += len + 1;
    }
    link->in.len -= at;
    memmove(link->in.data, link->in.data + at, link->in.len);
    return fine && link->in.len < LINE_MAX_BYTES;
}

static bool receive(struct link *link)
{
    for (int i = 0; i < STEPS && !link->freed; i++) {
        size_t seen = link->in.len;
        uint8_t *room = buffer_extend(&link->in, STEP);
        if (!room)
            return false;
        ssize_t n = recv(link->fd.fd, room, STEP, MSG_DONTWAIT);
        int why = errno;
        link->in.len = seen + (n > 0 ? (size_t)n : 0);
        if (n < 0 && (why == EAGAIN || why == EINTR))
            return true;
        if (n <= 0 || !take_lines(link, seen))
            return false;
    }
    return true;
}

// --- output

static bool flush(struct link *link)
{
    while (link->sent < link->out.len) {
        ssize_t n = passing_send(link->fd.fd, link->out.data + link->sent,
                                 link->out.len - link->sent, -1, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            return false;
        if (n < 0)
            break;
        link->sent += (size_t)n;
    }
    if (link->sent == link->out.len)
        link->out.len = link->sent = 0;
    loop_fd_set(link->loop, &link->fd, EPOLLIN | (link->out.len ? EPOLLOUT : 0));
    return true;
}

err_t link_ask(struct link *link, const char *request, json_t *args,
               void (*done)(void *opaque, json_t *result, const struct error *e), void *opaque,
               struct error *e)
{
    json_t *line = args ? args : json_object();
    struct question *q = calloc(1, sizeof *q);
    if (line)
        json_object_set_new(line, "request", json_string(request));
    char *text = line && q ? json_dumps(line, JSON_COMPACT) : NULL;
    json_decref(line);
    if (!text || link->questions >= QUESTIONS_MAX || link->out.len > OUT_MAX) {
        free(q);
        free(text);
        return error_set(e, ERR_BUSY, "the VM has too much to answer; try again later");
    }
    size_t len = strlen(text);
    text[len] = '\n'; // in place of the end
    buffer_append(&link->out, text, len + 1);
    free(text);
    *q = (struct question){.done = done, .opaque = opaque};
    *link->last = q;
    link->last = &q->next;
    if (!link->questions++)
        set_timer(link);
    loop_fd_set(link->loop, &link->fd, EPOLLIN | EPOLLOUT);
    return OK;
}

// --- life

static void destroy(struct link *link)
{
    buffer_release(&link->in);
    buffer_release(&link->out);
    free(link);
}

static void ready(void *opaque, uint32_t events)
{
    struct link *link = opaque;
    link->busy = true;
    bool fine = receive(link);
    if (fine && !link->freed)
        fine = flush(link);
    link->busy = false;
    if (link->freed)
        destroy(link);
    else if (!fine)
        lose(link);
    else if (!link->in.len)
        buffer_release(&link->in); // many VMs, and most say nothing
}

static void lose(struct link *link)
{
    link->user.lost(link->user.opaque);
}

err_t link_new(struct loop *loop, int fd, const struct link_user *user, struct link **out,
               struct error *e)
{
    struct link *link = calloc(1, sizeof *link);
    if (!link) {
        close(fd);
        return error_set(e, ERR_NO_MEMORY, "no memory for a VM's connection");
    }
    *link = (struct link){.loop = loop, .user = *user, .last = &link->first};
    link->fd = (struct loop_fd){.fd = fd, .events = EPOLLIN, .ready = ready, .opaque = link};
    link->timer = (struct loop_timer){.fire = too_late, .opaque = link};
    err_t err = loop_fd_add(loop, &link->fd, e);
    if (err) {
        close(fd);
        free(link);
        return err;
    }
    *out = link;
    return OK;
}

void link_free(struct link *link)
{
    if (!link)
        return;
    struct error e = {0};
    (void)!error_set(&e, ERR_IO, "the VM has just ended, or does not answer");
    loop_timer_set(link->loop, &link->timer, NS_NEVER);
    loop_fd_remove(link->loop, &link->fd);
    close(link->fd.fd);
    link->freed = true;
    while (link->first)
        answer(link, NULL, &e);
    if (!link->busy)
        destroy(link);
}
