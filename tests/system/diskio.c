// Obeys lines from standard input on one disk image, through block_open(): the tests' hand on our
// side, as qemu-io is on the other. Answers each line with "ok" or "error CODE". Arguments: IMAGE
// and its format.
//
//     write OFFSET FILE            the file's content
//     burst OFFSET LEN ORDER FILE  the same in requests of LEN bytes, all at once; ORDER 1: pairs
//                                  swapped
//     read OFFSET LEN FILE         into the file
//     zero OFFSET LEN
//     discard OFFSET LEN
//     flush
//     storm SEED                   random requests until killed, and the number of the last one
//                                  after each flush; disk_cross.py has the same random numbers
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/sync.h"
#include "host/file.h"

static err_t read_to(struct block *block, uint64_t offset, uint64_t len, const char *path)
{
    uint8_t *data = malloc(len);
    err_t err = block_read(block, offset, data, len, NULL);
    FILE *f = fopen(path, "wb");

    if (f) {
        fwrite(data, 1, len, f);
        fclose(f);
    }
    free(data);
    return f ? err : ERR_IO;
}

static unsigned failed;

static void one_done(struct block_request *io, err_t result)
{
    if (result != OK)
        __atomic_fetch_add(&failed, 1, __ATOMIC_RELAXED);
}

struct one {
    struct block_request io;
    struct iovec iov[2];
};

static void submit_one(struct block *block, struct one *o, uint64_t offset, uint8_t *data,
                       uint64_t len)
{
    o->iov[0] = (struct iovec){data, len / 2};
    o->iov[1] = (struct iovec){data + len / 2, len - len / 2};
    o->io = (struct block_request){.op = BLOCK_WRITE,
                                   .offset = offset,
                                   .len = len,
                                   .iov = o->iov,
                                   .iovs = 2,
                                   .done = one_done};
    block->type->submit(block, &o->io);
}

static err_t burst(struct block *block, uint64_t offset, uint64_t len, uint64_t order,
                   const struct host_file *f)
{
    uint64_t count = (f->len + len - 1) / len;
    struct one *all = calloc(count, sizeof *all);

    failed = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t k = (i ^ order) < count && order < 2 ? i ^ order : i;
        uint64_t at = k * len;
        submit_one(block, &all[k], offset + at, f->data + at,
                   f->len - at < len ? f->len - at : len);
    }
    block->type->drain(block);
    free(all);
    return failed ? ERR_IO : OK;
}

// --- storms

enum { STORM_BLOCK = 4096, STORM_BLOCKS = 16, STORM_BATCH = 16, STORM_FLUSH = 8 };

struct storm {
    uint64_t random, seq;
    unsigned count;
    uint64_t start[STORM_BATCH], end[STORM_BATCH]; // of this batch's, in blocks
    struct one one[STORM_BATCH], flush;
    uint64_t data[STORM_BATCH][STORM_BLOCKS * STORM_BLOCK / 8];
};

static uint64_t roll(struct storm *s, uint64_t below)
{
    s->random = s->random * 6364136223846793005 + 1442695040888963407;
    return (s->random >> 33) % below;
}

static void storm_one(struct storm *s, struct block *block)
{
    uint64_t start = roll(s, block->limits.size_bytes / STORM_BLOCK);
    uint64_t end = start + 1 + roll(s, STORM_BLOCKS), kind = roll(s, 16);
    unsigned i = s->count;
    struct one *o = &s->one[i];

    s->seq++;
    for (unsigned k = 0; k < s->count; k++) {
        if (start < s->end[k] && s->start[k] < end)
            return;
    }
    if (end > block->limits.size_bytes / STORM_BLOCK)
        return;
    s->start[i] = start;
    s->end[i] = end;
    s->count++;
    for (uint64_t w = 0; w < (end - start) * STORM_BLOCK / 8; w++)
        s->data[i][w] = s->seq << 24 | (start + w * 8 / STORM_BLOCK);
    o->iov[0] = (struct iovec){s->data[i], (end - start) * STORM_BLOCK};
    o->io = (struct block_request){.op = kind == 0   ? BLOCK_WRITE_ZEROES
                                         : kind == 1 ? BLOCK_DISCARD
                                                     : BLOCK_WRITE,
                                   .offset = start * STORM_BLOCK,
                                   .len = (end - start) * STORM_BLOCK,
                                   .iov = o->iov,
                                   .iovs = 1,
                                   .done = one_done};
    block->type->submit(block, &o->io);
}

// What a program that logs all writes wants to know: all up to this request was flushed.
__attribute__((weak)) void power_note(uint64_t flushed);

// Nothing is said of this one: it is for what it does to the writes around it.
static void flush_meanwhile(struct storm *s, struct block *block)
{
    s->flush.io = (struct block_request){.op = BLOCK_FLUSH, .done = one_done};
    block->type->submit(block, &s->flush.io);
}

static err_t storm(struct block *block, uint64_t seed)
{
    struct storm *s = calloc(1, sizeof *s);
    err_t err = s ? OK : ERR_NO_MEMORY;

    failed = 0;
    for (uint64_t batch = 1; err == OK && !failed; batch++) {
        if (batch == 1)
            s->random = seed;
        s->count = 0;
        for (unsigned i = 0; i < STORM_BATCH; i++) {
            if (i == STORM_BATCH / 2 && batch % 2)
                flush_meanwhile(s, block);
            storm_one(s, block);
        }
        block->type->drain(block);
        if (batch % STORM_FLUSH)
            continue;
        err = block_request(block, BLOCK_FLUSH, 0, 0, NULL);
        if (power_note)
            power_note(s->seq);
        printf("%llu\n", (unsigned long long)s->seq);
        fflush(stdout);
    }
    free(s);
    return ERR_IO;
}

// --- lines

static err_t with_file(struct block *block, const char *path, uint64_t offset, uint64_t len,
                       uint64_t order)
{
    struct host_file f;
    err_t err = host_file_read(path, 64 * MIB, &f, NULL);

    if (err != OK)
        return err;
    err = len ? burst(block, offset, len, order, &f)
              : block_write(block, offset, f.data, f.len, NULL);
    host_file_release(&f);
    return err;
}

static err_t obey(struct block *block, const char *line)
{
    unsigned long long a, b, c;
    char path[200];

    if (sscanf(line, "write %llu %199s", &a, path) == 2)
        return with_file(block, path, a, 0, 0);
    if (sscanf(line, "burst %llu %llu %llu %199s", &a, &b, &c, path) == 4)
        return with_file(block, path, a, b, c);
    if (sscanf(line, "read %llu %llu %199s", &a, &b, path) == 3)
        return read_to(block, a, b, path);
    if (sscanf(line, "zero %llu %llu", &a, &b) == 2)
        return block_request(block, BLOCK_WRITE_ZEROES, a, b, NULL);
    if (sscanf(line, "discard %llu %llu", &a, &b) == 2)
        return block_request(block, BLOCK_DISCARD, a, b, NULL);
    if (!strcmp(line, "flush\n"))
        return block_request(block, BLOCK_FLUSH, 0, 0, NULL);
    if (sscanf(line, "storm %llu", &a) == 1)
        return storm(block, a);
    return ERR_INVALID;
}

int main(int argc, char **argv)
{
    struct block_options options = {.format = argc > 2 ? argv[2] : NULL};
    struct block *block;
    struct error e;
    char line[300];

    if (argc < 2 || block_open(argv[1], &options, &block, &e) != OK) {
        fprintf(stderr, "diskio: %s\n", argc < 2 ? "no image" : e.text);
        return 1;
    }
    while (fgets(line, sizeof line, stdin)) {
        err_t err = obey(block, line);
        printf(err == OK ? "ok\n" : "error %d\n", (int)err);
        fflush(stdout);
    }
    block_close(block);
    return 0;
}
