// Answers of every kind, with the headers that all of them have. RFC 9110; Content Security Policy
// level 3; Fetch Metadata and the cross-origin headers of the WHATWG's Fetch and HTML standards.
//
// The policy lets the page load its own scripts, styles and pictures and ask this server, and
// nothing else: no inline script, no other site, no frame around it.
#include <stdlib.h>
#include <string.h>

#include "http/http_impl.h"

static const char *const everywhere[][2] = {
    {"Content-Security-Policy",
     "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
     "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
     "frame-ancestors 'none'"},
    {"X-Content-Type-Options", "nosniff"},
    {"X-Frame-Options", "DENY"},
    {"Referrer-Policy", "no-referrer"},
    {"Cross-Origin-Opener-Policy", "same-origin"},
    {"Cross-Origin-Resource-Policy", "same-origin"},
    {"Permissions-Policy", "camera=(), microphone=(), geolocation=()"},
};

const char *header(struct MHD_Connection *c, const char *name)
{
    return MHD_lookup_connection_value(c, MHD_HEADER_KIND, name);
}

void respond_header(struct MHD_Response *response, const char *name, const char *value)
{
    MHD_add_response_header(response, name, value);
}

enum MHD_Result respond(struct MHD_Connection *c, unsigned status, struct MHD_Response *response)
{
    if (!response)
        return MHD_NO; // no memory: the connection is closed
    for (size_t i = 0; i < sizeof everywhere / sizeof *everywhere; i++)
        respond_header(response, everywhere[i][0], everywhere[i][1]);
    if (!MHD_get_response_header(response, "Cache-Control"))
        respond_header(response, "Cache-Control", "no-store");
    enum MHD_Result result = MHD_queue_response(c, status, response);
    MHD_destroy_response(response);
    return result;
}

enum MHD_Result respond_json(struct MHD_Connection *c, unsigned status, json_t *object)
{
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (!text)
        return MHD_NO;
    size_t len = strlen(text);
    text[len] = '\n'; // in place of the end
    struct MHD_Response *response =
        MHD_create_response_from_buffer(len + 1, text, MHD_RESPMEM_MUST_FREE);
    if (response)
        respond_header(response, "Content-Type", "application/json");
    if (response && status == 401)
        respond_header(response, "WWW-Authenticate", "Bearer realm=\"berth\"");
    return respond(c, status, response);
}

enum MHD_Result respond_error(struct MHD_Connection *c, unsigned status, const struct error *e)
{
    return respond_json(c, status, request_refusal(NULL, e));
}

enum MHD_Result respond_text(struct MHD_Connection *c, const char *type, struct buffer *text)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(text->len, text->data, MHD_RESPMEM_MUST_FREE);
    if (response) {
        *text = BUFFER_EMPTY;
        respond_header(response, "Content-Type", type);
    }
    return respond(c, 200, response);
}
