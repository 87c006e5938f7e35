#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

err_t error_set(struct error *e, err_t code, const char *fmt, ...)
{
    if (e) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(e->text, sizeof e->text, fmt, ap);
        va_end(ap);
        e->code = code;
    }
    return code;
}

err_t error_in(struct error *e, const char *fmt, ...)
{
    if (!e)
        return ERR_INVALID;
    char old[sizeof e->text];
    memcpy(old, e->text, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int used = vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    if (used >= 0 && (size_t)used < sizeof e->text)
        snprintf(e->text + used, sizeof e->text - (size_t)used, ": %s", old);
    return e->code;
}

const char *err_name(err_t code)
{
    switch (code) {
    case OK: return "ok";
    case ERR_INVALID: return "invalid";
    case ERR_EXISTS: return "exists";
    case ERR_NOT_FOUND: return "not found";
    case ERR_NO_MEMORY: return "no memory";
    case ERR_UNSUPPORTED: return "unsupported";
    case ERR_CORRUPT: return "corrupt";
    case ERR_IO: return "input/output error";
    case ERR_BUSY: return "busy";
    case ERR_DENIED: return "denied";
    }
    return "unknown";
}

err_t err_from_errno(int host_errno)
{
    switch (host_errno) {
    case 0: return OK;
    case EINVAL: return ERR_INVALID;
    case EEXIST: return ERR_EXISTS;
    case ENOENT:
    case ENODEV:
    case ENXIO: return ERR_NOT_FOUND;
    case ENOMEM: return ERR_NO_MEMORY;
    case ENOSYS:
    case EOPNOTSUPP: return ERR_UNSUPPORTED;
    case EBUSY:
    case EAGAIN: return ERR_BUSY;
    case EACCES:
    case EPERM: return ERR_DENIED;
    default: return ERR_IO;
    }
}
