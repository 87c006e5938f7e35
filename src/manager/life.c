// The life of a VM: its supervisor is started, its control socket connected, its end settled by
// what the supervisor left in the folder, and then the restart policy has its say.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "control/registry.h"
#include "host/clock.h"
#include "host/file.h"
#include "machine/config.h"
#include "manager/coordinator.h"

#define OUTCOME "outcome"
#define DEFINITION "definition.json"
#define CONNECT_AGAIN (50 * NS_PER_MS)
#define FORCE_AGAIN (3 * NS_PER_SEC)
#define KILL_AFTER (8 * NS_PER_SEC) // longer than a supervisor takes to kill its VM
#define BACKOFF_FIRST (250 * NS_PER_MS)
#define BACKOFF_LAST (60 * NS_PER_SEC)
#define PRESS_AGAIN (500 * NS_PER_MS)
#define DEAF_FOR (10 * NS_PER_SEC) // so long may a guest that boots not listen to its button
#define RAN_WELL_MS 30000          // who ran for so long starts again with the first delay
#define EVENTS_A_SECOND 50

static void connect_vm(struct managed *m);

bool managed_runs(const struct managed *m)
{
    return process_runs(&m->process);
}

static void shut_ready(struct managed *m)
{
    if (m->ready.fd < 0)
        return;
    loop_fd_remove(m->manager->loop, &m->ready);
    close(m->ready.fd);
    m->ready.fd = -1;
}

static void set_timer(struct managed *m, struct loop_timer *timer, uint64_t in)
{
    loop_timer_set(m->manager->loop, timer, in == NS_NEVER ? in : host_now() + in);
}

static uint64_t until(uint64_t when)
{
    uint64_t now = host_now();
    return when > now ? when - now : 0;
}

// Whether a VM runs or is paused it says itself, as often as it likes: told, but not kept.
static bool is_its_own_word(enum managed_state before, enum managed_state after)
{
    return (before == MANAGED_RUNNING && after == MANAGED_PAUSED) ||
           (before == MANAGED_PAUSED && after == MANAGED_RUNNING);
}

static void set_state(struct managed *m, enum managed_state state)
{
    if (m->state == state)
        return;
    bool kept = !is_its_own_word(m->state, state);
    m->state = state;
    json_t *event = json_pack("{s:s, s:s}", "event", "state", "state", managed_states[state]);
    if (event && (state == MANAGED_STOPPED || state == MANAGED_FAILED)) {
        json_object_set_new(event, "reason", json_string(m->reason));
        json_object_set_new(event, "status", json_integer(m->status));
        if (m->text[0])
            json_object_set_new(event, "text", json_string(m->text));
    }
    manager_tell(m->manager, m, event, kept);
}

// --- who waits

err_t managed_wait(struct managed *m, bool for_end, struct reply *reply, struct error *e)
{
    struct waiter *w = calloc(1, sizeof *w);
    if (!w || !reply_later(reply)) {
        free(w);
        return error_set(e, ERR_NO_MEMORY, "no memory for an answer");
    }
    *w = (struct waiter){.promise = reply->later, .for_end = for_end, .next = m->waiters};
    m->waiters = w;
    return OK;
}

static void settle(struct managed *m, bool for_end, const struct error *e)
{
    struct waiter *due = NULL;
    for (struct waiter **p = &m->waiters; *p;) {
        struct waiter *w = *p;
        if (w->for_end != for_end) {
            p = &w->next;
            continue;
        }
        *p = w->next;
        w->next = due;
        due = w;
    }
    while (due) {
        struct waiter *w = due;
        due = w->next;
        promise_settle(w->promise, e ? NULL : managed_describe(m), e);
        free(w);
    }
}

// --- its words

// A VM that says too much is cut short, for the sake of all others.
static bool may_tell(struct managed *m)
{
    uint64_t now = host_now();
    if (now - m->told_since > NS_PER_SEC) {
        m->told_since = now;
        m->told = 0;
    }
    return m->told++ < EVENTS_A_SECOND;
}

static void vm_event(void *opaque, json_t *event)
{
    struct managed *m = opaque;
    const char *name = json_string_value(json_object_get(event, "event"));
    if (!strcmp(name, "agent"))
        m->agent = json_is_true(json_object_get(event, "ready"));
    if (!may_tell(m) || !strcmp(name, "counter"))
        return;
    if (!strcmp(name, "paused") && m->state == MANAGED_RUNNING)
        set_state(m, MANAGED_PAUSED);
    else if (!strcmp(name, "resumed") && m->state == MANAGED_PAUSED)
        set_state(m, MANAGED_RUNNING);
    else
        manager_tell(m->manager, m, json_deep_copy(event), false);
}

static void vm_lost(void *opaque)
{
    struct managed *m = opaque;
    link_free(m->link);
    m->link = NULL;
    if (managed_runs(m))
        set_timer(m, &m->connecting, CONNECT_AGAIN);
}

static void got_info(void *opaque, json_t *info, const struct error *e)
{
    struct managed *m = opaque;
    if (!info)
        return;
    const char *state = json_string_value(json_object_get(info, "state"));
    const char *engine = json_string_value(json_object_get(info, "engine"));
    const char *agent = json_string_value(json_object_get(info, "agent"));
    json_int_t pid = json_integer_value(json_object_get(info, "pid"));
    m->pid = pid <= INT_MAX && process_has_child(&m->process, (pid_t)pid) ? (int)pid : 0;
    snprintf(m->engine, sizeof m->engine, "%s", engine ? engine : "");
    m->agent = agent && !strcmp(agent, "ready");
    if (m->state != MANAGED_STOPPING)
        set_state(m, state && !strcmp(state, "paused") ? MANAGED_PAUSED : MANAGED_RUNNING);
    json_decref(info);
    settle(m, false, NULL);
}

static void ignore(void *opaque, json_t *result, const struct error *e)
{
    json_decref(result);
}

static void connect_vm(struct managed *m)
{
    int fd = -1;
    const struct link_user user = {.event = vm_event, .lost = vm_lost, .opaque = m};
    struct error e;
    if (m->link || !managed_runs(m))
        return;
    err_t err = registry_connect(REGISTRY_VM, m->name, &fd, &e);
    if (!err)
        err = link_new(m->manager->loop, fd, &user, &m->link, &e);
    if (!err)
        err = link_ask(m->link, "events", NULL, ignore, NULL, &e);
    if (!err)
        err = link_ask(m->link, "info", NULL, got_info, m, &e);
    if (err) // not yet, or it does not answer
        set_timer(m, &m->connecting, CONNECT_AGAIN);
}

static void connect_again(void *opaque)
{
    connect_vm(opaque);
}

static void ready(void *opaque, uint32_t events)
{
    struct managed *m = opaque;
    char byte;
    bool listens = read(m->ready.fd, &byte, 1) == 1;
    shut_ready(m);
    if (listens)
        connect_vm(m);
}

// --- starting

static void drop_key_of_stdio(json_t *definition, const char *key)
{
    const char *value = json_string_value(json_object_get(definition, key));
    if (value && !strcmp(value, "stdio"))
        json_object_del(definition, key);
}

// It has a screen, and nobody said where that can be seen.
static bool shows_nobody(const char *text, const json_t *definition)
{
    struct vm_config config;
    if (json_object_get(definition, "display") || vm_config_load(&config, text, strlen(text), NULL))
        return false;
    bool shows = vm_config_has_vga(&config);
    vm_config_release(&config);
    return shows;
}

// The definition as the supervisor reads it: with the name that the VM has now, and serial port
// and screen where somebody can attach to them.
static err_t write_definition(struct managed *m, struct error *e)
{
    char path[PATH_MAX], *text;
    err_t err = managed_definition(m, &text, e);
    if (err)
        return err;
    json_t *definition = json_loads(text, 0, NULL);
    drop_key_of_stdio(definition, "serial");
    if (!json_object_get(definition, "serial"))
        json_object_set_new(definition, "serial", json_string("shared"));
    if (shows_nobody(text, definition))
        json_object_set_new(definition, "display", json_string("vnc=unix:" MANAGED_SCREEN));
    free(text);
    json_object_set_new(definition, "name", json_string(m->name));
    uint32_t bound = coordinator_first_bound(m->manager->pools, m);
    json_object_set_new(definition, "cpu_bound", json_integer(bound));
    managed_path(m, DEFINITION, path);
    if (!definition || json_dump_file(definition, path, JSON_COMPACT))
        err = error_set(e, ERR_IO, "cannot write '%s'", path);
    json_decref(definition);
    return err;
}

static err_t start_process(struct managed *m, struct error *e)
{
    char folder[PATH_MAX], outcome[PATH_MAX];
    char *argv[] = {"berth", "run", "--definition", DEFINITION, "--keep", ".", NULL};
    int out = -1;
    managed_path(m, NULL, folder);
    managed_path(m, OUTCOME, outcome);
    unlink(outcome);
    err_t err = process_start(&m->process, m->manager->berth, argv, folder, &out, e);
    if (err)
        return err;
    coordinator_began(m->manager->coordinator, m, m->process.pid);
    m->ready = (struct loop_fd){.fd = out, .events = EPOLLIN, .ready = ready, .opaque = m};
    if (loop_fd_add(m->manager->loop, &m->ready, NULL)) {
        close(out);
        m->ready.fd = -1;
        set_timer(m, &m->connecting, CONNECT_AGAIN);
    }
    return OK;
}

static err_t begin(struct managed *m, struct error *e)
{
    int64_t now = wall_ms();
    err_t err = db_run(m->manager->db, e,
                       "UPDATE vm SET wanted = 1, started = ?, ended = NULL, restarts = ? "
                       "WHERE id = ?",
                       "iis", now, (int64_t)m->restarts, m->id);
    if (err)
        return err;
    m->wanted = true;
    m->started = now;
    m->ended = 0;
    m->forced = 0;
    m->pid = 0;
    m->agent = false;
    set_timer(m, &m->timer, NS_NEVER);
    err = write_definition(m, e);
    if (!err)
        err = start_process(m, e);
    if (!err)
        set_state(m, MANAGED_STARTING);
    return err;
}

static err_t note_end(struct managed *m, bool wanted, struct error *e)
{
    m->wanted = wanted;
    m->ended = wall_ms();
    return db_run(m->manager->db, e,
                  "UPDATE vm SET wanted = ?, ended = ?, status = ?, reason = ?, text = ? "
                  "WHERE id = ?",
                  "iiisss", (int64_t)wanted, m->ended, (int64_t)m->status, m->reason, m->text,
                  m->id);
}

static void could_not_start(struct managed *m, const struct error *e)
{
    m->status = 3;
    snprintf(m->reason, sizeof m->reason, "not-started");
    snprintf(m->text, sizeof m->text, "%.159s", e->text);
    (void)!note_end(m, false, NULL);
    set_state(m, MANAGED_FAILED);
}

err_t managed_start(struct managed *m, struct error *e)
{
    if (managed_runs(m))
        return OK;
    m->restarts = 0;
    err_t err = begin(m, e);
    if (err)
        could_not_start(m, e);
    return err;
}

// --- ending

// The last line that the supervisor complained with.
static void read_complaint(struct managed *m)
{
    char path[PATH_MAX];
    struct host_file file = {0};
    managed_path(m, PROCESS_SAID, path);
    if (host_file_read(path, 64 * KIB, &file, NULL) || !file.len)
        return;
    size_t end = file.len;
    while (end && file.data[end - 1] == '\n')
        end--;
    size_t start = end;
    while (start && file.data[start - 1] != '\n')
        start--;
    const char *line = (char *)file.data + start, prefix[] = "berth: ";
    if (end - start > strlen(prefix) && !memcmp(line, prefix, strlen(prefix)))
        line += strlen(prefix);
    snprintf(m->text, sizeof m->text, "%.*s", (int)((char *)file.data + end - line), line);
    host_file_release(&file);
}

static void read_outcome(struct managed *m)
{
    char path[PATH_MAX];
    managed_path(m, OUTCOME, path);
    json_t *outcome = json_load_file(path, 0, NULL);
    const char *reason = json_string_value(json_object_get(outcome, "reason"));
    const char *text = json_string_value(json_object_get(outcome, "text"));
    const json_t *status = json_object_get(outcome, "status");
    m->status = json_is_integer(status) ? (int)json_integer_value(status) : 3;
    snprintf(m->reason, sizeof m->reason, "%s", reason ? reason : "killed");
    snprintf(m->text, sizeof m->text, "%s", text ? text : "");
    if (!outcome)
        read_complaint(m);
    if (!outcome && m->text[0])
        snprintf(m->reason, sizeof m->reason, "not-started");
    json_decref(outcome);
}

static bool to_be_restarted(const struct managed *m)
{
    return m->wanted &&
           (m->restart == RESTART_ALWAYS || (m->restart == RESTART_ON_FAILURE && m->status != 0));
}

static uint64_t back_off(struct managed *m)
{
    if (m->ended - m->started >= RAN_WELL_MS)
        m->restarts = 0;
    uint64_t delay = m->restarts < 16 ? BACKOFF_FIRST << m->restarts : BACKOFF_LAST;
    return delay < BACKOFF_LAST ? delay : BACKOFF_LAST;
}

static void tell_waiters(struct managed *m)
{
    struct error e = {0};
    bool asked_wrong = m->status == 2 || !strcmp(m->reason, "not-started");
    (void)!error_set(&e, asked_wrong ? ERR_INVALID : ERR_UNSUPPORTED, "'%s' has ended: %s%s%s",
                     m->name, m->reason, m->text[0] ? ": " : "", m->text);
    settle(m, false, &e);
    settle(m, true, NULL);
}

static void settle_end(struct managed *m)
{
    bool again = m->again, asked = !m->wanted;
    m->again = false;
    read_outcome(m);
    bool by_policy = !again && to_be_restarted(m);
    (void)!note_end(m, again || by_policy, NULL);
    set_state(m, asked || !m->status ? MANAGED_STOPPED : MANAGED_FAILED);
    if (!again)
        tell_waiters(m);
    if (m->removing) {
        (void)!managed_remove(m, NULL);
    } else if (by_policy) {
        set_timer(m, &m->timer, back_off(m));
        m->restarts++;
        set_state(m, MANAGED_RESTARTING);
    } else if (again) {
        struct error e;
        if (managed_start(m, &e))
            settle(m, false, &e);
    }
}

void managed_ended(struct managed *m)
{
    coordinator_ended(m->manager->coordinator, m);
    shut_ready(m);
    set_timer(m, &m->timer, NS_NEVER);
    set_timer(m, &m->connecting, NS_NEVER);
    struct link *link = m->link;
    m->link = NULL;
    link_free(link);
    settle_end(m);
}

// --- stopping

// Harder each time: by request, by a signal to its supervisor, which kills the VM's process if that
// does not listen, and by killing the supervisor.
static void force(struct managed *m)
{
    unsigned how = m->forced++;
    if (how == 0 && (!m->link || link_ask(m->link, "stop", NULL, ignore, NULL, NULL)))
        how = m->forced++;
    if (how == 1)
        process_signal(&m->process, SIGQUIT);
    else if (how > 1)
        process_signal(&m->process, SIGKILL);
    set_timer(m, &m->timer, how ? KILL_AFTER : FORCE_AGAIN);
}

static void asked_guest(void *opaque, json_t *result, const struct error *e);

static bool press_button(struct managed *m)
{
    return m->link && !link_ask(m->link, "shutdown", NULL, asked_guest, m, NULL);
}

// A guest that does not listen to its power button may be about to, while it boots; or it never
// will.
static void asked_guest(void *opaque, json_t *result, const struct error *e)
{
    struct managed *m = opaque;
    json_decref(result);
    if (m->state != MANAGED_STOPPING || m->forced)
        return;
    m->heard = result != NULL;
    if (m->heard)
        set_timer(m, &m->timer, until(m->stop_by));
    else
        set_timer(m, &m->timer, PRESS_AGAIN);
}

static void time_is_up(void *opaque)
{
    struct managed *m = opaque;
    struct error e;
    if (m->state == MANAGED_RESTARTING) {
        uint32_t restarts = m->restarts;
        if (begin(m, &e))
            could_not_start(m, &e);
        m->restarts = restarts;
    } else if (managed_runs(m)) {
        uint64_t deaf = m->stop_began + DEAF_FOR, by = deaf < m->stop_by ? deaf : m->stop_by;
        if (m->heard || host_now() >= by || !press_button(m))
            force(m);
    }
}

err_t managed_stop(struct managed *m, uint32_t seconds, struct error *e)
{
    bool paused = m->state == MANAGED_PAUSED;
    err_t err = db_run(m->manager->db, e, "UPDATE vm SET wanted = 0 WHERE id = ?", "s", m->id);
    if (err)
        return err;
    m->wanted = false;
    if (!managed_runs(m)) {
        set_timer(m, &m->timer, NS_NEVER);
        if (m->state == MANAGED_RESTARTING)
            set_state(m, m->status ? MANAGED_FAILED : MANAGED_STOPPED);
        return OK;
    }
    set_state(m, MANAGED_STOPPING);
    m->heard = false;
    m->stop_began = host_now();
    m->stop_by = m->stop_began + seconds * NS_PER_SEC;
    if (paused && seconds && m->link) // a paused guest does not feel its button
        (void)!link_ask(m->link, "resume", NULL, ignore, NULL, NULL);
    if (seconds && press_button(m))
        set_timer(m, &m->timer, seconds * NS_PER_SEC);
    else
        force(m);
    return OK;
}

// --- with the manager

void managed_init_timers(struct managed *m)
{
    m->timer = (struct loop_timer){.fire = time_is_up, .opaque = m};
    m->connecting = (struct loop_timer){.fire = connect_again, .opaque = m};
}

void managed_reconcile(struct managed *m)
{
    char folder[PATH_MAX];
    managed_path(m, NULL, folder);
    if (process_adopt(&m->process, folder, NULL) == OK) {
        m->state = MANAGED_STARTING;
        connect_vm(m);
    } else if (m->started && !m->ended) {
        settle_end(m);
    } else if (m->wanted) { // the last manager was about to
        m->state = MANAGED_RESTARTING;
        set_timer(m, &m->timer, back_off(m));
    }
}

void managed_release(struct managed *m)
{
    struct error e = {0};
    (void)!error_set(&e, ERR_IO, "the manager ends; ask again");
    shut_ready(m);
    set_timer(m, &m->timer, NS_NEVER);
    set_timer(m, &m->connecting, NS_NEVER);
    struct link *link = m->link;
    m->link = NULL;
    link_free(link);
    process_release(&m->process);
    settle(m, false, &e);
    settle(m, true, &e);
}
