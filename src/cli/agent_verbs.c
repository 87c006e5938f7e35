// berth fsfreeze, fsthaw and vsock, and what other verbs ask of the guest's agent.
#include "cli/agent_verbs.h"

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/manager.h"
#include "host/file.h"

#define ANSWER_MS 10000
#define MESSAGE_MAX (128 * KIB)
#define GREETING_MAX 24

const char fsfreeze_help[] =
    "usage: berth fsfreeze [--timeout SECONDS] [--json] VM\n"
    "\n"
    "Writes what the guest's file systems hold in memory to their disks and keeps them still, so\n"
    "that a snapshot or a copy of the disks is whole. berth fsthaw lets them go on; where nobody\n"
    "says so in time the guest does by itself, and berth fsthaw then says that it was too late.\n"
    "\n"
    "  -t, --timeout SECONDS    how long at most (30)\n";
const char fsthaw_help[] = "usage: berth fsthaw [--json] VM\n"
                           "\n"
                           "Ends berth fsfreeze.\n";
const char vsock_help[] =
    "usage: berth vsock [--listen] [--messages] VM PORT\n"
    "\n"
    "Connects standard input and output to a program in the guest that listens on this port of "
    "its\n"
    "virtio sockets, or with --listen waits for one to connect to this port of the host (CID 2).\n"
    "\n"
    "      --messages    sockets of messages (SOCK_SEQPACKET): each line of standard input is one\n"
    "                    (but for empty ones), and each one that comes is written with a line's "
    "end\n";

err_t agent_parse_wait(const char *text, int *ms, struct error *e)
{
    char *end;
    errno = 0;
    unsigned long n = strtoul(text, &end, 10);
    if (errno || *end || *text < '0' || *text > '9' || n > 86400)
        return error_set(e, ERR_INVALID, "--wait needs seconds, from 0 to 86400");
    *ms = (int)n * 1000;
    return OK;
}

// --- for berth info

void agent_describe(json_t *vm)
{
    const char *name = json_string_value(json_object_get(vm, "name"));
    const char *state = json_string_value(json_object_get(vm, "agent"));
    const char *runs = json_string_value(json_object_get(vm, "state"));
    json_t *guest = NULL;
    struct error e = {0};
    if (!name || !state || strcmp(state, "ready") != 0 || !runs || strcmp(runs, "running") != 0)
        return;
    if (agent_simple(vm_connect, name, 0, agent_request_new("info"), &guest, &e))
        guest = json_pack("{s:s}", "error", e.text);
    json_t *address = json_object_get(guest, "address");
    if (json_is_string(address)) // one or many: always a list
        json_object_set_new(guest, "address", json_pack("[O]", address));
    json_object_set_new(vm, "guest", guest);
}

static const char *text(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    return value ? value : "";
}

void agent_show(const json_t *vm)
{
    const json_t *guest = json_object_get(vm, "guest"), *address;
    size_t i;
    printf("agent      %s%s%s\n", text(vm, "agent"), *text(guest, "error") ? ", but: " : "",
           text(guest, "error"));
    if (*text(guest, "os"))
        printf("guest      %s, Linux %s, host name %s\n", text(guest, "os"), text(guest, "kernel"),
               text(guest, "hostname"));
    json_array_foreach(json_object_get(guest, "address"), i, address)
        printf("address    %s\n", json_string_value(address) ? json_string_value(address) : "");
}

// --- file systems

static int simple(const struct verb *verb, struct agent_fields *request, const char *done)
{
    struct error e = {0};
    json_t *result = NULL;
    err_t err = agent_simple(vm_connect, verb->vm, 0, request, &result, &e);
    if (err)
        return complain(err == ERR_INVALID ? EXIT_GUEST : status_of(err), "%s", e.text);
    if (verb->json)
        return print_json(result);
    printf("%s: %s %s\n", verb->vm, text(result, "filesystems"), done);
    json_decref(result);
    return EXIT_OK;
}

int cmd_fsfreeze(int argc, char **argv)
{
    struct verb verb;
    int status = verb_parse(argc, argv, "t", &verb);
    if (status)
        return status;
    struct agent_fields *request = agent_request_new("freeze");
    if (request && verb.seconds >= 0)
        agent_add(request, "seconds", "%d", verb.seconds);
    return simple(&verb, request, "file systems are frozen; berth fsthaw lets them go on");
}

int cmd_fsthaw(int argc, char **argv)
{
    struct verb verb;
    int status = verb_parse(argc, argv, "", &verb);
    return status ? status : simple(&verb, agent_request_new("thaw"), "file systems go on");
}

// --- any port

struct port {
    const char *vm;
    uint32_t number;
    bool accept, messages;
};

static err_t open_port(const struct port *port, int *fd, struct error *e)
{
    struct client *client = NULL;
    json_t *result = NULL;
    int ends[2];
    err_t err = vm_connect(port->vm, ANSWER_MS, &client, e);
    int type = (port->messages ? SOCK_SEQPACKET : SOCK_STREAM) | SOCK_CLOEXEC;
    if (!err && socketpair(AF_UNIX, type, 0, ends) < 0)
        err = error_set(e, ERR_IO, "cannot make a pair of sockets: %s", strerror(errno));
    if (err) {
        client_free(client);
        return err;
    }
    client_give(client, ends[1]);
    err = client_ask(client, port->accept ? "vsock-accept" : "vsock-connect",
                     json_pack("{s:I, s:b}", "port", (json_int_t)port->number, "tell", 1), &result,
                     NULL, e);
    close(ends[1]);
    if (err)
        close(ends[0]);
    *fd = ends[0];
    json_decref(result);
    client_free(client);
    return err;
}

// "OK PORT", or nothing when the guest refuses.
static bool await_greeting(int fd, bool messages)
{
    char line[GREETING_MAX];
    if (messages)
        return read(fd, line, sizeof line) > 0;
    for (int i = 0; i < GREETING_MAX; i++) {
        char c;
        if (read(fd, &c, 1) != 1)
            return false;
        if (c == '\n')
            return true;
    }
    return false;
}

// Standard input on its way to the guest: bytes, or lines that are a message each.
struct input {
    bool messages;
    bool ended; // there is no more
    size_t at, len;
    uint8_t data[MESSAGE_MAX + 1]; // with a line's end
};

// How much of what is at `at` goes to the guest at once; 0: more has to be read first. Passes over
// empty lines.
static size_t next_part(struct input *in)
{
    while (in->messages && in->at < in->len && in->data[in->at] == '\n')
        in->at++;
    size_t rest = in->len - in->at;
    const uint8_t *start = in->data + in->at,
                  *end = in->messages ? memchr(start, '\n', rest) : NULL;
    if (end)
        return (size_t)(end - start);
    return !in->messages || in->ended ? rest : 0;
}

static err_t read_input(struct input *in, struct error *e)
{
    in->len -= in->at;
    memmove(in->data, in->data + in->at, in->len);
    in->at = 0;
    ssize_t n = read(STDIN_FILENO, in->data + in->len, sizeof in->data - in->len);
    in->len += n > 0 ? (size_t)n : 0;
    in->ended = n <= 0;
    if (in->messages && in->len > MESSAGE_MAX && !next_part(in))
        return error_set(e, ERR_INVALID, "a message has at most %llu bytes", MESSAGE_MAX);
    return OK;
}

// A guest that takes no more may still say something.
static void send_input(int fd, struct input *in)
{
    ssize_t n = send(fd, in->data + in->at, next_part(in), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        in->ended = true;
        in->at = in->len;
    }
    in->at += n > 0 ? (size_t)n : 0;
}

// False: the guest sends no more.
static bool write_output(int fd, bool messages, err_t *err, struct error *e)
{
    static uint8_t data[MESSAGE_MAX + 1];
    ssize_t n = read(fd, data, MESSAGE_MAX);
    if (n <= 0)
        return false;
    if (messages)
        data[n++] = '\n';
    if (host_write_all(STDOUT_FILENO, data, (size_t)n))
        *err = error_set(e, ERR_IO, "cannot write what the guest sends");
    return true;
}

// Until both sides have sent all, or the guest has closed its end.
static err_t join(int fd, bool messages, struct error *e)
{
    static struct input in;
    bool told = false, heard = false;
    err_t err = OK;
    in.messages = messages;
    while (!err && !(told && heard)) {
        bool writes = next_part(&in), reads = !writes && !in.ended;
        struct pollfd wait[] = {{.fd = fd, .events = (heard ? 0 : POLLIN) | (writes ? POLLOUT : 0)},
                                {.fd = reads ? STDIN_FILENO : -1, .events = POLLIN}};
        if (in.ended && !writes && !told) {
            shutdown(fd, SHUT_WR);
            told = true;
            continue;
        }
        if (poll(wait, 2, -1) < 0)
            continue;
        if (wait[0].revents & (POLLIN | POLLHUP | POLLERR))
            heard = heard || !write_output(fd, messages, &err, e);
        if (heard && wait[0].revents & (POLLHUP | POLLERR))
            return err;
        if (wait[0].revents & POLLOUT)
            send_input(fd, &in);
        if (!err && wait[1].revents)
            err = read_input(&in, e);
    }
    return err;
}

static bool parse_port(int argc, char **argv, struct port *port)
{
    static const struct option options[] = {
        {"listen", no_argument, NULL, 'l'}, {"messages", no_argument, NULL, 'm'}, {0}};
    char *end;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == '?')
            return false;
        port->accept |= c == 'l';
        port->messages |= c == 'm';
    }
    const char *word = argc == optind + 2 ? argv[optind + 1] : "";
    errno = 0;
    unsigned long number = strtoul(word, &end, 10);
    port->vm = argv[optind];
    port->number = (uint32_t)number;
    return *word >= '0' && *word <= '9' && !*end && !errno && number < UINT32_MAX;
}

int cmd_vsock(int argc, char **argv)
{
    struct port port = {0};
    struct error e = {0};
    int fd = -1;
    if (!parse_port(argc, argv, &port))
        return complain(EXIT_USAGE,
                        "vsock needs the name of a VM and a port; see berth vsock --help");
    signal(SIGPIPE, SIG_IGN);
    err_t err = open_port(&port, &fd, &e);
    if (!err && !await_greeting(fd, port.messages))
        err = error_set(&e, ERR_UNSUPPORTED, "no program in the guest of '%s' listens on port %u",
                        port.vm, port.number);
    if (!err)
        err = join(fd, port.messages, &e);
    if (fd >= 0)
        close(fd);
    return err ? complain(status_of(err), "%s", e.text) : EXIT_OK;
}
