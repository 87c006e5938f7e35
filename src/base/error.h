// Errors: a code that callers branch on and, where a person will read it, one line of words.
#pragma once

#include "base/types.h"

typedef enum [[nodiscard]] err{
    OK = 0,
    ERR_INVALID,     // the request makes no sense
    ERR_EXISTS,      // it is already there
    ERR_NOT_FOUND,   // it is not there
    ERR_NO_MEMORY,   // the host has not enough memory
    ERR_UNSUPPORTED, // valid, but not on this host or in this build
    ERR_CORRUPT,     // bytes from outside do not follow their format
    ERR_IO,          // the host's I/O failed
    ERR_BUSY,        // somebody else holds it
    ERR_DENIED,      // the host refuses permission
} err_t;

struct error {
    err_t code;
    char text[240]; // one line without a newline; truncated, never overrun
};

// Writes code and text into *e (which may be NULL) and returns code.
err_t error_set(struct error *e, err_t code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

// Puts context in front of the text: "disk0: " + old text. Returns the code that *e holds.
err_t error_in(struct error *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// The field's word for a code: "not found".
const char *err_name(err_t code);

// The code that stands for a host errno value.
err_t err_from_errno(int host_errno);
