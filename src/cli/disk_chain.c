// berth disk snapshot, commit and rebase: an image's states, and what it stands on.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/chain.h"
#include "block/copy.h"
#include "block/formats.h"
#include "cli/disk.h"

static err_t open_qcow2(const char *path, bool no_backing, bool read_only, struct block **out,
                        struct error *e)
{
    const struct block_options options = {
        .format = "qcow2", .no_backing = no_backing, .read_only = read_only};

    return block_open(path, &options, out, e);
}

// --- snapshot

static err_t list(struct disk_args *a, const char *path, struct error *e)
{
    struct disk_args info = *a;

    info.words[0] = path;
    return disk_info(&info, e);
}

static const struct action {
    const char *name, *done;
    err_t (*run)(struct qcow2 *q, const char *name, struct error *e);
} actions[] = {
    {"create", "made", qcow2_snapshot_create},
    {"apply", "applied", qcow2_snapshot_apply},
    {"delete", "deleted", qcow2_snapshot_delete},
};

static err_t act(struct disk_args *a, const struct action *action, struct error *e)
{
    struct block *block;
    err_t err = open_qcow2(a->words[1], true, false, &block, e);

    if (err != OK)
        return err;
    err = action->run(qcow2_of(block), a->words[2], e);
    block_close(block);
    if (err == OK)
        disk_tell(a,
                  json_pack("{s:s, s:s, s:s}", "file", a->words[1], "snapshot", a->words[2],
                            "action", action->name),
                  "%s: snapshot %s %s", a->words[1], a->words[2], action->done);
    return err;
}

err_t disk_snapshot(struct disk_args *a, struct error *e)
{
    if (!strcmp(a->words[0], "list") && a->count == 2)
        return list(a, a->words[1], e);
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++) {
        if (!strcmp(a->words[0], actions[i].name) && a->count == 3)
            return act(a, &actions[i], e);
    }
    return error_set(e, ERR_INVALID,
                     "snapshot needs list FILE, or create, apply or delete with "
                     "FILE NAME; see berth disk --help");
}

// Snapshots hold what they did not write themselves only by way of the backing file.
static err_t check_no_snapshots(const char *path, const struct qcow2_info *info, const char *what,
                                struct error *e)
{
    return info->snapshots
               ? error_set(e, ERR_UNSUPPORTED,
                           "%s: has %u snapshots, which %s would change; delete them first", path,
                           info->snapshots, what)
               : OK;
}

// --- commit

static err_t grow(struct block *block, uint64_t size, struct error *e)
{
    if (size <= block->limits.size_bytes)
        return OK;
    return qcow2_of(block) ? qcow2_resize(qcow2_of(block), size, false, e)
                           : raw_resize(block, size, e);
}

static err_t copy_down(struct disk_args *a, struct block *from, struct block *to, struct error *e)
{
    struct disk_progress progress;
    const struct block_copy copy = {
        .from = from, .to = to, .progress = disk_progress_step, .opaque = &progress};
    err_t err = grow(to, from->limits.size_bytes, e);

    if (err != OK)
        return err;
    disk_progress_begin(&progress, a, "committing");
    err = block_copy(&copy, e);
    disk_progress_end(&progress);
    return err;
}

// The image is opened alone, so that only its own content is copied, and its backing file apart.
static err_t commit(struct disk_args *a, struct block *image, char **base_path, struct error *e)
{
    struct block_options options = {0};
    struct block *base;
    struct qcow2_info info;

    qcow2_get_info(qcow2_of(image), &info);
    if (!info.backing[0])
        return error_set(e, ERR_INVALID, "%s: has no backing file to commit to", a->words[0]);
    err_t err = check_no_snapshots(a->words[0], &info, "the commit", e);
    if (err == OK)
        err = chain_path(a->words[0], info.backing, base_path, e);
    if (err != OK)
        return err;
    options.format = info.backing_format[0] ? info.backing_format : NULL;
    err = block_open(*base_path, &options, &base, e);
    if (err != OK)
        return err;
    err = copy_down(a, image, base, e);
    block_close(base);
    return err == OK ? qcow2_empty(qcow2_of(image), e) : err;
}

err_t disk_commit(struct disk_args *a, struct error *e)
{
    char *base = NULL;
    struct block *image;
    err_t err = open_qcow2(a->words[0], true, false, &image, e);

    if (err == OK) {
        err = commit(a, image, &base, e);
        block_close(image);
    }
    if (err == OK)
        disk_tell(a, json_pack("{s:s, s:s}", "file", a->words[0], "into", base),
                  "%s has all that %s had of its own, which is empty now", base, a->words[0]);
    free(base);
    return err;
}

// --- rebase

static err_t open_base(struct disk_args *a, struct block **out, struct error *e)
{
    const struct block_options options = {.format = a->backing_format, .read_only = true};
    char *path;
    err_t err = chain_path(a->words[0], a->backing, &path, e);

    *out = NULL;
    if (err == OK)
        err = block_open(path, &options, out, e);
    if (err != OK)
        err = error_in(e, "the new backing file");
    else
        a->backing_format = (*out)->type->name;
    free(path);
    return err;
}

static err_t copy_differences(struct disk_args *a, struct block *image, struct error *e)
{
    struct disk_progress progress;
    struct block *base = NULL;
    struct qcow2_info info;

    qcow2_get_info(qcow2_of(image), &info);
    err_t err = check_no_snapshots(a->words[0], &info, "the rebase", e);
    if (err == OK && a->backing)
        err = open_base(a, &base, e);
    if (err != OK)
        return err;
    disk_progress_begin(&progress, a, "rebasing");
    err = block_rebase(image, base, disk_progress_step, &progress, e);
    disk_progress_end(&progress);
    block_close(base);
    return err;
}

err_t disk_rebase(struct disk_args *a, struct error *e)
{
    struct block *image;

    if (a->backing && !a->backing[0])
        a->backing = NULL;
    err_t err = open_qcow2(a->words[0], a->unsafe, false, &image, e);
    if (err != OK)
        return err;
    if (!a->unsafe)
        err = copy_differences(a, image, e);
    if (err == OK)
        err =
            qcow2_set_backing(qcow2_of(image), a->backing ? a->backing : "", a->backing_format, e);
    block_close(image);
    if (err == OK)
        disk_tell(a, json_pack("{s:s, s:s?}", "file", a->words[0], "backing", a->backing),
                  "%s stands on %s now", a->words[0], a->backing ? a->backing : "nothing");
    return err;
}
