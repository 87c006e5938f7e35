// Random bytes: getrandom(2), which cannot fail for other reasons than a signal.
#include "host/random.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

void host_random(void *data, size_t len)
{
    uint8_t *p = data;
    while (len) {
        ssize_t n = getrandom(p, len, 0);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            abort(); // a kernel without getrandom cannot run us at all
        }
        p += n;
        len -= (size_t)n;
    }
}
