// A program's requests over HTTP, from the same table that its control socket answers from: JSON,
// events as a stream, streams of bytes as WebSockets, metrics, a folder of files. On a Unix socket
// for this user, and over TCP with TLS for whoever has a token. docs/http.md.
//
// Loop thread only, in a program that ignores SIGPIPE. Everything is bounded: connections, headers,
// bodies, what waits to be read, and the time a request may take to arrive.
#pragma once

#include "base/buffer.h"
#include "control/request.h"
#include "host/loop.h"
#include "http/access.h"

struct http; // opaque

struct http_options {
    struct loop *loop;
    const struct request *table; // rows with .http are offered
    void *context;               // the handlers'
    const char *web;             // folder of the web page; NULL: none
    // Whose token it is. NULL: nobody's, ever.
    enum http_role (*role_of)(void *context, const char *token);
    // GET /metrics: the answer to the request of this name, as text. NULL: there is none.
    const char *metrics;
    void (*metrics_text)(const json_t *answer, struct buffer *out);
};

// The texts stay the caller's, and in place.
err_t http_new(const struct http_options *options, struct http **out, struct error *e);
void http_free(struct http *http); // drops all connections; accepts NULL

// Serves on a listening socket, which is taken over; on an error it stays the caller's.
// A Unix socket: peers must be this process's user, or root, and may do everything.
err_t http_listen_local(struct http *http, int fd, struct error *e);
// TCP: TLS with this certificate and key (PEM), and tokens.
err_t http_listen_tls(struct http *http, int fd, const char *certificate, const char *key,
                      struct error *e);

// An event, a whole line with its newline, to everyone who listens to events.
void http_tell(struct http *http, const char *line, size_t len);

// certificate.c: a self-signed certificate for host and its key, as PEM texts that the caller
// frees.
err_t certificate_make(const char *host, char **certificate, char **key, struct error *e);
// The SHA-256 fingerprint of a PEM certificate, as people compare it: "AB:CD:...".
err_t certificate_fingerprint(const char *certificate, char out[96], struct error *e);

// openapi.c: the table as an OpenAPI 3 document; NULL: no memory.
json_t *openapi_describe(const struct request *table);
