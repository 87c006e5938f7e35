// Chains of images, each the backing file of the one above.
#pragma once

#include "block/block.h"

#define CHAIN_DEPTH_MAX 256

struct block_chain { // the images above one, nearest first
    uint64_t device, inode;
    unsigned depth;
    const struct block_chain *above;
};

// block_open() with what is above: ERR_CORRUPT for a cycle or a chain that is too long.
err_t chain_open(const char *path, const struct block_options *options,
                 const struct block_chain *above, struct block **out, struct error *e);

// Opens an image's backing file, to be read only. name: as it is in the image, relative to its
// folder; format: NULL for a guess.
err_t chain_open_below(const char *image, const char *name, const char *format,
                       const struct block_options *options, const struct block_chain *above,
                       struct block **out, struct error *e);

// The path of a backing file, to be freed.
err_t chain_path(const char *image, const char *name, char **path, struct error *e);
