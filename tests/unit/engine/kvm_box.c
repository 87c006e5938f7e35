#include "kvm_box.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static uint64_t pio_read(void *opaque, unsigned vcpu, uint16_t port, unsigned size)
{
    box.seen.port = port;
    return 0x5a;
}

static void pio_write(void *opaque, unsigned vcpu, uint16_t port, unsigned size, uint64_t value)
{
    box.seen.port = port;
    box.seen.port_value = value;
    if (box.kick_at_port)
        kvm->kick(box.vcpu);
}

static uint64_t mmio_read(void *opaque, unsigned vcpu, gpa_t at, unsigned size)
{
    box.seen.at = at;
    return 0x1234;
}

static void mmio_write(void *opaque, unsigned vcpu, gpa_t at, unsigned size, uint64_t value)
{
    box.seen.at = at;
    box.seen.stored = value;
}

static err_t msr_read(void *opaque, unsigned vcpu, uint32_t msr, uint64_t *value)
{
    box.seen.msr = msr;
    *value = 0x1122334455667788;
    return OK;
}

static err_t msr_write(void *opaque, unsigned vcpu, uint32_t msr, uint64_t value)
{
    box.seen.msr = msr;
    box.seen.msr_value = value;
    return OK;
}

static int intr_ack(void *opaque, unsigned vcpu)
{
    return box.vector;
}

static uint8_t cr8_read(void *opaque, unsigned vcpu)
{
    return 0;
}

static void cr8_write(void *opaque, unsigned vcpu, uint8_t value)
{
}

const struct engine_upcalls kvm_box_upcalls = {.pio_read = pio_read,
                                               .pio_write = pio_write,
                                               .mmio_read = mmio_read,
                                               .mmio_write = mmio_write,
                                               .msr_read = msr_read,
                                               .msr_write = msr_write,
                                               .intr_ack = intr_ack,
                                               .cr8_read = cr8_read,
                                               .cr8_write = cr8_write};

struct kvm_box box;
const struct engine *kvm = &engine_kvm;
uint32_t box_debug;

struct engine_vm_config kvm_box_config(struct cpuid_table *table)
{
    const struct cpuid_request request = {.model = "base", .vcpus = 1, .tsc_khz = 1000000};
    struct cpuid_table host;
    cpuid_read_host(&host);
    if (cpuid_build(&request, &host, table, &box.e) != OK) {
        printf("Bail out! %s\n", box.e.text);
        exit(1);
    }
    return (struct engine_vm_config){.vcpus = 1, .cpuid = table, .tsc_khz = 1000000};
}

void open_box_with(uint32_t debug)
{
    struct cpuid_table table;
    struct engine_vm_config config = kvm_box_config(&table);
    memset(&box.seen, 0, sizeof box.seen);
    box.kick_at_port = false;
    box.vector = -1;
    config.debug = debug;
    box.ram = mmap(NULL, KVM_BOX_RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (kvm->vm_new(&config, &kvm_box_upcalls, NULL, &box.vm, &box.e) != OK ||
        kvm->map(box.vm, 0, KVM_BOX_RAM, box.ram, ENGINE_MAP_RAM, &box.e) != OK ||
        kvm->vcpu_new(box.vm, 0, &box.vcpu, &box.e) != OK ||
        kvm->vcpu_attach(box.vcpu, &box.e) != OK) {
        printf("Bail out! %s\n", box.e.text);
        exit(1);
    }
    cpu_state_reset(&box.in, true, 0);
}

void open_box(void)
{
    open_box_with(box_debug);
}

void close_box(void)
{
    kvm->vcpu_free(box.vcpu);
    kvm->vm_free(box.vm);
    munmap(box.ram, KVM_BOX_RAM);
}

enum engine_exit go_on(void)
{
    enum engine_exit exit = kvm->run(box.vcpu);
    if (exit == ENGINE_FAILED)
        printf("# %s\n", kvm->vcpu_error(box.vcpu));
    kvm->get(box.vcpu, ENGINE_ALL, &box.out);
    return exit;
}

enum engine_exit run_code(const uint8_t *code, size_t len)
{
    memcpy(box.ram + KVM_BOX_CODE, code, len);
    box.in.seg[SEG_CS].selector = 0;
    box.in.seg[SEG_CS].base = 0;
    box.in.rip = KVM_BOX_CODE;
    if (kvm->set(box.vcpu, ENGINE_ALL, &box.in, &box.e) == OK)
        return go_on();
    printf("# %s\n", box.e.text);
    return ENGINE_FAILED;
}

bool ordinary(void)
{
    struct engine_probe probe;
    kvm->probe(0, false, &probe);
    if (!probe.usable)
        printf("# not all tried: %s\n", probe.why);
    return probe.usable;
}

bool no_kvm(void)
{
    struct engine_probe probe = {0};
    kvm->probe(ENGINE_DEBUG_ANY_KVM, false, &probe);
    if (!probe.usable)
        printf("1..0 # SKIP %s\n", probe.why);
    return !probe.usable;
}
