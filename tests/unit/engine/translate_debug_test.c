// A debugger and translated code.
#include "debug_tests.h"
#include "kvm_box.h"

int main(void)
{
    kvm = &engine_translate;
    box_debug = 0;
    return test_main(debug_tests, debug_tests_count);
}
