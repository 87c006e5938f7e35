// berth disk: makes, shows and changes disk images. Here: the table of its verbs and their options.
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "cli/cli.h"
#include "cli/disk.h"

const char disk_help[] =
    "usage: berth disk create [-f FORMAT] [-b FILE [-F FORMAT]] [OPTION...] FILE [SIZE]\n"
    "       berth disk info [--chain] FILE\n"
    "       berth disk check [--repair=leaks|all] FILE\n"
    "       berth disk convert [-f FORMAT] [-O FORMAT] [-c] [OPTION...] FILE NEW\n"
    "       berth disk resize [--shrink] FILE [+|-]SIZE\n"
    "       berth disk snapshot list FILE\n"
    "       berth disk snapshot create|apply|delete FILE NAME\n"
    "       berth disk commit FILE\n"
    "       berth disk rebase [--unsafe] [-b FILE [-F FORMAT]] FILE\n"
    "       berth disk map FILE\n"
    "\n"
    "Makes, shows and changes disk images: raw and qcow2; convert also takes and makes vmdk, vdi,\n"
    "vhd and vhdx where qemu-img is installed. An image that a VM has open is refused.\n"
    "\n"
    "  -f, --format FORMAT      of FILE (what its content looks like; create: qcow2)\n"
    "  -O, --to FORMAT          of NEW (qcow2)\n"
    "  -b, --backing FILE       what shows where the image has nothing of its own; its path is\n"
    "                           relative to the image's folder. rebase without it: none\n"
    "  -F, --backing-format F   its format (what its content looks like)\n"
    "  -c, --compress           pack the new image's clusters\n"
    "      --force              replace a file that is there\n"
    "      --snapshot NAME      convert, map: the image as it was then\n"
    "      --shrink             resize: cut off the disk's end\n"
    "      --repair=WHAT        check: leaks, or all\n"
    "      --unsafe             rebase: change the name only, whatever the content\n"
    "      --chain              info: of the backing files, too\n"
    "      --json               for scripts\n"
    "  -q, --quiet              neither progress nor what was done\n"
    "\n"
    "New qcow2 images:\n"
    "      --cluster-size SIZE  512 to 2M (64K)\n"
    "      --subclusters        32 in each cluster: less is copied at a first write; needs 16K\n"
    "      --lazy-refcounts     write counts at the end only; a crash makes the next start slow\n"
    "      --compression TYPE   of packed clusters: zlib or zstd (zlib)\n"
    "      --refcount-bits N    1 to 64 (16)\n"
    "      --qcow2-version N    2 or 3 (3)\n"
    "\n"
    "SIZE is in bytes, or with K, M, G or T. Status 1: check found errors or leaks that remain.\n";

enum { // options without a letter, as one, for the verbs' lists
    OPT_FORCE = 'X',
    OPT_SHRINK = 'S',
    OPT_REPAIR = 'r',
    OPT_UNSAFE = 'u',
    OPT_CHAIN = 'C',
    OPT_JSON = 'j',
    OPT_CLUSTER = 's',
    OPT_SUBCLUSTERS = 'x',
    OPT_LAZY = 'l',
    OPT_COMPRESSION = 'z',
    OPT_REFCOUNT = 'n',
    OPT_VERSION = 'v',
    OPT_SNAPSHOT = 't',
};

static const struct option options[] = {
    {"format", required_argument, NULL, 'f'},
    {"to", required_argument, NULL, 'O'},
    {"backing", required_argument, NULL, 'b'},
    {"backing-format", required_argument, NULL, 'F'},
    {"compress", no_argument, NULL, 'c'},
    {"quiet", no_argument, NULL, 'q'},
    {"force", no_argument, NULL, OPT_FORCE},
    {"shrink", no_argument, NULL, OPT_SHRINK},
    {"repair", required_argument, NULL, OPT_REPAIR},
    {"unsafe", no_argument, NULL, OPT_UNSAFE},
    {"chain", no_argument, NULL, OPT_CHAIN},
    {"json", no_argument, NULL, OPT_JSON},
    {"cluster-size", required_argument, NULL, OPT_CLUSTER},
    {"subclusters", no_argument, NULL, OPT_SUBCLUSTERS},
    {"lazy-refcounts", no_argument, NULL, OPT_LAZY},
    {"compression", required_argument, NULL, OPT_COMPRESSION},
    {"refcount-bits", required_argument, NULL, OPT_REFCOUNT},
    {"qcow2-version", required_argument, NULL, OPT_VERSION},
    {"snapshot", required_argument, NULL, OPT_SNAPSHOT},
    {0},
};

#define NEW_QCOW2 "sxlznv"

static const struct disk_verb {
    const char *name, *takes; // its options; all take -q and --json
    unsigned min, max;        // other words
    const char *words;
    err_t (*run)(struct disk_args *a, struct error *e);
} verbs[] = {
    {"create", "fbFX" NEW_QCOW2, 1, 2, "FILE [SIZE]", disk_create},
    {"info", "fC", 1, 1, "FILE", disk_info},
    {"check", "fr", 1, 1, "FILE", disk_check},
    {"convert", "fOcXt" NEW_QCOW2, 2, 2, "FILE NEW", disk_convert},
    {"resize", "fS", 2, 2, "FILE SIZE", disk_resize},
    {"snapshot", "", 2, 3, "list|create|apply|delete FILE [NAME]", disk_snapshot},
    {"commit", "", 1, 1, "FILE", disk_commit},
    {"rebase", "bFu", 1, 1, "FILE", disk_rebase},
    {"map", "ft", 1, 1, "FILE", disk_map},
};

// --- options

static err_t choose(const char *option, const char *value, const char *first, const char *second,
                    bool *is_second, struct error *e)
{
    *is_second = !strcmp(value, second);
    return *is_second || !strcmp(value, first)
               ? OK
               : error_set(e, ERR_INVALID, "--%s: give %s or %s, not '%.40s'", option, first,
                           second, value);
}

static err_t small_number(const char *option, const char *value, uint32_t *out, struct error *e)
{
    uint64_t bytes;

    if (disk_size_parse(value, &bytes, NULL) != OK || !bytes || bytes > 16 * MIB)
        return error_set(e, ERR_INVALID, "--%s: '%.40s' does not do; see berth disk --help", option,
                         value);
    *out = (uint32_t)bytes;
    return OK;
}

static err_t take(struct disk_args *a, int id, const char *value, struct error *e)
{
    bool all;
    err_t err;

    switch (id) {
    case 'f': a->format = value; return OK;
    case 'O': a->to = value; return OK;
    case 'b': a->backing = value; return OK;
    case 'F': a->backing_format = value; return OK;
    case 'c': a->compress = true; return OK;
    case 'q': a->quiet = true; return OK;
    case OPT_FORCE: a->force = true; return OK;
    case OPT_SHRINK: a->shrink = true; return OK;
    case OPT_UNSAFE: a->unsafe = true; return OK;
    case OPT_CHAIN: a->chain = true; return OK;
    case OPT_JSON: a->json = true; return OK;
    case OPT_SUBCLUSTERS: a->qcow2.extended_l2 = true; return OK;
    case OPT_LAZY: a->qcow2.lazy_refcounts = true; return OK;
    case OPT_COMPRESSION: return choose("compression", value, "zlib", "zstd", &a->qcow2.zstd, e);
    case OPT_CLUSTER: return small_number("cluster-size", value, &a->qcow2.cluster_bytes, e);
    case OPT_REFCOUNT: return small_number("refcount-bits", value, &a->qcow2.refcount_bits, e);
    case OPT_SNAPSHOT: a->snapshot = value; return OK;
    case OPT_VERSION: return small_number("qcow2-version", value, &a->qcow2.version, e);
    case OPT_REPAIR:
        err = choose("repair", value, "leaks", "all", &all, e);
        a->repair = all ? QCOW2_REPAIR_ALL : QCOW2_REPAIR_LEAKS;
        return err;
    default: return ERR_INVALID;
    }
}

static err_t parse(const struct disk_verb *v, int argc, char **argv, struct disk_args *a,
                   struct error *e)
{
    optind = 0;
    opterr = 0;
    for (int id; (id = getopt_long(argc, argv, ":f:O:b:F:cq", options, NULL)) != -1;) {
        if (id == ':')
            return error_set(e, ERR_INVALID, "'%s' needs a value; see berth disk --help",
                             argv[optind - 1]);
        if (id == '?' || (id != 'q' && id != OPT_JSON && !strchr(v->takes, id)))
            return error_set(e, ERR_INVALID, "'%s' is no option of %s; see berth disk --help",
                             argv[optind - 1], v->name);
        err_t err = take(a, id, optarg, e);
        if (err != OK)
            return err;
    }
    a->count = (unsigned)(argc - optind);
    if (a->count < v->min || a->count > v->max)
        return error_set(e, ERR_INVALID, "%s needs %s; see berth disk --help", v->name, v->words);
    memcpy(a->words, argv + optind, a->count * sizeof *a->words);
    return OK;
}

int cmd_disk(int argc, char **argv)
{
    struct disk_args a = {0};
    struct error e = {0};

    for (size_t i = 0; argc >= 2 && i < ARRAY_LEN(verbs); i++) {
        if (strcmp(argv[1], verbs[i].name))
            continue;
        if (argc >= 3 && (!strcmp(argv[2], "--help") || !strcmp(argv[2], "-h"))) {
            fputs(disk_help, stdout);
            return EXIT_OK;
        }
        err_t err = parse(&verbs[i], argc - 1, argv + 1, &a, &e);
        if (err == OK)
            err = verbs[i].run(&a, &e);
        return err == OK ? a.status : complain(status_of(err), "%s", e.text);
    }
    if (argc < 2)
        return complain(EXIT_USAGE, "say what to do with which disk; see berth disk --help");
    return complain(EXIT_USAGE, "disk does not know '%s'; see berth disk --help", argv[1]);
}
