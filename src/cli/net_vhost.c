// berth net vhost: a place in a virtual network for the VM of another hypervisor. unix(7).
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli/net.h"
#include "control/plug.h"
#include "host/program.h"

// A socket that nobody listens at any more is what an earlier run has left.
static void remove_stale(const struct sockaddr_un *at)
{
    struct stat st;
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s < 0)
        return;
    if (stat(at->sun_path, &st) == 0 && S_ISSOCK(st.st_mode) &&
        connect(s, (const struct sockaddr *)at, sizeof *at) < 0 && errno == ECONNREFUSED)
        unlink(at->sun_path);
    close(s);
}

static err_t listen_at(const char *path, int *fd, struct error *e)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    if ((size_t)snprintf(at.sun_path, sizeof at.sun_path, "%s", path) >= sizeof at.sun_path)
        return error_set(e, ERR_INVALID, "'%s' is too long for a socket; give a shorter path",
                         path);
    remove_stale(&at);
    mode_t before = umask(077);
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool done = s >= 0 && bind(s, (struct sockaddr *)&at, sizeof at) == 0 && listen(s, 1) == 0;
    umask(before);
    if (!done) {
        err_t err =
            error_set(e, err_from_errno(errno), "cannot listen at '%s': %s", path, strerror(errno));
        if (s >= 0)
            close(s);
        return err;
    }
    *fd = s;
    return OK;
}

static void tell(const struct net_args *a, const char *mac)
{
    fprintf(stderr,
            "berth: until it is interrupted, a VM gets into '%s' as '%s' at %s; for QEMU:\n"
            "  -object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem\n"
            "  -chardev socket,id=port,path=%s -netdev vhost-user,id=net,chardev=port\n"
            "  -device virtio-net-pci,netdev=net,mac=%s\n",
            a->words[0], a->words[1], a->words[2], a->words[2], mac);
}

err_t net_vhost(struct net_args *a, struct error *e)
{
    struct plug_request request = {.network = a->words[0], .vm = a->words[1]};
    char path[4096], numbers[2][16];
    json_t *result = NULL;
    int port = -1, listener = -1;
    if (!network_name_valid(request.vm))
        return error_set(e, ERR_INVALID, "'%.63s' is no name for a VM; " NETWORK_NAME_RULE,
                         request.vm);
    err_t err = host_find_program("berth-vhost", path, sizeof path, e);
    if (!err)
        err = listen_at(a->words[2], &listener, e);
    if (!err)
        err = network_plug(&request, &port, &result, e);
    if (err) {
        if (listener >= 0)
            unlink(a->words[2]);
        return err;
    }
    const char *mac = json_string_value(json_object_get(result, "mac"));
    tell(a, mac ? mac : "");
    json_decref(result);
    fcntl(port, F_SETFD, 0);
    fcntl(listener, F_SETFD, 0);
    snprintf(numbers[0], sizeof numbers[0], "%d", port);
    snprintf(numbers[1], sizeof numbers[1], "%d", listener);
    execl(path, "berth-vhost", "--port", numbers[0], "--listen", numbers[1], (char *)NULL);
    return error_set(e, ERR_IO, "cannot start '%s': %s", path, strerror(errno));
}
