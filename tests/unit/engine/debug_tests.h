// A debugger's view of an engine, the same for all: points, INT3, single steps.
#pragma once

#include "test.h"

extern const struct test debug_tests[];
extern const size_t debug_tests_count;
