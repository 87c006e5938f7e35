// Tokens and origins. RFC 6750 (bearer tokens), RFC 6454 (origins), Fetch Metadata, RFC 6455 4.2
// (subprotocols).
#include "http/access.h"

#include <string.h>
#include <strings.h>

// Bytes of RFC 6750's b64token that our tokens use, too.
static size_t token_length(const char *p)
{
    return strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");
}

static bool take(const char *p, const char *ends, char token[ACCESS_TOKEN_MAX + 1])
{
    size_t len = token_length(p);
    if (!len || len > ACCESS_TOKEN_MAX || !strchr(ends, p[len]))
        return false;
    memcpy(token, p, len);
    token[len] = 0;
    return true;
}

bool access_token(const char *authorization, const char *protocols,
                  char token[ACCESS_TOKEN_MAX + 1])
{
    if (authorization)
        return !strncasecmp(authorization, "Bearer ", 7) && take(authorization + 7, "", token);
    size_t prefix = strlen(ACCESS_BEARER_PROTOCOL);
    for (const char *p = protocols; p && *p;) {
        p += strspn(p, ", \t");
        if (!strncmp(p, ACCESS_BEARER_PROTOCOL, prefix))
            return take(p + prefix, ", \t", token);
        p += strcspn(p, ",");
    }
    return false;
}

bool access_has_word(const char *list, const char *word)
{
    size_t len = strlen(word);
    for (const char *p = list; p && *p;) {
        p += strspn(p, ", \t");
        if (!strncasecmp(p, word, len) && (!p[len] || strchr(", \t", p[len])))
            return true;
        p += strcspn(p, ",");
    }
    return false;
}

static bool is_local_name(const char *host)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]", "berth"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t len = strlen(names[i]);
        if (!strncasecmp(host, names[i], len) && (!host[len] || host[len] == ':'))
            return true;
    }
    return false;
}

err_t access_origin(const char *host, const char *origin, const char *fetch_site, bool local,
                    struct error *e)
{
    if (local && host && *host && !is_local_name(host))
        return error_set(e, ERR_DENIED, "'%.60s' is not a name of this socket; use localhost",
                         host);
    if (fetch_site && strcmp(fetch_site, "same-origin") != 0 && strcmp(fetch_site, "none") != 0)
        return error_set(e, ERR_DENIED, "pages of other sites may not ask here");
    if (!origin)
        return OK;
    const char *there = strstr(origin, "://");
    if (!there || !host || strcasecmp(there + 3, host) != 0)
        return error_set(e, ERR_DENIED, "pages of other sites may not ask here");
    return OK;
}
