// A berth-vmm that its guest has taken over, in the place of the real one: it locks itself in as
// that does, and then does one bad thing without end. A VM that is not called evil-... or raw-...
// gets the real program, berth-vmm.real beside this one.
//
//   evil-ATTACK  one of the table below, after it has told the manager that it runs
//   evil-REACH   tries to get at another VM, whose things the definition's "append" names; the
//                system-call filter is to kill it
//   raw-reach    tries all of that without that filter, and says on standard output what came of it
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "control/agent_wire.h"
#include "host/isolate.h"
#include "host/passing.h"
#include "host/sandbox.h"

#define CLIENTS 8
#define DEFINITION_MAX 65536
#define BLOCK 65536

static char block[BLOCK];
static int host_pid;

static void say(int fd, const char *text)
{
    (void)!write(fd, text, strlen(text));
}

// --- attacks: what is done with a connection once the manager has been told that all is well

static void crash(int fd)
{
    __builtin_trap();
}

static void spin(int fd)
{
    for (;;)
        __asm__ volatile("");
}

// All that the kernel lets it have, and then it holds on to that.
static void exhaust_memory(int fd)
{
    void *step;
    for (size_t size = 16u << 20; size >= 4096; size /= 2)
        while ((step = sbrk((intptr_t)size)) != (void *)-1)
            memset(step, 1, size);
    for (;;)
        poll(NULL, 0, 1000);
}

static void fill_log(int fd)
{
    for (;;) {
        (void)!write(STDOUT_FILENO, block, sizeof block);
        say(STDERR_FILENO, "{\"event\":\"exit\",\"reason\":\"poweroff\",\"status\":0}\n");
    }
}

static void send_bytes(int fd)
{
    uint32_t x = 1;
    for (size_t i = 0; i < sizeof block; i++)
        block[i] = (char)((x = x * 1664525 + 1013904223) >> 24);
    (void)!write(fd, block, sizeof block);
}

static void send_one_huge_line(int fd)
{
    say(fd, "{\"ok\":{\"name\":\"");
    while (write(fd, block, sizeof block) > 0)
        ;
}

static void send_a_huge_event(int fd)
{
    for (int n = 0; n < 100; n++) {
        say(fd, "{\"event\":\"big\",\"text\":\"");
        for (int i = 0; i < 14; i++)
            (void)!write(fd, block, sizeof block);
        say(fd, "\"}\n");
    }
}

static void send_events_for_ever(int fd)
{
    static const char events[] = "{\"event\":\"paused\"}\n{\"event\":\"resumed\"}\n"
                                 "{\"event\":\"removed\",\"vm\":\"witness\",\"id\":\"0\"}\n"
                                 "{\"event\":\"state\",\"state\":\"running\",\"vm\":7}\n";
    while (write(fd, events, sizeof events - 1) > 0)
        ;
}

static void send_half_a_line(int fd)
{
    say(fd, "{\"ok\":{\"name\":");
}

static void answer_nobodys_question(int fd)
{
    for (int i = 0; i < 100; i++)
        say(fd, "{\"ok\":{}}\n{\"error\":{\"code\":\"busy\",\"text\":\"no\"}}\n");
}

static void send_descriptors(int fd)
{
    int many[250];
    union {
        struct cmsghdr align;
        char data[CMSG_SPACE(sizeof many)];
    } control = {0};
    struct iovec text = {"{\"event\":\"gift\"}\n", 17};
    struct msghdr message = {.msg_iov = &text,
                             .msg_iovlen = 1,
                             .msg_control = control.data,
                             .msg_controllen = sizeof control.data};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof many);
    for (size_t i = 0; i < sizeof many / sizeof *many; i++)
        many[i] = STDOUT_FILENO;
    memcpy(CMSG_DATA(head), many, sizeof many);
    for (int i = 0; i < 40; i++)
        (void)!sendmsg(fd, &message, MSG_NOSIGNAL);
}

// Each connection gets the next.
static void send_wrong_json(int fd)
{
    static const char *const lines[] = {
        "\n",
        "null\n",
        "7\n",
        "[]\n",
        "{}\n",
        "{\n",
        "}{\n",
        "\"ok\"\n",
        "{\"ok\":7}\n",
        "{\"error\":7}\n",
        "{\"error\":{\"code\":[],\"text\":{}}}\n",
        "{\"event\":{}}\n",
        "{\"event\":7}\n",
        "{\"event\":\"\"}\n",
        "{\"event\":\"\\u0000\"}\n",
        "{\"ok\":{},\"ok\":{}}\n",
        "{\"ok\":1e999}\n",
        "{\"ok\":{\"a\":99999999999999999999}}\n",
        "\xff\xfe\n",
        "{\"event\":\"\xed\xa0\x80\"}\n",
    };
    static size_t next;
    size_t at = next++ % (sizeof lines / sizeof *lines + 1);
    if (at < sizeof lines / sizeof *lines) {
        say(fd, lines[at]);
        return;
    }
    memset(block, '[', sizeof block);
    (void)!write(fd, block, sizeof block);
    say(fd, "\n");
}

// Answers of the right form that say what cannot be.
static const char lie[] =
    "{\"ok\":{\"pid\":1,\"state\":[],\"engine\":{},\"cpu_seconds\":-1e300,\"uptime_seconds\":\"\","
    "\"size\":9223372036854775807,\"guest\":-1,\"target\":-9223372036854775808,\"balloon\":true,"
    "\"stats\":{\"available\":-1},\"disks\":7,\"nics\":[7,{}],\"counters\":"
    "{\"disk0.read_bytes\":9223372036854775807,\"disk1.read_bytes\":9223372036854775807,"
    "\"nic0.sent_bytes\":-9223372036854775808,\"nic1.sent_bytes\":-1,\"exits\":\"many\"}}}\n";

static void nothing(int fd)
{
}

// --- what answers in the place of the guest's agent (docs/formats/agent.md)

static void frame(int fd, uint8_t type, const char *data, size_t len)
{
    uint8_t head[AGENT_HEADER] = {len & 0xff, (len >> 8) & 0xff, (len >> 16) & 0xff, 0, type};
    (void)!write(fd, head, sizeof head);
    (void)!write(fd, data, len);
}

static void begin_agent(int fd)
{
    static const char hello[] = "version=1\0agent=none";
    char request[4096];
    frame(fd, AGENT_HELLO, hello, sizeof hello);
    (void)!read(fd, request, sizeof request);
    frame(fd, AGENT_OK, "", 0);
}

static void await_end(int fd)
{
    char data[4096];
    while (read(fd, data, sizeof data) > 0)
        ;
}

static void agent_obeys(int fd)
{
    begin_agent(fd);
    frame(fd, AGENT_STDOUT, "out\n", 4);
    frame(fd, AGENT_STDERR, "err\n", 4);
    frame(fd, AGENT_EXIT, "status=7", 9);
    await_end(fd);
}

static void agent_floods(int fd)
{
    begin_agent(fd);
    for (int i = 0; i < 100; i++)
        frame(fd, AGENT_STDOUT, block, 60000);
    frame(fd, AGENT_EXIT, "status=0", 9);
    await_end(fd);
}

static void agent_babbles(int fd)
{
    (void)!write(fd, block, sizeof block);
}

static void agent_hangs(int fd)
{
    begin_agent(fd);
    await_end(fd);
}

static const struct attack {
    const char *name;
    void (*begin)(int fd);
    const char *answer;        // to all requests; NULL: none
    void (*agent)(int stream); // there is one in its guest; NULL: there is none
} attacks[] = {
    {"crash", crash, NULL},
    {"spin", spin, NULL},
    {"memory", exhaust_memory, NULL},
    {"log", fill_log, NULL},
    {"bytes", send_bytes, NULL},
    {"huge-line", send_one_huge_line, NULL},
    {"huge-event", send_a_huge_event, NULL},
    {"events", send_events_for_ever, NULL},
    {"half", send_half_a_line, NULL},
    {"unasked", answer_nobodys_question, NULL},
    {"descriptors", send_descriptors, NULL},
    {"json", send_wrong_json, NULL},
    {"lies", nothing, lie},
    {"agent-obeys", nothing, NULL, agent_obeys},
    {"agent-floods", nothing, NULL, agent_floods},
    {"agent-babbles", nothing, NULL, agent_babbles},
    {"agent-hangs", nothing, NULL, agent_hangs},
    {"mute", nothing, NULL},
};

// --- other VMs

struct target {
    char disk[256], socket[256];
    int pid;
    unsigned long address; // of its memory
};

static long open_disk(const struct target *t)
{
    return open(t->disk, O_RDONLY);
}

static long open_memory(const struct target *t)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", t->pid);
    return open(path, O_RDONLY);
}

static long connect_to_socket(const struct target *t)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path, sizeof at.sun_path, "%s", t->socket);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    return fd < 0 ? fd : connect(fd, (struct sockaddr *)&at, sizeof at);
}

static long read_memory(const struct target *t)
{
    struct iovec here = {block, 1}, there = {(void *)t->address, 1}; // NOLINT: another's address
    return process_vm_readv(t->pid, &here, 1, &there, 1, 0);
}

static long trace(const struct target *t)
{
    return ptrace(PTRACE_SEIZE, t->pid, NULL, NULL);
}

static long send_signal(const struct target *t)
{
    return kill(t->pid, SIGKILL);
}

static const struct reach {
    const char *name;
    long (*try)(const struct target *t);
} reaches[] = {
    {"open-disk", open_disk},
    {"open-memory", open_memory},
    {"connect", connect_to_socket},
    {"read-memory", read_memory},
    {"trace", trace},
    {"signal", send_signal},
};

static void report(const char *what, long result)
{
    char line[128];
    snprintf(line, sizeof line,
             "{\"event\":\"reached\",\"what\":\"%s\",\"result\":%ld,\"errno\":%d}\n", what, result,
             result < 0 ? errno : 0);
    say(STDOUT_FILENO, line);
}

// Regular files other than its own are what it must not have inherited.
static long inherited_files(void)
{
    long found = 0;
    for (int fd = 0; fd < 1024; fd++) {
        struct stat st;
        found += !fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_nlink > 0;
    }
    return found;
}

// --- the program

struct vm {
    char name[64];
    struct target target;
    int control;
    const struct attack *attack;
};

static int descriptor(int argc, char **argv, const char *option)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], option))
            return atoi(argv[i + 1]);
    }
    return -1;
}

static void read_definition(struct vm *vm, int fd)
{
    static char text[DEFINITION_MAX];
    ssize_t len = pread(fd, text, sizeof text, 0);
    json_t *definition = json_loadb(text, len > 0 ? (size_t)len : 0, 0, NULL);
    const char *name = json_string_value(json_object_get(definition, "name")),
               *append = json_string_value(json_object_get(definition, "append"));
    snprintf(vm->name, sizeof vm->name, "%s", name ? name : "");
    sscanf(append ? append : "", "%255[^;];%255[^;];%d;%lx", vm->target.disk, vm->target.socket,
           &vm->target.pid, &vm->target.address);
    json_decref(definition);
}

static void become_real(char **argv)
{
    char path[4096];
    ssize_t len = readlink("/proc/self/exe", path, sizeof path - 8);
    memcpy(path + (len > 0 ? len : 0), ".real", 6);
    execv(path, argv);
    exit(127);
}

static void lock_in(int control, bool filtered)
{
    struct error e;
    const int root = isolate_prepare(), keep[] = {control, root};
    host_pid = (int)isolate_host_pid();
    if ((filtered ? sandbox_enter : sandbox_shed)(keep, 2, &e) || sandbox_seal(root, &e))
        exit(3);
    if (filtered)
        sandbox_confine(HOST_THREAD_MAIN);
    else
        isolate_drop_capabilities(0);
}

// stream: a descriptor that came along, or -1.
static void obey(const struct vm *vm, int fd, const char *request, int stream)
{
    char info[160];
    if (stream >= 0 && vm->attack->agent) {
        say(fd, "{\"ok\":{}}\n");
        vm->attack->agent(stream);
    } else if (vm->attack->answer) {
        say(fd, vm->attack->answer);
    } else if (strstr(request, "\"events\"")) {
        say(fd, "{\"ok\":{}}\n");
    } else if (strstr(request, "\"info\"")) {
        snprintf(
            info, sizeof info,
            "{\"ok\":{\"pid\":%d,\"state\":\"running\",\"engine\":\"none\",\"agent\":\"%s\"}}\n",
            host_pid, vm->attack->agent ? "ready" : "absent");
        say(fd, info);
        vm->attack->begin(fd);
    }
}

// Requests may come in pieces, but small ones do not.
static bool hear(const struct vm *vm, int fd)
{
    static char lines[BLOCK];
    int stream = -1;
    unsigned count = 0;
    ssize_t len = passing_receive(fd, lines, sizeof lines - 1, &stream, 1, &count, 0);
    if (len <= 0)
        return false;
    lines[len] = '\0';
    for (char *line = lines, *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = '\0';
        obey(vm, fd, line, count ? stream : -1);
    }
    if (count)
        close(stream);
    return true;
}

static _Noreturn void serve(const struct vm *vm)
{
    struct pollfd fds[1 + CLIENTS] = {{.fd = vm->control, .events = POLLIN}};
    for (int i = 1; i <= CLIENTS; i++)
        fds[i].fd = -1;
    for (unsigned next = 0;;) {
        poll(fds, 1 + CLIENTS, -1);
        for (int i = 1; i <= CLIENTS; i++) {
            if (fds[i].fd >= 0 && fds[i].revents && !hear(vm, fds[i].fd)) {
                close(fds[i].fd);
                fds[i].fd = -1;
            }
        }
        if (!fds[0].revents)
            continue;
        struct pollfd *slot = &fds[1 + next++ % CLIENTS];
        if (slot->fd >= 0)
            close(slot->fd);
        *slot = (struct pollfd){.fd = accept4(vm->control, NULL, NULL, 0), .events = POLLIN};
    }
}

static void try_all(const struct vm *vm)
{
    report("inherited", inherited_files());
    for (size_t i = 0; i < sizeof reaches / sizeof *reaches; i++)
        report(reaches[i].name, reaches[i].try(&vm->target));
}

int main(int argc, char **argv)
{
    struct vm vm = {.control = descriptor(argc, argv, "--control")};
    int definition = descriptor(argc, argv, "--definition");
    read_definition(&vm, definition);
    bool raw = !strncmp(vm.name, "raw-", 4), evil = !strncmp(vm.name, "evil-", 5);
    if (!raw && !evil)
        become_real(argv);
    close(definition);
    memset(block, 'x', sizeof block);
    signal(SIGPIPE, SIG_IGN);
    lock_in(vm.control, evil);
    if (raw)
        try_all(&vm);
    for (size_t i = 0; evil && i < sizeof reaches / sizeof *reaches; i++) {
        if (!strcmp(vm.name + 5, reaches[i].name))
            report(reaches[i].name, reaches[i].try(&vm.target));
    }
    vm.attack = &attacks[sizeof attacks / sizeof *attacks - 1]; // mute
    for (size_t i = 0; evil && i < sizeof attacks / sizeof *attacks; i++) {
        if (!strcmp(vm.name + 5, attacks[i].name))
            vm.attack = &attacks[i];
    }
    serve(&vm);
}
