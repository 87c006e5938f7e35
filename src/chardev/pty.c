// A pseudo-terminal: the stream's user is on the master side, a person's terminal program opens the
// path. While nobody has it open the newest output is kept, and shown to the next one who comes.
// pty(7), posix_openpt(3). Linux reports a closed other end as a hang-up for as long as it lasts,
// and nothing when it ends, so that is looked for a few times a second.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "chardev/stream_impl.h"
#include "host/clock.h"

#define LOOK_EVERY (100 * NS_PER_MS)

static bool hung_up(int fd)
{
    struct pollfd state = {.fd = fd};
    return poll(&state, 1, 0) == 1 && state.revents & POLLHUP;
}

static void look(void *opaque)
{
    struct stream *s = opaque;
    if (hung_up(s->in.fd))
        loop_timer_set(s->loop, &s->reconnect, host_now() + LOOK_EVERY);
    else
        stream_start(s);
}

void pty_hung_up(struct stream *s)
{
    stream_detach(s);
    loop_timer_set(s->loop, &s->reconnect, host_now() + LOOK_EVERY);
}

// Bytes pass as they are, both ways, until whoever opens the terminal sets it otherwise. Opening
// and closing the other end once also makes the kernel report it as hung up.
static int make_raw(int master)
{
    int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0)
        return -1;
    struct termios mode;
    int result = tcgetattr(slave, &mode);
    if (!result) {
        cfmakeraw(&mode);
        result = tcsetattr(slave, TCSANOW, &mode);
    }
    close(slave);
    return result;
}

err_t pty_open(const struct chardev_options *options, struct chardev **out, struct error *e)
{
    char path[64];
    int write_fd = -1;
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (master < 0 || grantpt(master) || unlockpt(master) || ptsname_r(master, path, sizeof path) ||
        make_raw(master) || (write_fd = fcntl(master, F_DUPFD_CLOEXEC, 3)) < 0) {
        int why = errno;
        if (master >= 0)
            close(master);
        return error_set(e, err_from_errno(why), "%s: cannot create a pseudo-terminal: %s",
                         options->name, strerror(why));
    }
    struct stream *s;
    err_t err = stream_new(options, master, write_fd, &s, e);
    if (err)
        return err;
    memcpy(s->where, path, sizeof path);
    s->reconnect = (struct loop_timer){.fire = look, .opaque = s};
    pty_hung_up(s);
    *out = &s->chr;
    return OK;
}
