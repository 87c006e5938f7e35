// berth explain: a VM's counters in words. Two looks at them, some seconds apart, give rates; each
// rule below looks at some of these and, where they stand out, says what it sees and what would
// help. Waiting for a CPU and for pages comes from the host's proc(5).
//
// The thresholds are where a cost begins to be a tenth of a CPU or so under the translator; a guest
// below all of them computes as fast as its engine can.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "host/clock.h"
#include "host/usage.h"

#define SECONDS 2

const char explain_help[] =
    "usage: berth explain [--json] VM\n"
    "\n"
    "Watches the VM for two seconds and says what holds it back, and what would change that.\n";

// What two looks gave.
struct view {
    json_t *info, *before, *after; // answers to info and stats
    double seconds;                // between the looks
    double ticks;                  // of the host's TSC, likewise
    double busy;                   // CPUs that the VM's process used
    double waited;                 // CPUs that its threads waited for
    double major_faults;           // a second
    json_t *findings;
};

static void found(struct view *v, const char *try, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void found(struct view *v, const char *try, const char *fmt, ...)
{
    char what[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    json_array_append_new(v->findings, json_pack("{s:s, s:s}", "what", what, "try", try));
}

static double counter(const json_t *stats, const char *name)
{
    return (double)json_integer_value(json_object_get(json_object_get(stats, "counters"), name));
}

static double rate(const struct view *v, const char *name)
{
    return (counter(v->after, name) - counter(v->before, name)) / v->seconds;
}

// More often than that in each second that the VM has a CPU; where it has hardly any, nothing is.
static bool often(const struct view *v, const char *name, double times)
{
    return rate(v, name) > times * (v->busy < 0.1 ? 0.1 : v->busy < 1 ? v->busy : 1);
}

static const char *text_of(const struct view *v, const char *key)
{
    const char *text = json_string_value(json_object_get(v->info, key));
    return text ? text : "";
}

static bool translated(const struct view *v)
{
    return !strcmp(text_of(v, "engine"), "translate");
}

// --- rules

// CPUs that programs of the guest used natively.
static double directly(const struct view *v)
{
    return v->ticks ? rate(v, "direct_ticks") * v->seconds / v->ticks : 0;
}

static void rule_engine(struct view *v)
{
    const char *try = "where the CPU shows VT-x or AMD-V, and /dev/kvm can be opened, all of it "
                      "runs at the CPU's own speed; berth info says what is missing here";
    if (!translated(v) || v->busy + v->waited < 0.5)
        return;
    if (!json_is_true(json_object_get(v->info, "direct")))
        found(v,
              "start it without what the reason names, so that programs that compute run on the "
              "CPU itself; berth info says what this host offers",
              "every instruction of the guest is translated: no direct execution, %s",
              text_of(v, "direct_reason"));
    else if (directly(v) < 0.7 * v->busy)
        found(v, try,
              "%.0f%% of what it does is translated: its kernel, and programs that live for a "
              "moment or call it all the time; only what computes for long runs directly",
              100 - 100 * directly(v) / v->busy);
}

// Programs that are worth it, and cannot run directly.
static void rule_not_direct(struct view *v)
{
    if (often(v, "direct_unfit", 50))
        found(v, "64-bit builds of 32-bit programs; no debugger on them while they are to be fast",
              "programs that compute are translated %.0f times a second because direct execution "
              "is for ordinary 64-bit code: they are 32-bit or single-stepped",
              rate(v, "direct_unfit"));
    if (often(v, "direct_refused", 5))
        found(v,
              "see the host's memory and its limit of mappings (vm.max_map_count); the guest can "
              "run such programs without AddressSanitizer and the like",
              "programs that compute are translated because of their memory %.0f times a second: "
              "it could not be mapped where they have it",
              rate(v, "direct_refused"));
}

// What brings programs out of direct execution, where that is often.
static void rule_direct(struct view *v)
{
    double faults = rate(v, "direct_faults"), traps = rate(v, "direct_traps");
    if (!often(v, "direct_faults", 5000) && !often(v, "direct_traps", 5000))
        return;
    if (faults > traps)
        found(v,
              "let programs keep memory that they use again (MALLOC_TRIM_THRESHOLD_ and the like), "
              "and the guest use huge pages: transparent_hugepage=always on its command line",
              "programs that run directly stop %.0f times a second for pages", faults);
    else
        found(v,
              "berth stats and a profile in the guest say which program asks for the time so often",
              "programs that run directly stop %.0f times a second for CPUID, RDTSC and the like",
              traps);
}

static void rule_host_cpus(struct view *v)
{
    if (v->waited > 0.2)
        found(
            v, "stop other work on this host, or give its VMs fewer vCPUs",
            "the host's CPUs are busy: the VM's threads were ready but waited for %.0f%% of a CPU",
            v->waited * 100);
    long online = sysconf(_SC_NPROCESSORS_ONLN),
         vcpus = (long)json_integer_value(json_object_get(v->info, "vcpus"));
    if (vcpus > online && v->busy > 0.5)
        found(v, "start it with no more vCPUs than the host has CPUs",
              "the VM has %ld vCPUs, the host %ld CPUs", vcpus, online);
}

static void rule_host_memory(struct view *v)
{
    if (v->major_faults > 20)
        found(v, "give the VM less memory, or the host more",
              "the host reads the VM's memory back from its swap: %.0f pages a second",
              v->major_faults);
}

// What helps against many accesses to a device, by the beginning of its name.
static const struct {
    const char *device, *use, *try;
} device_advice[] = {
    {"com", "a serial port, a byte at a time",
     "use the virtio console: --console in place of --serial, console=hvc0 in the guest"},
    {"pm", "the ACPI timer, perhaps as its clock",
     "let the guest take the TSC or kvm-clock: clocksource=tsc on its command line"},
    {"hpet", "the HPET, perhaps as its clock",
     "let the guest take the TSC or kvm-clock: clocksource=tsc on its command line"},
    {"pit", "the old timer", "use a kernel that takes the local APIC's timer"},
    {"rtc", "the battery-backed clock", "see which program in the guest reads /dev/rtc"},
    {"ahci", "the SATA adapter", "attach the disk with bus=virtio"},
    {"vga", "the display", "use the serial console for long output"},
    {"lapic", "its interrupt controller", "see whether the guest can do with fewer wake-ups"},
    {"i8042", "the keyboard controller", "see what in the guest polls it"},
};

static void rule_devices(struct view *v)
{
    const char *name, *busiest = NULL;
    json_t *value;
    double most = 0;
    json_object_foreach(json_object_get(v->after, "counters"), name, value)
    {
        const char *dot = strchr(name, '.');
        if (dot && !strcmp(dot, ".accesses") && rate(v, name) > most) {
            most = rate(v, name);
            busiest = name;
        }
    }
    if (!busiest || most < 50000)
        return;
    int len = (int)(strchr(busiest, '.') - busiest);
    for (size_t i = 0; i < ARRAY_LEN(device_advice); i++) {
        if (!strncmp(busiest, device_advice[i].device, strlen(device_advice[i].device))) {
            found(v, device_advice[i].try, "the guest uses %s %.0f times a second: %s",
                  device_advice[i].use, most, "each time leaves the guest's code");
            return;
        }
    }
    found(v, "see what in the guest uses it that often",
          "the guest reaches for device %.*s %.0f times a second", len, busiest, most);
}

static void rule_translation(struct view *v)
{
    double cache = counter(v->after, "cache_flushes") - counter(v->before, "cache_flushes");
    if (often(v, "invalidated_blocks", 5000))
        found(v,
              "programs that generate code (browsers, Java, JavaScript) do that; fewer of them "
              "at a time help",
              "the guest changes its own code: %.0f translated blocks a second are thrown away",
              rate(v, "invalidated_blocks"));
    else if (!cache && often(v, "translated_blocks", 5000))
        found(v,
              "nothing: code runs faster once it is translated; --engine "
              "translate,translation-cache=FILE keeps it for the next boot",
              "the guest runs new code, as when it boots: %.0f blocks a second are translated",
              rate(v, "translated_blocks"));
    if (cache > 0)
        found(v,
              "start it with more memory for that, of which each vCPU takes what it needs: "
              "--engine translate,code-cache=512M (256M, divided by the vCPUs, unless told "
              "otherwise)",
              "the guest's code does not fit the cache of translations: in %.0f s it was full "
              "%.0f times and made anew",
              v->seconds, cache);
}

// What translated code cannot do in line.
static void rule_detours(struct view *v)
{
    if (often(v, "slow_accesses", 200000))
        found(v,
              "programs whose data lies beside code that runs do that, and drivers of devices "
              "without virtio",
              "%.0f accesses a second are to devices, across pages or beside code, one at a time",
              rate(v, "slow_accesses"));
    if (often(v, "steps", 500000))
        found(v,
              "berth stats and perf with perf-map=none say which program; another build of it "
              "may use other instructions",
              "%.0f instructions a second are ones that the translator only interprets",
              rate(v, "steps"));
    if (often(v, "transfers", 1000000))
        found(v, "let programs read and write more at a time",
              "the guest enters and leaves its kernel %.0f times a second", rate(v, "transfers"));
}

static void rule_memory(struct view *v)
{
    if (often(v, "page_walks", 500000))
        found(v, "let the guest use huge pages: transparent_hugepage=always on its command line",
              "the guest's programs reach over more memory than the TLB holds: %.0f page walks a "
              "second",
              rate(v, "page_walks"));
    if (often(v, "tlb_flushes", 20000))
        found(v,
              "fewer processes that take turns on one vCPU help, as do kernels without page-table "
              "isolation: nopti on the command line",
              "the guest changes its address space %.0f times a second", rate(v, "tlb_flushes"));
}

// After 512 PAUSEs of a loop, some 15 microseconds, a translated vCPU lets others run.
static void rule_spinning(struct view *v)
{
    if (often(v, "spins", 2000))
        found(v,
              "give it no more vCPUs than the host has CPUs to spare; Linux with "
              "CONFIG_PARAVIRT_SPINLOCKS sleeps instead, programs of its own may not",
              "vCPUs wait for each other in loops: they spin for long %.0f times a second",
              rate(v, "spins"));
}

static void rule_events(struct view *v)
{
    if (often(v, "exceptions", 50000))
        found(v, "more memory (-m) helps if the guest swaps; see its vmstat",
              "the guest takes %.0f faults and traps a second", rate(v, "exceptions"));
    if (often(v, "interrupts", 10000))
        found(v, "larger requests help disks; a kernel with a slower tick (HZ) helps idle guests",
              "the guest takes %.0f interrupts a second", rate(v, "interrupts"));
    if (often(v, "exits", 50000))
        found(v, "see berth stats for which: port, memory or MSR accesses, or halts",
              "the guest leaves the CPU's virtualization %.0f times a second", rate(v, "exits"));
}

static void (*const rules[])(struct view *v) = {
    rule_host_cpus, rule_host_memory, rule_devices, rule_translation, rule_detours, rule_memory,
    rule_spinning,  rule_events,      rule_direct,  rule_not_direct,  rule_engine};

// --- looking

struct host_view {
    double waited;       // seconds, of all threads
    double major_faults; // of the process
};

static double faults(int pid)
{
    char path[64], line[1024] = "";
    unsigned long major = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return 0;
    const char *end = fgets(line, sizeof line, f) ? strrchr(line, ')') : NULL;
    fclose(f);
    if (!end || sscanf(end, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %lu", &major) != 1)
        return 0;
    return (double)major;
}

static struct host_view look_at_host(int pid)
{
    struct host_usage_threads threads;
    host_usage_threads(pid, "", &threads);
    struct host_view host = {.major_faults = faults(pid),
                             .waited = (double)threads.wait_ns / NS_PER_SEC};
    return host;
}

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static int look(const struct verb *verb, struct view *v)
{
    int status = verb_ask(verb, "info", NULL, &v->info);
    if (status)
        return status;
    int pid = (int)json_integer_value(json_object_get(v->info, "pid"));
    status = verb_ask(verb, "stats", NULL, &v->before);
    struct host_view host = look_at_host(pid);
    uint64_t tsc = host_tsc();
    if (status)
        return status;
    sleep(SECONDS);
    status = verb_ask(verb, "stats", NULL, &v->after);
    if (status)
        return status;
    v->ticks = (double)(host_tsc() - tsc);
    struct host_view later = look_at_host(pid);
    v->seconds = number(v->after, "uptime_seconds") - number(v->before, "uptime_seconds");
    if (v->seconds <= 0)
        v->seconds = SECONDS;
    v->busy = (number(v->after, "cpu_seconds") - number(v->before, "cpu_seconds")) / v->seconds;
    v->waited = (later.waited - host.waited) / v->seconds;
    v->major_faults = (later.major_faults - host.major_faults) / v->seconds;
    return EXIT_OK;
}

static void judge(struct view *v, const char *vm)
{
    if (!strcmp(text_of(v, "state"), "paused")) {
        char try[100];
        snprintf(try, sizeof try, "berth resume %s", vm);
        found(v, try, "the VM is paused");
        return;
    }
    if (v->busy + v->waited < 0.05) {
        found(v, "nothing: give it work", "the guest is idle and waits for input or a timer");
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(rules); i++)
        rules[i](v);
    if (!json_array_size(v->findings))
        found(v, "nothing: it computes as fast as its engine can", "nothing stands out");
}

static void show(const struct view *v, const char *vm)
{
    printf("%s uses %.2f CPUs under the engine %s.\n", vm, v->busy, text_of(v, "engine"));
    size_t i;
    const json_t *finding;
    json_array_foreach(v->findings, i, finding)
        printf("\n- %s.\n  To do: %s.\n", json_string_value(json_object_get(finding, "what")),
               json_string_value(json_object_get(finding, "try")));
}

int cmd_explain(int argc, char **argv)
{
    struct verb verb;
    struct view v = {.findings = json_array()};
    int status = verb_parse(argc, argv, "", &verb);
    if (!status)
        status = look(&verb, &v);
    if (!status) {
        judge(&v, verb.vm);
        if (verb.json)
            status = print_json(json_pack("{s:s, s:f, s:f, s:O}", "engine", text_of(&v, "engine"),
                                          "busy_cpus", v.busy, "waited_cpus", v.waited, "findings",
                                          v.findings));
        else
            show(&v, verb.vm);
    }
    json_decref(v.info);
    json_decref(v.before);
    json_decref(v.after);
    json_decref(v.findings);
    return status;
}
