// A debugger and the interpreter.
#include "debug_tests.h"
#include "kvm_box.h"

int main(void)
{
    kvm = &engine_translate;
    box_debug = ENGINE_DEBUG_INTERPRET;
    return test_main(debug_tests, debug_tests_count);
}
