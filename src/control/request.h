// Requests to a running program: what can be asked, with which arguments. One table drives the
// checks, the answers and the descriptions ("help" lists it as JSON). docs/control.md has the
// protocol, docs/formats/control.md the wire format.
#pragma once

#include <jansson.h>

#include "base/error.h"

#define REQUEST_LINE_MAX (64 * KIB) // of one request, without its newline

enum field_kind {
    FIELD_TEXT,   // at most max bytes of UTF-8
    FIELD_NUMBER, // min..max
    FIELD_BOOL,
    FIELD_OBJECT, // whatever is in it is the handler's to check
    FIELD_TEXTS,  // a list of texts, each of at most max bytes
};

// One argument.
struct request_field {
    const char *name; // NULL ends a list
    enum field_kind kind;
    bool required;
    int64_t min, max;
    const char *doc; // one line
};

// An answer that comes later. The handler that made it settles it, once and not on its own stack.
struct promise;

// What a handler gives back besides its error.
struct reply {
    json_t *result; // an empty object to add to
    int given;      // a descriptor that came with the request, -1: none; who keeps it sets -1
    int fd;         // sent along when it is not -1; the reply owns it
    bool events;    // from now on the client gets every event, too
    struct promise *later; // the answer is not here yet; whoever serves the client waits for it
    json_t *id;            // then: the request's, for request_answer(); the reply owns it
};

// For a handler that has to wait: it returns OK then. NULL: no memory.
struct promise *reply_later(struct reply *reply);
// result is taken over; with an error it is NULL and e says which.
void promise_settle(struct promise *promise, json_t *result, const struct error *e);

// For who serves: settled() is called once, and owns result; or promise_forget(): never.
void promise_await(struct promise *promise,
                   void (*settled)(void *opaque, json_t *result, const struct error *e),
                   void *opaque);
void promise_forget(struct promise *promise);

// What comes back. Over HTTP the three look different (src/http).
enum request_answer {
    ANSWER_OBJECT, // a JSON object
    ANSWER_EVENTS, // and from then on every event, a line each
    ANSWER_STREAM, // and a connected stream socket in the descriptor: over HTTP a WebSocket
};

struct request {
    const char *name;                   // NULL ends a table
    const char *doc;                    // one line
    const struct request_field *fields; // NULL: none
    // args is an object that holds fields of the table only, each of its kind and within its
    // limits, and all that are required. Runs on the main loop.
    err_t (*run)(void *context, const json_t *args, struct reply *reply, struct error *e);
    // Method and path over HTTP, "GET /v1/vms/{name}": arguments in braces are taken from the path,
    // the others from the query (GET, DELETE) or the body's object. GET changes nothing. NULL: not
    // offered over HTTP.
    const char *http;
    enum request_answer answer;
};

// Reads one line, looks the request up, checks its arguments and runs it. Returns the answer, a new
// object: {"id":, "ok":} or {"id":, "error":}; NULL when there is no memory, or reply->later is
// set. reply tells what else to do. given: a descriptor that came along, or -1; it is closed when
// nobody keeps it.
json_t *request_handle(const struct request *table, void *context, const char *line, size_t len,
                       int given, struct reply *reply);

// Checks args (an object, which stays the caller's) against the request's fields and runs it.
// *reply as for request_handle(); reply->result is the caller's to release, also on an error, and
// so is what the handler did not keep or gives back.
err_t request_call(const struct request *request, void *context, const json_t *args, int given,
                   struct reply *reply, struct error *e);

// The answer with a result, which is taken over (NULL: e says why). id may be NULL.
json_t *request_answer(const json_t *id, json_t *result, const struct error *e);
// The answer that says e. id may be NULL.
json_t *request_refusal(const json_t *id, const struct error *e);

// The table as JSON: [{"request":, "doc":, "arguments": [...]}].
json_t *request_describe(const struct request *table);

// Arguments that may be missing.
int64_t request_number(const json_t *args, const char *name, int64_t otherwise);
const char *request_text(const json_t *args, const char *name, const char *otherwise);
