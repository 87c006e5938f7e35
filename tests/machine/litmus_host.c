// The litmus tests of litmus.h on the host's own processors: the oracle beside the guest's.
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "litmus.h"

struct part {
    struct litmus_run *run;
    unsigned n;
};

static void relax(void)
{
    (void)sched_yield();
}

static void *take_part(void *opaque)
{
    struct part *p = opaque;
    litmus_take_part(p->run, p->n, relax);
    return NULL;
}

static bool run_test(unsigned number, const struct litmus *test, struct litmus_instance *instance)
{
    struct litmus_run run = {.test = test, .instance = instance};
    struct part part[LITMUS_PROCESSORS];
    pthread_t thread[LITMUS_PROCESSORS];
    memset(instance, 0, LITMUS_INSTANCES * sizeof *instance);
    for (unsigned n = 1; n < test->processors; n++) {
        part[n] = (struct part){&run, n};
        if (pthread_create(&thread[n], NULL, take_part, &part[n])) {
            puts("Bail out! no threads");
            exit(1);
        }
    }
    litmus_take_part(&run, 0, relax);
    for (unsigned n = 1; n < test->processors; n++)
        pthread_join(thread[n], NULL);
    printf("# %s: %u forbidden, %u weak outcomes\n", test->name, run.forbidden, run.weak);
    printf("%s %u - %s\n", run.forbidden ? "not ok" : "ok", number, test->name);
    return !run.forbidden;
}

int main(void)
{
    bool ok = true;
    struct litmus_instance *instance = aligned_alloc(64, LITMUS_INSTANCES * sizeof *instance);
    if (!instance)
        return 1;
    printf("1..%zu\n", LITMUS_TESTS);
    for (unsigned i = 0; i < LITMUS_TESTS; i++)
        ok &= run_test(i + 1, &litmus_tests[i], instance);
    free(instance);
    return !ok;
}
