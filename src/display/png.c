// PNG through libpng, 8 bits each of red, green and blue. Used by command-line programs only: the
// VM's process hands out pixels.
#include "display/png.h"

#include <errno.h>
#include <fcntl.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// libpng reads rows of bytes R, G, B; ours are words.
static void encode_rows(png_structp png, const struct picture *p)
{
    png_byte row[DISPLAY_WIDTH_MAX * 3];
    for (uint32_t y = 0; y < p->height; y++) {
        for (uint32_t x = 0; x < p->width; x++) {
            uint32_t c = p->pixels[(size_t)y * p->width + x];
            row[3 * x] = (png_byte)(c >> 16);
            row[3 * x + 1] = (png_byte)(c >> 8);
            row[3 * x + 2] = (png_byte)c;
        }
        png_write_row(png, row);
    }
}

// libpng leaves by longjmp: nothing that must be released is made after setjmp.
static err_t encode(const struct picture *p, FILE *file)
{
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!info) {
        png_destroy_write_struct(&png, NULL);
        return ERR_NO_MEMORY;
    }
    if (setjmp(png_jmpbuf(png))) {
        png_destroy_write_struct(&png, &info);
        return ERR_IO;
    }
    png_init_io(png, file);
    png_set_IHDR(png, info, p->width, p->height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_write_info(png, info);
    encode_rows(png, p);
    png_write_end(png, NULL);
    png_destroy_write_struct(&png, &info);
    return OK;
}

static err_t cannot_write(const char *path, struct error *e)
{
    return error_set(e, err_from_errno(errno), "cannot write '%s': %s", path, strerror(errno));
}

err_t png_write(const struct picture *p, const char *path, struct error *e)
{
    char *part;
    if (asprintf(&part, "%s.XXXXXX", path) < 0)
        return error_set(e, ERR_NO_MEMORY, "no memory for a file's name");
    int fd = mkostemp(part, O_CLOEXEC);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "wb");
    err_t err = file ? encode(p, file) : ERR_IO;
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
