// Mutates small kernels of every format and loads them: nothing may crash, write outside guest RAM
// or take long. Deterministic: the same seed gives the same files. Arguments: rounds, seed.

#include <stdio.h>
#include <stdlib.h>

#include "../unit/firmware/fake_memory.h"
#include "../unit/firmware/images.h"
#include "firmware/layout.h"
#include "firmware/loader.h"

static uint64_t seed;

static uint64_t draw(void) // xorshift64*
{
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return seed * 0x2545f4914f6cdd1dull;
}

static size_t make(uint8_t *image)
{
    size_t len;
    switch (draw() % 5) {
    case 0: return image_bzimage(image);
    case 1:
        len = image_elf(image, true);
        image_add_pvh(image);
        return len;
    case 2:
        len = image_elf(image, false);
        image_add_pvh(image);
        return len;
    case 3:
        len = image_elf(image, false);
        image_add_multiboot(image, 3);
        return len;
    default:
        len = image_elf(image, false);
        image_add_multiboot(image, 0x10003);
        return len;
    }
}

// Headers are where the decisions are made, so most changes go there, and most values are extremes.
static void mutate(uint8_t *image, size_t len)
{
    static const uint64_t values[] = {0,          1,          0x7fffffff, 0x80000000,  0xffffffff,
                                      ~0ull,      0x10000,    0xa0000,    0x100000,    0xfffff000,
                                      1ull << 63, ~0ull >> 1, 0xc0000000, 0x3ffffffff, 4096};
    static const uint16_t headers[] = {0, 64, 256, 0x1f0, 512};
    for (unsigned n = (unsigned)(draw() % 5); n; n--) {
        size_t at = (headers[draw() % 5] + draw() % 160) % (len - 8);
        unsigned size = 1u << draw() % 4;
        store_le(image + at, size, draw() % 3 ? values[draw() % ARRAY_LEN(values)] : draw());
    }
}

int main(int argc, char **argv)
{
    static uint8_t image[IMAGE_ROOM];
    static const uint8_t initrd[3 * PAGE_SIZE];
    unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 0) : 20000, loaded = 0;
    seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    struct fake_memory fake;
    fake_init(&fake, BOOT_RAM_MIN * 8);
    for (unsigned long i = 0; i < rounds; i++) {
        size_t len = make(image);
        mutate(image, len);
        len = draw() % 4 ? len : draw() % (len + 1);
        uint8_t *exact = malloc(len ? len : 1); // so that a sanitizer sees reads beyond the file
        memcpy(exact, image, len);
        struct boot_request rq = {.kernel = exact, .kernel_len = len, .cmdline = "a b"};
        rq.initrd = draw() % 2 ? initrd : NULL;
        rq.initrd_len = sizeof initrd;
        struct cpu_state s = {0};
        struct boot_result result;
        struct error e = {0};
        err_t err = loader_load(&rq, &fake.memory, &s, &result, &e);
        free(exact);
        loaded += err == OK;
        if (err != OK && (e.text[0] == 0 || strchr(e.text, '\n'))) {
            printf("round %lu: refused without words\n", i);
            return 1;
        }
    }
    fake_release(&fake);
    printf("%lu of %lu files loaded\n", loaded, rounds);
    return loaded == 0; // all refused: the corpus itself is broken
}
