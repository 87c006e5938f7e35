// A person's terminal, borrowed for a guest's console and given back as it was.
#pragma once

#include <termios.h>

#include "base/error.h"

struct host_terminal {
    int fd; // -1: not a terminal, and everything here does nothing
    bool raw;
    struct termios saved;
};

// Remembers the modes of fd if it is a terminal.
void host_terminal_save(struct host_terminal *terminal, int fd);
// Every key goes to the guest as it is; line ends are not translated.
void host_terminal_raw(struct host_terminal *terminal);
// Back to what was saved, whoever changed it since. Safe from a background job.
void host_terminal_restore(struct host_terminal *terminal);
