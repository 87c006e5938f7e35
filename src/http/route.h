// From the first line of an HTTP request to a row of the request table and its arguments. Pure:
// everything that a client can put into a path or a query is checked here, once.
#pragma once

#include "control/request.h"

#define ROUTE_TARGET_MAX 4096 // bytes of path and query

// Finds the row whose method and path template fit, and gathers the arguments from the path and
// the query into args, an object. Returns an HTTP status: 200, or 400, 404, 405 or 414 with *e set.
// HEAD counts as GET.
unsigned route_find(const struct request *table, const char *method, const char *target,
                    const struct request **out, json_t *args, struct error *e);

// Puts the body's arguments into args. An empty body is no argument. What the path has said
// already is refused.
err_t route_body(const char *body, size_t len, json_t *args, struct error *e);

// The methods that fit the path, "GET, DELETE", for the header Allow; false: none does.
bool route_methods(const struct request *table, const char *target, char *out, size_t size);

// Whether method (of a row's http) takes its arguments from the query rather than from a body.
bool route_in_query(const struct request *request);

// The HTTP status for what a handler refuses.
unsigned route_status(err_t err);
