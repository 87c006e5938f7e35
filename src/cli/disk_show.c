// berth disk info, check and map: what an image is, whether it is sound, and where its data lie.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/bits.h"
#include "block/chain.h"
#include "block/sync.h"
#include "cli/cli.h"
#include "cli/disk.h"

#define FINDINGS_SHOWN 20  // as words
#define FINDINGS_MAX 10000 // as JSON

// --- info

static json_t *date_of(const struct qcow2_snapshot *s)
{
    char text[32];
    struct tm tm;
    time_t when = s->date_sec;

    gmtime_r(&when, &tm);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
    return json_string(text);
}

static err_t snapshots_of(struct qcow2 *q, json_t *out, struct error *e)
{
    struct qcow2_snapshot *list = NULL;
    unsigned count = 0;
    err_t err = qcow2_snapshots(q, &list, &count, e);

    for (unsigned i = 0; err == OK && i < count; i++)
        json_array_append_new(out, json_pack("{s:s+, s:s+, s:I, s:I, s:o}", "id", list[i].id, "",
                                             "name", list[i].name, "", "size_bytes",
                                             (json_int_t)list[i].size_bytes, "vm_state_bytes",
                                             (json_int_t)list[i].vm_state_bytes, "date",
                                             date_of(&list[i])));
    free(list);
    return err;
}

static err_t describe_qcow2(struct qcow2 *q, json_t *out, struct error *e)
{
    struct qcow2_info info;
    json_t *snapshots = json_array();

    qcow2_get_info(q, &info);
    json_t *more = json_pack(
        "{s:i, s:i, s:i, s:s, s:b, s:b, s:b, s:b}", "version", (int)info.version, "cluster_bytes",
        (int)info.cluster_bytes, "refcount_bits", (int)info.refcount_bits, "compression",
        info.zstd ? "zstd" : "zlib", "subclusters", (int)info.extended_l2, "lazy_refcounts",
        (int)info.lazy_refcounts, "dirty", (int)info.dirty, "corrupt", (int)info.corrupt);
    json_object_update(out, more);
    json_decref(more);
    if (info.backing[0])
        json_object_set_new(out, "backing", json_string(info.backing));
    if (info.backing[0] && info.backing_format[0])
        json_object_set_new(out, "backing_format", json_string(info.backing_format));
    err_t err = snapshots_of(q, snapshots, e);
    json_object_set_new(out, "snapshots", snapshots);
    return err;
}

// An image in use is looked at all the same: what is shown changes rarely.
static err_t open_to_look(const char *path, const char *format, struct block **out, bool *in_use,
                          struct error *e)
{
    struct block_options options = {
        .format = format, .read_only = true, .no_backing = true, .repair = true};
    err_t err = block_open(path, &options, out, e);

    *in_use = err == ERR_BUSY;
    options.unlocked = true;
    return *in_use ? block_open(path, &options, out, e) : err;
}

static err_t describe(const char *path, const char *format, json_t *out, struct error *e)
{
    struct block *block;
    struct stat st;
    bool in_use;
    err_t err = open_to_look(path, format, &block, &in_use, e);

    if (err != OK)
        return err;
    json_object_set_new(out, "file", json_string(path));
    json_object_set_new(out, "format", json_string(block->type->name));
    json_object_set_new(out, "size_bytes", json_integer((json_int_t)block->limits.size_bytes));
    if (stat(path, &st) == 0)
        json_object_set_new(out, "file_bytes", json_integer((json_int_t)st.st_blocks * 512));
    json_object_set_new(out, "in_use", json_boolean(in_use));
    if (qcow2_of(block))
        err = describe_qcow2(qcow2_of(block), out, e);
    block_close(block);
    return err;
}

static const char *text_of(const json_t *info, const char *key)
{
    const char *text = json_string_value(json_object_get(info, key));

    return text ? text : "";
}

static void show_bytes(const json_t *info, const char *key, const char *label)
{
    char text[32];
    uint64_t n = (uint64_t)json_integer_value(json_object_get(info, key));

    disk_size_text(n, text, sizeof text);
    printf("%-11s %s%s", label, text, n < 1024 ? "\n" : "");
    if (n >= 1024)
        printf(" (%" PRIu64 " bytes)\n", n);
}

static void show_features(const json_t *info)
{
    static const char *const flags[][2] = {{"subclusters", "subclusters"},
                                           {"lazy_refcounts", "lazy refcounts"},
                                           {"dirty", "not closed properly"},
                                           {"corrupt", "CORRUPT: try berth disk check"}};

    printf("%-11s %s, counts of %d bits", "features", text_of(info, "compression"),
           (int)json_integer_value(json_object_get(info, "refcount_bits")));
    for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
        if (json_is_true(json_object_get(info, flags[i][0])))
            printf(", %s", flags[i][1]);
    }
    putchar('\n');
}

static void show_snapshots(const json_t *list)
{
    size_t i;
    json_t *s;
    char size[32];

    json_array_foreach(list, i, s)
    {
        disk_size_text((uint64_t)json_integer_value(json_object_get(s, "size_bytes")), size,
                       sizeof size);
        printf("%-11s %-4s %-24s %s  %s\n", i ? "" : "snapshots", text_of(s, "id"),
               text_of(s, "name"), text_of(s, "date"), size);
    }
}

static void show_info(const json_t *info)
{
    const json_t *version = json_object_get(info, "version");

    printf("%-11s %s%s\n", "image", text_of(info, "file"),
           json_is_true(json_object_get(info, "in_use")) ? " (in use)" : "");
    printf("%-11s %s", "format", text_of(info, "format"));
    if (version)
        printf(", version %d", (int)json_integer_value(version));
    putchar('\n');
    show_bytes(info, "size_bytes", "disk");
    show_bytes(info, "file_bytes", "file takes");
    if (version) {
        show_bytes(info, "cluster_bytes", "clusters");
        show_features(info);
    }
    if (text_of(info, "backing")[0])
        printf("%-11s %s (%s)\n", "backing", text_of(info, "backing"),
               text_of(info, "backing_format")[0] ? text_of(info, "backing_format")
                                                  : "format guessed");
    show_snapshots(json_object_get(info, "snapshots"));
}

// The image below, as a path to be freed; NULL: none.
static err_t path_below(const char *image, const json_t *info, char **path, struct error *e)
{
    *path = NULL;
    return text_of(info, "backing")[0] ? chain_path(image, text_of(info, "backing"), path, e) : OK;
}

static err_t describe_chain(struct disk_args *a, json_t *chain, struct error *e)
{
    char *path = strdup(a->words[0]), *next;
    const char *format = a->format;
    err_t err = path ? OK : error_set(e, ERR_NO_MEMORY, "no memory");

    while (err == OK && path) {
        json_t *info = json_object();
        json_array_append_new(chain, info);
        next = NULL;
        err = describe(path, format, info, e);
        if (err == OK && a->chain)
            err = path_below(path, info, &next, e);
        if (err == OK && json_array_size(chain) > CHAIN_DEPTH_MAX)
            err = error_set(e, ERR_CORRUPT, "%s: its backing files are a circle, or too many",
                            a->words[0]);
        format = text_of(info, "backing_format")[0] ? text_of(info, "backing_format") : NULL;
        free(path);
        path = next;
    }
    free(path);
    return err;
}

err_t disk_info(struct disk_args *a, struct error *e)
{
    json_t *chain = json_array(), *info;
    size_t i;
    err_t err = describe_chain(a, chain, e);

    if (err == OK && a->json) {
        print_json(json_incref(a->chain ? chain : json_array_get(chain, 0)));
    } else if (err == OK) {
        json_array_foreach(chain, i, info)
        {
            if (i)
                putchar('\n');
            show_info(info);
        }
    }
    json_decref(chain);
    return err;
}

// --- check

struct findings {
    const struct disk_args *args;
    struct disk_progress progress;
    json_t *list;
    unsigned count;
};

static void found(void *opaque, bool leak, const char *words)
{
    struct findings *f = opaque;

    if (f->count++ >= (f->args->json ? FINDINGS_MAX : FINDINGS_SHOWN))
        return;
    if (f->args->json)
        json_array_append_new(
            f->list, json_pack("{s:s, s:s+}", "kind", leak ? "leak" : "error", "text", words, ""));
    else if (!f->args->quiet)
        printf("%s: %s\n", leak ? "leak" : "error", words);
}

static void check_progress(void *opaque, uint64_t done, uint64_t total)
{
    struct findings *f = opaque;

    disk_progress_step(&f->progress, done, total);
}

static const char *verdict(const struct qcow2_check *c)
{
    if (c->errors > c->errors_fixed)
        return "has errors; try: --repair=all, on a copy";
    if (c->leaks > c->leaks_fixed)
        return "wastes space, and is sound otherwise; --repair=leaks gives it back";
    return c->errors || c->leaks ? "is repaired" : "is sound";
}

static void tell_check(struct disk_args *a, const struct qcow2_check *c, struct findings *f)
{
    if (f->count > FINDINGS_SHOWN && !a->json && !a->quiet)
        printf("... and %u more\n", f->count - FINDINGS_SHOWN);
    disk_tell(
        a,
        json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:O}", "file", a->words[0],
                  "errors", (json_int_t)c->errors, "errors_fixed", (json_int_t)c->errors_fixed,
                  "leaks", (json_int_t)c->leaks, "leaks_fixed", (json_int_t)c->leaks_fixed,
                  "clusters", (json_int_t)c->clusters, "allocated", (json_int_t)c->allocated,
                  "compressed", (json_int_t)c->compressed, "zero", (json_int_t)c->zero, "file_end",
                  (json_int_t)c->file_end, "findings", f->list),
        "%s %s: %" PRIu64 " errors, %" PRIu64 " leaks; %" PRIu64 " of %" PRIu64
        " clusters have data, %" PRIu64 " of these packed",
        a->words[0], verdict(c), c->errors, c->leaks, c->allocated, c->clusters, c->compressed);
}

static err_t check_qcow2(struct disk_args *a, struct qcow2 *q, struct error *e)
{
    struct findings f = {.args = a, .list = json_array()};
    struct qcow2_check check = {.found = found, .progress = check_progress, .opaque = &f};

    disk_progress_begin(&f.progress, a, "checking");
    err_t err = qcow2_check(q, a->repair, &check, e);
    disk_progress_end(&f.progress);
    if (err == OK) {
        tell_check(a, &check, &f);
        a->status = check.errors > check.errors_fixed || check.leaks > check.leaks_fixed
                        ? EXIT_GUEST
                        : EXIT_OK;
    }
    json_decref(f.list);
    return err;
}

err_t disk_check(struct disk_args *a, struct error *e)
{
    const struct block_options options = {.format = a->format,
                                          .read_only = a->repair == QCOW2_REPAIR_NONE,
                                          .no_backing = true,
                                          .repair = true};
    struct block *block;
    err_t err = block_open(a->words[0], &options, &block, e);

    if (err != OK)
        return err;
    if (qcow2_of(block))
        err = check_qcow2(a, qcow2_of(block), e);
    else
        disk_tell(a, json_pack("{s:s, s:i, s:i}", "file", a->words[0], "errors", 0, "leaks", 0),
                  "%s is raw: there is nothing that could be wrong with it", a->words[0]);
    block_close(block);
    return err;
}

// --- map

static const char *kind_of(const struct block_extent *ext)
{
    return !ext->allocated ? "nothing" : !ext->data ? "zeros" : ext->compressed ? "packed" : "data";
}

static void show_extent(const struct disk_args *a, uint64_t at, const struct block_extent *ext)
{
    if (!a->json) {
        printf("%-14" PRIx64 " %-14" PRIx64 " %5u  %-8s", at, ext->len, ext->depth, kind_of(ext));
        if (ext->data && ext->placed)
            printf(" %" PRIx64, ext->host);
        putchar('\n');
        return;
    }
    printf("%s{\"start\": %" PRIu64 ", \"length\": %" PRIu64 ", \"depth\": %u, \"kind\": \"%s\"",
           at ? ",\n" : "", at, ext->len, ext->depth, kind_of(ext));
    if (ext->data && ext->placed)
        printf(", \"offset\": %" PRIu64, ext->host);
    putchar('}');
}

static bool continues(const struct block_extent *one, const struct block_extent *next)
{
    return one->depth == next->depth && !strcmp(kind_of(one), kind_of(next)) &&
           (!one->data || !one->placed || one->host + one->len == next->host);
}

static err_t show_map(const struct disk_args *a, struct block *block, struct error *e)
{
    uint64_t size = block->limits.size_bytes, start = 0;
    struct block_extent run = {0}, ext;
    err_t err = OK;

    for (uint64_t at = 0; err == OK && at < size; at += ext.len) {
        err = block_map(block, at, size - at, &ext, e);
        if (err == OK && at && !continues(&run, &ext)) {
            show_extent(a, start, &run);
            start = at;
        }
        if (err == OK && start == at)
            run = ext;
        else
            run.len += ext.len;
    }
    if (err == OK)
        show_extent(a, start, &run);
    return err;
}

err_t disk_map(struct disk_args *a, struct error *e)
{
    struct block *block;
    err_t err = disk_open_to_read(a, a->words[0], a->format, &block, e);

    if (err != OK)
        return err;
    fputs(a->json ? "[" : "start          length         depth  what     offset in the file\n",
          stdout);
    err = show_map(a, block, e);
    if (a->json)
        puts("]");
    block_close(block);
    return err;
}
