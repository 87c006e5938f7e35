// A VM's definition: defaults, checks, and its JSON form (docs/formats/vm-definition.md, RFC 8259).
// One table of keys drives loading and saving. Not modelled: files are not looked at here.
#include "machine/config.h"

#include <ctype.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chardev/open.h"
#include "display/vnc.h"
#include "machine/config_impl.h"

#define FORMAT_KEY "berth-vm"
#define FORMAT_VERSION 1

enum key_kind { KEY_STRING, KEY_U32, KEY_MIB, KEY_BOOL, KEY_DISKS, KEY_NICS, KEY_DEBUG };

static const struct key {
    const char *name;
    enum key_kind kind;
    size_t offset;
} keys[] = {
    {"name", KEY_STRING, offsetof(struct vm_config, name)},
    {"vcpus", KEY_U32, offsetof(struct vm_config, vcpus)},
    {"memory_mib", KEY_MIB, offsetof(struct vm_config, memory_bytes)},
    {"cpu_limit", KEY_U32, offsetof(struct vm_config, cpu_limit)},
    {"cpu_bound", KEY_U32, offsetof(struct vm_config, cpu_bound)},
    {"cpu_pin", KEY_STRING, offsetof(struct vm_config, cpu_pin)},
    {"memory_huge", KEY_BOOL, offsetof(struct vm_config, memory_huge)},
    {"memory_merge", KEY_BOOL, offsetof(struct vm_config, memory_merge)},
    {"kernel", KEY_STRING, offsetof(struct vm_config, kernel)},
    {"initrd", KEY_STRING, offsetof(struct vm_config, initrd)},
    {"append", KEY_STRING, offsetof(struct vm_config, append)},
    {"firmware", KEY_STRING, offsetof(struct vm_config, firmware)},
    {"firmware_log", KEY_STRING, offsetof(struct vm_config, firmware_log)},
    {"uefi_vars", KEY_STRING, offsetof(struct vm_config, uefi_vars)},
    {"disks", KEY_DISKS, 0},
    {"nics", KEY_NICS, 0},
    {"engine", KEY_STRING, offsetof(struct vm_config, engine)},
    {"cpu", KEY_STRING, offsetof(struct vm_config, cpu)},
    {"serial", KEY_STRING, offsetof(struct vm_config, serial)},
    {"console", KEY_STRING, offsetof(struct vm_config, console)},
    {"vga", KEY_STRING, offsetof(struct vm_config, vga)},
    {"display", KEY_STRING, offsetof(struct vm_config, display)},
    {"exit_device", KEY_BOOL, offsetof(struct vm_config, exit_device)},
    {"no_reboot", KEY_BOOL, offsetof(struct vm_config, no_reboot)},
    {"no_vsock", KEY_BOOL, offsetof(struct vm_config, no_vsock)},
    {"agent", KEY_BOOL, offsetof(struct vm_config, agent)},
    {"json", KEY_BOOL, offsetof(struct vm_config, json)},
    {"debug", KEY_DEBUG, offsetof(struct vm_config, debug)},
};

static const struct {
    const char *name;
    uint32_t bit;
} debug_names[] = {
    {"interpret", ENGINE_DEBUG_INTERPRET},   {"tiny-tlb", ENGINE_DEBUG_TINY_TLB},
    {"tiny-cache", ENGINE_DEBUG_TINY_CACHE}, {"poll", ENGINE_DEBUG_POLL_EVERY_BLOCK},
    {"flags-live", ENGINE_DEBUG_FLAGS_LIVE}, {"lockstep", ENGINE_DEBUG_LOCKSTEP},
    {"any-kvm", ENGINE_DEBUG_ANY_KVM},       {"dirty-bitmap", ENGINE_DEBUG_DIRTY_BITMAP},
    {"all-hot", ENGINE_DEBUG_ALL_HOT},       {"slots-miss", ENGINE_DEBUG_SLOTS_MISS},
    {"all-direct", ENGINE_DEBUG_ALL_DIRECT}, {"copy-blocks", ENGINE_DEBUG_COPY_BLOCKS},
    {"open-pages", ENGINE_DEBUG_OPEN_PAGES},
};

// --- the struct

err_t vm_config_init(struct vm_config *config, struct error *e)
{
    *config = (struct vm_config){.vcpus = 1, .memory_bytes = 256 * MIB};
    err_t err = vm_config_set(&config->name, "vm", e);
    if (!err)
        err = vm_config_set(&config->engine, "auto", e);
    if (!err)
        err = vm_config_set(&config->serial, "stdio", e);
    if (err)
        vm_config_release(config);
    return err;
}

void vm_config_release(struct vm_config *config)
{
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        if (keys[i].kind == KEY_STRING)
            free(*(char **)((char *)config + keys[i].offset));
    }
    for (uint32_t i = 0; i < config->disks; i++)
        vm_disk_release(&config->disk[i]);
    for (uint32_t i = 0; i < config->nics; i++)
        vm_nic_release(&config->nic[i]);
    *config = (struct vm_config){0};
}

err_t vm_config_set(char **member, const char *value, struct error *e)
{
    char *copy = NULL;
    if (value && !(copy = strdup(value)))
        return error_set(e, ERR_NO_MEMORY, "no memory for the VM's definition");
    free(*member);
    *member = copy;
    return OK;
}

// --- checks

bool vm_name_valid(const char *name)
{
    size_t len = name ? strlen(name) : 0;
    if (len < 1 || len > 63 || !isalnum((unsigned char)*name))
        return false;
    for (; *name; name++) {
        if (!isalnum((unsigned char)*name) && !strchr("._-", *name))
            return false;
    }
    return true;
}

static err_t check_engine_name(const char *name, struct error *e)
{
    if (!strcmp(name, "auto"))
        return OK;
    char names[64] = "auto";
    for (size_t i = 0; engines[i]; i++) {
        if (!strcmp(name, engines[i]->name))
            return OK;
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, ", %s", engines[i]->name);
    }
    return error_set(e, ERR_INVALID, "engine: there is no '%.40s'; give one of %s", name, names);
}

static err_t parse_halt_poll(const char *text, struct vm_engine *out, struct error *e)
{
    uint32_t ns = 0;
    const char *at = text;
    for (; isdigit((unsigned char)*at) && ns <= ENGINE_POLL_MAX; at++)
        ns = ns * 10 + (uint32_t)(*at - '0');
    if (*at || at == text || ns > ENGINE_POLL_MAX)
        return error_set(e, ERR_INVALID, "engine: halt-poll is 0 to %d nanoseconds, not '%.40s'",
                         ENGINE_POLL_MAX, text);
    out->poll_ns = ns ? ns : ENGINE_POLL_NEVER;
    return OK;
}

static err_t parse_irqchip(const char *text, struct vm_engine *out, struct error *e)
{
    static const struct {
        const char *name;
        enum engine_chips chips;
    } places[] = {
        {"kernel", ENGINE_CHIPS_ALL}, {"split", ENGINE_CHIPS_LAPIC}, {"user", ENGINE_CHIPS_NONE}};
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        if (strcmp(places[i].name, text))
            continue;
        out->chips = places[i].chips;
        return OK;
    }
    return error_set(e, ERR_INVALID, "engine: irqchip is kernel, split or user, not '%.40s'", text);
}

static err_t parse_code_cache(const char *text, struct vm_engine *out, struct error *e)
{
    err_t err = vm_memory_parse(text, &out->code_cache_bytes, e);
    if (!err && (out->code_cache_bytes < MIB || out->code_cache_bytes > GIB))
        err = error_set(e, ERR_INVALID, "%s is outside 1M to 1G", text);
    return err ? error_in(e, "engine: code-cache") : OK;
}

static err_t parse_shared_code(const char *text, struct vm_engine *out, struct error *e)
{
    err_t err = vm_memory_parse(text, &out->shared_code_bytes, e);
    if (!err && (out->shared_code_bytes < MIB || out->shared_code_bytes > 4 * GIB))
        err = error_set(e, ERR_INVALID, "%s is outside 1M to 4G", text);
    return err ? error_in(e, "engine: shared-code") : OK;
}

static err_t parse_translation_cache(const char *text, struct vm_engine *out, struct error *e)
{
    if (!*text)
        return error_set(e, ERR_INVALID, "engine: translation-cache is off or a file");
    snprintf(out->translation_cache, sizeof out->translation_cache, "%s",
             strcmp(text, "off") ? text : "");
    return OK;
}

static err_t parse_perf_map(const char *text, struct vm_engine *out, struct error *e)
{
    int len = snprintf(out->perf_map, sizeof out->perf_map, "%s", text);
    return len > 0 && len < (int)sizeof out->perf_map
               ? OK
               : error_set(e, ERR_INVALID, "engine: perf-map is none or a file of symbols");
}

static err_t parse_direct(const char *text, struct vm_engine *out, struct error *e)
{
    static const char *const words[] = {
        [VM_DIRECT_AUTO] = "auto", [VM_DIRECT_ON] = "on", [VM_DIRECT_OFF] = "off"};
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strcmp(words[i], text))
            continue;
        out->direct = (enum vm_direct)i;
        return OK;
    }
    return error_set(e, ERR_INVALID, "engine: direct is on, off or auto, not '%.40s'", text);
}

static err_t parse_engine_option(const char *option, size_t len, struct vm_engine *out,
                                 struct error *e)
{
    static const struct {
        const char *name;
        err_t (*parse)(const char *text, struct vm_engine *out, struct error *e);
    } options[] = {{"irqchip=", parse_irqchip},
                   {"halt-poll=", parse_halt_poll},
                   {"code-cache=", parse_code_cache},
                   {"shared-code=", parse_shared_code},
                   {"translation-cache=", parse_translation_cache},
                   {"perf-map=", parse_perf_map},
                   {"direct=", parse_direct}};
    char text[ENGINE_OPTION_MAX];
    snprintf(text, sizeof text, "%.*s", (int)min_u64(len, sizeof text - 1), option);
    for (size_t i = 0; i < ARRAY_LEN(options) && len < sizeof text; i++) {
        size_t name = strlen(options[i].name);
        if (!strncmp(options[i].name, text, name))
            return options[i].parse(text + name, out, e);
    }
    return error_set(e, ERR_INVALID,
                     "engine: there is no option '%.40s'; give irqchip=kernel, split or user, "
                     "halt-poll=NANOSECONDS, code-cache=SIZE, shared-code=SIZE, "
                     "translation-cache=FILE, perf-map=FILE or direct=on, off or auto",
                     text);
}

err_t vm_engine_parse(const char *text, struct vm_engine *out, struct error *e)
{
    *out = (struct vm_engine){.name = "auto", .chips = ENGINE_CHIPS_BEST};
    if (!text)
        return OK;
    size_t len = strcspn(text, ",");
    snprintf(out->name, sizeof out->name, "%.*s", (int)(len < 40 ? len : 40), text);
    err_t err =
        len < sizeof out->name ? check_engine_name(out->name, e) : check_engine_name(text, e);
    for (text += len; !err && *text == ','; text += len) {
        text++;
        len = strcspn(text, ",");
        err = parse_engine_option(text, len, out, e);
    }
    return err;
}

static bool is_stdio(const char *spec)
{
    return spec && !strcmp(spec, "stdio");
}

static err_t check_streams(const struct vm_config *config, struct error *e)
{
    if (chardev_check(config->serial, e))
        return error_in(e, "serial");
    if (chardev_check(config->console, e))
        return error_in(e, "console");
    if (is_stdio(config->serial) && is_stdio(config->console))
        return error_set(e, ERR_INVALID,
                         "serial and console cannot both be stdio; make one of them pty or none");
    if (config->json && (is_stdio(config->serial) || is_stdio(config->console)))
        return error_set(e, ERR_INVALID,
                         "JSON events need standard output for themselves; give "
                         "file:PATH, pty or none in place of stdio");
    return OK;
}

// "uefi" and "uefi:FILE".
static bool firmware_is(const struct vm_config *config, const char *kind)
{
    size_t len = strlen(kind);
    const char *name = config->firmware;
    return !strncmp(name, kind, len) && (!name[len] || (name[len] == ':' && name[len + 1]));
}

static bool firmware_is_guessed(const struct vm_config *config)
{
    return config->firmware ? !strcmp(config->firmware, "auto") : !config->kernel;
}

bool vm_config_has_firmware(const struct vm_config *config)
{
    return firmware_is_guessed(config) || (config->firmware && strcmp(config->firmware, "none"));
}

static err_t check_memory_for(const struct vm_config *config, uint64_t least, struct error *e)
{
    return config->memory_bytes >= least
               ? OK
               : error_set(e, ERR_INVALID, "memory: this firmware needs at least %llu MiB",
                           least / MIB);
}

static err_t check_firmware(const struct vm_config *config, struct error *e)
{
    if (chardev_check(config->firmware_log, e))
        return error_in(e, "firmware_log");
    if (is_stdio(config->firmware_log))
        return error_set(e, ERR_INVALID, "firmware_log: give file:PATH or pty");
    if (!vm_config_has_firmware(config))
        return config->uefi_vars ? error_set(e, ERR_INVALID, "uefi_vars: needs firmware uefi") : OK;
    if (firmware_is_guessed(config))
        return config->kernel ? error_set(e, ERR_INVALID,
                                          "firmware: auto is for disks; a kernel from a file "
                                          "starts with none or uefi")
                              : OK;
    bool bios = firmware_is(config, "bios");
    if (!bios && !firmware_is(config, "uefi"))
        return error_set(e, ERR_INVALID,
                         "firmware: there is no '%.60s'; give auto, none, bios, uefi, bios:FILE or "
                         "uefi:FILE",
                         config->firmware);
    if (bios && config->kernel)
        return error_set(e, ERR_INVALID,
                         "firmware: a BIOS does not start a kernel from a file; give none or uefi");
    if (bios && config->uefi_vars)
        return error_set(e, ERR_INVALID, "uefi_vars: needs firmware uefi, not bios");
    return check_memory_for(config, bios ? VM_BIOS_MEMORY_MIN : VM_UEFI_MEMORY_MIN, e);
}

bool vm_config_has_vga(const struct vm_config *config)
{
    return config->vga ? !strcmp(config->vga, "std") : vm_config_has_firmware(config);
}

static err_t check_display(const struct vm_config *config, struct error *e)
{
    struct vnc_address address;
    if (config->vga && strcmp(config->vga, "std") && strcmp(config->vga, "none"))
        return error_set(e, ERR_INVALID, "vga: there is no '%.40s'; give std or none", config->vga);
    if (!config->display || !strcmp(config->display, "none"))
        return OK;
    if (strncmp(config->display, "vnc=", 4))
        return error_set(e, ERR_INVALID,
                         "display: there is no '%.40s'; give vnc=unix:PATH, "
                         "vnc=HOST:PORT,password-file=FILE or none",
                         config->display);
    if (!vm_config_has_vga(config))
        return error_set(e, ERR_INVALID, "display: there is nothing to show; add --vga std");
    return vnc_parse(config->display + 4, &address, e) ? error_in(e, "display") : OK;
}

err_t vm_config_check(const struct vm_config *config, struct error *e)
{
    if (!vm_name_valid(config->name))
        return error_set(e, ERR_INVALID, "name: '%.64s' is not a VM name; " VM_NAME_RULE,
                         config->name ? config->name : "");
    if (config->vcpus < 1 || config->vcpus > VM_VCPUS_MAX)
        return error_set(e, ERR_INVALID, "vcpus: %" PRIu32 " is outside 1 to %d", config->vcpus,
                         VM_VCPUS_MAX);
    if (config->memory_bytes < VM_MEMORY_MIN || config->memory_bytes > VM_MEMORY_MAX ||
        config->memory_bytes % MIB)
        return error_set(e, ERR_INVALID, "memory: %llu MiB is outside 1 to %llu",
                         config->memory_bytes / MIB, VM_MEMORY_MAX / MIB);
    if (config->initrd && !config->kernel)
        return error_set(e, ERR_INVALID, "initrd: needs a kernel to go with it");
    if (config->append && !config->kernel)
        return error_set(e, ERR_INVALID, "append: needs a kernel to go with it");
    if (config->memory_huge && config->memory_bytes % (2 * MIB))
        return error_set(e, ERR_INVALID, "memory_huge: needs an even number of MiB");
    if (config->memory_huge && config->memory_merge)
        return error_set(e, ERR_INVALID, "memory_merge: huge pages cannot be merged");
    struct vm_engine engine;
    err_t err = vm_cpu_limit_check(config->cpu_limit, e);
    if (!err && config->cpu_pin)
        err = vm_cpu_pin_parse(config->cpu_pin, config->vcpus, NULL, e);
    if (!err)
        err = vm_disks_check(config, e);
    if (!err)
        err = vm_nics_check(config, e);
    if (!err)
        err = check_firmware(config, e);
    if (!err)
        err = vm_engine_parse(config->engine, &engine, e);
    if (!err)
        err = check_display(config, e);
    return err ? err : check_streams(config, e);
}

// --- words on a command line

err_t vm_debug_parse(const char *list, uint32_t *debug, struct error *e)
{
    *debug = 0;
    while (*list) {
        size_t len = strcspn(list, ","), i = 0;
        while (i < ARRAY_LEN(debug_names) &&
               (strlen(debug_names[i].name) != len || strncmp(debug_names[i].name, list, len)))
            i++;
        if (i == ARRAY_LEN(debug_names))
            return error_set(e, ERR_INVALID,
                             "debug: there is no '%.*s'; give some of interpret, tiny-tlb, "
                             "tiny-cache, poll, flags-live, lockstep, any-kvm, "
                             "dirty-bitmap",
                             (int)(len < 40 ? len : 40), list);
        *debug |= debug_names[i].bit;
        list += len + (list[len] == ',');
    }
    return OK;
}

err_t vm_memory_parse(const char *text, uint64_t *bytes, struct error *e)
{
    char *end;
    unsigned long long n = strtoull(text, &end, 10);
    uint64_t unit = MIB;
    if (*end == 'G' || *end == 'g')
        unit = GIB;
    if (*end && strchr("GgMm", *end))
        end++;
    if (!isdigit((unsigned char)text[0]) || *end || n > VM_MEMORY_MAX / unit)
        return error_set(e, ERR_INVALID,
                         "memory: '%.40s' is not an amount up to %llu GiB; give for example 512M "
                         "or 2G",
                         text, VM_MEMORY_MAX / GIB);
    *bytes = n * unit;
    return OK;
}

// --- JSON

static json_t *debug_to_json(uint32_t debug)
{
    json_t *array = json_array();
    for (size_t i = 0; i < ARRAY_LEN(debug_names); i++) {
        if (debug & debug_names[i].bit)
            json_array_append_new(array, json_string(debug_names[i].name));
    }
    return array;
}

static json_t *value_to_json(const struct vm_config *config, const struct key *key)
{
    const void *at = (const char *)config + key->offset;
    switch (key->kind) {
    case KEY_STRING: return *(char *const *)at ? json_string(*(char *const *)at) : json_null();
    case KEY_U32: return json_integer(*(const uint32_t *)at);
    case KEY_MIB: return json_integer((json_int_t)(*(const uint64_t *)at / MIB));
    case KEY_BOOL: return json_boolean(*(const bool *)at);
    case KEY_DISKS: return vm_disks_to_json(config);
    case KEY_NICS: return vm_nics_to_json(config);
    case KEY_DEBUG: return debug_to_json(config->debug);
    }
    return NULL;
}

err_t vm_config_save(const struct vm_config *config, char **text, struct error *e)
{
    json_t *root = json_pack("{s:i}", FORMAT_KEY, FORMAT_VERSION);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        json_t *value = value_to_json(config, &keys[i]);
        if (!value) {
            json_decref(root);
            return error_set(e, ERR_INVALID, "%s: the text is not UTF-8; rename the file",
                             keys[i].name);
        }
        if (json_is_null(value))
            json_decref(value);
        else
            json_object_set_new(root, keys[i].name, value);
    }
    *text = json_dumps(root, JSON_INDENT(2));
    json_decref(root);
    return *text ? OK : error_set(e, ERR_NO_MEMORY, "no memory for the VM's definition");
}

static err_t wrong_type(const char *key, const char *want, struct error *e)
{
    return error_set(e, ERR_INVALID, "%s: must be %s", key, want);
}

static err_t debug_from_json(struct vm_config *config, const json_t *value, struct error *e)
{
    if (!json_is_array(value))
        return wrong_type("debug", "a list of words", e);
    for (size_t i = 0; i < json_array_size(value); i++) {
        const char *word = json_string_value(json_array_get(value, i));
        uint32_t bit;
        if (!word)
            return wrong_type("debug", "a list of words", e);
        err_t err = vm_debug_parse(word, &bit, e);
        if (err)
            return err;
        config->debug |= bit;
    }
    return OK;
}

static err_t value_from_json(struct vm_config *config, const struct key *key, const json_t *value,
                             struct error *e)
{
    void *at = (char *)config + key->offset;
    json_int_t n = json_integer_value(value);
    switch (key->kind) {
    case KEY_STRING:
        if (!json_is_string(value))
            return wrong_type(key->name, "a text", e);
        return vm_config_set(at, json_string_value(value), e);
    case KEY_U32:
        if (!json_is_integer(value) || n < 0 || n > UINT32_MAX)
            return wrong_type(key->name, "a whole number", e);
        *(uint32_t *)at = (uint32_t)n;
        return OK;
    case KEY_MIB:
        if (!json_is_integer(value) || n < 0 || (uint64_t)n > VM_MEMORY_MAX / MIB)
            return wrong_type(key->name, "a whole number of MiB, at most 262144", e);
        *(uint64_t *)at = (uint64_t)n * MIB;
        return OK;
    case KEY_BOOL:
        if (!json_is_boolean(value))
            return wrong_type(key->name, "true or false", e);
        *(bool *)at = json_is_true(value);
        return OK;
    case KEY_DISKS: return vm_disks_from_json(config, value, e);
    case KEY_NICS: return vm_nics_from_json(config, value, e);
    case KEY_DEBUG: return debug_from_json(config, value, e);
    }
    return ERR_INVALID;
}

static const struct key *find_key(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        if (!strcmp(keys[i].name, name))
            return &keys[i];
    }
    return NULL;
}

static err_t from_object(struct vm_config *config, json_t *root, struct error *e)
{
    if (!json_is_object(root))
        return error_set(e, ERR_INVALID, "the definition is not a JSON object");
    const json_t *version = json_object_get(root, FORMAT_KEY);
    if (!json_is_integer(version) || json_integer_value(version) != FORMAT_VERSION)
        return error_set(e, ERR_INVALID, "%s: must be %d", FORMAT_KEY, FORMAT_VERSION);
    const char *name;
    json_t *value;
    json_object_foreach(root, name, value)
    {
        if (!strcmp(name, FORMAT_KEY))
            continue;
        const struct key *key = find_key(name);
        if (!key)
            return error_set(e, ERR_INVALID, "%.60s: there is no such key", name);
        err_t err = value_from_json(config, key, value, e);
        if (err)
            return err;
    }
    return vm_config_check(config, e);
}

err_t vm_config_load(struct vm_config *config, const char *text, size_t len, struct error *e)
{
    err_t err = vm_config_init(config, e);
    if (err)
        return err;
    json_error_t why;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    if (root)
        err = from_object(config, root, e);
    else
        err = error_set(e, ERR_INVALID, "line %d, column %d: %s", why.line, why.column, why.text);
    json_decref(root);
    if (err)
        vm_config_release(config);
    return err;
}
