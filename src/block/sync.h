// Blocking requests to a block, for tools and for formats that have a block below.
#pragma once

#include "block/block.h"

// Any request; done and opaque are not the caller's.
err_t block_run(struct block *block, struct block_request io, struct error *e);
err_t block_read(struct block *block, uint64_t offset, void *data, uint64_t len, struct error *e);
err_t block_write(struct block *block, uint64_t offset, const void *data, uint64_t len,
                  struct error *e);
err_t block_request(struct block *block, enum block_op op, uint64_t offset, uint64_t len,
                    struct error *e); // those without data

// What a range is; where its type cannot tell, data.
err_t block_map(struct block *block, uint64_t offset, uint64_t len, struct block_extent *out,
                struct error *e);
