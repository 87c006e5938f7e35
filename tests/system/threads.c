// A program of several threads that compute for long between two things that they want of their
// kernel, and what its threads do to one another meanwhile: threads SECONDS [CASE...].
//
// Each case runs for so long. What makes a mapping, or a right to it, go away on one processor has
// to be true on all when the call returns; that is what most of them ask for. One line a case:
// PASS name count, or FAIL name and why. Exit status: 0 if all passed.
#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 4, PAGE = 4096, GENERATIONS = 256, BURST = 20000 };

static int over;         // atomic: the case's time is up
static const char *fail; // atomic: why it has failed

static void failed(const char *why)
{
    __atomic_store_n(&fail, why, __ATOMIC_SEQ_CST);
    __atomic_store_n(&over, 1, __ATOMIC_SEQ_CST);
}

static bool running(void)
{
    return !__atomic_load_n(&over, __ATOMIC_SEQ_CST);
}

static void *new_pages(size_t bytes, int prot, int flags)
{
    void *p = mmap(NULL, bytes, prot, flags | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        perror("threads: mmap");
        exit(2);
    }
    return p;
}

// Work that asks nothing of anybody, in integer and vector registers.
static uint64_t compute(uint64_t seed, unsigned rounds)
{
    double x = (double)(seed % 1000) / 1000 + 0.0005;
    for (unsigned i = 0; i < rounds; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        x = 3.99 * x * (1 - x);
    }
    seed ^= (uint64_t)(x * 1e15);
    __asm__ volatile("" : "+r"(seed)); // also where nobody wants the result
    return seed;
}

// --- cases: THREADS threads run work(), the first one control() between bursts of it -------------

static uint64_t counted[THREADS]; // what a thread has done

// Everybody adds to two counters under a mutex.
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static volatile uint64_t under_mutex[2];

static void mutex_work(unsigned self)
{
    compute(self, BURST);
    for (unsigned i = 0; i < 100; i++) {
        pthread_mutex_lock(&mutex);
        under_mutex[0]++;
        compute(self, 10);
        under_mutex[1]++;
        pthread_mutex_unlock(&mutex);
    }
    counted[self] += 100;
}

static uint64_t total(void)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < THREADS; i++)
        sum += counted[i];
    return sum;
}

static void mutex_end(void)
{
    if (under_mutex[0] != total() || under_mutex[1] != total())
        failed("additions under a mutex were lost");
}

// Locked instructions, one of them across cache lines.
static struct {
    uint64_t plain, swapped;
    char pad[40];
    uint8_t split[16];
} __attribute__((aligned(64))) locked;

static void locked_work(unsigned self)
{
    uint64_t *across = (void *)(locked.split + 4);
    for (unsigned i = 0; i < BURST; i++) {
        __atomic_fetch_add(&locked.plain, 1, __ATOMIC_SEQ_CST);
        __asm__ volatile("lock incq %0" : "+m"(*across));
        uint64_t was = __atomic_load_n(&locked.swapped, __ATOMIC_RELAXED);
        while (!__atomic_compare_exchange_n(&locked.swapped, &was, was + 1, true, __ATOMIC_SEQ_CST,
                                            __ATOMIC_RELAXED))
            ;
    }
    counted[self] += BURST;
}

static void locked_end(void)
{
    uint64_t across;
    memcpy(&across, locked.split + 4, sizeof across);
    if (locked.plain != total() || locked.swapped != total() || across != total())
        failed("locked additions were lost");
}

// A page is replaced by others of a file, which say how often.
static volatile uint64_t *window;
static uint64_t generation;
static int file;

static void remap_begin(void)
{
    file = memfd_create("pages", 0);
    for (uint64_t i = 0; i < GENERATIONS; i++)
        if (pwrite(file, &i, sizeof i, (off_t)(i * PAGE)) != sizeof i)
            failed("cannot fill a file");
    window = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, file, 0);
}

static void remap_work(unsigned self)
{
    for (unsigned i = 0; i < BURST; i++) {
        uint64_t said = __atomic_load_n(&generation, __ATOMIC_ACQUIRE), is = *window;
        uint64_t newest = __atomic_load_n(&generation, __ATOMIC_ACQUIRE) + 1;
        if ((is - said) % GENERATIONS > newest - said)
            failed("a page is still there that was replaced");
    }
    counted[self] += BURST;
}

static void remap_control(void)
{
    uint64_t next = generation + 1;
    if (mmap((void *)window, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, file,
             (off_t)(next % GENERATIONS * PAGE)) == MAP_FAILED)
        failed("mmap");
    __atomic_store_n(&generation, next, __ATOMIC_RELEASE);
}

// A page may not be written for a while; who tries waits in a handler.
static volatile uint64_t *guarded;
static int writable = 1; // atomic

static void wait_until_writable(int signal)
{

    while (!__atomic_load_n(&writable, __ATOMIC_SEQ_CST) && running())
        sched_yield();
}

static void protect_begin(void)
{
    signal(SIGSEGV, wait_until_writable);
    guarded = new_pages(PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
}

static void protect_work(unsigned self)
{
    for (unsigned i = 0; i < BURST; i++)
        guarded[self]++;
    counted[self] += BURST;
}

static void protect_control(void)
{
    uint64_t was[THREADS];
    __atomic_store_n(&writable, 0, __ATOMIC_SEQ_CST);
    mprotect((void *)guarded, PAGE, PROT_READ);
    memcpy(was, (const void *)guarded, sizeof was);
    compute(1, BURST);
    if (memcmp(was, (const void *)guarded, sizeof was))
        failed("a page was written after that was forbidden");
    mprotect((void *)guarded, PAGE, PROT_READ | PROT_WRITE);
    __atomic_store_n(&writable, 1, __ATOMIC_SEQ_CST);
}

static void protect_end(void)
{
    signal(SIGSEGV, SIG_DFL);
    for (unsigned i = 0; i < THREADS; i++)
        if (guarded[i] != counted[i])
            failed("stores were lost where a page was forbidden for a while");
}

// The process forks while its threads write: the child's copy stands still, and nothing is lost.
enum { FORKED_PAGES = 32, WORDS = PAGE / 8 };
static volatile uint64_t *forked;

static void fork_begin(void)
{
    forked = new_pages(FORKED_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
}

static void fork_work(unsigned self)
{
    for (unsigned i = 0; i < BURST; i++)
        forked[i % FORKED_PAGES * WORDS + self]++;
    counted[self] += BURST;
}

static void fork_control(void)
{
    pid_t child = fork();
    if (child == 0) {
        static uint64_t copy[FORKED_PAGES * WORDS];
        memcpy(copy, (const void *)forked, sizeof copy);
        compute(1, BURST);
        _exit(memcmp(copy, (const void *)forked, sizeof copy) ? 1 : 0);
    }
    int status;
    if (waitpid(child, &status, 0) != child || status)
        failed("a child's memory changed under it");
}

static void fork_end(void)
{
    for (unsigned t = 0; t < THREADS; t++) {
        uint64_t sum = 0;
        for (unsigned i = 0; i < FORKED_PAGES; i++)
            sum += forked[i * WORDS + t];
        if (sum != counted[t])
            failed("stores were lost around a fork");
    }
}

// Memory goes away, while all others wait without asking their kernel for anything, and comes back
// empty.
static volatile uint64_t *emptied;
static uint64_t empty_turn, parked[THREADS]; // atomic; odd: everybody is to wait

static void empty_begin(void)
{
    emptied = new_pages(THREADS * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
}

static void empty_work(unsigned self)
{
    volatile uint64_t *mine = emptied + self * WORDS;
    for (uint64_t i = 1; i <= BURST && !(__atomic_load_n(&empty_turn, __ATOMIC_SEQ_CST) & 1); i++) {
        *mine = i;
        if (*mine != i)
            failed("memory was emptied by itself");
    }
    counted[self] += BURST;
    uint64_t now = __atomic_load_n(&empty_turn, __ATOMIC_SEQ_CST);
    if (!(now & 1))
        return;
    __atomic_store_n(&parked[self], now, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&empty_turn, __ATOMIC_SEQ_CST) == now && running())
        __builtin_ia32_pause();
    if (running() && *mine)
        failed("memory is still there that was given back");
}

static void empty_control(void)
{
    uint64_t now = __atomic_add_fetch(&empty_turn, 1, __ATOMIC_SEQ_CST);
    for (unsigned i = 1; i < THREADS; i++)
        while (__atomic_load_n(&parked[i], __ATOMIC_SEQ_CST) != now && running())
            sched_yield();
    madvise((void *)emptied, THREADS * PAGE, MADV_DONTNEED);
    __atomic_store_n(&empty_turn, now + 1, __ATOMIC_SEQ_CST);
    compute(1, BURST);
}

// A function is written anew, through another mapping, and then announced.
static uint8_t *code_write;
static uint32_t (*code_run)(void);
static uint32_t code_said; // atomic

static void put_code(uint32_t value)
{
    // mov eax, value; ret: the value is one aligned store.
    __atomic_store_n((uint32_t *)(void *)(code_write + 4), value, __ATOMIC_SEQ_CST);
}

static void code_begin(void)
{
    int fd = memfd_create("code", 0);
    if (ftruncate(fd, PAGE))
        failed("ftruncate");
    code_write = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    uint8_t *run = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    code_write[3] = 0xb8;
    code_write[8] = 0xc3;
    put_code(0);
    code_run = (uint32_t(*)(void))(void *)(run + 3);
    close(fd);
}

// What has been fetched ahead is fetched again. In a page of its own, since there are ways to run
// programs that are slow in pages with such instructions.
[[gnu::noinline, gnu::section(".text.serialize"), gnu::aligned(4096)]] static void serialize(void)
{
    uint32_t a = 0, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}

static void code_work(unsigned self)
{
    for (unsigned i = 0; i < BURST / 100; i++) {
        uint32_t said = __atomic_load_n(&code_said, __ATOMIC_SEQ_CST);
        serialize();
        if (code_run() - said > 1u << 30)
            failed("code runs that has been replaced");
        compute(self, 2000);
    }
    counted[self] += BURST / 100;
}

static void code_control(void)
{
    uint32_t next = code_said + 1;
    put_code(next);
    __atomic_store_n(&code_said, next, __ATOMIC_SEQ_CST);
    compute(2, BURST);
}

// Each thread has registers, a rounding mode and storage of its own, whatever interrupts it.
static uint64_t own_want[THREADS];
static __thread uint64_t own_word;
static uint64_t alarms; // atomic

static void alarm_comes(int signal)
{

    __atomic_add_fetch(&alarms, compute(3, 10) ? 1 : 0, __ATOMIC_SEQ_CST);
}

static const int roundings[THREADS] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};

static void own_begin(void)
{
    for (unsigned i = 0; i < THREADS; i++) {
        fesetround(roundings[i]);
        own_want[i] = compute(i, BURST);
    }
    fesetround(FE_TONEAREST);
    signal(SIGALRM, alarm_comes);
    struct itimerval every = {{0, 2000}, {0, 2000}};
    setitimer(ITIMER_REAL, &every, NULL);
}

static void own_work(unsigned self)
{
    fesetround(roundings[self]);
    own_word = own_want[self];
    if (compute(self, BURST) != own_word || own_word != own_want[self])
        failed("a thread's registers are not its own");
    counted[self]++;
}

static void own_end(void)
{
    struct itimerval never = {0};
    setitimer(ITIMER_REAL, &never, NULL);
    fesetround(FE_TONEAREST);
    if (!alarms)
        failed("no signal came");
}

// Threads hand each other a turn.
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static unsigned turn;

static void turns_work(unsigned self)
{
    pthread_mutex_lock(&mutex);
    while (turn % THREADS != self && running())
        pthread_cond_wait(&turned, &mutex);
    turn++;
    compute(self, BURST / 10);
    pthread_cond_broadcast(&turned);
    pthread_mutex_unlock(&mutex);
    counted[self]++;
}

static const struct test {
    const char *name;
    void (*begin)(void);
    void (*work)(unsigned self);
    void (*control)(void); // by the first thread
    void (*end)(void);
} tests[] = {
    {"mutex", NULL, mutex_work, NULL, mutex_end},
    {"locked", NULL, locked_work, NULL, locked_end},
    {"remap", remap_begin, remap_work, remap_control, NULL},
    {"protect", protect_begin, protect_work, protect_control, protect_end},
    {"fork", fork_begin, fork_work, fork_control, fork_end},
    {"empty", empty_begin, empty_work, empty_control, NULL},
    {"code", code_begin, code_work, code_control, NULL},
    {"own", own_begin, own_work, NULL, own_end},
    {"turns", NULL, turns_work, NULL, NULL},
};

static const struct test *test;

static void *thread_main(void *arg)
{
    unsigned self = (unsigned)(uintptr_t)arg;
    while (running()) {
        if (self == 0 && test->control)
            test->control();
        else
            test->work(self);
    }
    return NULL;
}

static bool run(const struct test *t, unsigned seconds)
{
    pthread_t thread[THREADS];
    test = t;
    over = 0;
    memset(counted, 0, sizeof counted);
    if (t->begin)
        t->begin();
    for (uintptr_t i = 0; i < THREADS; i++)
        pthread_create(&thread[i], NULL, thread_main, (void *)i);
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += seconds;
    while (running() && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL))
        ; // a signal came
    __atomic_store_n(&over, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_lock(&mutex);
    pthread_cond_broadcast(&turned);
    pthread_mutex_unlock(&mutex);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    if (t->end)
        t->end();
    if (fail)
        printf("FAIL %s %s\n", t->name, fail);
    else
        printf("PASS %s %llu\n", t->name, (unsigned long long)total());
    fflush(stdout);
    return !fail;
}

static bool chosen(const struct test *t, int argc, char **argv)
{
    bool found = argc < 3;
    for (int i = 2; i < argc; i++)
        found |= !strcmp(argv[i], t->name);
    return found;
}

int main(int argc, char **argv)
{
    unsigned seconds = argc > 1 ? (unsigned)atoi(argv[1]) : 1;
    bool all = true;
    for (unsigned i = 0; i < sizeof tests / sizeof *tests; i++) {
        fail = NULL;
        if (chosen(&tests[i], argc, argv))
            all &= run(&tests[i], seconds);
    }
    return all ? 0 : 1;
}
