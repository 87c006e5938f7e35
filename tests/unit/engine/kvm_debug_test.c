// A debugger and the KVM engine. Skipped where /dev/kvm does not open.
#include "debug_tests.h"
#include "kvm_box.h"

int main(void)
{
    return no_kvm() ? KVM_BOX_SKIPPED : test_main(debug_tests, debug_tests_count);
}
