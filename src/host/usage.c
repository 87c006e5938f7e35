// Use of CPU and memory by other processes. Sources: clock_getcpuclockid(3); proc(5) status; Linux
// Documentation/scheduler/sched-stats.rst, Documentation/admin-guide/mm/ksm.rst. Not modelled:
// threads that have ended, in what was waited; kernels without CONFIG_PROC_CHILDREN, where a VM's
// process stands for all.
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

// Those that the first threads of family[from] to family[to] have started: VMs start none by
// others.
static unsigned add_children(pid_t *family, unsigned from, unsigned to, unsigned max)
{
    unsigned count = to;
    for (unsigned i = from; i < to; i++) {
        char path[64];
        int child;
        snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)family[i], (int)family[i]);
        FILE *f = fopen(path, "re");
        while (f && count < max && fscanf(f, "%d", &child) == 1)
            family[count++] = child;
        if (f)
            fclose(f);
    }
    return count;
}

// Its child is what makes the others, which have none.
unsigned host_usage_family(pid_t pid, pid_t *out, unsigned max)
{
    out[0] = pid;
    unsigned children = add_children(out, 0, 1, max);
    return add_children(out, 1, children, max);
}

bool host_usage_family_cpu(pid_t pid, uint64_t *ns)
{
    pid_t family[HOST_USAGE_FAMILY_MAX];
    uint64_t used;
    if (!host_usage_cpu(pid, ns))
        return false;
    unsigned n = host_usage_family(pid, family, HOST_USAGE_FAMILY_MAX);
    for (unsigned i = 1; i < n; i++)
        *ns += host_usage_cpu(family[i], &used) ? used : 0;
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

// prefix NULL: the process is none of the VM's own.
static void add_task(struct host_usage_threads *out, pid_t pid, pid_t tid, const char *task,
                     const char *prefix)
{
    cpu_set_t cpus;
    char state;
    uint64_t ran, waited;
    read_times(task, &ran, &waited);
    out->wait_ns += waited;
    out->ran_ns += tid != pid || !prefix ? ran : 0;
    if (!prefix) {
        out->runnable += read_state(task, "", &state) && state == 'R';
        return;
    }
    if (!read_state(task, prefix, &state) || sched_getaffinity(tid, sizeof cpus, &cpus) < 0)
        return;
    CPU_OR(&out->cpus, &out->cpus, &cpus);
    out->found++;
    out->runnable += state == 'R';
}

static void add_tasks(struct host_usage_threads *out, pid_t pid, const char *prefix)
{
    char path[320];
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *dir = opendir(path);
    if (!dir)
        return;
    for (const struct dirent *d; (d = readdir(dir));) {
        if (d->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%.16s", (int)pid, d->d_name);
        add_task(out, pid, atoi(d->d_name), path, prefix);
    }
    closedir(dir);
}

bool host_usage_threads(pid_t pid, const char *prefix, struct host_usage_threads *out)
{
    pid_t family[HOST_USAGE_FAMILY_MAX];
    *out = (struct host_usage_threads){0};
    add_tasks(out, pid, prefix);
    unsigned n = out->found ? host_usage_family(pid, family, HOST_USAGE_FAMILY_MAX) : 0;
    for (unsigned i = 1; i < n; i++)
        add_tasks(out, family[i], NULL);
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
    char line[128];
    uint64_t kib, resident = 0, files = 0;
    snprintf(line, sizeof line, "/proc/%d/status", (int)pid);
    FILE *f = fopen(line, "re");
    if (!f)
        return false;
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "VmRSS: %" SCNu64, &kib) == 1)
            resident = kib * KIB;
        else if (sscanf(line, "RssFile: %" SCNu64, &kib) == 1)
            files = kib * KIB;
    }
    fclose(f);
    *out = (struct host_usage_memory){resident, files + merged_pages(pid) * PAGE_SIZE};
    return resident;
}
