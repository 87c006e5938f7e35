// Firmware images: where they lie on the host and in the guest, the variable store in flash, and
// the debug port.
//
// A UEFI image is two files: the code, read-only, and a template for the variables, of which each
// VM has a copy of its own in the flash chip directly below the code (EDK II, OvmfPkg/README).
#include "machine/board/firmware.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/sync.h"
#include "device/misc/debugcon.h"
#include "device/misc/flash.h"
#include "firmware/boot_guess.h"
#include "host/file.h"
#include "host/memory.h"
#include "machine/board/pc_impl.h"

#define IMAGE_MIN (64 * KIB)
#define IMAGE_MAX (16 * MIB) // code and variables: what fits above the local APIC
#define VARS_MAX (4 * MIB)

// Where distributions put the images; the first that is there.
static const char *const bios_images[] = {
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/bios-256k.bin",
    NULL,
};
static const char *const uefi_images[] = {
    "/usr/share/OVMF/OVMF_CODE_4M.fd",
    "/usr/share/OVMF/OVMF_CODE.fd",
    "/usr/share/edk2/ovmf/OVMF_CODE.fd",
    "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
    NULL,
};

static const char *first_there(const char *const *paths)
{
    const char *const *path = paths;
    while (*path && access(*path, R_OK) < 0)
        path++;
    return *path ? *path : paths[0];
}

const char *vm_firmware_path(const char *name)
{
    return first_there(strcmp(name, "uefi") ? bios_images : uefi_images);
}

static const char *image_path(const struct vm_config *config, enum firmware_kind kind)
{
    const char *file = config->firmware ? strchr(config->firmware, ':') : NULL;
    if (file)
        return file + 1;
    return vm_firmware_path(kind == FIRMWARE_BIOS ? "bios" : "uefi");
}

// --- which one -----------------------------------------------------------------------------------

static bool read_block(void *opaque, uint64_t offset, void *data, size_t len)
{
    struct error e;
    return block_read(opaque, offset, data, len, &e) == OK;
}

static struct boot_ways ways_of(struct vm *vm, unsigned disk)
{
    struct block *block = vm->board->disk[disk];
    if (!block)
        return (struct boot_ways){0};
    struct boot_image image = {.read = read_block,
                               .opaque = block,
                               .size_bytes = block->limits.size_bytes,
                               .sector_bytes = block->limits.logical_block,
                               .cdrom = vm->config->disk[disk].cdrom};
    return boot_guess(&image);
}

// What starts the first disk that anything starts. Where both do, the BIOS, which is faster.
static enum firmware_kind guess(struct vm *vm)
{
    if (!vm->config->disks)
        return FIRMWARE_NONE;
    for (unsigned i = 0; i < vm->config->disks; i++) {
        struct boot_ways ways = ways_of(vm, i);
        bool bios = ways.bios && access(first_there(bios_images), R_OK) == 0;
        if (ways.uefi && !bios)
            return FIRMWARE_UEFI;
        if (ways.bios)
            return FIRMWARE_BIOS;
    }
    return FIRMWARE_BIOS;
}

// "uefi" and "uefi:FILE".
static bool is_kind(const char *firmware, const char *kind)
{
    size_t len = strlen(kind);
    return firmware && !strncmp(firmware, kind, len) && (!firmware[len] || firmware[len] == ':');
}

static enum firmware_kind choose(struct vm *vm)
{
    const char *name = vm->config->firmware;
    if (!vm_config_has_firmware(vm->config))
        return FIRMWARE_NONE;
    return is_kind(name, "bios")   ? FIRMWARE_BIOS
           : is_kind(name, "uefi") ? FIRMWARE_UEFI
                                   : guess(vm);
}

const char *vm_firmware(const struct vm *vm)
{
    static const char *const names[] = {"none", "bios", "uefi"};
    return names[vm->board->firmware.kind];
}

// --- the code ------------------------------------------------------------------------------------

static err_t check_image(const char *path, const struct host_file *file, struct error *e)
{
    if (file->len >= IMAGE_MIN && file->len % PAGE_SIZE == 0)
        return OK;
    return error_set(e, ERR_CORRUPT,
                     "'%s' is no firmware image: %zu bytes are not a whole number of 4 KiB pages, "
                     "at least 64 KiB",
                     path, file->len);
}

static err_t read_image(const char *path, enum firmware_kind kind, struct host_file *out,
                        struct error *e)
{
    err_t err = host_file_read(path, IMAGE_MAX, out, e);
    if (!err)
        return check_image(path, out, e);
    if (err == ERR_NOT_FOUND)
        (void)error_set(e, err,
                        "there is no firmware '%s'; install it with apt-get install %s, or name "
                        "another with --firmware %s:FILE",
                        path, kind == FIRMWARE_BIOS ? "seabios" : "ovmf",
                        kind == FIRMWARE_BIOS ? "bios" : "uefi");
    return err;
}

static err_t load_rom(struct vm *vm, const char *path, struct error *e)
{
    struct firmware *fw = &vm->board->firmware;
    struct host_file file = {0};
    void *rom = NULL;
    err_t err = read_image(path, fw->kind, &file, e);
    if (!err)
        err = host_ram_new(file.len, HOST_RAM_PRIVATE, &rom, e);
    if (!err) {
        memcpy(rom, file.data, file.len);
        fw->rom = rom;
        fw->rom_len = file.len;
        err = vm->engine->map(vm->engine_vm, PC_HIGH_RAM - fw->rom_len, fw->rom_len, rom,
                              ENGINE_MAP_ROM, e);
    }
    host_file_release(&file);
    return err;
}

// --- the variables -------------------------------------------------------------------------------

// The template beside the code: its name with VARS for CODE. NULL: the image has none.
static char *template_path(const char *code)
{
    char *path = strdup(code), *slash = path ? strrchr(path, '/') : NULL;
    char *word = path ? strstr(slash ? slash : path, "CODE") : NULL;
    if (word) {
        memcpy(word, "VARS", 4);
        return path;
    }
    free(path);
    return NULL;
}

static err_t read_template(const char *code, struct host_file *out, struct error *e)
{
    *out = (struct host_file){0};
    char *path = template_path(code);
    if (!path)
        return OK;
    err_t err = host_file_read(path, VARS_MAX, out, e);
    if (!err && (!out->len || out->len % FLASH_BLOCK))
        err = error_set(e, ERR_CORRUPT, "'%s' is no template for UEFI variables", path);
    free(path);
    return err == ERR_NOT_FOUND ? OK : err;
}

static err_t open_vars(struct vm *vm, const char *path, struct stat *st, struct error *e)
{
    struct firmware *fw = &vm->board->firmware;
    fw->vars_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fw->vars_fd < 0 || fstat(fw->vars_fd, st) < 0)
        return error_set(e, err_from_errno(errno), "cannot open the UEFI variables '%s': %s", path,
                         strerror(errno));
    if (flock(fw->vars_fd, LOCK_EX | LOCK_NB) < 0)
        return error_set(e, ERR_BUSY,
                         "another VM uses the UEFI variables '%s'; give this one a name of its own "
                         "(--name) or another file (--uefi-vars)",
                         path);
    return OK;
}

// A file of the VM's own, filled from the template when it is new.
static err_t keep_vars(struct vm *vm, const char *path, const struct host_file *template,
                       struct error *e)
{
    struct firmware *fw = &vm->board->firmware;
    struct stat st;
    err_t err = open_vars(vm, path, &st, e);
    if (!err && st.st_size == 0)
        err = host_write_all(fw->vars_fd, template->data, template->len)
                  ? error_set(e, ERR_IO, "cannot write the UEFI variables '%s'", path)
                  : OK;
    else if (!err && (uint64_t)st.st_size != template->len)
        err = error_set(e, ERR_INVALID,
                        "'%s' holds variables of another firmware: %lld bytes, this one has %zu; "
                        "remove it, or give another file with --uefi-vars",
                        path, (long long)st.st_size, template->len);
    if (err)
        return err;
    void *at = mmap(NULL, template->len, PROT_READ | PROT_WRITE, MAP_SHARED, fw->vars_fd, 0);
    if (at == MAP_FAILED)
        return error_set(e, ERR_IO, "cannot map '%s': %s", path, strerror(errno));
    fw->vars = at;
    fw->vars_len = template->len;
    return OK;
}

static err_t lend_vars(struct vm *vm, const struct host_file *template, struct error *e)
{
    struct firmware *fw = &vm->board->firmware;
    void *at =
        mmap(NULL, template->len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return error_set(e, ERR_NO_MEMORY, "no memory for UEFI variables");
    memcpy(at, template->data, template->len);
    fw->vars = at;
    fw->vars_len = template->len;
    return OK;
}

static err_t load_vars(struct vm *vm, const char *code, struct error *e)
{
    struct host_file template;
    const char *path = vm->config->uefi_vars;
    err_t err = read_template(code, &template, e);
    if (!err && template.len + vm->board->firmware.rom_len > IMAGE_MAX)
        err = error_set(e, ERR_INVALID, "code and variables of '%s' exceed 16 MiB", code);
    if (!err && template.len)
        err = path && *path ? keep_vars(vm, path, &template, e) : lend_vars(vm, &template, e);
    host_file_release(&template);
    return err;
}

// --- life ----------------------------------------------------------------------------------------

err_t firmware_open(struct vm *vm, struct error *e)
{
    struct firmware *fw = &vm->board->firmware;
    fw->kind = choose(vm);
    if (fw->kind == FIRMWARE_NONE)
        return OK;
    if (fw->kind == FIRMWARE_UEFI && vm->config->memory_bytes < VM_UEFI_MEMORY_MIN)
        return error_set(e, ERR_INVALID,
                         "the disk starts by UEFI, which needs more memory; give -m %lluM",
                         VM_UEFI_MEMORY_MIN / MIB);
    const char *path = image_path(vm->config, fw->kind);
    err_t err = load_rom(vm, path, e);
    return err || fw->kind == FIRMWARE_BIOS ? err : load_vars(vm, path, e);
}

static void flush_line(struct vm *vm)
{
    struct firmware *fw = &vm->board->firmware;
    vm->hooks.firmware_out(vm->hooks.opaque, (const uint8_t *)fw->line, fw->line_len);
    fw->line_len = 0;
}

static void log_byte(void *opaque, uint8_t byte)
{
    struct vm *vm = opaque;
    struct firmware *fw = &vm->board->firmware;
    fw->line[fw->line_len++] = (char)byte;
    if (byte == '\n' || fw->line_len == sizeof fw->line)
        flush_line(vm);
}

err_t firmware_add_devices(struct vm *vm, struct error *e)
{
    struct firmware *fw = &vm->board->firmware;
    err_t err = OK;
    if (fw->vars) {
        struct flash_config flash = {
            .at = PC_HIGH_RAM - fw->rom_len - fw->vars_len, .data = fw->vars, .len = fw->vars_len};
        err = devices_add(vm, &flash_type, "flash", &flash, NULL, NULL, e);
    }
    if (!err && vm->hooks.firmware_out) {
        struct debugcon_config debugcon = {.port = DEBUGCON_PORT, .write = log_byte, .opaque = vm};
        err = devices_add(vm, &debugcon_type, "debugcon", &debugcon, NULL, NULL, e);
    }
    return err;
}

void firmware_close(struct vm *vm)
{
    struct firmware *fw = &vm->board->firmware;
    if (fw->line_len && vm->hooks.firmware_out)
        flush_line(vm);
    if (fw->vars)
        munmap(fw->vars, fw->vars_len);
    if (fw->vars_fd >= 0)
        close(fw->vars_fd);
    if (fw->rom)
        host_ram_free(fw->rom, fw->rom_len);
}
