// Translations of earlier runs, in a file. See docs/engine-translate-store.md.
#pragma once

#include "engine/translate/jit_store.h"
#include "engine/translate/tvm.h"

struct jit_file;

// Opens the file, made if need be, and puts into the store what it has for this program, this host
// and this VM. Where something is wrong with it, says so in the log and does without: NULL.
struct jit_file *jit_file_open(const char *path, struct tvm *vm);

// Adds what is new in the store, when no vCPU runs any more, and closes it. Accepts NULL.
void jit_file_close(struct jit_file *f, struct jit_store *s);

// Whether a block from outside, of at most len bytes, is one that can be copied: no offset in it
// leads out of it.
bool stored_is_whole(const struct stored *b, uint64_t len);
// That, and that it is as it was written.
bool jit_file_vouches(const uint64_t key[2], const struct stored *b, uint64_t len);
