// The screen over RFB, the protocol of VNC viewers, served by libvncserver on a thread of its own.
#pragma once

#include "display/display.h"
#include "display/typist.h"

struct vnc; // opaque

// Where to listen, as given on a command line: "unix:PATH" or "HOST:PORT[,password-file=FILE]".
struct vnc_address {
    char path[108]; // of a Unix socket; empty: TCP
    char host[128];
    char port[8];
    char password_file[256]; // empty: none (Unix sockets only: their file's mode guards them)
};

// ERR_INVALID with the forms that exist.
err_t vnc_parse(const char *spec, struct vnc_address *out, struct error *e);
// A socket that listens there. A Unix socket's file replaces one that nobody listens on.
err_t vnc_listen(const struct vnc_address *address, int *fd, struct error *e);
// The first line of the password file, at most 8 characters: RFB's authentication uses no more.
err_t vnc_read_password(const char *file, char out[9], struct error *e);

struct vnc_options {
    int listen_fd;        // owned by the server from here on
    const char *name;     // the desktop's, shown by viewers
    const char *password; // "": none
    const struct display *display;
    struct typist *typist; // keys go through it
};

// Loads libvncserver and starts the thread, which confines itself as HOST_THREAD_DISPLAY.
err_t vnc_new(const struct vnc_options *options, struct vnc **out, struct error *e);
void vnc_free(struct vnc *vnc); // ends the thread and all clients; accepts NULL
