// Requests about connections to and from the guest. A VM makes no sockets: the client brings one
// end of a pair along, which from then on is the host's end of the connection.
#include "control/vsock_requests.h"

#include <sys/socket.h>

const struct request_field vsock_fields[] = {
    {"port", FIELD_NUMBER, true, 0, UINT32_MAX - 1, "of the guest, or of the host"},
    {"tell", FIELD_BOOL, false, 0, 0, "begin with the line OK PORT once the connection is there"},
    {0},
};

static bool is_fit(int fd)
{
    int type = 0;
    socklen_t len = sizeof type;
    return fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 &&
           (type == SOCK_STREAM || type == SOCK_SEQPACKET);
}

static err_t lead(const struct control *c, bool accept, const json_t *args, struct reply *reply,
                  struct error *e)
{
    uint32_t port = (uint32_t)request_number(args, "port", 0);
    bool tell = json_is_true(json_object_get(args, "tell"));
    if (!is_fit(reply->given))
        return error_set(e, ERR_INVALID,
                         "no socket of streams or messages (SOCK_SEQPACKET) came along");
    err_t err = c->vsock_open(c->opaque, reply->given, accept, port, tell, e);
    if (!err)
        reply->given = -1;
    return err;
}

err_t request_vsock_connect(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    return lead(context, false, args, reply, e);
}

err_t request_vsock_accept(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    return lead(context, true, args, reply, e);
}
