// Another process interrupts a guest for a virtio device: through the engine where it can, else by
// way of the main loop, and as the guest has set up its vector either way.
//
//     signal_test [--debug LIST] GUEST ENGINE...
//
// Exit status: 0 passed, 1 failed, 77 an engine cannot be used here.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device/virtio/virtio_pci.h"
#include "host/clock.h"
#include "machine/vm_impl.h"
#include "signals.h"

#define SKIPPED 77
#define LOOK_EVERY_US 1000
#define LIMIT (60 * 1000000000ull)
#define A_WHILE_US 50000

// The loop runs on the program's thread, what follows below on another.
struct stand {
    struct loop *loop;
    struct vm *vm;
    struct owned_device *rng;
    volatile struct signals_box *box;
    uint64_t commands;
    bool failed;
    struct loop_work pause, resume;
    bool paused; // [any]
};

static void fail(struct stand *s, const char *what)
{
    printf("# %s\n", what);
    s->failed = true;
}

static void expect(struct stand *s, const char *what, const volatile uint64_t *where,
                   uint64_t value)
{
    uint64_t deadline = host_now() + LIMIT;
    while (!s->failed && *where != value && host_now() < deadline)
        usleep(LOOK_EVERY_US);
    if (!s->failed && *where != value)
        fail(s, what);
}

static void command(struct stand *s, enum signals_command command)
{
    s->box->command = (uint64_t)command << 32 | ++s->commands;
    expect(s, "the guest does not obey", &s->box->done, s->box->command);
}

static void signal_once(struct stand *s)
{
    const uint64_t one = 1;
    if (write(signals_fd(s->rng->dev, 0), &one, sizeof one) != sizeof one)
        fail(s, "the device has no signal");
}

// --- the tests, in the life of one guest

static void arrives(struct stand *s)
{
    expect(s, "the guest's driver does not start", &s->box->ready, 1);
    for (unsigned i = 1; i <= 20; i++) {
        signal_once(s);
        expect(s, "an interrupt is missing", &s->box->first, i);
    }
    if (s->rng->signal[0].placed != (s->vm->irq.kept != ENGINE_CHIPS_NONE))
        fail(s, "it went the other way");
}

static void waits_while_masked(struct stand *s)
{
    command(s, SIGNALS_MASK);
    signal_once(s);
    usleep(A_WHILE_US);
    command(s, SIGNALS_PENDING);
    if (s->box->first != 20 || s->box->pending != 1)
        fail(s, "a masked vector interrupts, or is not pending");
    command(s, SIGNALS_UNMASK);
    expect(s, "what was pending does not come", &s->box->first, 21);
}

static void follows_the_vectors_message(struct stand *s)
{
    command(s, SIGNALS_OTHER);
    signal_once(s);
    expect(s, "the new message does not come", &s->box->other, 1);
}

static void pause_vm(void *opaque)
{
    struct stand *s = opaque;
    vm_pause(s->vm);
    __atomic_store_n(&s->paused, true, __ATOMIC_RELEASE);
}

static void resume_vm(void *opaque)
{
    struct stand *s = opaque;
    vm_resume(s->vm);
}

static void survives_a_pause(struct stand *s)
{
    loop_post(s->loop, &s->pause);
    while (!__atomic_load_n(&s->paused, __ATOMIC_ACQUIRE))
        usleep(LOOK_EVERY_US);
    signal_once(s);
    usleep(A_WHILE_US);
    loop_post(s->loop, &s->resume);
    expect(s, "what came in a pause is lost", &s->box->other, 2);
    signal_once(s);
    expect(s, "there are no signals after a pause", &s->box->other, 3);
}

static void goes_by_the_line_without_msix(struct stand *s)
{
    command(s, SIGNALS_LINE);
    signal_once(s);
    expect(s, "the line does not interrupt", &s->box->line, 1);
    if (s->box->first != 21 || s->box->other != 3 || s->box->wrong)
        fail(s, "the guest counts something else");
}

static const struct {
    const char *name;
    void (*run)(struct stand *s);
} tests[] = {{"signal_arrives", arrives},
             {"signal_waits_while_masked", waits_while_masked},
             {"signal_follows_the_vectors_message", follows_the_vectors_message},
             {"signal_survives_a_pause", survives_a_pause},
             {"signal_goes_by_the_line_without_msix", goes_by_the_line_without_msix}};

// --- around them

static void ended(void *opaque, const struct vm_result *result)
{
    fail(opaque, result->text);
}

static size_t serial_out(void *opaque, const uint8_t *data, size_t len)
{
    return len;
}

static void find_box(struct stand *s)
{
    for (uint64_t at = 0; at < s->vm->ram_bytes; at += PAGE_SIZE) {
        volatile struct signals_box *box = (void *)((char *)s->vm->ram + at);
        if (box->magic[0] == SIGNALS_MAGIC0 && box->magic[1] == SIGNALS_MAGIC1)
            s->box = box;
    }
}

// The board's entropy source serves: its queue is never filled, so nobody else interrupts for it.
static bool prepare(struct stand *s)
{
    find_box(s);
    for (struct owned_device *o = s->vm->devices; o; o = o->next)
        if (strcmp(o->dev->id, "rng") == 0)
            s->rng = o;
    if (!s->box || !s->rng)
        return false;
    virtio_add_signals(virtio_of(s->rng->dev));
    return true;
}

static const char *engine; // under which all this happens

static void *drive(void *opaque)
{
    struct stand *s = opaque;
    for (size_t i = 0; i < ARRAY_LEN(tests); i++) {
        if (!s->failed)
            tests[i].run(s);
        printf("%sok - %s_under_%s\n", s->failed ? "not " : "", tests[i].name, engine);
    }
    loop_stop(s->loop);
    return NULL;
}

static bool run_under(struct vm_config *config)
{
    pthread_t thread;
    struct error e = {0};
    struct stand s = {0};
    const struct vm_hooks hooks = {.serial_out = serial_out, .ended = ended, .opaque = &s};
    s.pause = (struct loop_work){.run = pause_vm, .opaque = &s};
    s.resume = (struct loop_work){.run = resume_vm, .opaque = &s};
    if (vm_config_set(&config->engine, engine, &e) || loop_new(&s.loop, &e) ||
        vm_new(config, s.loop, &hooks, &s.vm, &e) || !prepare(&s) || vm_start(s.vm, &e)) {
        printf("Bail out! %s: %s\n", engine, e.text);
        exit(1);
    }
    vm_resume(s.vm);
    if (pthread_create(&thread, NULL, drive, &s) != 0)
        exit(1);
    loop_run(s.loop);
    pthread_join(thread, NULL);
    vm_pause(s.vm);
    vm_free(s.vm);
    loop_free(s.loop);
    return !s.failed;
}

static bool usable(const char *name, uint32_t debug)
{
    const struct engine *chosen;
    char why[200];
    struct error e = {0};
    if (vm_choose_engine(name, debug, &chosen, why, &e) == OK)
        return true;
    printf("1..0 # SKIP %s\n", e.text);
    return false;
}

int main(int argc, char **argv)
{
    struct error e = {0};
    struct vm_config config;
    int first = 1;
    if (vm_config_init(&config, &e))
        return 1;
    if (argc > 2 && strcmp(argv[1], "--debug") == 0) {
        if (vm_debug_parse(argv[2], &config.debug, &e))
            return 2;
        first = 3;
    }
    if (argc < first + 2 || vm_config_set(&config.kernel, argv[first], &e))
        return 2;
    config.memory_bytes = 64 * MIB;
    for (int i = first + 1; i < argc; i++) {
        if (!usable(argv[i], config.debug)) {
            vm_config_release(&config);
            return SKIPPED;
        }
    }
    printf("1..%zu\n", (size_t)(argc - first - 1) * ARRAY_LEN(tests));
    bool good = true;
    for (int i = first + 1; i < argc; i++) {
        engine = argv[i];
        good &= run_under(&config);
    }
    vm_config_release(&config);
    return !good;
}
