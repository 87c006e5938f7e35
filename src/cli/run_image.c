// What berth run makes of a bare image: a disk or, where it holds a CD-ROM's file system, a disc;
// a name, memory for an operating system, and a file for UEFI's variables.
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "firmware/boot_guess.h"
#include "host/dirs.h"
#include "machine/config.h"

#define NAME_ROOM 60 // of 63: a number may follow
#define IMAGE_MEMORY (1 * GIB)

// --- the image -----------------------------------------------------------------------------------

static bool is_disc(const char *path)
{
    char magic[sizeof ISO_MAGIC - 1];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return false;
    ssize_t n = pread(fd, magic, sizeof magic, ISO_MAGIC_AT);
    close(fd);
    return n == sizeof magic && !memcmp(magic, ISO_MAGIC, sizeof magic);
}

static err_t add_image(struct vm_config *config, const char *image, struct error *e)
{
    err_t err = vm_disk_parse(config, image, e);
    if (err || !is_disc(config->disk[config->disks - 1].path))
        return err;
    struct vm_disk disk = config->disk[--config->disks];
    err = vm_cdrom_parse(config, disk.path, e);
    vm_disk_release(&disk);
    return err;
}

// The image is what is to be started, wherever it stands among the options.
static void move_first(struct vm_config *config)
{
    struct vm_disk last = config->disk[config->disks - 1];
    memmove(&config->disk[1], &config->disk[0], (config->disks - 1) * sizeof last);
    config->disk[0] = last;
}

// "/srv/Debian 12.qcow2" to "Debian-12". Where nothing of it can be a name, that stays as it is.
static err_t name_after(struct vm_config *config, const char *path, struct error *e)
{
    char name[NAME_ROOM + 1];
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    while (*base && !isalnum((unsigned char)*base))
        base++;
    snprintf(name, sizeof name, "%s", base);
    char *dot = strrchr(name, '.');
    if (dot && dot != name)
        *dot = '\0';
    for (char *p = name; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("._-", *p))
            *p = '-';
    return vm_name_valid(name) ? vm_config_set(&config->name, name, e) : OK;
}

err_t run_take_image(struct vm_config *config, const char *image, const struct run_given *given,
                     struct error *e)
{
    const char *kept = given->image_path ? given->image_path(given->opaque, image) : NULL;
    err_t err = add_image(config, kept ? kept : image, e);
    if (err)
        return err;
    move_first(config);
    if (!given->memory)
        config->memory_bytes = IMAGE_MEMORY;
    return given->name ? OK : name_after(config, kept ? image : config->disk[0].path, e);
}

// --- variables -----------------------------------------------------------------------------------

err_t run_keep_variables(struct vm_config *config, const struct run_given *given, struct error *e)
{
    char directory[3000], path[3200];
    bool nowhere = given->snapshot || (given->definition && !given->keep);
    bool bios = config->firmware && !strncmp(config->firmware, "bios", 4);
    if (!vm_config_has_firmware(config) || bios || config->uefi_vars || nowhere)
        return OK;
    if (given->keep) {
        snprintf(path, sizeof path, "%s/uefi-vars", given->keep);
        return vm_config_set(&config->uefi_vars, path, e);
    }
    if (host_data_path(directory, sizeof directory, NULL) || host_make_directories(directory, NULL))
        return OK;
    snprintf(path, sizeof path, "%s/%s.uefi-vars", directory, config->name);
    return vm_config_set(&config->uefi_vars, path, e);
}
