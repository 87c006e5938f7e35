// The VNC server: libvncserver speaks RFB (RFC 6143), this thread draws for it and passes on keys
// and the mouse. The library is loaded only when a VM is given a VNC display: with the TLS
// libraries that it brings along it would more than double the time that berth-vmm takes to start.
// Sockets are made elsewhere and clients are accepted here, so the thread opens nothing.
//
// Not modelled: TLS (a Unix socket behind SSH, or a password on a trusted network, are what there
// is), clipboards, file transfer, absolute pointers: the guest's mouse is a PS/2 mouse.
#include "display/vnc.h"

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <rfb/rfb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "display/keysym.h"
#include "host/clock.h"
#include "host/thread.h"

#define LIBRARY "libvncserver.so.1"
#define CLIENTS_MAX 8
#define FRAME_NS (33 * NS_PER_MS)
#define FRAME_IDLE_NS (100 * NS_PER_MS) // while nothing moves
#define IDLE_AFTER 30                   // frames without a change
#define CLIENT_WAIT_MS 2000             // for one that does not read

// The library's functions by their own names.
struct library {
    void *handle;
    __typeof__(rfbGetScreen) *get_screen;
    __typeof__(rfbInitServer) *init_server;
    __typeof__(rfbNewClient) *new_client;
    __typeof__(rfbProcessEvents) *process_events;
    __typeof__(rfbMarkRectAsModified) *mark;
    __typeof__(rfbNewFramebuffer) *new_framebuffer;
    __typeof__(rfbShutdownServer) *shut_down;
    __typeof__(rfbScreenCleanup) *clean_up;
    __typeof__(rfbCheckPasswordByList) *check_password;
};

struct vnc {
    struct vnc_options options;
    struct library lib;
    rfbScreenInfoPtr screen;
    struct picture picture;
    struct host_thread thread;
    int wake;      // an eventfd: the thread is to end
    bool stopping; // [any]
    unsigned clients;
    unsigned still; // frames in which nothing changed
    bool changed;   // by the frame being drawn
    uint64_t next_frame;
    struct keysym_state keys;
    bool pointer_known;
    int pointer_x, pointer_y;
    char password[9];
    char *passwords[2]; // for the library: a list that ends with NULL
    char name[80];
};

// --- the library

static void no_log(const char *format, ...)
{
}

static bool find(struct library *lib, void *function, const char *name)
{
    void *found = dlsym(lib->handle, name);
    memcpy(function, &found, sizeof found);
    return found;
}

#define STRING_OF(name) #name
#define NAME_OF(name) STRING_OF(name) // rfbInitServer is a macro for another name

static err_t load(struct library *lib, struct error *e)
{
    lib->handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!lib->handle)
        return error_set(e, ERR_UNSUPPORTED, "VNC needs %s: %s; install the package libvncserver1",
                         LIBRARY, dlerror());
    rfbLogProc *log[2];
    bool all = find(lib, &lib->get_screen, "rfbGetScreen") &&
               find(lib, &lib->init_server, NAME_OF(rfbInitServer)) &&
               find(lib, &lib->new_client, "rfbNewClient") &&
               find(lib, &lib->process_events, "rfbProcessEvents") &&
               find(lib, &lib->mark, "rfbMarkRectAsModified") &&
               find(lib, &lib->new_framebuffer, "rfbNewFramebuffer") &&
               find(lib, &lib->shut_down, "rfbShutdownServer") &&
               find(lib, &lib->clean_up, "rfbScreenCleanup") &&
               find(lib, &lib->check_password, "rfbCheckPasswordByList") &&
               find(lib, &log[0], "rfbLog") && find(lib, &log[1], "rfbErr");
    if (!all)
        return error_set(e, ERR_UNSUPPORTED, "%s lacks functions that VNC needs", LIBRARY);
    *log[0] = *log[1] = no_log; // what clients do is no concern of the VM's log
    // libgcrypt does the passwords' DES. It opens files when it is first used, and complains to the
    // system's log when nobody has told it to begin.
    const char *(*begin)(const char *version);
    if (find(lib, &begin, "gcry_check_version"))
        begin(NULL);
    return OK;
}

// --- what clients do

static void press(struct vnc *v, const struct key_event *event, unsigned count)
{
    if (count) // a viewer that is far too fast loses keys
        (void)!typist_press(v->options.typist, event, count, NULL);
}

static void on_key(rfbBool down, rfbKeySym keysym, rfbClientPtr client)
{
    struct vnc *v = client->screen->screenData;
    struct key_event event[KEYSYM_EVENTS_MAX];
    press(v, event, keysym_events(&v->keys, keysym, down, event));
}

// RFB's buttons: left, middle, right, wheel up, wheel down.
static void on_pointer(int mask, int x, int y, rfbClientPtr client)
{
    struct vnc *v = client->screen->screenData;
    const struct display *d = v->options.display;
    unsigned buttons = (mask & 1 ? DISPLAY_LEFT : 0) | (mask & 2 ? DISPLAY_MIDDLE : 0) |
                       (mask & 4 ? DISPLAY_RIGHT : 0);
    int wheel = (mask & 16 ? 1 : 0) - (mask & 8 ? 1 : 0);
    int dx = v->pointer_known ? x - v->pointer_x : 0, dy = v->pointer_known ? y - v->pointer_y : 0;
    v->pointer_x = x;
    v->pointer_y = y;
    v->pointer_known = true;
    d->ops->mouse(d->opaque, dx, dy, wheel, buttons);
}

static void on_gone(rfbClientPtr client)
{
    struct vnc *v = client->screen->screenData;
    struct key_event event[KEYSYM_DOWN_MAX];
    v->clients--;
    press(v, event, keysym_release_all(&v->keys, event));
    v->pointer_known = false;
}

static enum rfbNewClientAction on_new(rfbClientPtr client)
{
    struct vnc *v = client->screen->screenData;
    if (v->clients == CLIENTS_MAX)
        return RFB_CLIENT_REFUSE;
    v->clients++;
    client->clientGoneHook = on_gone;
    return RFB_CLIENT_ACCEPT;
}

static void accept_client(struct vnc *v)
{
    int fd = accept4(v->options.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    if (fd < FD_SETSIZE) // the library uses select
        v->lib.new_client(v->screen, fd);
    else
        close(fd);
}

// --- frames

static void on_damage(void *opaque, const struct display_rect *r)
{
    struct vnc *v = opaque;
    v->changed = true;
    v->lib.mark(v->screen, (int)r->x, (int)r->y, (int)(r->x + r->width), (int)(r->y + r->height));
}

// The library takes its own order of colours for a new frame buffer: it is told again.
static void set_format(rfbScreenInfoPtr s)
{
    s->serverFormat.redShift = 16;
    s->serverFormat.greenShift = 8;
    s->serverFormat.blueShift = 0;
    for (rfbClientPtr client = s->clientHead; client; client = client->next)
        s->setTranslateFunction(client);
}

static void draw(struct vnc *v)
{
    const struct display *d = v->options.display;
    struct damage damage = {.changed = on_damage, .opaque = v};
    uint64_t now = host_now();
    if (now < v->next_frame)
        return;
    v->changed = false;
    if (d->ops->draw(d->opaque, &v->picture, &damage)) {
        v->lib.new_framebuffer(v->screen, (char *)v->picture.pixels, (int)v->picture.width,
                               (int)v->picture.height, 8, 3, 4);
        set_format(v->screen);
        v->changed = true;
    }
    v->still = v->changed ? 0 : v->still + 1;
    v->next_frame = now + (v->still > IDLE_AFTER ? FRAME_IDLE_NS : FRAME_NS);
}

// Without clients nothing is drawn and nothing wakes the thread.
static void serve(void *opaque)
{
    struct vnc *v = opaque;
    host_thread_confine(HOST_THREAD_DISPLAY);
    while (!__atomic_load_n(&v->stopping, __ATOMIC_SEQ_CST)) {
        struct pollfd wait[] = {{v->options.listen_fd, POLLIN, 0}, {v->wake, POLLIN, 0}};
        if (poll(wait, 2, v->clients ? 0 : -1) > 0 && (wait[0].revents & POLLIN))
            accept_client(v);
        if (!v->clients)
            continue;
        draw(v);
        uint64_t now = host_now();
        v->lib.process_events(v->screen,
                              now < v->next_frame ? (long)(v->next_frame - now) / 1000 : 0);
    }
    v->lib.shut_down(v->screen, TRUE);
}

// --- life

static err_t make_screen(struct vnc *v, struct error *e)
{
    v->picture.width = 640; // until the first frame says otherwise
    v->picture.height = 480;
    rfbScreenInfoPtr s = v->screen = v->lib.get_screen(NULL, NULL, 640, 480, 8, 3, 4);
    if (!s)
        return error_set(e, ERR_NO_MEMORY, "no memory for the VNC server");
    memset(v->picture.pixels, 0, 640 * 480 * 4);
    s->frameBuffer = (char *)v->picture.pixels;
    s->desktopName = v->name;
    s->screenData = v;
    s->port = s->ipv6port = 0; // it makes no sockets of its own
    s->alwaysShared = TRUE;
    s->cursor = NULL;
    s->deferUpdateTime = 5;
    s->deferPtrUpdateTime = 0;
    s->maxClientWait = CLIENT_WAIT_MS;
    s->kbdAddEvent = on_key;
    s->ptrAddEvent = on_pointer;
    s->newClientHook = on_new;
    if (v->password[0]) {
        v->passwords[0] = v->password;
        s->authPasswdData = v->passwords;
        s->passwordCheck = v->lib.check_password;
    }
    v->lib.init_server(s);
    set_format(s);
    return OK;
}

err_t vnc_new(const struct vnc_options *options, struct vnc **out, struct error *e)
{
    struct vnc *v = calloc(1, sizeof *v);
    if (!v)
        return error_set(e, ERR_NO_MEMORY, "no memory for the VNC server");
    v->options = *options;
    v->wake = eventfd(0, EFD_CLOEXEC);
    snprintf(v->password, sizeof v->password, "%s", options->password);
    snprintf(v->name, sizeof v->name, "%s", options->name);
    err_t err = v->wake < 0 ? error_set(e, ERR_IO, "cannot make an eventfd: %s", strerror(errno))
                            : load(&v->lib, e);
    if (!err)
        err = picture_init(&v->picture, true, e);
    if (!err)
        err = make_screen(v, e);
    if (!err)
        err = host_thread_start(&v->thread, "vnc", serve, v, e);
    if (err) {
        vnc_free(v);
        return err;
    }
    *out = v;
    return OK;
}

// The library stays loaded: the TLS libraries behind it do not expect to go.
void vnc_free(struct vnc *v)
{
    if (!v)
        return;
    const uint64_t one = 1;
    __atomic_store_n(&v->stopping, true, __ATOMIC_SEQ_CST);
    if (v->wake >= 0)
        (void)!write(v->wake, &one, sizeof one);
    host_thread_join(&v->thread);
    if (v->screen)
        v->lib.clean_up(v->screen);
    picture_release(&v->picture);
    close(v->options.listen_fd);
    if (v->wake >= 0)
        close(v->wake);
    free(v);
}
