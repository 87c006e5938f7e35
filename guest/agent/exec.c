// Programs for the other side: with three streams, or on a terminal. pty(7).
//
// What the program should read is held here, in a bounded buffer that the other side knows the size
// of; so its frames are always read at once, and a signal is never stuck behind input. What the
// program writes waits in its pipes while the other side does not read.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define ARGUMENTS_MAX 4096
#define ENVIRONMENT_MAX 256
#define QUIET_MS 500   // after the program's end, for what it left running to hold its streams
#define HANGUP_MS 3000 // for a program whose user has gone, before it is killed

struct program {
    struct user user;
    const char *argv[ARGUMENTS_MAX + 1];
    const char *env[ENVIRONMENT_MAX + 1];
    unsigned args, envs;
    char made[8][512]; // parts of env
    char login[300];   // a login shell's name for itself
    const char *dir;
    bool terminal;
    struct winsize size;
};

struct streams {
    int input, output, error; // the agent's ends; -1: none, or ended
    int signals;              // a signalfd of SIGCHLD
    pid_t child;
    bool ended;
    int status;     // of the child
    bool input_due; // the other side sends no more
    size_t in, out; // bytes of input that came and that went on, the buffer wraps
    uint8_t buffer[AGENT_INPUT_MAX];
};

// --- what to start

static void add_environment(struct program *p, const char *text)
{
    if (p->envs < ENVIRONMENT_MAX)
        p->env[p->envs++] = text;
}

// Later ones win with getenv() only where they come first, so what was asked for goes first.
static void make_environment(struct program *p, const struct agent_link *link)
{
    const char *term = agent_get(link, "term");
    for (const char *at = NULL; (at = agent_next(link, "env", at));)
        add_environment(p, at);
    snprintf(p->made[0], sizeof p->made[0], "HOME=%s", p->user.home);
    snprintf(p->made[1], sizeof p->made[1], "USER=%s", p->user.name);
    snprintf(p->made[2], sizeof p->made[2], "LOGNAME=%s", p->user.name);
    snprintf(p->made[3], sizeof p->made[3], "SHELL=%s", p->user.shell);
    snprintf(p->made[4], sizeof p->made[4],
             "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:"
             "/sbin:/bin");
    snprintf(p->made[5], sizeof p->made[5], "TERM=%s", term ? term : "linux");
    for (unsigned i = 0; i < (p->terminal ? 6 : 5); i++) {
        bool given = false;
        size_t key = strcspn(p->made[i], "=") + 1;
        for (unsigned k = 0; k < p->envs; k++)
            given |= !strncmp(p->env[k], p->made[i], key);
        if (!given)
            add_environment(p, p->made[i]);
    }
}

static void make_login(struct program *p)
{
    const char *slash = strrchr(p->user.shell, '/');
    snprintf(p->login, sizeof p->login, "-%s", slash ? slash + 1 : p->user.shell);
    p->argv[p->args++] = p->login;
}

static err_t read_request(struct program *p, const struct agent_link *link, struct error *e)
{
    const char *user = agent_get(link, "user");
    err_t err = user_find(user ? user : "root", &p->user, e);
    if (err)
        return err;
    for (const char *at = NULL; p->args < ARGUMENTS_MAX && (at = agent_next(link, "arg", at));)
        p->argv[p->args++] = at;
    if (!p->args)
        make_login(p);
    p->dir = agent_get(link, "dir");
    p->terminal = agent_number(link, "terminal", 1, 0);
    p->size.ws_col = (unsigned short)agent_number(link, "columns", UINT16_MAX, 80);
    p->size.ws_row = (unsigned short)agent_number(link, "rows", UINT16_MAX, 24);
    make_environment(p, link);
    return OK;
}

// --- the child

static void say(int to, err_t code, const char *what, int number)
{
    struct error e;
    (void)!error_set(&e, code, "%s: %s", what, strerror(number));
    (void)!write(to, &e, sizeof e);
    _exit(1);
}

_Noreturn static void become(const struct program *p, const int fd[3], int words)
{
    sigset_t none;
    struct error e;
    setsid();
    for (int i = 0; i < 3; i++)
        dup2(fd[i], i);
    if (p->terminal)
        ioctl(0, TIOCSCTTY, 0);
    for (int s = 1; s < NSIG; s++)
        signal(s, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    umask(022);
    if (user_become(&p->user, &e)) {
        (void)!write(words, &e, sizeof e);
        _exit(1);
    }
    if (p->dir && chdir(p->dir) < 0)
        say(words, ERR_NOT_FOUND, p->dir, errno);
    if (!p->dir && chdir(p->user.home) < 0)
        (void)!chdir("/");
    environ = (char **)p->env;
    execvp(p->argv[0] == p->login ? p->user.shell : p->argv[0], (char *const *)p->argv);
    if (p->argv[0] == p->login) // no such shell
        execl("/bin/sh", p->login, NULL);
    say(words, errno == ENOENT ? ERR_NOT_FOUND : ERR_DENIED, p->argv[0], errno);
    _exit(1);
}

// A guest that has just an initial RAM disk may have no terminals yet.
static int open_terminal(char name[64])
{
    int fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 || access("/dev/pts/ptmx", F_OK) < 0) {
        mkdir("/dev/pts", 0755);
        mount("devpts", "/dev/pts", "devpts", 0, "mode=0620,ptmxmode=0666");
        if (fd < 0)
            fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    }
    if (fd < 0)
        fd = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0 && (unlockpt(fd) < 0 || ptsname_r(fd, name, 64) != 0)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static err_t make_terminal(const struct program *p, struct streams *s, int theirs[3],
                           struct error *e)
{
    char name[64];
    s->output = open_terminal(name);
    theirs[0] = s->output < 0 ? -1 : open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (theirs[0] < 0)
        return error_set(e, ERR_UNSUPPORTED, "the guest has no terminals: %s", strerror(errno));
    fchown(theirs[0], p->user.uid, (gid_t)-1);
    ioctl(s->output, TIOCSWINSZ, &p->size);
    theirs[1] = theirs[2] = theirs[0];
    s->input = dup(s->output);
    s->error = -1;
    return OK;
}

static err_t make_pipes(struct streams *s, int theirs[3], struct error *e)
{
    int in[2], out[2], error[2];
    if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(error, O_CLOEXEC) < 0)
        return error_set(e, ERR_IO, "the guest has no pipes left: %s", strerror(errno));
    *s = (struct streams){.input = in[1], .output = out[0], .error = error[0]};
    theirs[0] = in[0];
    theirs[1] = out[1];
    theirs[2] = error[1];
    return OK;
}

static void watch_children(struct streams *s)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

// The child's words, when it could not become the program; none once it has.
static err_t start(const struct program *p, struct streams *s, struct error *e)
{
    int theirs[3], words[2];
    struct error said;
    err_t err = p->terminal ? make_terminal(p, s, theirs, e) : make_pipes(s, theirs, e);
    if (err)
        return err;
    if (pipe2(words, O_CLOEXEC) < 0)
        return error_set(e, ERR_IO, "the guest has no pipes left: %s", strerror(errno));
    watch_children(s);
    s->child = fork();
    if (s->child == 0)
        become(p, theirs, words[1]);
    close(words[1]);
    for (int i = 0; i < (p->terminal ? 1 : 3); i++)
        close(theirs[i]);
    ssize_t n = read(words[0], &said, sizeof said);
    close(words[0]);
    if (s->child < 0)
        return error_set(e, ERR_NO_MEMORY, "the guest cannot start a process");
    if (n == sizeof said)
        return error_set(e, said.code, "%s", said.text);
    fcntl(s->input, F_SETFL, O_NONBLOCK);
    return OK;
}

// --- input

static void end_input(struct streams *s, bool terminal)
{
    static const uint8_t end_of_file = 4;
    if (terminal && s->input >= 0)
        (void)!write(s->input, &end_of_file, 1);
    if (s->input >= 0)
        close(s->input);
    s->input = -1;
}

static err_t tell_taken(struct agent_link *link, size_t bytes, struct error *e)
{
    struct agent_fields taken = {0};
    agent_add(&taken, "bytes", "%zu", bytes);
    return agent_send_fields(link, AGENT_TAKEN, &taken, e);
}

// A program that reads no more gets rid of the rest.
static err_t pass_input(struct agent_link *link, struct streams *s, bool terminal, struct error *e)
{
    size_t before = s->out;
    while (s->out < s->in) {
        size_t at = s->out % AGENT_INPUT_MAX, len = s->in - s->out;
        len = len < AGENT_INPUT_MAX - at ? len : AGENT_INPUT_MAX - at;
        ssize_t n = s->input < 0 ? (ssize_t)len : write(s->input, s->buffer + at, len);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0)
            end_input(s, false);
        s->out += n > 0 ? (size_t)n : 0;
    }
    if (s->out == s->in && s->input_due)
        end_input(s, terminal);
    return s->out > before ? tell_taken(link, s->out - before, e) : OK;
}

static err_t keep_input(const struct agent_link *link, struct streams *s, struct error *e)
{
    if (!link->len)
        s->input_due = true;
    if (link->len > AGENT_INPUT_MAX - (s->in - s->out))
        return error_set(e, ERR_CORRUPT, "more input than there is room for");
    for (uint32_t i = 0; i < link->len; i++)
        s->buffer[s->in++ % AGENT_INPUT_MAX] = link->data[i];
    return OK;
}

static err_t take_frame(struct agent_link *link, struct streams *s, bool terminal, struct error *e)
{
    err_t err = agent_receive(link, e);
    if (err)
        return err;
    if (link->type == AGENT_STDIN) {
        err = keep_input(link, s, e);
        return err ? err : pass_input(link, s, terminal, e);
    }
    if (link->type == AGENT_RESIZE && terminal) {
        const struct winsize size = {
            .ws_col = (unsigned short)agent_number(link, "columns", UINT16_MAX, 80),
            .ws_row = (unsigned short)agent_number(link, "rows", UINT16_MAX, 24)};
        ioctl(s->output, TIOCSWINSZ, &size);
    }
    if (link->type == AGENT_SIGNAL && !s->ended)
        kill(-s->child, (int)agent_number(link, "signal", NSIG - 1, SIGTERM));
    return OK;
}

// --- output

static err_t pass_output(struct agent_link *link, int *from, uint8_t type, struct error *e)
{
    static uint8_t piece[32 * KIB];
    ssize_t n = read(*from, piece, sizeof piece);
    if (n > 0)
        return agent_send(link, type, piece, (size_t)n, e);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return OK;
    close(*from); // the end; of a terminal it is EIO
    *from = -1;
    return OK;
}

static void bury(struct streams *s)
{
    struct signalfd_siginfo info;
    while (read(s->signals, &info, sizeof info) == sizeof info)
        ;
    if (waitpid(s->child, &s->status, WNOHANG) == s->child)
        s->ended = true;
}

static bool over(const struct streams *s, bool quiet)
{
    return s->ended && (quiet || (s->output < 0 && s->error < 0));
}

static err_t pump(struct agent_link *link, struct streams *s, bool terminal, struct error *e)
{
    err_t err = OK;
    bool quiet = false;
    while (!err && !over(s, quiet)) {
        struct pollfd wait[] = {
            {.fd = link->fd, .events = POLLIN},
            {.fd = s->in > s->out ? s->input : -1, .events = POLLOUT},
            {.fd = s->output, .events = POLLIN},
            {.fd = s->error, .events = POLLIN},
            {.fd = s->signals, .events = POLLIN},
        };
        int n = poll(wait, ARRAY_LEN(wait), s->ended ? QUIET_MS : -1);
        quiet = n == 0;
        if (n <= 0)
            continue;
        if (wait[4].revents)
            bury(s);
        if (wait[0].revents)
            err = take_frame(link, s, terminal, e);
        if (!err && wait[1].revents)
            err = pass_input(link, s, terminal, e);
        if (!err && wait[2].revents)
            err = pass_output(link, &s->output, AGENT_STDOUT, e);
        if (!err && wait[3].revents)
            err = pass_output(link, &s->error, AGENT_STDERR, e);
    }
    return err;
}

// --- the end

// Its user has gone: as when a line is hung up.
static void hang_up(struct streams *s)
{
    const struct timespec piece = {.tv_nsec = 50 * 1000000};
    if (s->ended)
        return;
    kill(-s->child, SIGHUP);
    kill(-s->child, SIGCONT);
    for (int ms = 0; ms < HANGUP_MS && !s->ended; ms += 50) {
        nanosleep(&piece, NULL);
        bury(s);
    }
    kill(-s->child, SIGKILL);
}

static err_t tell_end(struct agent_link *link, const struct streams *s, struct error *e)
{
    struct agent_fields out = {0};
    if (WIFSIGNALED(s->status))
        agent_add(&out, "signal", "%d", WTERMSIG(s->status));
    else
        agent_add(&out, "status", "%d", WEXITSTATUS(s->status));
    return agent_send_fields(link, AGENT_EXIT, &out, e);
}

err_t request_exec(struct agent_link *link, struct shared *shared, struct error *e)
{
    static struct program program; // texts are in the request's frame, a copy of which stays
    static struct streams streams;
    static struct agent_link request;
    const struct agent_fields none = {0};
    request = *link;
    err_t err = read_request(&program, &request, e);
    if (!err)
        err = start(&program, &streams, e);
    if (!err)
        err = agent_send_fields(link, AGENT_OK, &none, e);
    if (err)
        return err;
    link->timeout_ms = -1; // a person may be typing
    err = pump(link, &streams, program.terminal, e);
    if (err)
        hang_up(&streams);
    return err ? err : tell_end(link, &streams, e);
}
