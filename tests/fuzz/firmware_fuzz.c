// Firmware images, templates for variables and files of variables of every size and of any content:
// what is taken fits where the board puts it, what is kept reaches the file, nothing else does, and
// every refusal has words.
//
// The input: the kind of firmware and which files there are; then, for each file, a size, how far
// it is off, and its last bytes. The files are in memory, so that sizes near 2^63 are
// tried too; symbolic links give them the names that the pair of a UEFI image has.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "device/misc/flash.h"
#include "device/platform.h"
#include "machine/board/pc_impl.h"
#include "standalone.h"

#define ROOM (16 * MIB) // below 4 GiB

enum { CODE, TEMPLATE, VARS, FILES };

static const char *const names[FILES] = {"CODE.fd", "VARS.fd", "kept"};

struct files {
    char dir[40], path[FILES][64];
    int fd[FILES]; // -1: there is no such file
};

struct mapped { // by the engine
    gpa_t at;
    uint64_t len;
    const void *host;
};

static void must(bool right)
{
    if (!right)
        abort();
}

static uint8_t take(const uint8_t **at, const uint8_t *end)
{
    return *at < end ? *(*at)++ : 0;
}

static off_t take_size(const uint8_t **at, const uint8_t *end)
{
    static const uint64_t sizes[] = {0,        PAGE_SIZE, 64 * KIB, 128 * KIB,  528 * KIB, 4 * MIB,
                                     12 * MIB, ROOM,      1 << 30,  1ull << 32, INT64_MAX};
    unsigned kind = take(at, end), off = take(at, end);
    uint64_t size = sizes[kind % ARRAY_LEN(sizes)];
    int64_t away = off % 8 == 0 ? 1 : off % 8 == 1 ? -1 : off % 8 == 2 ? 4096 : 0;

    if (away < 0 ? !size : size == INT64_MAX)
        return (off_t)size;
    return (off_t)(size + (uint64_t)away);
}

static void make_file(struct files *f, unsigned which, const uint8_t **at, const uint8_t *end)
{
    off_t size = take_size(at, end);
    char target[40];
    uint8_t tail[8];

    for (unsigned i = 0; i < sizeof tail; i++)
        tail[i] = take(at, end);
    f->fd[which] = memfd_create(names[which], MFD_CLOEXEC);
    must(f->fd[which] >= 0 && ftruncate(f->fd[which], size) == 0);
    if (size >= (off_t)sizeof tail)
        must(pwrite(f->fd[which], tail, sizeof tail, size - (off_t)sizeof tail) == sizeof tail);
    snprintf(target, sizeof target, "/proc/self/fd/%d", f->fd[which]);
    must(symlink(target, f->path[which]) == 0);
}

static void make_files(struct files *f, unsigned there, const uint8_t **at, const uint8_t *end)
{
    strcpy(f->dir, "/tmp/berth-firmware-XXXXXX");
    must(mkdtemp(f->dir));
    for (unsigned i = 0; i < FILES; i++) {
        snprintf(f->path[i], sizeof f->path[i], "%s/%s", f->dir, names[i]);
        f->fd[i] = -1;
        if (there & 1u << i)
            make_file(f, i, at, end);
    }
}

static void drop_files(struct files *f)
{
    for (unsigned i = 0; i < FILES; i++) {
        if (f->fd[i] >= 0)
            close(f->fd[i]);
        unlink(f->path[i]);
    }
    must(rmdir(f->dir) == 0);
}

static err_t note_map(struct engine_vm *engine_vm, gpa_t at, uint64_t len, void *host,
                      enum engine_map_flags flags, struct error *e)
{
    struct mapped *mapped = (struct mapped *)engine_vm;

    must(!mapped->len && flags == ENGINE_MAP_ROM);
    *mapped = (struct mapped){at, len, host};
    return OK;
}

static bool same(int fd, const uint8_t *data, uint64_t len)
{
    uint8_t *content = malloc(len);
    bool is = content && pread(fd, content, len, 0) == (ssize_t)len && !memcmp(content, data, len);

    free(content);
    return is;
}

static void check(const struct vm *vm, const struct mapped *mapped, const struct files *f)
{
    const struct firmware *fw = &vm->board->firmware;

    must(fw->rom_len && fw->rom_len % PAGE_SIZE == 0 && fw->rom_len + fw->vars_len <= ROOM);
    must(mapped->host == fw->rom && mapped->len == fw->rom_len &&
         mapped->at + mapped->len == PC_HIGH_RAM);
    must(same(f->fd[CODE], fw->rom, fw->rom_len));
    if (!fw->vars)
        return;
    must(fw->vars_len && fw->vars_len % FLASH_BLOCK == 0);
    fw->vars[fw->vars_len - 1] ^= 0xff; // as the guest would
    if (fw->vars_fd >= 0)
        must(same(fw->vars_fd, fw->vars, fw->vars_len));
    else
        must(!same(f->fd[TEMPLATE], fw->vars, fw->vars_len));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct engine engine = {.map = note_map};
    static struct board board;
    const uint8_t *at = data, *end = data + size;
    unsigned kind = take(&at, end);
    struct files f;
    struct mapped mapped = {0};
    char firmware[80];

    make_files(&f, kind & 7, &at, end);
    snprintf(firmware, sizeof firmware, "%s:%s", kind & 8 ? "bios" : "uefi", f.path[CODE]);
    const struct vm_config config = {.firmware = firmware,
                                     .uefi_vars = kind & 16 ? f.path[VARS] : NULL,
                                     .memory_bytes = VM_UEFI_MEMORY_MIN};
    struct vm vm = {.config = &config,
                    .engine = &engine,
                    .engine_vm = (struct engine_vm *)&mapped,
                    .board = &board};
    struct error e = {0};
    board.firmware = (struct firmware){.vars_fd = -1};
    if (firmware_open(&vm, &e) == OK)
        check(&vm, &mapped, &f);
    else
        must(e.text[0] && !strchr(e.text, '\n'));
    firmware_close(&vm);
    drop_files(&f);
    return 0;
}
