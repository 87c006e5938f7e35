// See watch.h. Source: Intel SDM vol. 3 section 18.2.4 (DR7) and 18.2.5 (alignment of points).
#include "engine/watch.h"

#include "cpu/x86.h"

#define DR7_ON(n) BIT(2 * (n) + 1)

err_t engine_watch_check(const struct engine_watch *watch, struct error *e)
{
    if (watch->points > ENGINE_POINTS)
        return error_set(e, ERR_UNSUPPORTED, "a CPU can watch %d addresses at a time, not %u",
                         ENGINE_POINTS, watch->points);
    for (unsigned i = 0; i < watch->points; i++) {
        const struct engine_point *p = &watch->point[i];
        bool power = p->bytes && p->bytes <= 8 && !(p->bytes & (p->bytes - 1));
        if (!power || p->at & (p->bytes - 1u) || (p->kind == ENGINE_POINT_EXEC && p->bytes != 1))
            return error_set(e, ERR_INVALID,
                             "a CPU cannot watch %u bytes at %#llx; give 1, 2, 4 or 8 that are "
                             "aligned, and 1 for an instruction",
                             p->bytes, (unsigned long long)p->at);
    }
    return OK;
}

uint64_t engine_watch_dr7(const struct engine_watch *watch)
{
    static const uint8_t kinds[] = {
        [ENGINE_POINT_EXEC] = 0, [ENGINE_POINT_WRITE] = 1, [ENGINE_POINT_ACCESS] = 3};
    static const uint8_t lengths[] = {[1] = 0, [2] = 1, [4] = 3, [8] = 2};
    uint64_t dr7 = DR7_FIXED;
    for (unsigned i = 0; i < watch->points; i++) {
        const struct engine_point *p = &watch->point[i];
        dr7 |= DR7_ON(i) | (uint64_t)kinds[p->kind] << (16 + 4 * i) |
               (uint64_t)lengths[p->bytes] << (18 + 4 * i);
    }
    return dr7;
}
