// berth info: what this host offers. Everything is gathered once, then shown as text or JSON.
#include <cpuid.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cpu/cpuid.h"
#include "engine/engine.h"
#include "host/cage.h"
#include "host/clock.h"
#include "host/memory.h"
#include "host/sandbox.h"
#include "host/uring.h"

const char info_help[] =
    "usage: berth info [--json] [VM]\n"
    "\n"
    "Shows Berth's version, the host's CPU, kernel and memory, which engines can run guests here\n"
    "(for those that cannot: why not, and what would help), the CPU models for --cpu, and the\n"
    "layers of the sandbox. With the name of a running VM: what it is, which engine runs it and\n"
    "why, its state and its disks.\n";

struct info {
    char cpu[49];
    struct cpuid_table host;
    struct feature_set features;
    struct utsname os;
    long cpus;
    struct host_memory memory;
    struct host_tsc_info tsc;
    struct sandbox_layer layers[SANDBOX_LAYERS];
    bool uring;             // io_uring is usable
    struct error uring_why; // else
    bool direct;            // programs of guests can run in cages
    struct error direct_why;
};

static const char *const feature_names[FEATURE_COUNT] = {
#define NAME(id, name, ...) [FEATURE_##id] = (name),
    CPU_FEATURES(NAME)
#undef NAME
};

// The brand string of leaves 0x80000002 to 4, without the blanks some CPUs pad it with.
static void read_brand(char brand[49])
{
    uint32_t words[12] = {0};
    for (uint32_t i = 0; i < 3; i++)
        __get_cpuid(0x80000002 + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2],
                    &words[4 * i + 3]);
    memcpy(brand, words, 48);
    brand[48] = '\0';
    size_t start = strspn(brand, " "), len = strlen(brand);
    while (len > start && brand[len - 1] == ' ')
        brand[--len] = '\0';
    memmove(brand, brand + start, len - start + 1);
}

static void gather(struct info *info)
{
    read_brand(info->cpu);
    cpuid_read_host(&info->host);
    cpuid_features(&info->host, &info->features);
    uname(&info->os);
    info->cpus = sysconf(_SC_NPROCESSORS_ONLN);
    host_memory_read(&info->memory);
    host_tsc_calibrate(NULL, &info->tsc);
    sandbox_probe(info->layers);
    info->uring = uring_probe(&info->uring_why) == OK;
    info->direct = cages_probe(&info->direct_why) == OK;
}

// Whether a guest can be shown this model here; else why has the words.
static bool model_usable(const struct info *info, const struct cpu_model *model, struct error *why)
{
    struct cpuid_table table;
    const struct cpuid_request request = {
        .model = model->name, .vcpus = 1, .tsc_khz = info->tsc.khz};
    *why = (struct error){0};
    return cpuid_build(&request, &info->host, &table, why) == OK;
}

// --- text

static void show_features(const struct feature_set *features)
{
    int column = 0;
    for (unsigned i = 1; i < FEATURE_COUNT; i++) {
        if (!feature_has(features, i))
            continue;
        if (column == 0 || column + (int)strlen(feature_names[i]) > 84) {
            printf("%s%-10s", column ? "\n" : "", column ? "" : "features");
            column = 10;
        }
        column += printf(" %s", feature_names[i]);
    }
    printf("\n");
}

static void show_engines(void)
{
    for (int i = 0; engines[i]; i++) {
        struct engine_probe probe = {0};
        engines[i]->probe(0, true, &probe);
        printf("engine     %s: %s%s\n", engines[i]->name,
               probe.usable ? "usable" : "not usable: ", probe.usable ? "" : probe.why);
        if (!probe.usable && probe.fix[0])
            printf("           to fix: %s\n", probe.fix);
    }
}

static void show_models(const struct info *info)
{
    struct error why;
    for (const struct cpu_model *m = cpu_models; m->name; m++) {
        bool usable = model_usable(info, m, &why);
        printf("--cpu      %s: %s%s%s\n", m->name, m->description,
               usable ? "" : "; not usable: ", why.text);
    }
}

static void show_text(const struct info *info)
{
    printf("berth      %s\n", BERTH_VERSION);
    printf("host CPU   %s, %ld online\n", info->cpu, info->cpus);
    show_features(&info->features);
    printf("TSC        %llu.%03llu MHz (%s)%s\n", (unsigned long long)info->tsc.khz / 1000,
           (unsigned long long)info->tsc.khz % 1000, info->tsc.source,
           info->tsc.invariant ? ", invariant" : "");
    printf("kernel     %s %s\n", info->os.sysname, info->os.release);
    printf("memory     %llu MiB, %llu MiB available\n", info->memory.total / MIB,
           info->memory.available / MIB);
    show_engines();
    printf("direct     %s%s\n",
           info->direct ? "usable (programs that compute run on the CPU itself, in cages)"
                        : "not usable, all code is translated: ",
           info->direct_why.text);
    show_models(info);
    printf("disk I/O   io_uring: %s%s%s\n",
           info->uring ? "usable" : "not usable: ", info->uring_why.text,
           info->uring ? "" : "; threads do its work");
    for (int i = 0; i < SANDBOX_LAYERS; i++) {
        const struct sandbox_layer *layer = &info->layers[i];
        printf("sandbox    %s: %s%s%s%s\n", layer->name, layer->usable ? "usable" : "not usable",
               layer->detail[0] ? " (" : "", layer->detail, layer->detail[0] ? ")" : "");
    }
}

// --- JSON

static json_t *features_json(const struct feature_set *features)
{
    json_t *array = json_array();
    for (unsigned i = 1; i < FEATURE_COUNT; i++) {
        if (feature_has(features, i))
            json_array_append_new(array, json_string(feature_names[i]));
    }
    return array;
}

static json_t *engines_json(void)
{
    json_t *array = json_array();
    for (int i = 0; engines[i]; i++) {
        struct engine_probe probe = {0};
        engines[i]->probe(0, true, &probe);
        json_array_append_new(array, json_pack("{s:s, s:b, s:s?, s:s, s:s}", "name",
                                               engines[i]->name, "usable", probe.usable, "reason",
                                               probe.reason, "why", probe.why, "fix", probe.fix));
    }
    return array;
}

static json_t *models_json(const struct info *info)
{
    json_t *array = json_array();
    struct error why;
    for (const struct cpu_model *m = cpu_models; m->name; m++) {
        bool usable = model_usable(info, m, &why);
        json_array_append_new(array,
                              json_pack("{s:s, s:s, s:b, s:s}", "name", m->name, "description",
                                        m->description, "usable", usable, "why", why.text));
    }
    return array;
}

static json_t *sandbox_json(const struct info *info)
{
    json_t *array = json_array();
    for (int i = 0; i < SANDBOX_LAYERS; i++) {
        const struct sandbox_layer *layer = &info->layers[i];
        json_array_append_new(array, json_pack("{s:s, s:b, s:s}", "name", layer->name, "usable",
                                               layer->usable, "detail", layer->detail));
    }
    return array;
}

static int show_json(const struct info *info)
{
    json_t *root = json_pack(
        "{s:s, s:{s:s, s:I, s:o}, s:{s:I, s:s, s:b}, s:s, s:{s:I, s:I}, s:o, "
        "s:o, s:o, s:{s:b, s:s}, s:{s:b, s:s}}",
        "version", BERTH_VERSION, "cpu", "model", info->cpu, "online", (json_int_t)info->cpus,
        "features", features_json(&info->features), "tsc", "khz", (json_int_t)info->tsc.khz,
        "source", info->tsc.source, "invariant", info->tsc.invariant, "kernel", info->os.release,
        "memory", "total_mib", (json_int_t)(info->memory.total / MIB), "available_mib",
        (json_int_t)(info->memory.available / MIB), "engines", engines_json(), "cpu_models",
        models_json(info), "sandbox", sandbox_json(info), "io_uring", "usable", info->uring, "why",
        info->uring_why.text, "direct", "usable", info->direct, "why", info->direct_why.text);
    if (!root || json_dumpf(root, stdout, JSON_INDENT(2)) < 0)
        return complain(EXIT_HOST, "cannot write the information");
    printf("\n");
    json_decref(root);
    return EXIT_OK;
}

int cmd_info(int argc, char **argv)
{
    bool json = argc == 2 && !strcmp(argv[1], "--json");
    if (argc > 1 && !json) {
        struct verb verb;
        int status = verb_parse(argc, argv, "", &verb);
        return status ? status : info_of_vm(&verb);
    }
    struct info info = {0};
    gather(&info);
    if (json)
        return show_json(&info);
    show_text(&info);
    return EXIT_OK;
}
