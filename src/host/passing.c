// Descriptors over Unix sockets. unix(7), SCM_RIGHTS.
#include "host/passing.h"

#include <string.h>
#include <sys/socket.h>

union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(PASSING_MAX * sizeof(int))];
};

ssize_t passing_send(int socket, const void *data, size_t len, int fd, int flags)
{
    struct iovec bytes = {.iov_base = (void *)data, .iov_len = len};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};
    union control control = {0};
    if (fd >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof fd);
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    }
    return sendmsg(socket, &message, flags | MSG_NOSIGNAL);
}

// CMSG_LEN, not CMSG_SPACE: the padding behind it would have room for one descriptor more.
ssize_t passing_receive(int socket, void *data, size_t len, int *fds, unsigned max, unsigned *count,
                        int flags)
{
    struct iovec bytes = {.iov_base = data, .iov_len = len};
    union control control;
    struct msghdr message = {.msg_iov = &bytes,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = CMSG_LEN(max * sizeof(int))};
    ssize_t n = recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
    *count = 0;
    struct cmsghdr *rights = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (rights && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS) {
        *count = (unsigned)((rights->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(rights), *count * sizeof(int));
    }
    return n;
}
