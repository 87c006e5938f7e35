// What the files of this folder share.
#pragma once

#include <microhttpd.h>

#include "http/http.h"

#define BODY_MAX ((size_t)REQUEST_LINE_MAX) // of one request
#define STREAM_MAX (256 * KIB)              // of events that one client has not read
#define LISTENERS_MAX 4                     // in all
#define CONNECTIONS_MAX 64                  // to one listener
#define CONNECTIONS_PER_ADDRESS 16          // over TCP

// One MHD daemon on the loop.
struct listener {
    struct http *http;
    struct MHD_Daemon *mhd;
    struct loop_fd fd;       // MHD's epoll descriptor
    struct loop_timer timer; // MHD's own time limits
    struct loop_work again;  // runs MHD once more
    bool local;
    uid_t user; // the only one, besides root, who may connect to a local one
};

struct http {
    struct http_options options;
    struct listener listener[LISTENERS_MAX];
    unsigned listeners;
    bool ending;               // nothing new is begun
    struct exchange *waiting;  // for a promise
    struct stream *streams;    // who listens to events
    struct websocket *sockets; // open ones
};

// A request while it is arriving and answered; MHD's con_cls.
struct exchange {
    struct listener *listener;
    char *target;     // path and query as they came
    bool begun;       // the headers have been looked at
    unsigned refused; // HTTP status of what was wrong with them; 0: nothing
    struct error e;
    enum http_role role;
    struct buffer body;
    size_t received;               // of the body, also what was not kept
    const struct request *request; // NULL: not one of the table
    json_t *args;
    int stream;            // that a WebSocket is to carry; -1: none
    struct promise *later; // of the answer; the connection is suspended until then
    struct MHD_Connection *suspended;
    struct exchange *next; // that waits, too
    bool settled;          // the answer is there: result, or e
    json_t *result;
};

// --- http.c

// Runs the listener's MHD soon. It must be told when a connection was resumed or closed from
// outside of it.
void listener_kick(struct listener *listener);

// A connection's limit of time:

bool connection_allowed(struct MHD_Connection *c); // its user may ask here
void connection_arrived(struct MHD_Connection *c); // a request is there whole
void connection_idle(struct MHD_Connection *c);    // it has been answered; another may come

// --- respond.c: all queue one response to the connection

enum MHD_Result respond_json(struct MHD_Connection *c, unsigned status, json_t *object); // takes it
enum MHD_Result respond_error(struct MHD_Connection *c, unsigned status, const struct error *e);
enum MHD_Result respond_text(struct MHD_Connection *c, const char *type, struct buffer *text);
// Queues a response with the headers that all have, and releases it.
enum MHD_Result respond(struct MHD_Connection *c, unsigned status, struct MHD_Response *response);
void respond_header(struct MHD_Response *response, const char *name, const char *value);
const char *header(struct MHD_Connection *c, const char *name); // of the request; NULL: none

// --- exchange.c

enum MHD_Result exchange_answer(void *opaque, struct MHD_Connection *c, const char *url,
                                const char *method, const char *version, const char *data,
                                size_t *size, void **state);
void *exchange_begin(void *opaque, const char *target, struct MHD_Connection *c);
void exchange_end(void *opaque, struct MHD_Connection *c, void **state,
                  enum MHD_RequestTerminationCode how);

void exchange_end_waiting(struct http *http); // before the daemons stop: nobody stays suspended

// --- files.c: a file of the page; 404 where the path is none

enum MHD_Result files_answer(struct http *http, struct MHD_Connection *c, const char *target);

// --- stream.c

enum MHD_Result stream_answer(struct listener *listener, struct MHD_Connection *c);
void stream_tell(struct http *http, const char *line, size_t len);
void stream_end_all(struct http *http); // before the daemons stop: nothing stays suspended

// --- websocket.c

// The headers of a WebSocket's handshake are right. Else the status to refuse with, and *e.
unsigned websocket_check(struct MHD_Connection *c, const char *method, struct error *e);
// Answers the handshake; from then on the messages are bytes of the exchange's stream.
enum MHD_Result websocket_answer(struct listener *listener, struct MHD_Connection *c);
void websocket_end_all(struct http *http);
