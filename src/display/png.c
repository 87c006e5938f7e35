// PNG through libpng, 8 bits each of red, green and blue. Used by command-line programs only: the
// VM's process hands out pixels.
#include "display/png.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LIBRARY "libpng16.so.16"

typedef int write_to_stdio(png_imagep image, FILE *file, int convert_to_8_bit, const void *buffer,
                           png_int_32 row_stride, const void *colormap);

// What only pictures need is loaded with the first one: it would be a tenth of what berth's start
// takes.
static err_t load(write_to_stdio **out, struct error *e)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    void *found = library ? dlsym(library, "png_image_write_to_stdio") : NULL;
    if (!found)
        return error_set(e, ERR_UNSUPPORTED,
                         "pictures need %s: %s; install the package libpng16-16", LIBRARY,
                         dlerror());
    memcpy(out, &found, sizeof found);
    return OK;
}

// libpng reads rows of bytes R, G, B; ours are words.
static png_byte *bytes_of(const struct picture *p)
{
    size_t pixels = (size_t)p->width * p->height;
    png_byte *rgb = malloc(3 * pixels);
    for (size_t i = 0; rgb && i < pixels; i++) {
        rgb[3 * i] = (png_byte)(p->pixels[i] >> 16);
        rgb[3 * i + 1] = (png_byte)(p->pixels[i] >> 8);
        rgb[3 * i + 2] = (png_byte)p->pixels[i];
    }
    return rgb;
}

static err_t encode(write_to_stdio *write, const struct picture *p, FILE *file)
{
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = p->width,
                       .height = p->height,
                       .format = PNG_FORMAT_RGB};
    png_byte *rgb = bytes_of(p);
    if (!rgb)
        return ERR_NO_MEMORY;
    err_t err = write(&image, file, 0, rgb, 0, NULL) ? OK : ERR_IO;
    free(rgb);
    return err;
}

static err_t cannot_write(const char *path, struct error *e)
{
    return error_set(e, err_from_errno(errno), "cannot write '%s': %s", path, strerror(errno));
}

err_t png_write(const struct picture *p, const char *path, struct error *e)
{
    char *part;
    write_to_stdio *write = NULL;
    err_t err = load(&write, e);
    if (err)
        return err;
    if (asprintf(&part, "%s.XXXXXX", path) < 0)
        return error_set(e, ERR_NO_MEMORY, "no memory for a file's name");
    int fd = mkostemp(part, O_CLOEXEC);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "wb");
    err = file ? encode(write, p, file) : ERR_IO;
    mode_t mask = umask(0);
    umask(mask);
    if (file && !err && (fflush(file) || fchmod(fd, 0666 & ~mask)))
        err = ERR_IO;
    if (file && fclose(file))
        err = ERR_IO;
    if (!err && rename(part, path) < 0)
        err = ERR_IO;
    if (err) {
        err = cannot_write(path, e);
        if (fd >= 0)
            unlink(part);
    }
    free(part);
    return err;
}
