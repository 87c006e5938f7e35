// The file of translations (jit_file.h): a header that says for which program, host and options
// they are, and stored blocks one after another, as in memory.
//
// What is in it will run in this process, so it is believed only if it is what we wrote. The file
// and its folder belong to the user and nobody else may write there; nothing is followed that could
// be a link. Each block has a checksum, keyed by the header's identity, which is looked at when the
// block is first used, together with every offset in it. The file is read, not mapped: nobody can
// change a block after it has been checked.
//
// The first VM to open the file adds to it when it ends; others only read.
#include "engine/translate/jit_file.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/log.h"
#include "engine/translate/jit_impl.h"
#include "engine/translate/siphash.h"

#define MAGIC 0x31434e4152544842ull // "BHTRANC1"
#define VERSION 2

struct header {
    uint64_t magic;
    uint32_t version;
    uint32_t header_bytes;
    uint64_t identity[2];
};

struct jit_file {
    int fd;
    bool writes;   // this VM holds the lock
    bool rewrites; // what is there is not to be kept
    uint64_t size; // of what was read
    struct header header;
};

// --- for whom the translations are ---------------------------------------------------------------

struct build_id {
    uint8_t bytes[64];
    size_t len;
};

static int find_build_id(struct dl_phdr_info *info, size_t size, void *opaque)
{
    struct build_id *id = opaque;
    for (unsigned i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *h = &info->dlpi_phdr[i];
        uint64_t at = 0;
        while (h->p_type == PT_NOTE && at + sizeof(ElfW(Nhdr)) <= h->p_memsz) {
            const ElfW(Nhdr) *note = (const void *)(info->dlpi_addr + h->p_vaddr + at);
            const uint8_t *desc = (const uint8_t *)(note + 1) + align_up(note->n_namesz, 4);
            if (note->n_type == NT_GNU_BUILD_ID && note->n_descsz <= sizeof id->bytes) {
                memcpy(id->bytes, desc, note->n_descsz);
                id->len = note->n_descsz;
            }
            at += sizeof *note + align_up(note->n_namesz, 4) + align_up(note->n_descsz, 4);
        }
    }
    return 1; // the program comes first
}

// All that decides which host code is made of which guest code.
struct origin {
    struct build_id build;
    uint32_t cpu[3][4]; // leaves 1, 7 and 0x80000001, without what differs from core to core
    struct feature_set features;
    uint32_t debug;
    uint32_t alone; // one vCPU
    uint32_t far;   // where the program lies decides how long the fixed code is
};

static bool identify(const struct tvm *vm, struct header *out)
{
    static const uint64_t key[2] = {MAGIC, VERSION};
    static const uint32_t leaves[3] = {1, 7, 0x80000001};
    struct origin o;
    memset(&o, 0, sizeof o);
    dl_iterate_phdr(find_build_id, &o.build);
    for (unsigned i = 0; i < 3; i++)
        __get_cpuid_count(leaves[i], 0, &o.cpu[i][0], &o.cpu[i][1], &o.cpu[i][2], &o.cpu[i][3]);
    o.cpu[0][1] = 0;
    cpuid_features(vm->config.cpuid, &o.features);
    o.debug = vm->config.debug;
    o.alone = vm->config.vcpus == 1;
    o.far = (uint64_t)(uintptr_t)identify > UINT32_MAX;
    *out = (struct header){MAGIC, VERSION, sizeof *out, {0}};
    siphash128(key, &o, sizeof o, out->identity);
    return o.build.len > 0;
}

// --- one block -----------------------------------------------------------------------------------

static bool notes_within(const struct stored *b, const struct stored_parts *p)
{
    const uint16_t *note = stored_part(b, p->notes);
    for (unsigned area = 0; area < 2; area++)
        for (unsigned kind = 0; kind < STORED_NOTES; kind++)
            for (unsigned i = b->notes[area][kind]; i; i--)
                if (*note++ + (kind == STORED_64 ? 8u : 4u) > (area ? b->cold : b->hot))
                    return false;
    return true;
}

static bool records_within(const struct stored *b, const struct stored_parts *p)
{
    const struct jit_mark *mark = stored_part(b, p->marks);
    const struct stored_site *site = stored_part(b, p->sites);
    const struct stored_link *link = stored_part(b, p->links);
    for (unsigned i = 0; i < b->insns; i++)
        if (mark[i].host > b->hot || mark[i].guest >= b->source)
            return false;
    for (unsigned i = 0; i < b->sites; i++)
        if (site[i].insn >= b->insns ||
            (site[i].resume > b->hot && site[i].resume != STORED_NOWHERE))
            return false;
    for (unsigned i = 0; i < b->links; i++)
        if (link[i].patch + 4u > b->hot || link[i].from >= PAGE_SIZE)
            return false;
    return true;
}

// In order, and each within one piece of code.
static bool moves_within(const struct stored *b, const struct stored_parts *p)
{
    const struct stored_move *move = stored_part(b, p->moves), *end = move + b->moves;
    const struct stored_span *span = stored_part(b, p->spans);
    uint32_t done = 0, to = b->source;
    for (unsigned i = 0; move < end; move++) {
        for (; move->at >= to && i < b->spans; to += span[i++].len)
            done = to;
        if (move->at < done || move->at + 4u > to || move->kind >= STORED_MOVE_KINDS)
            return false;
        done = move->at + 4u;
    }
    return true;
}

static bool spans_within(const struct stored *b, const struct stored_parts *p)
{
    const struct stored_span *span = stored_part(b, p->spans);
    uint32_t bytes = 0;
    for (unsigned i = 0; i < b->spans; bytes += span[i++].len)
        if (!span[i].len || span[i].at + (uint32_t)span[i].len > PAGE_SIZE)
            return false;
    return bytes == b->ahead;
}

bool stored_is_whole(const struct stored *b, uint64_t len)
{
    if (len < sizeof *b || b->bytes > len || b->bytes < sizeof *b)
        return false;
    const struct stored_parts p = stored_parts_of(b);
    return p.end == b->bytes && b->insns && b->insns <= JIT_INSNS && b->source &&
           b->at + (uint32_t)b->source <= PAGE_SIZE && b->entry < b->hot && b->stub < b->cold &&
           spans_within(b, &p) && moves_within(b, &p) && records_within(b, &p) &&
           notes_within(b, &p);
}

static void checksum(const uint64_t key[2], const struct stored *b, uint64_t out[2])
{
    siphash128(key, &b->mode, b->bytes - offsetof(struct stored, mode), out);
}

bool jit_file_vouches(const uint64_t key[2], const struct stored *b, uint64_t len)
{
    uint64_t sum[2];
    if (len < sizeof *b || b->bytes > len || b->bytes < sizeof *b)
        return false;
    checksum(key, b, sum);
    return sum[0] == b->check[0] && sum[1] == b->check[1] && stored_is_whole(b, len);
}

// --- opening -------------------------------------------------------------------------------------

// The folder, if nobody else can put something else in the file's place; else -1 and why.
static int open_folder(const char *path, const char **why)
{
    char copy[PATH_MAX];
    struct stat st;
    *why = "its folder cannot be opened";
    if (strlen(path) >= sizeof copy)
        return -1;
    int folder = open(dirname(strcpy(copy, path)), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0 || fstat(folder, &st) < 0)
        return folder;
    if ((st.st_uid == geteuid() || st.st_uid == 0) && !(st.st_mode & 022))
        return folder;
    *why = "others may write to its folder";
    close(folder);
    return -1;
}

static int open_owned(const char *path, const char **why)
{
    char copy[PATH_MAX];
    struct stat st;
    int folder = open_folder(path, why);
    if (folder < 0)
        return -1;
    int fd = openat(folder, basename(strcpy(copy, path)),
                    O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    close(folder);
    *why = "it cannot be opened, or is a link";
    if (fd < 0 || fstat(fd, &st) < 0)
        return fd;
    if (S_ISREG(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 077) && st.st_nlink == 1)
        return fd;
    *why = "it is not a file that is its owner's alone (chmod 600)";
    close(fd);
    return -1;
}

static bool read_all(int fd, void *to, uint64_t len)
{
    while (len) {
        ssize_t n = read(fd, to, min_u64(len, GIB));
        if (n <= 0)
            return false;
        to = (char *)to + n;
        len -= (uint64_t)n;
    }
    return true;
}

// What is wrong with the file, or NULL. *foreign: it is no file of translations at all.
static const char *read_file(struct jit_file *f, struct jit_store *s, bool *foreign)
{
    struct header there;
    struct stat st;
    if (fstat(f->fd, &st) < 0)
        return "it cannot be read";
    if (!st.st_size)
        return NULL;
    *foreign = (uint64_t)st.st_size < sizeof there || !read_all(f->fd, &there, sizeof there) ||
               there.magic != MAGIC;
    if (*foreign)
        return "it is something else than a file of translations";
    if (memcmp(&there, &f->header, sizeof there))
        return "it is of another version of Berth, another host CPU or other options; it is made "
               "anew";
    f->size = (uint64_t)st.st_size - sizeof there;
    uint8_t *to = jit_store_load(s, f->size, f->header.identity);
    if (!to)
        return "it is larger than shared-code allows; it is made anew";
    if (!read_all(f->fd, to, f->size))
        return "it is shorter than it was";
    uint64_t good = jit_store_loaded(s);
    if (good == f->size)
        return NULL;
    return "its end is damaged; the rest is used";
}

struct jit_file *jit_file_open(const char *path, struct tvm *vm)
{
    const char *why = "the program has no build-id";
    bool foreign = false;
    struct jit_file *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    f->fd = identify(vm, &f->header) ? open_owned(path, &why) : -1;
    if (f->fd >= 0) {
        f->writes = flock(f->fd, LOCK_EX | LOCK_NB) == 0;
        why = read_file(f, vm->store, &foreign);
        f->rewrites = why != NULL;
    }
    if (why)
        log_line(LOG_WARN, "translation-cache: %s: %s", path, why);
    if (f->fd >= 0 && !foreign)
        return f;
    if (f->fd >= 0)
        close(f->fd);
    free(f);
    return NULL;
}

// --- writing -------------------------------------------------------------------------------------

struct writer {
    int fd;
    const uint64_t *key;
    bool all;
    bool failed;
    size_t held;
    uint8_t buffer[256 * KIB];
};

static void flush(struct writer *w)
{
    for (size_t at = 0; at < w->held && !w->failed;) {
        ssize_t n = write(w->fd, w->buffer + at, w->held - at);
        w->failed = n <= 0;
        at += n > 0 ? (size_t)n : 0;
    }
    w->held = 0;
}

static void write_block(struct stored *b, void *opaque)
{
    struct writer *w = opaque;
    uint64_t bytes = align_up(b->bytes, STORED_UNIT);
    if (b->state != STORED_MADE && !(w->all && b->state == STORED_CHECKED))
        return;
    if (w->held + bytes > sizeof w->buffer)
        flush(w);
    checksum(w->key, b, b->check);
    memcpy(w->buffer + w->held, b, bytes);
    store_le32(w->buffer + w->held + offsetof(struct stored, state), STORED_UNCHECKED);
    w->held += bytes;
}

static void save(struct jit_file *f, struct jit_store *s)
{
    struct writer *w = calloc(1, sizeof *w);
    if (!w)
        return;
    w->fd = f->fd;
    w->key = f->header.identity;
    // What has grown too large, or is no good, is made anew from what this run has used.
    w->all =
        f->rewrites || jit_store_began_anew(s) || jit_store_used(s) > jit_store_size(s) / 4 * 3;
    if (w->all || !f->size) {
        w->failed = ftruncate(f->fd, 0) < 0 || lseek(f->fd, 0, SEEK_SET) < 0;
        memcpy(w->buffer, &f->header, sizeof f->header);
        w->held = sizeof f->header;
    } else {
        w->failed = lseek(f->fd, (off_t)(sizeof f->header + f->size), SEEK_SET) < 0;
    }
    jit_store_each(s, w->all, write_block, w);
    flush(w);
    if (w->failed)
        log_line(LOG_WARN, "translation-cache: it could not be written: %s", strerror(errno));
    free(w);
}

void jit_file_close(struct jit_file *f, struct jit_store *s)
{
    if (!f)
        return;
    if (f->writes)
        save(f, s);
    close(f->fd);
    free(f);
}
