// The berth program's parts: the table of subcommands and what they share.
#pragma once

#include "base/error.h"

struct command {
    const char *name;
    const char *summary;               // one line for berth --help
    const char *help;                  // berth NAME --help, whole
    int (*run)(int argc, char **argv); // argv[0] is the subcommand; returns the exit status
};

extern const struct command commands[]; // ended by a NULL name

extern const char run_help[], info_help[], version_help[];
int cmd_run(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_version(int argc, char **argv);
int cmd_help(int argc, char **argv);

// Exit statuses: docs/cli.md.
enum { EXIT_OK = 0, EXIT_GUEST = 1, EXIT_USAGE = 2, EXIT_HOST = 3 };

// "berth: " + words to standard error; returns status.
int complain(int status, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// run's options into a definition. On an error: ERR_INVALID and the words.
struct vm_config;
err_t run_parse_options(int argc, char **argv, struct vm_config *config, struct error *e);

// Files that the definition names: are they there, and readable?
err_t run_check_files(const struct vm_config *config, struct error *e);

// Starts berth-vmm with the definition's text, waits, returns the exit status for berth. terminal:
// whether the guest's console is this terminal, which is then given back as it was.
int run_supervise(const char *definition, bool terminal);
