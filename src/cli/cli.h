// The berth program's parts: the table of subcommands and what they share.
#pragma once

#include <jansson.h>

#include "base/error.h"

struct command {
    const char *name;
    const char *summary;               // one line for berth --help
    const char *help;                  // berth NAME --help, whole
    int (*run)(int argc, char **argv); // argv[0] is the subcommand; returns the exit status
};

extern const struct command commands[]; // ended by a NULL name

extern const char api_help[], token_help[];
extern const char run_help[], info_help[], limit_help[], version_help[], ls_help[], pause_help[],
    resume_help[], reset_help[], stop_help[], events_help[], stats_help[], explain_help[],
    control_help[], screen_help[], screenshot_help[], sendkey_help[], image_help[], disk_help[],
    net_help[], pool_help[], top_help[], port_help[], doctor_help[];
extern const char start_help[], restart_help[], rm_help[], rename_help[], clone_help[],
    daemon_help[], console_help[], logs_help[], create_help[];
extern const char apply_help[], export_help[], edit_help[], completion_help[];
int cmd_completion(int argc, char **argv);
int cmd_create(int argc, char **argv);
int cmd_apply(int argc, char **argv);
int cmd_export(int argc, char **argv);
int cmd_edit(int argc, char **argv);
extern const char exec_help[], shell_help[], cp_help[], fsfreeze_help[], fsthaw_help[],
    vsock_help[];
int cmd_exec(int argc, char **argv);
int cmd_shell(int argc, char **argv);
int cmd_cp(int argc, char **argv);
int cmd_fsfreeze(int argc, char **argv);
int cmd_fsthaw(int argc, char **argv);
int cmd_vsock(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_start(int argc, char **argv);
int cmd_restart(int argc, char **argv);
int cmd_rm(int argc, char **argv);
int cmd_rename(int argc, char **argv);
int cmd_clone(int argc, char **argv);
int cmd_daemon(int argc, char **argv);
int cmd_console(int argc, char **argv);
int cmd_logs(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_pool(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_limit(int argc, char **argv);
int cmd_ls(int argc, char **argv);
int cmd_pause(int argc, char **argv);
int cmd_resume(int argc, char **argv);
int cmd_reset(int argc, char **argv);
int cmd_stop(int argc, char **argv);
int cmd_events(int argc, char **argv);
int cmd_stats(int argc, char **argv);
int cmd_explain(int argc, char **argv);
int cmd_image(int argc, char **argv);
int cmd_screen(int argc, char **argv);
int cmd_screenshot(int argc, char **argv);
int cmd_sendkey(int argc, char **argv);
int cmd_disk(int argc, char **argv);
int cmd_net(int argc, char **argv);
int cmd_port(int argc, char **argv);
int cmd_control(int argc, char **argv);
int cmd_api(int argc, char **argv);
int cmd_token(int argc, char **argv);
int cmd_version(int argc, char **argv);
int cmd_help(int argc, char **argv);

// Exit statuses: docs/cli.md.
enum { EXIT_OK = 0, EXIT_GUEST = 1, EXIT_USAGE = 2, EXIT_HOST = 3 };

// "berth: " + words to standard error; returns status.
int complain(int status, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// run's options into a definition. On an error: ERR_INVALID and the words.
struct vm_config;
#define FORWARDS_MAX 4000
struct run_given { // what the person said, rather than a default
    bool name, memory, serial;
    bool definition;                  // a whole one, from a file
    bool snapshot;                    // of all disks
    bool net;                         // some network card, or none
    char forwards[FORWARDS_MAX];      // a list for the first one
    const char *egress;               // a policy for all; NULL: none
    const char *cloud_init, *ssh_key; // paths for a seed; NULL: none
    // Where an image lies that is given by a name; NULL: it is a file. May be NULL itself.
    const char *(*image_path)(void *opaque, const char *name);
    void *opaque;
    const char *keep; // folder of a kept VM (cli/keeper.h); NULL: none
    bool agent;       // put it into the guest
};
err_t run_parse_options(int argc, char **argv, struct vm_config *config, struct run_given *given,
                        struct error *e);

// run_image.c: an image that was given without an option, and the place of UEFI's variables.
err_t run_take_image(struct vm_config *config, const char *image, const struct run_given *given,
                     struct error *e);
// Once the name is final; a VM that leaves nothing behind keeps them in memory.
err_t run_keep_variables(struct vm_config *config, const struct run_given *given, struct error *e);

// Files that the definition names: are they there, and readable?
err_t run_check_files(const struct vm_config *config, struct error *e);

// run_mend.c: the VM's process has died; its disks are left as if it had closed them.
void run_mend_disks(const struct vm_config *config);

// Listening sockets that berth-vmm gets; -1: none.
struct run_sockets {
    int control; // for requests
    int vnc;     // for viewers of the screen
};

// Starts berth-vmm with the definition's text, its sockets and cables, waits, returns the exit
// status for berth. terminal: whether the guest's console is this terminal, which is then given
// back as it was.
struct cables;
struct keeper;
int run_supervise(const char *definition, bool terminal, const struct run_sockets *sockets,
                  struct cables *cables, struct keeper *keeper);

// images.c: verbs of berth image.
int image_import(int argc, char **argv);
int image_ls(int argc, char **argv);
int image_rm(int argc, char **argv);

// What a verb for one running VM is given on its command line.
struct verb {
    const char *vm;
    bool json;
    int seconds; // --timeout; -1: not given
    int rest;    // index of the first argument after the VM's name; argc: none
};
// Reads [--json] VM, and what else allows: "t" --timeout, "r" further arguments.
// Complains and returns an exit status when it is wrong, else EXIT_OK.
int verb_parse(int argc, char **argv, const char *allows, struct verb *out);
// Connects, asks, and hands out the result; complains and returns an exit status otherwise.
int verb_ask(const struct verb *verb, const char *request, json_t *args, json_t **result);
int status_of(err_t err);       // the exit status for what a VM refused
int print_json(json_t *object); // takes it over
// NAME=VALUE into args; a value that is a number, true or false is that, all else is text.
bool argument_add(json_t *args, const char *word);
int info_of_vm(const struct verb *verb);
