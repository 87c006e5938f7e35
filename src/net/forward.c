// Port forwards as text. inet_pton(3).
#include "net/forward.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOPBACK 0x7f000001

static bool parse_port(const char *text, uint16_t *out)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end || n < 1 || n > 65535)
        return false;
    *out = (uint16_t)n;
    return true;
}

static bool parse_address(char *text, struct forward *out)
{
    struct in_addr address;
    size_t len = strlen(text);
    out->v6 = len > 2 && text[0] == '[' && text[len - 1] == ']';
    if (out->v6) {
        text[len - 1] = '\0';
        out->address = 0;
        return inet_pton(AF_INET6, text + 1, out->address6) == 1;
    }
    if (inet_pton(AF_INET, text, &address) != 1)
        return false;
    out->address = ntohl(address.s_addr);
    return true;
}

// Takes what follows the last `mark` off the text; NULL: there is no mark.
static char *take_last(char *text, char mark)
{
    char *at = strrchr(text, mark);
    if (at)
        *at++ = '\0';
    return at;
}

static bool parse(char *text, struct forward *out)
{
    const char *protocol = take_last(text, '/');
    if (protocol && strcmp(protocol, "tcp") && strcmp(protocol, "udp"))
        return false;
    *out = (struct forward){.udp = protocol && *protocol == 'u', .address = LOOPBACK};
    const char *guest = take_last(text, ':');
    if (!guest) {
        bool right = parse_port(text, &out->guest);
        out->host = out->guest;
        return right;
    }
    const char *host = take_last(text, ':');
    if (host && !parse_address(text, out))
        return false;
    return parse_port(host ? host : text, &out->host) && parse_port(guest, &out->guest);
}

err_t forward_parse(const char *text, struct forward *out, struct error *e)
{
    char copy[FORWARD_TEXT];
    if ((size_t)snprintf(copy, sizeof copy, "%s", text) < sizeof copy && parse(copy, out))
        return OK;
    return error_set(e, ERR_INVALID,
                     "'%.60s' does not forward a port; give HOST:GUEST, for example 8080:80, "
                     "0.0.0.0:8080:80, [::1]:8080:80 or 5353:53/udp",
                     text);
}

void forward_format(const struct forward *forward, char out[FORWARD_TEXT])
{
    const struct in_addr address = {htonl(forward->address)};
    char text[INET6_ADDRSTRLEN];
    if (forward->v6)
        inet_ntop(AF_INET6, forward->address6, text, sizeof text);
    else
        inet_ntop(AF_INET, &address, text, sizeof text);
    snprintf(out, FORWARD_TEXT, forward->v6 ? "%s:[%s]:%u:%u" : "%s:%s:%u:%u",
             forward->udp ? "udp" : "tcp", text, forward->host, forward->guest);
}

bool forward_next(const char **text, struct forward *out)
{
    char one[FORWARD_TEXT];
    size_t len = strcspn(*text, ",");
    bool udp = !strncmp(*text, "udp:", 4);
    if (len < 5 || len >= sizeof one || (!udp && strncmp(*text, "tcp:", 4) != 0))
        return false;
    snprintf(one, sizeof one, "%.*s", (int)len - 4, *text + 4);
    if (strchr(one, '/') || !parse(one, out))
        return false;
    out->udp = udp;
    *text += len + ((*text)[len] == ',');
    return true;
}
