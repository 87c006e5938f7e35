// Who may ask: checks of the headers of an HTTP request. Pure, but for the tokens, which belong to
// the program.
#pragma once

#include "base/error.h"

enum http_role {
    HTTP_NOBODY,
    HTTP_READER,   // sees everything, changes nothing, and has no consoles
    HTTP_OPERATOR, // may do all that the manager can
};

#define ACCESS_TOKEN_MAX 128
#define ACCESS_PROTOCOL "berth.stream"        // of our WebSockets
#define ACCESS_BEARER_PROTOCOL "berth.token." // + a token, where a browser can set no header

// The token of "Authorization: Bearer TOKEN" or, for WebSockets, among the offered subprotocols.
// Either may be NULL. False: none, or not a well-formed one.
bool access_token(const char *authorization, const char *protocols,
                  char token[ACCESS_TOKEN_MAX + 1]);

// A page of another site must not use a browser that may talk to us. origin and fetch_site: the
// headers Origin and Sec-Fetch-Site, host: the header Host; each may be NULL. local: the connection
// came over the Unix socket, where no token guards and a browser can come only through a forwarded
// port; then the host must be this machine by name or address, or another name could be made to
// lead here (DNS rebinding).
err_t access_origin(const char *host, const char *origin, const char *fetch_site, bool local,
                    struct error *e);

// Whether the list has the word, e.g. "keep-alive, Upgrade" has "upgrade". list may be NULL.
bool access_has_word(const char *list, const char *word);
