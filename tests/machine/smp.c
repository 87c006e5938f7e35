// Two processors: startup, atomic counters, interrupts between them, each other's writes to code
// and page tables. Needs --cpus 2.

#include "guest.h"

#define VECTOR 0x51
#define VA 0x200000000000ull
#define ROUNDS 20000u

static volatile unsigned ap_runs, ap_stop, ap_count, go, ap_id = ~0u;
static volatile u64 counter, plain[2];

static u64 add(volatile u64 *at, u64 v)
{
    return __atomic_fetch_add(at, v, __ATOMIC_SEQ_CST);
}

static void on_vector(struct frame *f)
{
    (void)f;
    ap_count++;
    lapic_eoi();
}

static bool until(volatile unsigned *flag, unsigned value)
{
    u64 end = rdtsc() + tsc_per_ms() * 10000;
    while (*flag != value && rdtsc() < end) {
        pause();
    }
    return *flag == value;
}

// What the second processor does: the command in `go`, again and again.
enum command { IDLE, COUNT, WAIT_FOR_INTERRUPT, CALL_CODE, READ_PAGE, FLUSH, MESSAGES };

static u8 *code;
static volatile unsigned call_result, page_value;

static void count_up(void)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        add(&counter, 1);
    }
}

// Message passing: sees data only after the flag, on x86 without fences.
static volatile unsigned flag_bad;
static void receive_messages(void)
{
    for (u64 i = 1; i <= ROUNDS; i++) {
        while (plain[1] < i) {
            pause();
        }
        if (plain[0] < i) {
            flag_bad++;
        }
    }
}

static void second(void *unused)
{
    (void)unused;
    lapic_enable();
    ap_id = lapic_read(0x20) >> 24;
    for (;;) {
        ap_runs = 1;
        while (go == IDLE) {
            pause();
        }
        ap_runs = 0;
        switch (go) {
        case COUNT: count_up(); break;
        case WAIT_FOR_INTERRUPT:
            ap_stop = 1;
            sti_hlt_cli();
            break;
        case CALL_CODE: call_result = ((unsigned (*)(void))(word)code)(); break;
        case READ_PAGE: page_value = (unsigned)read64(VA); break;
        case FLUSH: invlpg(VA); break;
        case MESSAGES: receive_messages(); break;
        default: break;
        }
        go = IDLE;
    }
}

static bool have_two(void)
{
    static bool tried, ok;
    if (!tried) {
        tried = true;
        lapic_enable();
        trap_set(VECTOR, on_vector);
        (void)tsc_per_ms();
        ok = smp_start(1, second, NULL) && until(&ap_runs, 1);
    }
    if (!ok) {
        test_failed(__FILE__, __LINE__, "the second processor started");
    }
    return ok;
}

static bool command(enum command c)
{
    go = c;
    return until(&go, IDLE);
}

static void second_processor_starts_by_init_and_sipi(void)
{
    if (have_two()) {
        CHECK_EQ(ap_id, 1);
    }
}

static void locked_additions_lose_nothing(void)
{
    if (!have_two()) {
        return;
    }
    counter = 0;
    go = COUNT;
    count_up();
    CHECK(until(&go, IDLE));
    CHECK_EQ(counter, 2 * ROUNDS);
}

static void interrupt_wakes_the_other_processor_from_halt(void)
{
    if (!have_two()) {
        return;
    }
    ap_count = ap_stop = 0;
    go = WAIT_FOR_INTERRUPT;
    CHECK(until(&ap_stop, 1));
    delay_us(2000);
    lapic_write(0x310, 1u << 24);
    lapic_write(0x300, VECTOR);
    CHECK(until(&ap_count, 1));
    CHECK(until(&go, IDLE));
}

static void other_processors_code_change_is_seen(void)
{
    if (!have_two()) {
        return;
    }
    code = page_alloc();
    for (u32 i = 0; i < 50; i++) {
        u8 image[6] = {0xb8, (u8)i, 0, 0, 0, 0xc3}; // mov $i, %eax; ret
        memcpy(code, image, 6);
        CHECK(command(CALL_CODE));
        CHECK_EQ(call_result, i);
    }
}

static void shootdown_makes_a_new_mapping_visible(void)
{
    if (!have_two()) {
        return;
    }
    u64 *a = page_alloc(), *b = page_alloc();
    *a = 1;
    *b = 2;
    page_map(VA, (u64)a, PTE_P | PTE_W, 1);
    CHECK(command(READ_PAGE));
    CHECK_EQ(page_value, 1);
    page_map(VA, (u64)b, PTE_P | PTE_W, 1);
    CHECK(command(FLUSH));
    CHECK(command(READ_PAGE));
    CHECK_EQ(page_value, 2);
}

static void stores_are_seen_in_order(void)
{
    if (!have_two()) {
        return;
    }
    plain[0] = plain[1] = 0;
    flag_bad = 0;
    go = MESSAGES;
    for (u64 i = 1; i <= ROUNDS; i++) {
        plain[0] = i;
        plain[1] = i;
    }
    CHECK(until(&go, IDLE));
    CHECK_EQ(flag_bad, 0);
}

TESTS(TEST(second_processor_starts_by_init_and_sipi), TEST(locked_additions_lose_nothing),
      TEST(interrupt_wakes_the_other_processor_from_halt),
      TEST(other_processors_code_change_is_seen), TEST(shootdown_makes_a_new_mapping_visible),
      TEST(stores_are_seen_in_order));
