// The table of engines, best first.
#include "engine/engine.h"

const struct engine *const engines[] = {&engine_translate, NULL};
