// A running guest goes from engine to engine: its CPU and devices by way of the state stream, its
// RAM as it is. After each move its counters go on and nothing has come out wrong.
//
//     move_test [--debug LIST] GUEST ENGINE ENGINE...
//
// Exit status: 0 passed, 1 failed, 77 an engine cannot be used here.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/clock.h"
#include "machine/vm_impl.h"
#include "moved.h"

#define SKIPPED 77
#define LOOK_EVERY (20 * 1000000ull)
#define LEG_LIMIT (60 * 1000000000ull)
#define ROUNDS 20
#define TICKS 5

// One VM's stretch of the guest's life.
struct leg {
    struct vm_config *config;
    struct loop *loop;
    struct vm *vm;
    struct loop_timer look;
    const struct mailbox *mailbox; // in the VM's RAM; NULL: not found yet
    struct mailbox start;
    uint64_t deadline;
    bool failed;
};

static _Noreturn void die(const char *what, const struct error *e)
{
    printf("not ok - %s: %s\n", what, e->text);
    exit(1);
}

static const struct mailbox *find_mailbox(const struct vm *vm)
{
    for (uint64_t at = 0; at < vm->ram_bytes; at += PAGE_SIZE) {
        const struct mailbox *m = (const void *)((const char *)vm->ram + at);
        if (m->magic[0] == MAILBOX_MAGIC0 && m->magic[1] == MAILBOX_MAGIC1)
            return m;
    }
    return NULL;
}

static bool far_enough(const struct leg *leg)
{
    const volatile struct mailbox *now = leg->mailbox;
    return now && now->rounds >= leg->start.rounds + ROUNDS &&
           now->apic_ticks >= leg->start.apic_ticks + TICKS &&
           now->pit_ticks >= leg->start.pit_ticks + TICKS;
}

static void look(void *opaque)
{
    struct leg *leg = opaque;
    if (!leg->mailbox)
        leg->mailbox = find_mailbox(leg->vm);
    leg->failed = leg->failed || host_now() > leg->deadline;
    if (leg->failed || far_enough(leg))
        loop_stop(leg->loop);
    else
        loop_timer_set(leg->loop, &leg->look, host_now() + LOOK_EVERY);
}

static void ended(void *opaque, const struct vm_result *result)
{
    struct leg *leg = opaque;
    printf("# the guest ended: %s\n", result->text);
    leg->failed = true;
    loop_stop(leg->loop);
}

static size_t serial_out(void *opaque, const uint8_t *data, size_t len)
{
    return len;
}

static void open_leg(struct leg *leg, struct vm_config *config, const char *engine)
{
    struct error e = {0};
    const struct vm_hooks hooks = {.serial_out = serial_out, .ended = ended, .opaque = leg};
    *leg = (struct leg){.config = config, .look = {.fire = look, .opaque = leg}};
    if (vm_config_set(&config->engine, engine, &e) || loop_new(&leg->loop, &e) ||
        vm_new(config, leg->loop, &hooks, &leg->vm, &e) || vm_start(leg->vm, &e))
        die(engine, &e);
}

static void close_leg(struct leg *leg)
{
    vm_free(leg->vm);
    loop_free(leg->loop);
}

static void take_over(struct leg *to, struct leg *from)
{
    struct buffer stream = BUFFER_EMPTY;
    struct error e = {0};
    vm_state_save(from->vm, &stream);
    memcpy(to->vm->ram, from->vm->ram, to->vm->ram_bytes);
    if (stream.failed || vm_state_load(to->vm, stream.data, stream.len, &e))
        die("state", &e);
    buffer_release(&stream);
    to->mailbox = find_mailbox(to->vm);
    if (to->mailbox)
        to->start = *to->mailbox;
}

// True: the guest went on, and nothing came out wrong.
static bool run_leg(struct leg *leg)
{
    leg->deadline = host_now() + LEG_LIMIT;
    loop_timer_set(leg->loop, &leg->look, host_now() + LOOK_EVERY);
    vm_resume(leg->vm);
    loop_run(leg->loop);
    vm_pause(leg->vm);
    const struct mailbox none = {0}, *m = leg->mailbox ? leg->mailbox : &none;
    printf(
        "# %s: %llu rounds, %llu and %llu ticks; wrong: %llu sums, %llu registers, %llu clocks\n",
        vm_engine(leg->vm)->name, (unsigned long long)(m->rounds - leg->start.rounds),
        (unsigned long long)(m->apic_ticks - leg->start.apic_ticks),
        (unsigned long long)(m->pit_ticks - leg->start.pit_ticks),
        (unsigned long long)m->wrong_sums, (unsigned long long)m->wrong_registers,
        (unsigned long long)m->wrong_clock);
    return !leg->failed && !m->wrong_sums && !m->wrong_registers && !m->wrong_clock;
}

static int move(struct vm_config *config, char **engines_in_turn, int count)
{
    struct leg legs[2];
    int failed = 0;
    printf("1..%d\n", count);
    for (int i = 0; i < count; i++) {
        struct leg *now = &legs[i % 2], *before = &legs[(i + 1) % 2];
        open_leg(now, config, engines_in_turn[i]);
        if (i > 0) {
            take_over(now, before);
            close_leg(before);
        }
        bool good = run_leg(now);
        failed += !good;
        printf("%sok %d - guest_%s_under_%s\n", good ? "" : "not ", i + 1, i ? "goes_on" : "begins",
               engines_in_turn[i]);
        fflush(stdout);
    }
    close_leg(&legs[(count + 1) % 2]);
    return failed != 0;
}

static bool usable(const char *name, uint32_t debug)
{
    const struct engine *engine;
    char why[200];
    struct error e = {0};
    if (vm_choose_engine(name, debug, &engine, why, &e) == OK)
        return true;
    printf("1..0 # SKIP %s\n", e.text);
    return false;
}

int main(int argc, char **argv)
{
    struct error e = {0};
    struct vm_config config;
    if (vm_config_init(&config, &e))
        die("config", &e);
    int first = 1;
    if (argc > 2 && strcmp(argv[1], "--debug") == 0) {
        if (vm_debug_parse(argv[2], &config.debug, &e))
            die("config", &e);
        first = 3;
    }
    if (argc < first + 2 || vm_config_set(&config.kernel, argv[first], &e))
        return 2;
    config.memory_bytes = 64 * MIB;
    bool can = true;
    for (int i = first + 1; can && i < argc; i++)
        can = usable(argv[i], config.debug);
    int status = can ? move(&config, argv + first + 1, argc - first - 1) : SKIPPED;
    vm_config_release(&config);
    return status;
}
