// One request and its answer. RFC 9110.
//
// The headers decide first: what is not for this address, not allowed, or too large is refused
// before a byte of the body is kept. A refusal that comes before the body closes the connection,
// which keeps a client from making us read what we do not want.
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "http/http_impl.h"
#include "http/route.h"

// --- life

void *exchange_begin(void *opaque, const char *target, struct MHD_Connection *c)
{
    struct exchange *x = calloc(1, sizeof *x);
    if (!x)
        return NULL;
    x->listener = opaque;
    x->target = strndup(target, ROUTE_TARGET_MAX + 1);
    x->args = json_object();
    x->stream = -1;
    return x;
}

static void stop_waiting(struct exchange *x)
{
    for (struct exchange **p = &x->listener->http->waiting; *p; p = &(*p)->next) {
        if (*p == x) {
            *p = x->next;
            return;
        }
    }
}

void exchange_end(void *opaque, struct MHD_Connection *c, void **state,
                  enum MHD_RequestTerminationCode how)
{
    struct exchange *x = *state;
    if (!x)
        return;
    if (x->stream >= 0)
        close(x->stream);
    if (x->later)
        promise_forget(x->later);
    stop_waiting(x);
    json_decref(x->result);
    json_decref(x->args);
    buffer_release(&x->body);
    free(x->target);
    free(x);
    *state = NULL;
    connection_idle(c);
}

// --- the headers

static unsigned refuse(struct exchange *x, unsigned status, err_t code, const char *words)
{
    (void)!error_set(&x->e, code, "%s", words);
    return status;
}

static bool is_metrics(const struct exchange *x)
{
    return !strncmp(x->target, "/metrics", 8) && (!x->target[8] || x->target[8] == '?');
}

// A file of the page, which everybody may see.
static bool is_page(const struct exchange *x)
{
    return !is_metrics(x) && strncmp(x->target, "/v1/", 4) != 0;
}

static unsigned check_role(struct exchange *x, struct MHD_Connection *c)
{
    const struct http_options *options = &x->listener->http->options;
    char token[ACCESS_TOKEN_MAX + 1];
    if (x->listener->local) {
        x->role = HTTP_OPERATOR;
        return 0;
    }
    if (options->role_of &&
        access_token(header(c, "Authorization"), header(c, "Sec-WebSocket-Protocol"), token))
        x->role = options->role_of(options->context, token);
    explicit_bzero(token, sizeof token);
    if (x->role == HTTP_NOBODY)
        return refuse(x, 401, ERR_DENIED, "no valid token; 'berth token create' makes one");
    bool reads = !x->request ||
                 (!strncmp(x->request->http, "GET ", 4) && x->request->answer != ANSWER_STREAM);
    if (x->role == HTTP_READER && !reads)
        return refuse(x, 403, ERR_DENIED, "this token may only look");
    return 0;
}

// Only JSON, which another site's form cannot send.
static unsigned check_body(struct exchange *x, struct MHD_Connection *c)
{
    const char *length = header(c, "Content-Length"), *type = header(c, "Content-Type");
    bool body = header(c, "Transfer-Encoding") || (length && strcmp(length, "0") != 0);
    if (!body)
        return 0;
    if (!x->request || route_in_query(x->request))
        return refuse(x, 400, ERR_INVALID, "this request takes no body");
    if (!type || strncasecmp(type, "application/json", 16) != 0 || !strchr("; ", type[16]))
        return refuse(x, 415, ERR_INVALID, "send the body as application/json");
    if (length && strtoull(length, NULL, 10) > BODY_MAX)
        return refuse(x, 413, ERR_INVALID, "the body is too long");
    return 0;
}

static unsigned check_origin(struct exchange *x, struct MHD_Connection *c)
{
    return access_origin(header(c, "Host"), header(c, "Origin"), header(c, "Sec-Fetch-Site"),
                         x->listener->local, &x->e)
               ? 403
               : 0;
}

static unsigned find_metrics(struct exchange *x, const char *method, struct error *e)
{
    const struct http_options *options = &x->listener->http->options;
    for (const struct request *r = options->table; options->metrics && r->name; r++) {
        if (!strcmp(r->name, options->metrics))
            x->request = r;
    }
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
        (void)!error_set(e, ERR_UNSUPPORTED, "this address takes GET");
        return 405;
    }
    return x->request ? 0 : 404;
}

// 0, or the status to refuse with.
static unsigned find_request(struct exchange *x, struct MHD_Connection *c, const char *method,
                             struct error *e)
{
    if (is_metrics(x))
        return find_metrics(x, method, e);
    unsigned status =
        route_find(x->listener->http->options.table, method, x->target, &x->request, x->args, e);
    if (status != 200)
        return status;
    return x->request->answer == ANSWER_STREAM ? websocket_check(c, method, e) : 0;
}

static unsigned check_headers(struct exchange *x, struct MHD_Connection *c, const char *method)
{
    if (is_page(x))
        return check_body(x, c);
    struct error found;
    unsigned status = find_request(x, c, method, &found);
    unsigned denied = check_origin(x, c); // who may not ask is not told what there is, either
    if (!denied)
        denied = check_role(x, c);
    if (denied || !status)
        return denied ? denied : check_body(x, c);
    x->e = found;
    return status;
}

// --- answers that come later

// libmicrohttpd then asks for the answer once more.
static void settled(void *opaque, json_t *result, const struct error *e)
{
    struct exchange *x = opaque;
    x->later = NULL;
    x->settled = true;
    x->result = result;
    if (!result)
        x->e = *e;
    stop_waiting(x);
    MHD_resume_connection(x->suspended);
    listener_kick(x->listener);
}

static enum MHD_Result wait_for(struct exchange *x, struct MHD_Connection *c,
                                struct promise *promise)
{
    struct http *http = x->listener->http;
    x->later = promise;
    x->suspended = c;
    x->next = http->waiting;
    http->waiting = x;
    promise_await(promise, settled, x);
    MHD_suspend_connection(c);
    return MHD_YES;
}

void exchange_end_waiting(struct http *http)
{
    struct error e;
    (void)!error_set(&e, ERR_BUSY, "the manager ends; ask the next one");
    while (http->waiting) {
        promise_forget(http->waiting->later);
        settled(http->waiting, NULL, &e);
    }
}

// --- the answers

// Takes result over.
static enum MHD_Result respond_result(struct exchange *x, struct MHD_Connection *c, err_t err,
                                      json_t *result)
{
    if (!err && !is_metrics(x))
        return respond_json(c, 200, result);
    struct buffer text = BUFFER_EMPTY;
    if (!err)
        x->listener->http->options.metrics_text(result, &text);
    json_decref(result);
    if (!err && text.failed)
        err = error_set(&x->e, ERR_NO_MEMORY, "no memory for the metrics");
    if (!err)
        return respond_text(c, "text/plain; version=0.0.4; charset=utf-8", &text);
    buffer_release(&text);
    return respond_error(c, route_status(err), &x->e);
}

static enum MHD_Result answer_request(struct exchange *x, struct MHD_Connection *c,
                                      const char *method)
{
    struct reply reply;
    err_t err = route_body((const char *)x->body.data, x->body.len, x->args, &x->e);
    if (err)
        return respond_error(c, 400, &x->e);
    err = request_call(x->request, x->listener->http->options.context, x->args, -1, &reply, &x->e);
    x->stream = reply.fd;
    if (!err && reply.later) {
        json_decref(reply.result);
        return wait_for(x, c, reply.later);
    }
    enum request_answer kind = err ? ANSWER_OBJECT : x->request->answer;
    if (kind == ANSWER_OBJECT || !strcmp(method, "HEAD"))
        return respond_result(x, c, err, reply.result);
    json_decref(reply.result);
    return kind == ANSWER_EVENTS ? stream_answer(x->listener, c) : websocket_answer(x->listener, c);
}

static enum MHD_Result answer(struct exchange *x, struct MHD_Connection *c, const char *method)
{
    if (x->received > BODY_MAX) { // sent in chunks: its length was not announced
        (void)!error_set(&x->e, ERR_INVALID, "the body is too long");
        return respond_error(c, 413, &x->e);
    }
    if (x->request)
        return answer_request(x, c, method);
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
        (void)!error_set(&x->e, ERR_UNSUPPORTED, "this address takes GET");
        return respond_error(c, 405, &x->e);
    }
    return files_answer(x->listener->http, c, x->target);
}

enum MHD_Result exchange_answer(void *opaque, struct MHD_Connection *c, const char *url,
                                const char *method, const char *version, const char *data,
                                size_t *size, void **state)
{
    struct exchange *x = *state;
    if (!x || !x->target || !x->args || !connection_allowed(c))
        return MHD_NO;
    if (x->listener->http->ending && !x->settled)
        return MHD_NO;
    if (!x->begun) {
        x->begun = true;
        x->refused = check_headers(x, c, method);
        return x->refused ? respond_error(c, x->refused, &x->e) : MHD_YES;
    }
    if (x->settled) {
        json_t *result = x->result;
        x->result = NULL;
        return respond_result(x, c, result ? OK : x->e.code, result);
    }
    if (!*size) {
        connection_arrived(c);
        return x->body.failed ? MHD_NO : answer(x, c, method);
    }
    x->received += *size; // a part of the body
    if (x->received > 4 * BODY_MAX)
        return MHD_NO;
    if (x->received <= BODY_MAX)
        buffer_append(&x->body, data, *size);
    *size = 0;
    return MHD_YES;
}
