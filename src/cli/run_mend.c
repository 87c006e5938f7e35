// What a VM's process that was killed leaves behind in its qcow2 images: clusters that were counted
// and not pointed to yet. berth run outlives that process and gives them back at once; where it was
// killed, too, the next opening for writing does.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "block/block.h"
#include "block/qcow2.h"
#include "cli/cli.h"
#include "machine/config.h"

static bool may_need_it(const struct vm_disk *disk)
{
    return disk->path && !disk->cdrom && !disk->read_only && !disk->snapshot &&
           (!disk->format || !strcmp(disk->format, "qcow2"));
}

// Version 2 cannot say whether it was closed: only what harms nobody is repaired there.
static void mend(const char *path, struct block *block)
{
    struct qcow2 *q = qcow2_of(block);
    struct qcow2_check check = {0};
    struct qcow2_info info;
    struct error e;

    if (!q)
        return;
    qcow2_get_info(q, &info);
    if (info.corrupt || (info.version > 2 && !info.dirty))
        return;
    enum qcow2_repair how = info.version > 2 ? QCOW2_REPAIR_ALL : QCOW2_REPAIR_LEAKS;
    if (qcow2_check(q, how, &check, &e) != OK)
        complain(EXIT_HOST, "%s: cannot be repaired: %s", path, e.text);
    else if (check.leaks_fixed)
        fprintf(stderr, "berth: %s: %" PRIu64 " clusters that nothing uses were given back\n", path,
                check.leaks_fixed);
}

void run_mend_disks(const struct vm_config *config)
{
    for (uint32_t i = 0; i < config->disks; i++) {
        const struct vm_disk *disk = &config->disk[i];
        const struct block_options options = {
            .format = disk->format, .repair = true, .no_backing = true};
        struct block *block;
        struct error e;

        // An image that somebody else has opened by now is mended.
        if (!may_need_it(disk) || block_open(disk->path, &options, &block, &e) != OK)
            continue;
        mend(disk->path, block);
        block_close(block);
    }
}
