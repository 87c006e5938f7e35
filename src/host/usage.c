// Use of CPU and memory by other processes. Sources: clock_getcpuclockid(3); proc(5) statm; Linux
// Documentation/scheduler/sched-stats.rst, Documentation/admin-guide/mm/ksm.rst. Not modelled:
// threads that have ended, in what was waited.
#include "host/usage.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

bool host_usage_cpu(pid_t pid, uint64_t *ns)
{
    clockid_t clock;
    struct timespec t;
    if (pid <= 0 || clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &t) < 0)
        return false;
    *ns = (uint64_t)t.tv_sec * NS_PER_SEC + (uint64_t)t.tv_nsec;
    return true;
}

static void read_times(const char *task, uint64_t *ran, uint64_t *waited)
{
    char path[360];
    *ran = *waited = 0;
    snprintf(path, sizeof path, "%s/schedstat", task);
    FILE *f = fopen(path, "re");
    if (!f)
        return;
    if (fscanf(f, "%" SCNu64 " %" SCNu64, ran, waited) != 2)
        *ran = *waited = 0;
    fclose(f);
}

// "17 (vcpu0) R ...". False: its name does not begin so.
static bool read_state(const char *task, const char *prefix, char *state)
{
    char path[360], line[128] = "";
    snprintf(path, sizeof path, "%s/stat", task);
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    const char *name = fgets(line, sizeof line, f) ? strchr(line, '(') : NULL;
    const char *end = name ? strrchr(name, ')') : NULL;
    fclose(f);
    if (!end || strncmp(name + 1, prefix, strlen(prefix)))
        return false;
    *state = end[1] ? end[2] : 0;
    return true;
}

static void add_task(struct host_usage_threads *out, pid_t pid, pid_t tid, const char *task,
                     const char *prefix)
{
    cpu_set_t cpus;
    char state;
    uint64_t ran, waited;
    read_times(task, &ran, &waited);
    out->wait_ns += waited;
    out->ran_ns += tid != pid ? ran : 0;
    if (!read_state(task, prefix, &state) || sched_getaffinity(tid, sizeof cpus, &cpus) < 0)
        return;
    CPU_OR(&out->cpus, &out->cpus, &cpus);
    out->found++;
    out->runnable += state == 'R';
}

bool host_usage_threads(pid_t pid, const char *prefix, struct host_usage_threads *out)
{
    char path[320];
    *out = (struct host_usage_threads){0};
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *dir = opendir(path);
    if (!dir)
        return false;
    for (const struct dirent *d; (d = readdir(dir));) {
        if (d->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%.16s", (int)pid, d->d_name);
        add_task(out, pid, atoi(d->d_name), path, prefix);
    }
    closedir(dir);
    return out->found;
}

static uint64_t merged_pages(pid_t pid)
{
    char path[64];
    uint64_t pages = 0;
    snprintf(path, sizeof path, "/proc/%d/ksm_merging_pages", (int)pid);
    FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%" SCNu64, &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return pages;
}

bool host_usage_memory(pid_t pid, struct host_usage_memory *out)
{
    char path[64];
    uint64_t size, resident, shared;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool good = fscanf(f, "%" SCNu64 " %" SCNu64 " %" SCNu64, &size, &resident, &shared) == 3;
    fclose(f);
    if (good)
        *out = (struct host_usage_memory){resident * PAGE_SIZE,
                                          (shared + merged_pages(pid)) * PAGE_SIZE};
    return good;
}
