// What a VM may take of the host's CPUs, and which of them: amounts and lists as people write them.
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "machine/config_impl.h"
#include "machine/duty.h"

err_t vm_cpu_amount_parse(const char *text, uint32_t *millis, struct error *e)
{
    char *end;
    double n = strtod(text, &end);
    bool percent = *end == '%' && !end[1];
    if (!strcmp(text, "none")) {
        *millis = 0;
        return OK;
    }
    n *= percent ? 10 : 1000;
    if (!isdigit((unsigned char)text[0]) || (*end && !percent) || !(n >= 0) || n > DUTY_RATE_MAX ||
        (n > 0 && n < VM_CPU_LIMIT_MIN))
        return error_set(e, ERR_INVALID,
                         "'%.40s' is not an amount of CPU time; give for example 50%%, 1.5 (CPUs) "
                         "or none, at least 1%%",
                         text);
    *millis = (uint32_t)(n + 0.5);
    return OK;
}

err_t vm_cpu_limit_check(uint32_t millis, struct error *e)
{
    if (!millis || (millis >= VM_CPU_LIMIT_MIN && millis <= DUTY_RATE_MAX))
        return OK;
    return error_set(e, ERR_INVALID,
                     "cpu_limit: %u is outside %d to %u thousandths of a CPU; 0 is no limit",
                     millis, VM_CPU_LIMIT_MIN, DUTY_RATE_MAX);
}

// --- which CPUs

static bool read_number(const char **at, unsigned long most, unsigned long *out)
{
    char *end;
    if (!isdigit((unsigned char)**at))
        return false;
    *out = strtoul(*at, &end, 10);
    *at = end;
    return *out <= most;
}

// "0-3,6", up to a semicolon or the end.
static bool read_cpus(const char **at, cpu_set_t *out)
{
    unsigned long first, last;
    CPU_ZERO(out);
    for (;; ++*at) {
        if (!read_number(at, CPU_SETSIZE - 1, &first))
            return false;
        last = first;
        if (**at == '-' && (++*at, !read_number(at, CPU_SETSIZE - 1, &last) || last < first))
            return false;
        for (; first <= last; first++)
            CPU_SET(first, out);
        if (**at != ',')
            return true;
    }
}

// "2:0-3" or, of all vCPUs, "0-3".
static bool read_part(const char **at, unsigned vcpus, cpu_set_t *out)
{
    const char *colon = strpbrk(*at, ":;");
    unsigned long vcpu = 0, last = vcpus - 1;
    if (colon && *colon == ':') {
        if (!read_number(at, last, &vcpu) || *at != colon)
            return false;
        ++*at;
        last = vcpu;
    }
    cpu_set_t cpus;
    if (!read_cpus(at, &cpus))
        return false;
    for (; out && vcpu <= last; vcpu++)
        out[vcpu] = cpus;
    return true;
}

err_t vm_cpu_pin_parse(const char *text, unsigned vcpus, cpu_set_t *out, struct error *e)
{
    const char *at = text;
    bool good = read_part(&at, vcpus, out);
    while (good && *at == ';') {
        at++;
        good = read_part(&at, vcpus, out);
    }
    if (good && !*at)
        return OK;
    return error_set(e, ERR_INVALID,
                     "cpu_pin: '%.60s' names no CPUs; give a list for all %u vCPUs (0-3,6) or one "
                     "for each (0:2;1:3)",
                     text, vcpus);
}
