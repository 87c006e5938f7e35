// berth cp: files and folders into a guest and out of it, by its agent.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/agent_verbs.h"
#include "cli/cli.h"
#include "cli/manager.h"
#include "control/agent_tree.h"
#include "host/clock.h"
#include "machine/config.h"

#define SHOW_NS (200 * NS_PER_MS)

const char cp_help[] =
    "usage: berth cp [OPTION...] FILE VM:PATH\n"
    "       berth cp [OPTION...] VM:PATH FILE\n"
    "\n"
    "Copies a file or a whole folder into the VM's guest or out of it, by Berth's agent there. "
    "Where\n"
    "PATH is a folder the copy goes into it. Modes and times are kept, owners and special files "
    "are\n"
    "not. A PATH without a / in front is below root's home.\n"
    "\n"
    "  -q, --quiet           no progress\n"
    "      --wait SECONDS    for an agent that is not ready yet (120 if it was put there\n"
    "                        by berth run --agent, else 0)\n"
    "      --json            print {\"files\", \"folders\", \"links\", \"bytes\", \"skipped\"}\n";

struct copy {
    const char *from, *to;
    bool quiet, json;
    int wait_ms;
    // What VM:PATH says.
    char vm[64];
    const char *there, *here;
    bool into; // the guest
    // While it runs.
    bool shown;
    uint64_t done, total, last;
};

// --- the command line

// "VM:PATH"; a path of this host can be told from it by a / before the colon.
static bool split(const char *word, char vm[64], const char **path)
{
    const char *colon = strchr(word, ':');
    if (!colon || colon - word > 63)
        return false;
    snprintf(vm, 64, "%.*s", (int)(colon - word), word);
    *path = colon[1] ? colon + 1 : ".";
    return vm_name_valid(vm);
}

static err_t parse_words(struct copy *c, int argc, char **argv, struct error *e)
{
    const char *words[2];
    int n = 0;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (!strcmp(word, "-q") || !strcmp(word, "--quiet")) {
            c->quiet = true;
        } else if (!strcmp(word, "--json")) {
            c->json = true;
        } else if (!strcmp(word, "--wait") && i + 1 < argc) {
            err_t err = agent_parse_wait(argv[++i], &c->wait_ms, e);
            if (err)
                return err;
        } else if (word[0] == '-' || n == 2) {
            return error_set(e, ERR_INVALID, "cp does not know '%s'; see berth cp --help", word);
        } else {
            words[n++] = word;
        }
    }
    if (n < 2)
        return error_set(e, ERR_INVALID, "cp needs a file and VM:PATH; see berth cp --help");
    c->from = words[0];
    c->to = words[1];
    return OK;
}

static err_t parse(struct copy *c, int argc, char **argv, struct error *e)
{
    char other[64];
    const char *path;
    err_t err = parse_words(c, argc, argv, e);
    if (err)
        return err;
    c->into = split(c->to, c->vm, &c->there);
    bool out = split(c->from, other, &path);
    if (c->into == out)
        return error_set(e, ERR_INVALID,
                         out ? "both are in guests; copy out of the one first, then into the other"
                             : "one of the two must be VM:PATH");
    if (out) {
        snprintf(c->vm, sizeof c->vm, "%s", other);
        c->there = path;
    }
    c->here = c->into ? c->from : c->to;
    return OK;
}

// --- progress

static void show(struct copy *c)
{
    static const char bar[] = "########################################";
    unsigned percent = c->total ? (unsigned)(100.0 * (double)c->done / (double)c->total) : 100;
    percent = percent < 100 ? percent : 100;
    fprintf(stderr, "\rcopying [%-*.*s] %3u %% of %.1f MiB ", (int)sizeof bar - 1,
            (int)(percent * (sizeof bar - 1) / 100), bar, percent, (double)c->total / MIB);
    c->shown = true;
}

// Copies that are over in a moment show nothing.
static void step(void *opaque, const char *path, uint64_t bytes)
{
    struct copy *c = opaque;
    uint64_t now = host_now();
    c->done += bytes;
    if (c->quiet || now - c->last < SHOW_NS)
        return;
    c->last = now;
    show(c);
}

static void end_progress(struct copy *c)
{
    if (c->shown)
        show(c);
    if (c->shown)
        fputc('\n', stderr);
}

// --- the copy

static err_t ask(struct copy *c, struct agent_link **link, const char *name, struct error *e)
{
    struct agent_fields *request = agent_request_new(c->into ? "put" : "get");
    if (request)
        agent_add(request, "path", "%s", c->there);
    if (request && name)
        agent_add(request, "name", "%s", name);
    err_t err = agent_open(vm_connect, c->vm, c->wait_ms, link, e);
    if (err) {
        free(request);
        return err;
    }
    err = agent_ask(*link, request, e);
    return err ? err : agent_expect(*link, AGENT_OK, e);
}

static err_t copy_in(struct copy *c, struct tree_counts *counts, struct error *e)
{
    const struct tree_progress progress = {step, c};
    struct agent_link *link = NULL;
    struct error later;
    char name[256];
    err_t err = tree_measure(c->here, counts, e);
    if (err)
        return err;
    c->total = counts->bytes;
    tree_name(c->here, name, sizeof name);
    err = ask(c, &link, name, e);
    if (!err)
        err = tree_send(link, c->here, &progress, counts, e);
    // The agent's words are more to the point than that it has gone away.
    if (err == ERR_IO && link && link->type != AGENT_ERROR &&
        agent_expect(link, AGENT_OK, &later) && link->type == AGENT_ERROR)
        *e = later;
    if (!err) {
        link->timeout_ms = AGENT_WAIT_MS; // the guest's disk may be slow
        err = agent_expect(link, AGENT_OK, e);
    }
    agent_close(link);
    return err;
}

static err_t copy_out(struct copy *c, struct tree_counts *counts, struct error *e)
{
    const struct tree_progress progress = {step, c};
    struct agent_link *link = NULL;
    char name[256];
    err_t err = ask(c, &link, NULL, e);
    if (!err) {
        const char *said = agent_get(link, "name");
        snprintf(name, sizeof name, "%s", said ? said : "copy");
        c->total = agent_number(link, "bytes", INT64_MAX, 0);
        link->timeout_ms = AGENT_WAIT_MS;
        err = tree_receive(link, c->here, name, &progress, counts, e);
    }
    if (!err)
        counts->skipped = agent_number(link, "skipped", INT64_MAX, 0);
    agent_close(link);
    return err;
}

static int report(const struct copy *c, const struct tree_counts *n)
{
    if (c->json)
        return print_json(json_pack("{s:I, s:I, s:I, s:I, s:I}", "files", (json_int_t)n->files,
                                    "folders", (json_int_t)n->folders, "links",
                                    (json_int_t)n->links, "bytes", (json_int_t)n->bytes, "skipped",
                                    (json_int_t)n->skipped));
    if (n->skipped)
        fprintf(stderr, "berth: left out %llu special files\n", (unsigned long long)n->skipped);
    return EXIT_OK;
}

int cmd_cp(int argc, char **argv)
{
    struct copy c = {.wait_ms = AGENT_WAIT_DEFAULT};
    struct tree_counts counts = {0};
    struct error e = {0};
    err_t err = parse(&c, argc, argv, &e);
    if (err)
        return complain(EXIT_USAGE, "%s", e.text);
    c.quiet |= c.json || !isatty(STDERR_FILENO);
    c.last = host_now();
    err = c.into ? copy_in(&c, &counts, &e) : copy_out(&c, &counts, &e);
    end_progress(&c);
    return err ? complain(status_of(err), "%s", e.text) : report(&c, &counts);
}
