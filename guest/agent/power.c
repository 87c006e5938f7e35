// A clean shutdown: by the guest's own init where it has one, else by the agent itself. reboot(2).
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

#define INIT_SECONDS 90 // for the guest's init to do as it was told

struct way {
    const char *name; // as the request has it
    const char *systemctl, *shutdown, *command;
    int magic;
};

static const struct way ways[] = {
    {"poweroff", "poweroff", "-P", "poweroff", RB_POWER_OFF},
    {"reboot", "reboot", "-r", "reboot", RB_AUTOBOOT},
};

static bool run(const char *program, const char *a, const char *b)
{
    pid_t child = fork();
    int status = -1;
    if (child == 0) {
        int none = open("/dev/null", O_RDWR);
        for (int fd = 0; none >= 0 && fd <= 2; fd++)
            dup2(none, fd);
        execl(program, program, a, b, NULL);
        _exit(127);
    }
    if (child > 0)
        waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool is_systemd(void)
{
    return access("/run/systemd/system", F_OK) == 0;
}

static bool ask_init(const struct way *way)
{
    static const char *const folders[] = {"/sbin", "/usr/sbin", "/bin", "/usr/bin"};
    char path[64];
    if (is_systemd() && (run("/bin/systemctl", way->systemctl, NULL) ||
                         run("/usr/bin/systemctl", way->systemctl, NULL)))
        return true;
    if (run("/sbin/shutdown", way->shutdown, "now"))
        return true;
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        snprintf(path, sizeof path, "%s/%s", folders[i], way->command);
        if (run(path, NULL, NULL))
            return true;
    }
    return false;
}

// What any init does in the end. Only for guests whose process 1 is none, such as a shell.
static void do_it(const struct way *way)
{
    sync();
    kill(-1, SIGTERM);
    sleep(2);
    sync();
    reboot(way->magic);
}

// Whether process 1 takes orders, as an init does by SIGUSR2 or a pipe, or is just some program
// that was started first.
static bool init_is_plain(void)
{
    FILE *f = fopen("/proc/1/status", "re");
    char line[256];
    unsigned long long mask, heeds = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "SigCgt: %llx", &mask) == 1 || sscanf(line, "SigBlk: %llx", &mask) == 1)
            heeds |= mask;
    if (f)
        fclose(f);
    return !is_systemd() && access("/run/initctl", F_OK) < 0 && !(heeds & 1ull << (SIGUSR2 - 1));
}

err_t request_shutdown(struct agent_link *link, struct shared *shared, struct error *e)
{
    const struct agent_fields none = {0};
    const char *wanted = agent_get(link, "how");
    const struct way *way = NULL;
    for (size_t i = 0; wanted && i < ARRAY_LEN(ways); i++)
        if (!strcmp(ways[i].name, wanted))
            way = &ways[i];
    if (!way)
        return error_set(e, ERR_INVALID, "shut down how? poweroff or reboot");
    err_t err = agent_send_fields(link, AGENT_OK, &none, e);
    if (err)
        return err;
    if (!init_is_plain() && ask_init(way))
        sleep(INIT_SECONDS);
    do_it(way);
    return OK;
}
