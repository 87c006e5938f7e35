// Links only where the compiler comes with libFuzzer.
#include "standalone.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return 0;
}
