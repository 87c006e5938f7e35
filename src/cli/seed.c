// A seed for cloud-init's NoCloud data source: a FAT disk labelled CIDATA with user-data and
// meta-data. Keys travel in meta-data (public-keys), which cloud-init adds to those that the
// user-data names; so the person's user-data is handed over byte for byte. Made with mtools.
// The guest's agent goes along with vendor-data that installs it, which leaves the person's own
// alone. Not modelled: network-config (guests take DHCP).
#include "cli/seed.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/agent_put.h"
#include "cli/cli.h"

#define USER_DATA_MAX (1 * MIB)
#define KEYS_MAX (64 * KIB)

// --- keys

static bool is_key_line(const char *line, size_t len)
{
    static const char *const kinds[] = {"ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        size_t n = strlen(kinds[i]);
        if (len > n && !memcmp(line, kinds[i], n) && memchr(line, ' ', len))
            return true;
    }
    return false;
}

// Every line that is neither empty nor a comment, to each().
static bool each_key(const char *text, void (*each)(void *opaque, const char *line, size_t len),
                     void *opaque)
{
    for (const char *line = text; *line;) {
        size_t len = strcspn(line, "\r\n");
        if (len && *line != '#') {
            if (!is_key_line(line, len))
                return false;
            if (each)
                each(opaque, line, len);
        }
        line += len;
        line += strspn(line, "\r\n");
    }
    return true;
}

err_t ssh_keys_read(const char *path, struct host_file *out, struct error *e)
{
    err_t err = host_file_read(path, KEYS_MAX, out, e);
    if (err)
        return err;
    char *text = calloc(1, out->len + 1);
    if (!text) {
        host_file_release(out);
        return error_set(e, ERR_NO_MEMORY, "no memory for the keys");
    }
    if (out->len)
        memcpy(text, out->data, out->len);
    free(out->data);
    out->data = (uint8_t *)text;
    if (strlen(text) == out->len && strstr(text, "-") && each_key(text, NULL, NULL))
        return OK;
    host_file_release(out);
    return error_set(e, ERR_INVALID,
                     "'%s' has no public SSH keys; give the file that ends in .pub, such as "
                     "~/.ssh/id_ed25519.pub",
                     path);
}

// --- the two files

static bool is_user_data(const char *text)
{
    static const char *const starts[] = {
        "#cloud-config", "#!",           "#include",      "#cloud-boothook",
        "#part-handler", "## template:", "Content-Type:", "MIME-Version:"};
    for (size_t i = 0; i < ARRAY_LEN(starts); i++) {
        if (!strncasecmp(text, starts[i], strlen(starts[i])))
            return true;
    }
    return false;
}

static err_t read_user_data(const char *path, struct host_file *out, struct error *e)
{
    static const char none[] = "#cloud-config\n{}\n";
    *out = (struct host_file){0};
    if (!path) {
        out->data = (uint8_t *)strdup(none);
        out->len = strlen(none);
        return out->data ? OK : error_set(e, ERR_NO_MEMORY, "no memory for user-data");
    }
    err_t err = host_file_read(path, USER_DATA_MAX, out, e);
    char start[32] = "";
    if (!err && out->len)
        memcpy(start, out->data, out->len < 31 ? out->len : 31);
    if (err || is_user_data(start))
        return err;
    host_file_release(out);
    return error_set(e, ERR_INVALID,
                     "'%s' is no user-data for cloud-init; its first line must be #cloud-config, "
                     "or a script's #!, or a MIME header",
                     path);
}

static void add_key(void *opaque, const char *line, size_t len)
{
    json_array_append_new(opaque, json_stringn(line, len));
}

// A name's letters that a host name may not have become hyphens.
static void host_name(const char *name, char out[64])
{
    snprintf(out, 64, "%s", name);
    for (char *p = out; *p; p++) {
        if (!isalnum((unsigned char)*p))
            *p = '-';
    }
}

// FNV-1a: cloud-init acts anew when the instance's id is another, so the id follows the content.
static uint64_t mix(uint64_t hash, const void *data, size_t len)
{
    for (const uint8_t *p = data, *end = p + len; p < end; p++)
        hash = (hash ^ *p) * 0x100000001b3;
    return hash;
}

// JSON, which is YAML.
static char *meta_data(const char *name, const struct host_file *user, const struct host_file *keys)
{
    char host[64], id[100];
    host_name(name, host);
    uint64_t hash = mix(0xcbf29ce484222325, user->data, user->len);
    snprintf(id, sizeof id, "%s-%016llx", host,
             (unsigned long long)mix(hash, keys->data, keys->len));
    json_t *list = json_array();
    if (keys->data)
        each_key((const char *)keys->data, add_key, list);
    json_t *meta = json_pack("{s:s, s:s, s:o}", "instance-id", id, "local-hostname", host,
                             "public-keys", list);
    char *text = meta ? json_dumps(meta, JSON_INDENT(2)) : NULL;
    json_decref(meta);
    return text;
}

// --- the disk

static err_t run_tool(char *const argv[], const char *input, size_t len, struct error *e)
{
    extern char **environ;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return error_set(e, ERR_IO, "cannot make a pipe: %s", strerror(errno));
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[0], STDIN_FILENO);
    pid_t child;
    int failed = posix_spawnp(&child, argv[0], &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[0]);
    if (failed) {
        close(ends[1]);
        return error_set(e, ERR_UNSUPPORTED,
                         "a seed for cloud-init needs '%s': %s; run apt-get install mtools",
                         argv[0], strerror(failed));
    }
    err_t err = host_write_all(ends[1], input, len);
    close(ends[1]);
    int status = 0;
    waitpid(child, &status, 0);
    if (err || !WIFEXITED(status) || WEXITSTATUS(status))
        return error_set(e, ERR_IO, "%s failed to make the seed for cloud-init", argv[0]);
    return OK;
}

static err_t copy_in(const char *disk, const char *to, const void *data, size_t len,
                     struct error *e)
{
    char *argv[] = {"mcopy", "-i", (char *)disk, "-", (char *)to, NULL};
    return run_tool(argv, data, len, e);
}

// 2.88 MB: the largest of the formats that need no further description.
static err_t write_disk(const char *path, const char *meta, const struct host_file *user,
                        struct error *e)
{
    char *format[] = {"mformat", "-C", "-i",   (char *)path, "-v",
                      "CIDATA",  "-f", "2880", "::",         NULL};
    err_t err = run_tool(format, "", 0, e);
    if (!err)
        err = copy_in(path, "::meta-data", meta, strlen(meta), e);
    return err ? err : copy_in(path, "::user-data", user->data, user->len, e);
}

// A script, since cloud-init merges other kinds of vendor-data with the person's own.
static const char install_agent[] =
    "#!/bin/sh\n"
    "set -e\n"
    "d=$(mktemp -d)\n"
    "mount -o ro LABEL=CIDATA \"$d\"\n"
    "install -m 755 \"$d/berth-agent\" /usr/local/sbin/berth-agent\n"
    "umount \"$d\"\n"
    "rmdir \"$d\"\n"
    "if [ -d /run/systemd/system ]; then\n"
    "cat > /etc/systemd/system/berth-agent.service << 'END'\n" AGENT_UNIT(
        "/usr/local/sbin") "END\n"
                           "systemctl daemon-reload\n"
                           "systemctl enable berth-agent.service\n"
                           "systemctl restart berth-agent.service\n"
                           "else\n"
                           "setsid /usr/local/sbin/berth-agent < /dev/null > /dev/null 2>&1 &\n"
                           "fi\n";

static err_t add_agent(const char *path, struct error *e)
{
    struct host_file agent = {0};
    err_t err = agent_read(&agent, e);
    if (!err)
        err = copy_in(path, "::berth-agent", agent.data, agent.len, e);
    if (!err)
        err = copy_in(path, "::vendor-data", install_agent, strlen(install_agent), e);
    host_file_release(&agent);
    return err;
}

err_t seed_add(struct vm_config *config, const struct registry_claim *claim, const char *user_data,
               const char *keys, bool agent, struct error *e)
{
    struct host_file user = {0}, key = {0};
    char path[4096];
    char *meta = NULL;
    err_t err = read_user_data(user_data, &user, e);
    if (!err && keys)
        err = ssh_keys_read(keys, &key, e);
    if (!err && !(meta = meta_data(config->name, &user, &key)))
        err = error_set(e, ERR_INVALID, "the keys are not UTF-8 text");
    if (!err)
        err = registry_file(claim, REGISTRY_SEED, path, sizeof path, e);
    if (!err)
        err = write_disk(path, meta, &user, e);
    if (!err && agent)
        err = add_agent(path, e);
    if (!err)
        err = vm_config_add_disk(config, path, true, e);
    if (!err)
        err = vm_config_set(&config->disk[config->disks - 1].format, "raw", e);
    free(meta);
    host_file_release(&key);
    host_file_release(&user);
    return err;
}
