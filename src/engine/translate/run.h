// A vCPU's run loop.
#pragma once

#include "engine/translate/tcpu.h"

// Runs the guest until something that the machine must know; the engine contract's run().
enum engine_exit tcpu_run(struct tcpu *c);
