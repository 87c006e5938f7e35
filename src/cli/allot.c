#include "cli/allot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine/config.h"
#include "net/network.h"

static err_t shares(const char *option, const char *text, uint64_t *out, struct error *e)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    *out = n;
    return text[0] >= '1' && text[0] <= '9' && !*end && n <= 1000000
               ? OK
               : error_set(e, ERR_INVALID, "%s: '%.40s' is no number from 1 to 1000000", option,
                           text);
}

static err_t amount(const char *what, const char *option, const char *text, uint64_t *out,
                    struct error *e)
{
    uint32_t millis = 0;
    err_t err = OK;
    *out = 0;
    if (!strcmp(text, "none"))
        return OK;
    if (!strcmp(what, "memory"))
        return vm_memory_parse(text, out, e);
    if (!strcmp(what, "cpu")) {
        err = vm_cpu_amount_parse(text, &millis, e);
        *out = millis;
        return err;
    }
    if (!strcmp(what, "net"))
        return network_rate_parse(text, out, e);
    return vm_rate_parse(option + 2, strlen(option + 2), text, strlen(text), out, e);
}

err_t allot_take(json_t *args, const char *option, const char *value, bool *known, struct error *e)
{
    static const char *const kinds[] = {"cpu", "memory", "net", "disk", "iops"};
    static const char *const tails[] = {"-shares", "-limit", "-reservation"};
    uint64_t n;
    *known = false;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        for (size_t k = 0; k < ARRAY_LEN(tails); k++) {
            char name[40];
            snprintf(name, sizeof name, "--%s%s", kinds[i], tails[k]);
            if (strcmp(name, option))
                continue;
            *known = true;
            err_t err = k ? amount(kinds[i], option, value, &n, e) : shares(option, value, &n, e);
            *strrchr(name, '-') = '_';
            if (!err)
                json_object_set_new(args, name + 2, json_integer((json_int_t)n));
            return err;
        }
    }
    return OK;
}
