// Changed partition tables and boot catalogues: nothing may be read beyond the image, and not more
// of it than boot_guess() says. The first byte chooses the image; each three that follow change one
// byte where decisions are made.
#include <stdlib.h>

#include "../unit/firmware/boot_images.h"
#include "standalone.h"

#define READ_MAX (64 * KIB)

struct watched {
    const uint8_t *image;
    uint64_t size, read;
};

static bool watched_read(void *opaque, uint64_t offset, void *data, size_t len)
{
    struct watched *w = opaque;
    if (offset > w->size || len > w->size - offset || (w->read += len) > READ_MAX)
        abort();
    memcpy(data, w->image + offset, len);
    return true;
}

static void make(uint8_t *image, unsigned kind)
{
    if (kind % 3 == 0)
        boot_image_mbr(image, kind & 4, kind & 8 ? 0xef : 0xee);
    else if (kind % 3 == 1)
        boot_image_gpt(image, kind & 16 ? 4096 : 512, true, true, true, true);
    else
        boot_image_disc(image, 0, 0xef);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint16_t places[] = {0,    446,  512,       1024,      1280,
                                      4096, 8192, 16 * 2048, 17 * 2048, BOOT_CATALOG_SECTOR * 2048};
    static uint8_t image[BOOT_IMAGE_BYTES];
    unsigned kind = size ? data[0] : 0;
    make(image, kind);
    for (size_t i = 1; i + 3 <= size; i += 3)
        image[places[data[i] % ARRAY_LEN(places)] + data[i + 1]] = data[i + 2];
    for (uint64_t bytes = BOOT_IMAGE_BYTES; bytes; bytes = kind & 32 ? bytes / 3 : 0) {
        struct watched w = {image, bytes, 0};
        const struct boot_image disk = {watched_read, &w, bytes, kind & 16 ? 4096 : 512,
                                        kind % 3 == 2};
        (void)boot_guess(&disk);
    }
    return 0;
}
