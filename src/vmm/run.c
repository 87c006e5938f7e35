// The steps of one VM's run, and what happens while it runs: streams, signals, the end.
#include "vmm/run.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "host/clock.h"
#include "host/file.h"
#include "host/sandbox.h"
#include "host/thread.h"

#define DEFINITION_MAX (1 * MIB)
#define FLUSH_MS 2000

// --- the definition

err_t run_read_definition(struct run *run, int fd, struct error *e)
{
    struct host_file file;
    err_t err = host_file_read_fd(fd, "definition", DEFINITION_MAX, &file, e);
    close(fd);
    if (!err)
        err = vm_config_load(&run->config, (const char *)file.data, file.len, e);
    if (!err)
        run->events.json = run->config.json;
    host_file_release(&file);
    return err;
}

// --- endings

static void finish(struct run *run, int status, const char *reason, const char *text)
{
    if (run->ended)
        return;
    run->ended = true;
    run->status = status;
    struct vm_counter counter[VM_COUNTERS_MAX];
    unsigned n = vm_counters(run->vm, counter, ARRAY_LEN(counter));
    for (unsigned i = 0; i < n; i++)
        events_tell(&run->events, "counter", "s:s, s:I", "name", counter[i].name, "value",
                    (long long)counter[i].value);
    events_tell(&run->events, "stopped", "s:s, s:i, s:s?", "reason", reason, "status", status,
                "text", text && *text ? text : NULL);
    loop_stop(run->loop);
}

static void ended(void *opaque, const struct vm_result *result)
{
    struct run *run = opaque;
    static const struct {
        int status;
        const char *reason;
    } ends[] = {
        [VM_END_POWEROFF] = {VMM_POWERED_OFF, "poweroff"},
        [VM_END_RESET] = {VMM_POWERED_OFF, "reset"},
        [VM_END_PANIC] = {VMM_GUEST_FAILED, "panic"},
        [VM_END_SHUTDOWN] = {VMM_GUEST_FAILED, "triple-fault"},
        [VM_END_DEBUG_EXIT] = {0, "exit-device"},
        [VM_END_FAILED] = {VMM_HOST_FAILED, "engine-failed"},
    };
    int status = ends[result->end].status;
    if (result->end == VM_END_DEBUG_EXIT)
        status = (int)(result->status & 0xff);
    if (result->text[0])
        events_say(&run->events, "%s: %s", run->config.name, result->text);
    finish(run, status, ends[result->end].reason, result->text);
}

static void rebooted(void *opaque)
{
    struct run *run = opaque;
    events_tell(&run->events, "rebooted", "");
}

// --- streams

static size_t serial_out(void *opaque, const uint8_t *data, size_t len)
{
    struct run *run = opaque;
    return run->serial->type->write(run->serial, data, len);
}

static size_t console_out(void *opaque, const uint8_t *data, size_t len)
{
    struct run *run = opaque;
    return run->console->type->write(run->console, data, len);
}

// What the stream does not take is lost: firmware's words are for whoever looks.
static void firmware_out(void *opaque, const uint8_t *data, size_t len)
{
    struct run *run = opaque;
    (void)run->firmware_log->type->write(run->firmware_log, data, len);
}

static void serial_room(void *opaque)
{
    struct run *run = opaque;
    run->serial->type->resume(run->serial);
}

static void console_room(void *opaque)
{
    struct run *run = opaque;
    run->console->type->resume(run->console);
}

static size_t serial_in(void *opaque, const uint8_t *data, size_t len)
{
    struct run *run = opaque;
    return vm_serial_in(run->vm, data, len);
}

static size_t console_in(void *opaque, const uint8_t *data, size_t len)
{
    struct run *run = opaque;
    return vm_console_in(run->vm, data, len);
}

static void serial_writable(void *opaque)
{
    struct run *run = opaque;
    vm_serial_writable(run->vm);
}

static void console_writable(void *opaque)
{
    struct run *run = opaque;
    vm_console_writable(run->vm);
}

static void left(void *opaque)
{
    struct run *run = opaque;
    vm_pause(run->vm);
    finish(run, VMM_POWERED_OFF, "left", NULL);
}

static err_t open_stream(struct run *run, const char *name, const char *spec, struct chardev **out,
                         struct error *e)
{
    struct chardev_options options = {.loop = run->loop,
                                      .spec = spec,
                                      .name = name,
                                      .shared = &run->shared_fd,
                                      .leave = left,
                                      .opaque = run};
    err_t err = chardev_open(&options, out, e);
    if (err)
        return err;
    const char *where = chardev_where(*out);
    if (where) {
        events_tell(&run->events, name, "s:s", "path", where);
        events_say(&run->events, "the guest's %s is at %s", name, where);
    }
    return OK;
}

err_t run_open_streams(struct run *run, struct error *e)
{
    err_t err = open_stream(run, "serial", run->config.serial, &run->serial, e);
    if (!err)
        err = open_stream(run, "console", run->config.console, &run->console, e);
    if (!err && run->config.firmware_log)
        err = open_stream(run, "firmware-log", run->config.firmware_log, &run->firmware_log, e);
    return err;
}

// --- networks

static bool nic_send(void *opaque, unsigned nic, uint8_t *packet, size_t len)
{
    struct run *run = opaque;
    return port_send(&run->port[nic], packet, len);
}

static void nic_resume(void *opaque, unsigned nic)
{
    struct run *run = opaque;
    port_resume(&run->port[nic]);
}

static void tell_link(struct run *run, unsigned nic, bool up)
{
    events_tell(&run->events, "link", "s:i, s:s?, s:b", "nic", (int)nic, "network",
                run->config.nic[nic].network, "up", up);
}

static void link_changed(void *opaque, struct port *port, bool up)
{
    tell_link(opaque, port->nic, up);
}

static err_t plug(void *opaque, unsigned nic, int fd, const char *network, struct error *e)
{
    struct run *run = opaque;
    err_t err = vm_config_set(&run->config.nic[nic].network, network, e);
    if (!err)
        err = port_plug(&run->port[nic], fd, e);
    if (!err && port_plugged(&run->port[nic]) == (fd >= 0)) // a back end's link comes up later
        tell_link(run, nic, fd >= 0);
    return err;
}

static err_t nic_add(void *opaque, unsigned nic, const json_t *card, int fd, const char *network,
                     bool *heard, struct error *e)
{
    struct run *run = opaque;
    unsigned slot = 0;
    err_t err = vm_nic_put(&run->config, nic, card, e);
    if (err)
        return err;
    err = vm_nic_add(run->vm, nic, &slot, heard, e);
    if (err) {
        run->config.nic[nic].absent = true;
        return err;
    }
    run->config.nic[nic].slot = slot;
    events_tell(&run->events, "nic-added", "s:i", "nic", (int)nic);
    if (!network)
        return OK;
    err = plug(run, nic, fd, network, e);
    if (err)
        (void)!vm_nic_remove(run->vm, nic, heard, NULL);
    return err;
}

static err_t nic_remove(void *opaque, unsigned nic, bool *heard, struct error *e)
{
    struct run *run = opaque;
    return vm_nic_remove(run->vm, nic, heard, e);
}

static void nic_removed(void *opaque, unsigned nic)
{
    struct run *run = opaque;
    struct error e = {0};
    if (plug(run, nic, -1, NULL, &e))
        events_say(&run->events, "%s", e.text);
    run->config.nic[nic].absent = true;
    events_tell(&run->events, "nic-removed", "s:i", "nic", (int)nic);
}

static bool link_up(void *opaque, unsigned nic)
{
    const struct run *run = opaque;
    return port_plugged(&run->port[nic]);
}

err_t run_plug(struct run *run, struct error *e)
{
    err_t err = OK;
    for (unsigned i = 0; !err && i < VM_NICS_MAX; i++) {
        struct port *port = &run->port[i]; // zeros from the start: not touched where it is not used
        port->vm = run->vm;
        port->nic = i;
        port->changed = link_changed;
        port->opaque = run;
        port_init(port, run->loop);
        if (i < run->config.nics)
            err = port_plug(port, run->port_fd[i], e);
    }
    return err;
}

// --- the guest's sockets

static void agent_changed(void *opaque, bool ready)
{
    struct run *run = opaque;
    events_tell(&run->events, "agent", "s:b", "ready", ready);
}

static bool agent_ready(void *opaque)
{
    const struct run *run = opaque;
    return run->vsock.agent_told;
}

// An agent that hangs does not keep the guest from feeling its button, and both are one request.
static bool ask_down(void *opaque)
{
    struct run *run = opaque;
    bool agent = vsock_ask_down(&run->vsock);
    return vm_power_button(run->vm) || agent;
}

static err_t open_vsock(void *opaque, int fd, bool accept, uint32_t port, bool tell,
                        struct error *e)
{
    struct run *run = opaque;
    return vsock_open(&run->vsock, fd, accept, port, tell, e);
}

// --- signals

// The first SIGTERM or SIGINT presses the power button. A second one, a guest that does not listen,
// or a signal that says nobody is there any more ends the VM at once.
static void act_on_signal(struct run *run, int signal)
{
    bool ask = (signal == SIGTERM || signal == SIGINT) && !run->asked;
    if (ask && ask_down(run)) {
        run->asked = true;
        events_tell(&run->events, "shutdown-requested", "");
        events_say(&run->events, "asked the guest to shut down; once more stops it");
        return;
    }
    vm_pause(run->vm);
    finish(run, VMM_GUEST_FAILED, "stopped", NULL);
}

static void signal_ready(void *opaque, uint32_t events)
{
    struct run *run = opaque;
    struct signalfd_siginfo info;
    if (read(run->signals.fd, &info, sizeof info) == sizeof info)
        act_on_signal(run, (int)info.ssi_signo);
}

static err_t open_signals(struct run *run, struct error *e)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, 0};
    run->signals = (struct loop_fd){.ready = signal_ready, .opaque = run};
    return loop_signals(run->loop, &run->signals, signals, e);
}

err_t run_make_loop(struct run *run, struct error *e)
{
    err_t err = loop_new(&run->loop, e);
    return err ? err : open_signals(run, e);
}

// --- the VM

err_t run_build_vm(struct run *run, struct error *e)
{
    const struct vm_hooks hooks = {.serial_out = serial_out,
                                   .console_out = console_out,
                                   .firmware_out = run->firmware_log ? firmware_out : NULL,
                                   .serial_room = serial_room,
                                   .console_room = console_room,
                                   .nic_send = nic_send,
                                   .nic_resume = nic_resume,
                                   .vsock = &vsock_host,
                                   .nic_removed = nic_removed,
                                   .ended = ended,
                                   .rebooted = rebooted,
                                   .opaque = run,
                                   .begun = &run->begun,
                                   .cages = run->cages,
                                   .no_cages = run->no_cages.text};
    vsock_init(&run->vsock, run->loop);
    run->vsock.agent_changed = agent_changed;
    run->vsock.opaque = run;
    err_t err = vm_new(&run->config, run->loop, &hooks, &run->vm, e);
    if (err)
        return err;
    if (run->cages)
        cages_complete(run->cages);
    run->vsock.vm = run->vm;
    if (vm_display(run->vm))
        typist_init(&run->typist, run->loop, vm_display(run->vm));
    return vm_start(run->vm, e);
}

static bool on_stdio(const char *spec)
{
    return spec && !strcmp(spec, "stdio");
}

err_t run_take_terminal(struct run *run, struct error *e)
{
    run->terminal.fd = -1;
    if (!on_stdio(run->config.serial) && !on_stdio(run->config.console))
        return OK;
    host_terminal_save(&run->terminal, STDIN_FILENO);
    if (run->terminal.fd >= 0)
        events_say(&run->events, "%s runs here; Ctrl-] leaves", run->config.name);
    host_terminal_raw(&run->terminal);
    return OK;
}

static void tell_clients(void *opaque, const char *line, size_t len)
{
    struct run *run = opaque;
    server_tell(run->server, line, len);
}

static void stop_by_request(void *opaque, const char *reason)
{
    struct run *run = opaque;
    vm_pause(run->vm);
    finish(run, VMM_GUEST_FAILED, reason, NULL);
}

err_t run_serve(struct run *run, struct error *e)
{
    if (run->control_fd < 0)
        return OK;
    run->control = (struct control){.vm = run->vm,
                                    .config = &run->config,
                                    .events = &run->events,
                                    .typist = &run->typist,
                                    .pid = run->pid,
                                    .stop = stop_by_request,
                                    .plug = plug,
                                    .link_up = link_up,
                                    .vsock_open = open_vsock,
                                    .agent_ready = agent_ready,
                                    .ask_down = ask_down,
                                    .nic_add = nic_add,
                                    .nic_remove = nic_remove,
                                    .opaque = run};
    const struct server_options options = {.loop = run->loop,
                                           .listen_fd = run->control_fd,
                                           .table = vm_requests,
                                           .context = &run->control};
    err_t err = server_new(&options, &run->server, e);
    if (err)
        return err;
    run->events.listen = tell_clients;
    run->events.opaque = run;
    return OK;
}

err_t run_show(struct run *run, struct error *e)
{
    struct vnc_address address;
    char password[9] = "";
    if (run->vnc_fd < 0)
        return OK;
    err_t err = vnc_parse(run->config.display + strlen("vnc="), &address, e);
    if (!err && address.password_file[0])
        err = vnc_read_password(address.password_file, password, e);
    if (err)
        return err;
    const struct vnc_options options = {.listen_fd = run->vnc_fd,
                                        .name = run->config.name,
                                        .password = password,
                                        .display = vm_display(run->vm),
                                        .typist = &run->typist};
    return vnc_new(&options, &run->vnc, e);
}

err_t run_lock_in(struct run *run, struct error *e)
{
    err_t err = sandbox_seal(run->empty_root, e);
    if (!err)
        host_thread_confine(HOST_THREAD_MAIN);
    return err;
}

err_t run_guest(struct run *run, struct error *e)
{
    events_tell(&run->events, "started", "s:s, s:s, s:s, s:i", "name", run->config.name, "engine",
                vm_engine(run->vm)->name, "firmware", vm_firmware(run->vm), "pid", run->pid);
    const struct chardev_user serial = {
        .input = serial_in, .writable = serial_writable, .opaque = run};
    const struct chardev_user console = {
        .input = console_in, .writable = console_writable, .opaque = run};
    chardev_attach(run->serial, &serial);
    chardev_attach(run->console, &console);
    run->control.started = host_now();
    vm_resume(run->vm);
    loop_run(run->loop);
    return OK;
}

// Streams go last: the end of the guest's output may still be in them.
void run_release(struct run *run)
{
    run->events.listen = NULL;
    server_free(run->server, FLUSH_MS);
    vnc_free(run->vnc);
    typist_release(&run->typist);
    if (run->vm)
        vm_pause(run->vm); // nobody sends any more
    for (unsigned i = 0; i < VM_NICS_MAX; i++)
        port_release(&run->port[i]);
    vsock_release(&run->vsock);
    vm_free(run->vm);
    cages_free(run->cages);
    chardev_close(run->serial, FLUSH_MS);
    chardev_close(run->console, FLUSH_MS);
    chardev_close(run->firmware_log, FLUSH_MS);
    if (run->terminal.raw)
        host_terminal_restore(&run->terminal);
    if (run->signals.fd > 0) {
        loop_fd_remove(run->loop, &run->signals);
        close(run->signals.fd);
    }
    loop_free(run->loop);
    vm_config_release(&run->config);
}
