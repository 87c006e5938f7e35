// berth exec and berth shell: programs in a guest, by its agent. Streams stay apart and the exit
// status is the program's. Nothing that the guest sends is shown but the program's own output.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/agent_verbs.h"
#include "cli/cli.h"
#include "cli/manager.h"
#include "host/file.h"
#include "host/terminal.h"

#define STATUS_NOT_FOUND 127
#define STATUS_NOT_STARTED 126
#define STATUS_SIGNAL 128 // plus the signal's number, as shells have it
#define LEAVE 0x1d        // Ctrl-]
#define PIECE (16 * KIB)

const char exec_help[] =
    "usage: berth exec [OPTION...] VM [--] COMMAND [ARGUMENT...]\n"
    "\n"
    "Runs a command in the VM's guest, by Berth's agent there: without a network and without ssh.\n"
    "Output and errors stay apart, and the exit status is the command's (128 + N where signal N\n"
    "ended it, 127 where there is no such command).\n"
    "\n"
    "  -i, --interactive     give it our standard input (otherwise it has none)\n"
    "  -t, --tty             on a terminal of its own; Ctrl-] leaves\n"
    "  -u, --user USER       as this user of the guest (root)\n"
    "  -e, --env KEY=VALUE   with this in its environment; as often as needed\n"
    "  -w, --dir FOLDER      in this folder (the user's home)\n"
    "      --wait SECONDS    for an agent that is not ready yet (120 if it was put there\n"
    "                        by berth run --agent, else 0)\n"
    "      --json            print {\"status\", \"signal\", \"stdout\", \"stderr\"} at the end\n";
const char shell_help[] =
    "usage: berth shell [--user USER] [--wait SECONDS] VM\n"
    "\n"
    "Opens a login shell in the VM's guest, by Berth's agent there. Ctrl-] leaves.\n"
    "\n"
    "  -u, --user USER       as this user of the guest (root)\n"
    "      --wait SECONDS    for an agent that is not ready yet (120 if it was put there\n"
    "                        by berth run --agent, else 0)\n";

struct exec {
    const char *vm;
    char **command; // NULL: a login shell
    struct agent_fields *request;
    bool interactive, terminal, json;
    int wait_ms;
    // While it runs.
    struct agent_link *link;
    struct host_terminal saved;
    int signals;
    size_t input_out; // bytes of input that the agent has not passed on
    bool input_ended;
    struct buffer out, error; // with json
    int status, signal;
    bool left;
};

// --- the command line

static err_t take_option(struct exec *x, const char *word, char *value, struct error *e)
{
    bool user = !strcmp(word, "-u") || !strcmp(word, "--user");
    bool env = !strcmp(word, "-e") || !strcmp(word, "--env");
    bool dir = !strcmp(word, "-w") || !strcmp(word, "--dir");
    if (!value)
        return error_set(e, ERR_INVALID, "%s needs a value", word);
    if (env && (!strchr(value, '=') || *value == '='))
        return error_set(e, ERR_INVALID, "'%s' is no variable; give KEY=VALUE", value);
    if (!strcmp(word, "--wait"))
        return agent_parse_wait(value, &x->wait_ms, e);
    agent_add(x->request, user ? "user" : env ? "env" : dir ? "dir" : "", "%s", value);
    return OK;
}

static bool takes_value(const char *word, bool shell)
{
    static const char *const known[] = {"-u", "--user", "--wait", "-e", "--env", "-w", "--dir"};
    for (size_t i = 0; i < (shell ? 3 : ARRAY_LEN(known)); i++)
        if (!strcmp(word, known[i]))
            return true;
    return false;
}

static bool take_flag(struct exec *x, const char *word)
{
    if (!strcmp(word, "-i") || !strcmp(word, "--interactive"))
        x->interactive = true;
    else if (!strcmp(word, "-t") || !strcmp(word, "--tty"))
        x->terminal = true;
    else if (!strcmp(word, "-it") || !strcmp(word, "-ti"))
        x->interactive = x->terminal = true;
    else if (!strcmp(word, "--json"))
        x->json = true;
    else
        return false;
    return true;
}

// *at: the first word that is no option.
static err_t parse_options(struct exec *x, int argc, char **argv, bool shell, int *at,
                           struct error *e)
{
    for (*at = 1; *at < argc && argv[*at][0] == '-'; ++*at) {
        const char *word = argv[*at];
        if (takes_value(word, shell)) {
            ++*at;
            err_t err = take_option(x, word, *at < argc ? argv[*at] : NULL, e);
            if (err)
                return err;
        } else if (shell || !take_flag(x, word)) {
            return error_set(e, ERR_INVALID, "%s does not know '%s'; see berth %s --help", argv[0],
                             word, argv[0]);
        }
    }
    if (*at >= argc)
        return error_set(e, ERR_INVALID, "%s needs the name of a VM; berth ls shows them", argv[0]);
    x->vm = argv[(*at)++];
    return OK;
}

static err_t parse(struct exec *x, int argc, char **argv, bool shell, struct error *e)
{
    int at = argc;
    err_t err = x->request ? parse_options(x, argc, argv, shell, &at, e)
                           : error_set(e, ERR_NO_MEMORY, "no memory for a request");
    if (err)
        return err;
    if (at < argc && !strcmp(argv[at], "--"))
        at++;
    if (shell && at < argc)
        return error_set(e, ERR_INVALID, "berth shell takes no command; berth exec does");
    if (!shell && at >= argc)
        return error_set(e, ERR_INVALID, "exec needs a command; berth shell opens a shell");
    if (x->json && (x->terminal || x->interactive))
        return error_set(e, ERR_INVALID, "--json goes with neither -i nor -t");
    x->command = shell ? NULL : argv + at;
    for (int i = at; i < argc; i++)
        agent_add(x->request, "arg", "%s", argv[i]);
    return OK;
}

// --- our side

static void add_terminal(struct exec *x)
{
    struct winsize size;
    const char *term = getenv("TERM");
    agent_add(x->request, "terminal", "1");
    if (term)
        agent_add(x->request, "term", "%s", term);
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col) {
        agent_add(x->request, "columns", "%u", size.ws_col);
        agent_add(x->request, "rows", "%u", size.ws_row);
    }
}

static void watch_signals(struct exec *x)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGWINCH);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGQUIT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    x->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static err_t send_size(struct exec *x, struct error *e)
{
    struct agent_fields fields = {0};
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0)
        return OK;
    agent_add(&fields, "columns", "%u", size.ws_col);
    agent_add(&fields, "rows", "%u", size.ws_row);
    return agent_send_fields(x->link, AGENT_RESIZE, &fields, e);
}

// A signal for us is the command's. One that asks a second time is ours, too.
static err_t take_signal(struct exec *x, struct error *e)
{
    struct signalfd_siginfo info;
    struct agent_fields fields = {0};
    if (read(x->signals, &info, sizeof info) != sizeof info)
        return OK;
    if (info.ssi_signo == SIGWINCH)
        return x->terminal ? send_size(x, e) : OK;
    if (x->signal == (int)info.ssi_signo) {
        x->left = true;
        return OK;
    }
    x->signal = (int)info.ssi_signo;
    agent_add(&fields, "signal", "%u", info.ssi_signo);
    return agent_send_fields(x->link, AGENT_SIGNAL, &fields, e);
}

static err_t take_input(struct exec *x, struct error *e)
{
    static uint8_t piece[PIECE];
    size_t room = AGENT_INPUT_MAX - x->input_out;
    ssize_t n = read(STDIN_FILENO, piece, room < PIECE ? room : PIECE);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return OK;
    if (n > 0 && x->saved.raw && memchr(piece, LEAVE, (size_t)n)) {
        x->left = true;
        return OK;
    }
    x->input_ended = n <= 0;
    x->input_out += n > 0 ? (size_t)n : 0;
    return agent_send(x->link, AGENT_STDIN, piece, n > 0 ? (size_t)n : 0, e);
}

static err_t put_out(struct exec *x, struct error *e)
{
    bool error = x->link->type == AGENT_STDERR;
    if (x->json) {
        buffer_append(error ? &x->error : &x->out, x->link->data, x->link->len);
        return x->out.len + x->error.len <= 64 * MIB
                   ? OK
                   : error_set(e, ERR_NO_MEMORY, "--json holds no more than 64 MiB of output");
    }
    // Whoever reads our output may have had enough, as head(1) does.
    if (host_write_all(error ? STDERR_FILENO : STDOUT_FILENO, x->link->data, x->link->len))
        x->left = true;
    return OK;
}

static err_t take_frame(struct exec *x, bool *ended, struct error *e)
{
    err_t err = agent_receive(x->link, e);
    if (err)
        return err;
    switch (x->link->type) {
    case AGENT_STDOUT:
    case AGENT_STDERR: return put_out(x, e);
    case AGENT_TAKEN: x->input_out -= agent_number(x->link, "bytes", x->input_out, 0); return OK;
    case AGENT_EXIT:
        *ended = true;
        x->status = (int)agent_number(x->link, "status", 255, 0);
        x->signal = (int)agent_number(x->link, "signal", NSIG - 1, 0);
        return OK;
    default: return agent_refused(x->link, e);
    }
}

static err_t pump(struct exec *x, struct error *e)
{
    bool ended = false;
    err_t err = OK;
    while (!err && !ended && !x->left) {
        bool reads = x->interactive && !x->input_ended && x->input_out < AGENT_INPUT_MAX;
        struct pollfd wait[] = {{.fd = x->link->fd, .events = POLLIN},
                                {.fd = x->signals, .events = POLLIN},
                                {.fd = reads ? STDIN_FILENO : -1, .events = POLLIN}};
        if (poll(wait, ARRAY_LEN(wait), -1) < 0)
            continue;
        if (wait[0].revents)
            err = take_frame(x, &ended, e);
        if (!err && !ended && wait[1].revents)
            err = take_signal(x, e);
        if (!err && !ended && wait[2].revents)
            err = take_input(x, e);
    }
    return err;
}

// --- all of it

// *refused: the guest could not start the command.
static err_t run(struct exec *x, bool *refused, struct error *e)
{
    err_t err = agent_open(vm_connect, x->vm, x->wait_ms, &x->link, e);
    if (err) {
        free(x->request);
        return err;
    }
    err = agent_ask(x->link, x->request, e);
    if (!err)
        err = agent_expect(x->link, AGENT_OK, e);
    *refused = err == ERR_NOT_FOUND || err == ERR_DENIED;
    if (!err && !x->interactive)
        err = agent_send(x->link, AGENT_STDIN, NULL, 0, e);
    x->saved.fd = -1;
    if (!err && x->terminal) {
        host_terminal_save(&x->saved, STDIN_FILENO);
        host_terminal_raw(&x->saved);
    }
    watch_signals(x);
    if (!err)
        err = pump(x, e);
    if (err == ERR_IO)
        (void)error_in(e, "the agent in '%s' has gone away", x->vm);
    host_terminal_restore(&x->saved);
    agent_close(x->link);
    return err;
}

static json_t *text_of(const struct buffer *b)
{
    json_t *text = b->len ? json_stringn((const char *)b->data, b->len) : json_string("");
    for (size_t i = 0; !text && i < b->len; i++)
        b->data[i] = b->data[i] < 0x80 ? b->data[i] : '?';
    return text ? text : json_stringn((const char *)b->data, b->len);
}

static int report(struct exec *x, err_t err, bool refused, const struct error *e)
{
    if (err && refused)
        return complain(err == ERR_NOT_FOUND ? STATUS_NOT_FOUND : STATUS_NOT_STARTED, "%s",
                        e->text);
    if (err)
        return complain(status_of(err), "%s", e->text);
    if (x->json) {
        json_t *all = json_pack("{s:i, s:o, s:o}", "status", x->status, "stdout", text_of(&x->out),
                                "stderr", text_of(&x->error));
        if (x->signal)
            json_object_set_new(all, "signal", json_integer(x->signal));
        print_json(all);
    }
    return x->signal ? STATUS_SIGNAL + x->signal : x->left ? STATUS_SIGNAL : x->status;
}

static int start(int argc, char **argv, bool shell)
{
    struct exec x = {.request = agent_request_new("exec"), .wait_ms = AGENT_WAIT_DEFAULT};
    struct error e = {0};
    bool refused = false;
    err_t err = parse(&x, argc, argv, shell, &e);
    if (err) {
        free(x.request);
        return complain(EXIT_USAGE, "%s", e.text);
    }
    x.interactive |= shell;
    x.terminal |= shell && isatty(STDIN_FILENO);
    if (x.terminal)
        add_terminal(&x);
    err = run(&x, &refused, &e);
    int status = report(&x, err, refused, &e);
    buffer_release(&x.out);
    buffer_release(&x.error);
    return status;
}

int cmd_exec(int argc, char **argv)
{
    return start(argc, argv, false);
}

int cmd_shell(int argc, char **argv)
{
    return start(argc, argv, true);
}
