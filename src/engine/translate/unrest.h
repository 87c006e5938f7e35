// Pages that are both written and run, again and again: those of programs that make code while they
// run it, of guests whose code and data share pages. Protecting such a page costs more than it
// brings, so for a while it is left open: nobody keeps translations of it but of the kind that
// compare their own bytes (jit_verify.c). All of this is about what pays; nothing depends on it.
#pragma once

#include "engine/translate/tvm.h"

#define UNREST_STRIKE 25 // what a write costs that met translations, counted in writes that did not

// A write to page n of the slot went unprotected code's way, at such a cost. True: the page is open
// from now on, and is to be rid of its translations.
bool unrest_noted(const struct tvm_slot *slot, uint64_t n, unsigned cost);

// Is the page of RAM open?
bool unrest_is_open(const struct tvm *vm, gpa_t page);
