// The table of engines, best first.
#include "engine/engine.h"

const struct engine *const engines[] = {&engine_kvm, &engine_translate, NULL};
