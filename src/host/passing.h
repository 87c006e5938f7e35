// Descriptors that travel with bytes over a Unix socket.
#pragma once

#include <sys/types.h>

#include "base/types.h"

#define PASSING_MAX 8 // with one message

// As send(2) with MSG_NOSIGNAL; fd goes with the first byte when it is not -1, and stays the
// caller's.
ssize_t passing_send(int socket, const void *data, size_t len, int fd, int flags);

// As recv(2). Descriptors that came along, at most max (1..PASSING_MAX; the kernel closes what is
// more), are put into fds and are then the caller's; *count says how many.
ssize_t passing_receive(int socket, void *data, size_t len, int *fds, unsigned max, unsigned *count,
                        int flags);
