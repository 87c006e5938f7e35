// A program for guests, to try their virtio sockets with: connects to a port of the host, or
// listens on one of its own for one connection. Sends its standard input, ends its side, prints
// what comes. Or, as echo and call, likewise with a socket of messages (SOCK_SEQPACKET): sends each
// message back to where it came from.
//
//     vsock-peer connect|listen|echo|call PORT
#include <linux/vm_sockets.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int open_socket(bool listens, int type, unsigned port)
{
    struct sockaddr_vm at = {.svm_family = AF_VSOCK,
                             .svm_cid = listens ? VMADDR_CID_ANY : VMADDR_CID_HOST,
                             .svm_port = port};
    int s = socket(AF_VSOCK, type, 0);
    if (!listens)
        return connect(s, (struct sockaddr *)&at, sizeof at) < 0 ? -1 : s;
    if (bind(s, (struct sockaddr *)&at, sizeof at) < 0 || listen(s, 1) < 0)
        return -1;
    return accept(s, NULL, NULL);
}

static void copy(int from, int to)
{
    static char piece[65536];
    for (ssize_t n; (n = read(from, piece, sizeof piece)) > 0;)
        for (ssize_t at = 0, done; at < n; at += done)
            if ((done = write(to, piece + at, (size_t)(n - at))) < 0)
                exit(1);
}

static int send_back(int s)
{
    static char message[1 << 20];
    for (ssize_t n; (n = recv(s, message, sizeof message, 0)) > 0;)
        if (send(s, message, (size_t)n, 0) != n)
            return 1;
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    bool echoes = !strcmp(argv[1], "echo") || !strcmp(argv[1], "call");
    bool listens = !strcmp(argv[1], "listen") || !strcmp(argv[1], "echo");
    int s = open_socket(listens, echoes ? SOCK_SEQPACKET : SOCK_STREAM, (unsigned)atoi(argv[2]));
    if (s < 0) {
        perror("vsock-peer");
        return 1;
    }
    if (echoes)
        return send_back(s);
    copy(STDIN_FILENO, s);
    shutdown(s, SHUT_WR);
    copy(s, STDOUT_FILENO);
    return 0;
}
