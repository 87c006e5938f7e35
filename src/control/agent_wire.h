// How the guest's agent and its clients talk: frames over a stream, and lists of fields in them
// (docs/formats/agent.md). Both sides use this file, so it needs nothing but POSIX. Whatever
// arrives is checked here: a frame is whole and short, a list well formed.
#pragma once

#include "base/error.h"

#define AGENT_VERSION 1
#define AGENT_PORT 997 // of the guest, where the agent listens, and of the host, which it tells
#define AGENT_READY_PORT 998       // from here, that it is ready
#define AGENT_FRAME_MAX (64 * KIB) // bytes after the header
#define AGENT_HEADER 8
#define AGENT_INPUT_MAX (64 * KIB) // standard input that the agent has not passed on yet

enum agent_frame {
    // From the agent.
    AGENT_HELLO = 1,  // fields: version, agent
    AGENT_OK = 2,     // fields: what was asked for
    AGENT_ERROR = 3,  // fields: code, text
    AGENT_STDOUT = 4, // bytes
    AGENT_STDERR = 5,
    AGENT_TAKEN = 6, // fields: bytes; of standard input, passed on since the last of these
    AGENT_EXIT = 7,  // fields: status, or signal
    // To the agent.
    AGENT_REQUEST = 16, // fields: request, and its arguments
    AGENT_STDIN = 17,   // bytes; none: its end
    AGENT_RESIZE = 18,  // fields: columns, rows
    AGENT_SIGNAL = 19,  // fields: signal
    // Either way: files.
    AGENT_ENTRY = 32, // fields: path, type, mode, size, time, target
    AGENT_DATA = 33,  // bytes of the file that was named last
    AGENT_END = 34,   // of all files
};

// A stream with frames. timeout_ms: how long the other side may take to go on; -1: for ever.
struct agent_link {
    int fd;
    int timeout_ms;
    uint8_t type; // of the last frame received
    uint32_t len;
    // The frame, with a zero after it.
    uint8_t data[AGENT_FRAME_MAX + 1];
};

// ERR_IO: the other side is gone. ERR_BUSY: it took too long. ERR_CORRUPT: what it says is no
// frame.
err_t agent_receive(struct agent_link *link, struct error *e);
// The same, and the frame must be of this type; the other side's AGENT_ERROR becomes e.
err_t agent_expect(struct agent_link *link, uint8_t type, struct error *e);
// What a frame says that was not due: the other side's error, or that it makes no sense.
err_t agent_refused(const struct agent_link *link, struct error *e);
err_t agent_send(struct agent_link *link, uint8_t type, const void *data, size_t len,
                 struct error *e);

// "KEY=VALUE" texts, each with a zero after it.
struct agent_fields {
    size_t len;
    bool overflow; // there was no room for all
    char data[AGENT_FRAME_MAX];
};

void agent_add(struct agent_fields *fields, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
err_t agent_send_fields(struct agent_link *link, uint8_t type, const struct agent_fields *fields,
                        struct error *e);
err_t agent_send_error(struct agent_link *link, const struct error *said, struct error *e);

// Of the frame received last, which must be a list: the value of a key's next field after `after`
// (NULL: the first); NULL: there is none. Texts end inside the frame.
const char *agent_next(const struct agent_link *link, const char *key, const char *after);
static inline const char *agent_get(const struct agent_link *link, const char *key)
{
    return agent_next(link, key, NULL);
}
// A whole number from 0 to max; otherwise where it is missing or none.
uint64_t agent_number(const struct agent_link *link, const char *key, uint64_t max,
                      uint64_t otherwise);
// Puts a ? in place of what a terminal could take for a command.
void agent_make_plain(char *text);
