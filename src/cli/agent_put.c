// Puts the guest's agent into an initial RAM disk. Linux unpacks any number of archives one after
// the other (Documentation/driver-api/early-userspace/buffer-format.rst), so the one that was given
// stays as it is. The kernel's virtio socket modules go along where they lie beside the kernel as
// its package has them, for a RAM disk that has none.
#include "cli/agent_put.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/bytes.h"
#include "cli/cli.h"
#include "host/program.h"

#define AGENT_MAX (16 * MIB)
#define MODULE_MAX (4 * MIB)
#define INITRD_MAX (2 * GIB)
#define MODE_FILE 0100755
#define MODE_FOLDER 0040755
#define RELEASE_MAX 80

err_t agent_read(struct host_file *out, struct error *e)
{
    char path[4096];
    err_t err = host_find_program("berth-agent", path, sizeof path, e);
    return err ? err : host_file_read(path, AGENT_MAX, out, e);
}

// --- an archive (cpio, "newc")

static void pad(struct buffer *b)
{
    buffer_extend(b, -b->len & 3);
}

static void add(struct buffer *b, const char *name, unsigned mode, const struct host_file *file)
{
    static const struct host_file nothing;
    char header[128];
    file = file ? file : &nothing;
    int len = snprintf(header, sizeof header,
                       "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 0, mode, 0, 0,
                       1, 0, (unsigned)file->len, 0, 0, 0, 0, (unsigned)strlen(name) + 1, 0);
    buffer_append(b, header, (size_t)len);
    buffer_append(b, name, strlen(name) + 1);
    pad(b);
    buffer_append(b, file->data, file->len);
    pad(b);
}

// --- the kernel's modules

// "6.1.0-56-cloud-amd64" of a bzImage (Documentation/arch/x86/boot.rst, kernel_version).
static bool release_of(const char *kernel, char out[RELEASE_MAX])
{
    uint8_t head[0x210];
    int fd = open(kernel, O_RDONLY | O_CLOEXEC);
    bool found = fd >= 0 && pread(fd, head, sizeof head, 0) == sizeof head &&
                 !memcmp(head + 0x202, "HdrS", 4);
    ssize_t n = found ? pread(fd, out, RELEASE_MAX - 1, load_le16(head + 0x20e) + 0x200) : -1;
    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return false;
    out[n] = 0;
    out[strcspn(out, " ")] = 0;
    return *out && !strchr(out, '/');
}

static bool has_modules(const char *folder)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/kernel", folder);
    return access(path, R_OK | X_OK) == 0;
}

// BOOT/../lib/modules/RELEASE, as the kernel's package has it, or the host's own.
static bool modules_of(const char *kernel, char out[4096])
{
    char release[RELEASE_MAX];
    const char *slash = strrchr(kernel, '/');
    if (!release_of(kernel, release))
        return false;
    snprintf(out, 4096, "%.*s/../lib/modules/%s", slash ? (int)(slash - kernel) : 1,
             slash ? kernel : ".", release);
    if (has_modules(out))
        return true;
    snprintf(out, 4096, "/lib/modules/%s", release);
    return has_modules(out);
}

static void add_modules(struct buffer *b, const char *kernel)
{
    static const char *const files[] = {"drivers/virtio/virtio",
                                        "drivers/virtio/virtio_ring",
                                        "drivers/virtio/virtio_pci_modern_dev",
                                        "drivers/virtio/virtio_pci_legacy_dev",
                                        "drivers/virtio/virtio_pci",
                                        "net/vmw_vsock/vsock",
                                        "net/vmw_vsock/vmw_vsock_virtio_transport_common",
                                        "net/vmw_vsock/vmw_vsock_virtio_transport"};
    char folder[4096], path[4300], name[128];
    struct host_file file;
    if (!modules_of(kernel, folder))
        return;
    add(b, "berth-modules", MODE_FOLDER, NULL);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        struct error ignored; // a kernel that has it built in has no such file
        snprintf(path, sizeof path, "%s/kernel/%s.ko", folder, files[i]);
        if (host_file_read(path, MODULE_MAX, &file, &ignored))
            continue;
        snprintf(name, sizeof name, "berth-modules%s.ko", strrchr(files[i], '/'));
        add(b, name, MODE_FILE, &file);
        host_file_release(&file);
    }
}

// --- the RAM disk

static err_t write_file(const char *path, const struct host_file *first, const struct buffer *more,
                        struct error *e)
{
    static const uint8_t zeros[4];
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    err_t err = fd < 0 ? ERR_IO : host_write_all(fd, first->data, first->len);
    if (!err)
        err = host_write_all(fd, zeros, -first->len & 3);
    if (!err)
        err = host_write_all(fd, more->data, more->len);
    if (err)
        (void)error_set(e, err, "cannot write '%s': %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return err;
}

static err_t make_initrd(const struct vm_config *config, const char *path, struct error *e)
{
    struct host_file given = {0}, agent = {0};
    struct buffer more = BUFFER_EMPTY;
    err_t err = host_file_read(config->initrd, INITRD_MAX, &given, e);
    if (!err)
        err = agent_read(&agent, e);
    if (!err) {
        add(&more, "berth-agent", MODE_FILE, &agent);
        add_modules(&more, config->kernel);
        add(&more, "TRAILER!!!", 0, NULL);
        err = more.failed ? error_set(e, ERR_NO_MEMORY, "no memory for the agent")
                          : write_file(path, &given, &more, e);
    }
    buffer_release(&more);
    host_file_release(&agent);
    host_file_release(&given);
    return err;
}

// The kernel hands "BERTH_INIT=..." to what it starts, as it does not know it; so the agent learns
// which init was meant.
static err_t start_agent_first(struct vm_config *config, struct error *e)
{
    const char *given = config->append ? config->append : "";
    const char *at = strstr(given, "rdinit=");
    bool own = at && (at == given || at[-1] == ' ');
    char *line = NULL;
    int n = own ? asprintf(&line, "%.*sBERTH_INIT=%s rdinit=/berth-agent", (int)(at - given), given,
                           at + strlen("rdinit="))
                : asprintf(&line, "%s%srdinit=/berth-agent", given, *given ? " " : "");
    if (n < 0)
        return error_set(e, ERR_NO_MEMORY, "no memory for the command line");
    err_t err = vm_config_set(&config->append, line, e);
    free(line);
    return err;
}

err_t agent_put(struct vm_config *config, const struct registry_claim *claim, struct error *e)
{
    char path[4096];
    if (config->no_vsock)
        return error_set(e, ERR_INVALID, "--agent needs the virtio sockets; leave out --no-vsock");
    if (config->kernel && !config->initrd)
        return error_set(e, ERR_INVALID,
                         "--agent needs an initial RAM disk to put the agent in; give --initrd");
    config->agent = true;
    if (!config->initrd)
        return OK; // it goes onto the seed
    err_t err = registry_file(claim, REGISTRY_INITRD, path, sizeof path, e);
    if (!err)
        err = make_initrd(config, path, e);
    if (!err)
        err = start_agent_first(config, e);
    return err ? err : vm_config_set(&config->initrd, path, e);
}
