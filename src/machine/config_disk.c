// The disks of a VM's definition: words of the command line, JSON keys and checks, from one table
// of properties. docs/formats/vm-definition.md has the JSON form.
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "machine/config_impl.h"

#define SERIAL_MAX 20

static const char *const bus_names[VM_BUSES] = {"virtio", "ahci", "nvme"};

enum prop_kind { PROP_STRING, PROP_BOOL, PROP_BUS };

// JSON names; the command line also takes '-' for '_'. Limits come after these.
static const struct prop {
    const char *name;
    enum prop_kind kind;
    size_t offset;
} props[] = {
    {"path", PROP_STRING, offsetof(struct vm_disk, path)},
    {"format", PROP_STRING, offsetof(struct vm_disk, format)},
    {"bus", PROP_BUS, offsetof(struct vm_disk, bus)},
    {"cdrom", PROP_BOOL, offsetof(struct vm_disk, cdrom)},
    {"read_only", PROP_BOOL, offsetof(struct vm_disk, read_only)},
    {"snapshot", PROP_BOOL, offsetof(struct vm_disk, snapshot)},
    {"direct", PROP_BOOL, offsetof(struct vm_disk, direct)},
    {"serial", PROP_STRING, offsetof(struct vm_disk, serial)},
};

static void *prop_at(const struct vm_disk *disk, const struct prop *p)
{
    return (char *)disk + p->offset;
}

// --- the struct

void vm_disk_release(struct vm_disk *disk)
{
    for (size_t i = 0; i < ARRAY_LEN(props); i++) {
        if (props[i].kind == PROP_STRING)
            free(*(char **)prop_at(disk, &props[i]));
    }
    *disk = (struct vm_disk){0};
}

static err_t add(struct vm_config *config, const struct vm_disk *start, const char *path,
                 struct error *e)
{
    if (config->disks == VM_DISKS_MAX)
        return error_set(e, ERR_INVALID, "disks: at most %d", VM_DISKS_MAX);
    struct vm_disk *disk = &config->disk[config->disks];
    *disk = *start;
    err_t err = vm_config_set(&disk->path, path, e);
    if (!err)
        config->disks++;
    return err;
}

err_t vm_config_add_disk(struct vm_config *config, const char *path, bool read_only,
                         struct error *e)
{
    return add(config, &(struct vm_disk){.read_only = read_only}, path, e);
}

// --- names

static bool same_name(const char *json, const char *word, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        char c = word[i] == '-' ? '_' : word[i];
        if (!json[i] || (json[i] == '-' ? '_' : json[i]) != c)
            return false;
    }
    return json[len] == '\0';
}

static const struct prop *find_prop(const char *word, size_t len)
{
    for (size_t i = 0; i < ARRAY_LEN(props); i++) {
        if (same_name(props[i].name, word, len))
            return &props[i];
    }
    return NULL;
}

// "iops_read" is a rate, "iops_read_burst" its burst.
uint64_t *vm_limit_member(struct throttle_limits *limits, const char *word, size_t len)
{
    static const char burst[] = "_burst";
    size_t tail = sizeof burst - 1;
    bool is_burst = len > tail && same_name(burst, word + len - tail, tail);
    for (size_t i = 0; i < THROTTLE_OWN; i++) {
        struct throttle_limit *limit = &limits->of[i];
        if (same_name(throttle_names[i], word, is_burst ? len - tail : len))
            return is_burst ? &limit->burst : &limit->rate;
    }
    return NULL;
}

static bool find_bus(const char *name, size_t len, enum vm_disk_bus *bus)
{
    for (unsigned i = 0; i < VM_BUSES; i++) {
        if (strlen(bus_names[i]) == len && !strncmp(bus_names[i], name, len)) {
            *bus = (enum vm_disk_bus)i;
            return true;
        }
    }
    return false;
}

// --- words on a command line

err_t vm_rate_parse(const char *name, size_t name_len, const char *text, size_t len, uint64_t *out,
                    struct error *e)
{
    uint64_t n = 0, unit = 1;
    size_t i = 0;
    while (i < len && isdigit((unsigned char)text[i]) && n <= THROTTLE_RATE_MAX)
        n = n * 10 + (uint64_t)(text[i++] - '0');
    size_t digits = i;
    if (i < len && strchr("kKmMgG", text[i])) {
        unit = strchr("kK", text[i]) ? KIB : strchr("mM", text[i]) ? MIB : GIB;
        i++;
    }
    if (!digits || i != len || n > THROTTLE_RATE_MAX / unit)
        return error_set(e, ERR_INVALID,
                         "'%.*s' is not a limit a second; give for example %.*s=10M",
                         (int)(len < 40 ? len : 40), text, (int)name_len, name);
    *out = n * unit;
    return OK;
}

static err_t set_string(char **member, const char *value, size_t len, struct error *e)
{
    char *copy = strndup(value, len);
    if (!copy)
        return error_set(e, ERR_NO_MEMORY, "no memory for the VM's definition");
    free(*member);
    *member = copy;
    return OK;
}

static err_t unknown_word(const char *word, size_t len, struct error *e)
{
    return error_set(e, ERR_INVALID,
                     "a disk has no option '%.*s'; it has format=, bus=, serial=, read-only, "
                     "snapshot, direct, bps=, iops=; write ',,' for a comma in the path",
                     (int)(len < 40 ? len : 40), word);
}

static err_t set_word(struct vm_disk *disk, const char *word, size_t len, struct error *e)
{
    const char *equals = memchr(word, '=', len);
    size_t name = equals ? (size_t)(equals - word) : len;
    const char *value = equals ? equals + 1 : "";
    size_t value_len = equals ? len - name - 1 : 0;
    const struct prop *p =
        len == 2 && !strncmp(word, "ro", 2) ? find_prop("read_only", 9) : find_prop(word, name);
    uint64_t *limit = vm_limit_member(&disk->limits, word, name);
    if (limit && equals)
        return vm_rate_parse(word, name, value, value_len, limit, e);
    if (!p || !strcmp(p->name, "path") || !strcmp(p->name, "cdrom") ||
        (p->kind == PROP_BOOL) != !equals)
        return unknown_word(word, len, e);
    if (p->kind == PROP_BOOL)
        *(bool *)prop_at(disk, p) = true;
    else if (p->kind == PROP_STRING)
        return set_string(prop_at(disk, p), value, value_len, e);
    else if (!find_bus(value, value_len, &disk->bus))
        return error_set(e, ERR_INVALID,
                         "there is no bus '%.*s' for a disk; give virtio, ahci or nvme",
                         (int)(value_len < 40 ? value_len : 40), value);
    return OK;
}

// Up to the first single comma; a doubled one stands for itself. Returns what follows the path.
static const char *take_path(const char *text, char *path)
{
    while (*text && (*text != ',' || text[1] == ',')) {
        text += *text == ',';
        *path++ = *text++;
    }
    *path = '\0';
    return text;
}

err_t vm_disk_parse(struct vm_config *config, const char *text, struct error *e)
{
    char *path = malloc(strlen(text) + 1);
    if (!path)
        return error_set(e, ERR_NO_MEMORY, "no memory for the VM's definition");
    text = take_path(text, path);
    err_t err = add(config, &(struct vm_disk){0}, path, e);
    free(path);
    while (!err && *text == ',') {
        size_t len = strcspn(++text, ",");
        err = set_word(&config->disk[config->disks - 1], text, len, e);
        text += len;
    }
    return err;
}

err_t vm_cdrom_parse(struct vm_config *config, const char *text, struct error *e)
{
    const struct vm_disk drive = {.cdrom = true, .read_only = true, .bus = VM_BUS_AHCI};
    return add(config, &drive, strcmp(text, "none") ? text : NULL, e);
}

// --- checks

err_t vm_limits_check(const struct throttle_limits *limits, struct error *e)
{
    for (unsigned i = 0; i < THROTTLE_KINDS; i++) {
        const struct throttle_limit *l = &limits->of[i];
        if (l->rate > THROTTLE_RATE_MAX || l->burst > THROTTLE_RATE_MAX)
            return error_set(e, ERR_INVALID, "%s: at most 1 T", throttle_names[i]);
        if (l->burst && !l->rate)
            return error_set(e, ERR_INVALID, "%s-burst needs %s, too", throttle_names[i],
                             throttle_names[i]);
    }
    return OK;
}

static err_t check_disk(const struct vm_disk *d, struct error *e)
{
    if (d->path ? !*d->path : !d->cdrom)
        return error_set(e, ERR_INVALID, "the path is empty");
    if (d->format && strcmp(d->format, "raw") && strcmp(d->format, "qcow2"))
        return error_set(e, ERR_INVALID, "there is no format '%.40s'; give raw or qcow2",
                         d->format);
    if (d->cdrom && (d->bus != VM_BUS_AHCI || !d->read_only || d->snapshot))
        return error_set(e, ERR_INVALID, "a CD-ROM drive is read-only and on the ahci bus");
    if (d->read_only && d->snapshot)
        return error_set(
            e, ERR_INVALID,
            "read-only and snapshot exclude each other; snapshot alone keeps the image as it is");
    if (d->serial && strlen(d->serial) > SERIAL_MAX)
        return error_set(e, ERR_INVALID, "the serial number has more than %d characters",
                         SERIAL_MAX);
    for (const char *c = d->serial; c && *c; c++) {
        if (*c < ' ' || *c > '~')
            return error_set(e, ERR_INVALID, "the serial number is not plain ASCII");
    }
    return vm_limits_check(&d->limits, e);
}

err_t vm_disks_check(const struct vm_config *config, struct error *e)
{
    unsigned ahci = 0;
    for (uint32_t i = 0; i < config->disks; i++) {
        if (check_disk(&config->disk[i], e))
            return error_in(e, "disks[%" PRIu32 "]", i);
        ahci += config->disk[i].bus == VM_BUS_AHCI;
    }
    if (ahci > VM_AHCI_MAX)
        return error_set(e, ERR_INVALID, "disks: at most %d on the ahci bus; put some on virtio",
                         VM_AHCI_MAX);
    return OK;
}

// --- JSON

static void put(json_t *object, const char *name, json_t *value)
{
    if (value)
        json_object_set_new(object, name, value);
}

static void json_name(char out[32], const char *name, const char *tail)
{
    snprintf(out, 32, "%s%s", name, tail);
    for (; *out; out++) {
        if (*out == '-')
            *out = '_';
    }
}

static bool prop_to_json(const struct vm_disk *disk, const struct prop *p, json_t *object)
{
    const void *at = prop_at(disk, p);
    json_t *value = NULL;
    switch (p->kind) {
    case PROP_STRING:
        if (!*(char *const *)at)
            return true;
        value = json_string(*(char *const *)at);
        break;
    case PROP_BOOL:
        if (!*(const bool *)at)
            return true;
        value = json_true();
        break;
    case PROP_BUS:
        if (disk->bus == VM_BUS_VIRTIO)
            return true;
        value = json_string(bus_names[disk->bus]);
        break;
    }
    put(object, p->name, value);
    return value;
}

static json_t *disk_to_json(const struct vm_disk *disk)
{
    json_t *object = json_object();
    for (size_t i = 0; i < ARRAY_LEN(props); i++) {
        if (!prop_to_json(disk, &props[i], object)) {
            json_decref(object);
            return NULL;
        }
    }
    for (unsigned i = 0; i < THROTTLE_OWN; i++) {
        const struct throttle_limit *l = &disk->limits.of[i];
        char name[32];
        json_name(name, throttle_names[i], "");
        put(object, name, l->rate ? json_integer((json_int_t)l->rate) : NULL);
        json_name(name, throttle_names[i], "_burst");
        put(object, name, l->burst ? json_integer((json_int_t)l->burst) : NULL);
    }
    return object;
}

json_t *vm_disks_to_json(const struct vm_config *config)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < config->disks; i++) {
        if (json_array_append_new(array, disk_to_json(&config->disk[i])) < 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static err_t wrong(const char *key, const char *want, struct error *e)
{
    return error_set(e, ERR_INVALID, "%s: must be %s", key, want);
}

static err_t limit_from_json(uint64_t *limit, const char *key, const json_t *value, struct error *e)
{
    json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < 0 || (uint64_t)n > THROTTLE_RATE_MAX)
        return wrong(key, "a whole number up to 2^40", e);
    *limit = (uint64_t)n;
    return OK;
}

static err_t prop_from_json(struct vm_disk *disk, const char *key, const json_t *value,
                            struct error *e)
{
    const struct prop *p = strchr(key, '-') ? NULL : find_prop(key, strlen(key));
    uint64_t *limit = strchr(key, '-') ? NULL : vm_limit_member(&disk->limits, key, strlen(key));
    if (limit)
        return limit_from_json(limit, key, value, e);
    if (!p)
        return error_set(e, ERR_INVALID, "%.40s: no such key", key);
    if (p->kind == PROP_BOOL) {
        if (!json_is_boolean(value))
            return wrong(key, "true or false", e);
        *(bool *)prop_at(disk, p) = json_is_true(value);
        return OK;
    }
    const char *text = json_string_value(value);
    if (!text)
        return wrong(key, "a text", e);
    if (p->kind == PROP_STRING)
        return vm_config_set(prop_at(disk, p), text, e);
    return find_bus(text, strlen(text), &disk->bus) ? OK : wrong(key, "virtio, ahci or nvme", e);
}

static err_t disk_from_json(struct vm_config *config, size_t i, json_t *value, struct error *e)
{
    const char *key;
    json_t *member;
    if (!json_is_object(value))
        return error_set(e, ERR_INVALID, "disks[%zu]: must be an object", i);
    err_t err = add(config, &(struct vm_disk){0}, NULL, e);
    if (err)
        return err;
    json_object_foreach(value, key, member)
    {
        if (prop_from_json(&config->disk[config->disks - 1], key, member, e))
            return error_in(e, "disks[%zu]", i);
    }
    return OK;
}

err_t vm_disks_from_json(struct vm_config *config, const json_t *value, struct error *e)
{
    if (!json_is_array(value))
        return wrong("disks", "a list of {\"path\": ..., ...}", e);
    for (size_t i = 0; i < json_array_size(value); i++) {
        err_t err = disk_from_json(config, i, json_array_get(value, i), e);
        if (err)
            return err;
    }
    return OK;
}
