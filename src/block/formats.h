// The formats behind block_open(), to each other and to it.
#pragma once

#include "block/block.h"

// The end of a path, which says more than its start, into a block's name.
void block_set_name(struct block *block, const char *path);

// guessed: nobody but the image's content said that it is raw (see block_open()).
err_t raw_open(const char *path, const struct block_options *options, bool guessed,
               struct block **out, struct error *e);
// A disk whose writes are lost with it: block_open() with snapshot.
err_t overlay_open(const char *path, const struct block_options *options, struct block **out,
                   struct error *e);
// Of a raw image that nothing is in flight on.
err_t raw_resize(struct block *block, uint64_t size_bytes, struct error *e);
