// Terminal modes: termios(3). Not modelled: window sizes; a guest's serial line has none.
#include "host/terminal.h"

#include <signal.h>
#include <unistd.h>

void host_terminal_save(struct host_terminal *terminal, int fd)
{
    *terminal = (struct host_terminal){.fd = -1};
    if (isatty(fd) && tcgetattr(fd, &terminal->saved) == 0)
        terminal->fd = fd;
}

// A background process that sets modes is stopped by SIGTTOU unless it blocks it.
static void set(const struct host_terminal *terminal, const struct termios *modes)
{
    sigset_t ttou, before;
    sigemptyset(&ttou);
    sigaddset(&ttou, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &ttou, &before);
    tcsetattr(terminal->fd, TCSADRAIN, modes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void host_terminal_raw(struct host_terminal *terminal)
{
    if (terminal->fd < 0)
        return;
    struct termios raw = terminal->saved;
    cfmakeraw(&raw);
    set(terminal, &raw);
    terminal->raw = true;
}

void host_terminal_restore(struct host_terminal *terminal)
{
    if (terminal->fd < 0)
        return;
    set(terminal, &terminal->saved);
    terminal->raw = false;
}
