// berth: the command line. One table of subcommands; each has its file.
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/manager.h"

#define SYSTEM_ACCOUNT "berth"

static const char help_help[] = "usage: berth help [COMMAND]\n";

const struct command commands[] = {
    {"run", "run a virtual machine in the foreground", run_help, cmd_run},
    {"create", "make a virtual machine to keep", create_help, cmd_create},
    {"info", "show what this host offers, or what a VM is", info_help, cmd_info},
    {"doctor", "say what is missing here, and how a VM is kept apart", doctor_help, cmd_doctor},
    {"ls", "list VMs", ls_help, cmd_ls},
    {"start", "start VMs that are kept", start_help, cmd_start},
    {"stop", "shut VMs down", stop_help, cmd_stop},
    {"restart", "shut VMs down and start them again", restart_help, cmd_restart},
    {"pause", "stop a VM's time", pause_help, cmd_pause},
    {"resume", "let it run on", resume_help, cmd_resume},
    {"reset", "press a VM's reset button", reset_help, cmd_reset},
    {"exec", "run a command in a VM's guest", exec_help, cmd_exec},
    {"shell", "open a shell in a VM's guest", shell_help, cmd_shell},
    {"cp", "copy files into a VM's guest, or out of it", cp_help, cmd_cp},
    {"fsfreeze", "keep the guest's file systems still", fsfreeze_help, cmd_fsfreeze},
    {"fsthaw", "let them go on", fsthaw_help, cmd_fsthaw},
    {"vsock", "talk to a program in a VM's guest, by its port", vsock_help, cmd_vsock},
    {"console", "attach to a VM's console", console_help, cmd_console},
    {"logs", "show what a VM's console said", logs_help, cmd_logs},
    {"edit", "change what a VM is", edit_help, cmd_edit},
    {"apply", "make VMs as files say", apply_help, cmd_apply},
    {"export", "print VMs as such files", export_help, cmd_export},
    {"rename", "give a VM another name", rename_help, cmd_rename},
    {"clone", "make another VM like one", clone_help, cmd_clone},
    {"rm", "remove VMs", rm_help, cmd_rm},
    {"events", "follow what happens to VMs", events_help, cmd_events},
    {"stats", "show a VM's counters", stats_help, cmd_stats},
    {"top", "watch what VMs take of the host", top_help, cmd_top},
    {"limit", "say what a VM or its disk may take of the host", limit_help, cmd_limit},
    {"pool", "divide the host among VMs: shares, reservations, limits", pool_help, cmd_pool},
    {"explain", "say what holds a VM back, and what would help", explain_help, cmd_explain},
    {"image", "images to make VMs from; a disk with Debian on it", image_help, cmd_image},
    {"screen", "print the text on a VM's screen", screen_help, cmd_screen},
    {"screenshot", "save a picture of a VM's screen", screenshot_help, cmd_screenshot},
    {"sendkey", "press keys on a VM's keyboard", sendkey_help, cmd_sendkey},
    {"disk", "make, show, check and change disk images", disk_help, cmd_disk},
    {"net", "virtual networks, and how VMs are plugged into them", net_help, cmd_net},
    {"port", "ports of this host that lead to VMs", port_help, cmd_port},
    {"control", "send a VM any request", control_help, cmd_control},
    {"api", "send the manager any request", api_help, cmd_api},
    {"token", "who may use the REST API and the web page", token_help, cmd_token},
    {"daemon", "the manager: start, status, stop", daemon_help, cmd_daemon},
    {"completion", "words for a shell to complete", completion_help, cmd_completion},
    {"version", "show the version", version_help, cmd_version},
    {"help", "show this, or the help of a command", help_help, cmd_help},
    {0},
};

const char version_help[] = "usage: berth version\n";

int complain(int status, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("berth: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    return status;
}

int cmd_version(int argc, char **argv)
{
    printf("berth %s\n", BERTH_VERSION);
    return EXIT_OK;
}

static void overview(FILE *to)
{
    fputs("usage: berth [--system] COMMAND [OPTION...]\n\nRuns virtual machines, on any x86-64 "
          "Linux host, "
          "without root.\n\n",
          to);
    for (const struct command *c = commands; c->name; c++)
        fprintf(to, "  %-10s %s\n", c->name, c->summary);
    fputs("\nberth COMMAND --help says more about a command. --system: about the VMs of the system "
          "service.\n",
          to);
}

static const struct command *find(const char *name)
{
    for (const struct command *c = commands; c->name; c++) {
        if (!strcmp(c->name, name))
            return c;
    }
    return NULL;
}

static int unknown(const char *name)
{
    return complain(EXIT_USAGE, "there is no command '%s'; berth --help lists them", name);
}

int cmd_help(int argc, char **argv)
{
    if (argc < 2) {
        overview(stdout);
        return EXIT_OK;
    }
    const struct command *c = find(argv[1]);
    if (!c)
        return unknown(argv[1]);
    fputs(c->help, stdout);
    return EXIT_OK;
}

// The VMs of the system service: its directories and, for root, its account.
static int enter_system(void)
{
    setenv("XDG_DATA_HOME", "/var/lib", 1);
    setenv("XDG_RUNTIME_DIR", MANAGER_SYSTEM_RUNTIME, 1);
    if (geteuid() != 0 && access(MANAGER_SYSTEM_RUNTIME, X_OK) < 0 && errno == EACCES)
        return complain(EXIT_USAGE,
                        "the system's VMs are those of root and of the account '" SYSTEM_ACCOUNT
                        "'; try sudo berth --system");
    if (geteuid() != 0)
        return EXIT_OK;
    const struct passwd *account = getpwnam(SYSTEM_ACCOUNT);
    if (!account)
        return complain(EXIT_USAGE, "there is no account '" SYSTEM_ACCOUNT
                                    "'; install Berth's service: systemd-sysusers, systemctl "
                                    "enable --now berthd");
    setenv("HOME", account->pw_dir, 1);
    if (initgroups(account->pw_name, account->pw_gid) || setgid(account->pw_gid) ||
        setuid(account->pw_uid))
        return complain(EXIT_HOST, "cannot become the account '" SYSTEM_ACCOUNT "'");
    return EXIT_OK;
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--system")) {
        int status = enter_system();
        if (status)
            return status;
        argv++;
        argc--;
    }
    if (argc < 2) {
        overview(stderr);
        return EXIT_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
        return cmd_help(1, argv);
    if (!strcmp(argv[1], "--version"))
        return cmd_version(0, NULL);
    const struct command *c = find(argv[1]);
    if (!c)
        return unknown(argv[1]);
    if (argc > 2 && (!strcmp(argv[2], "--help") || !strcmp(argv[2], "-h"))) {
        fputs(c->help, stdout);
        return EXIT_OK;
    }
    return c->run(argc - 1, argv + 1);
}
