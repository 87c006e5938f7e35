// Programs. proc(5), fork(2), setsid(2).
#include "host/program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

err_t host_find_program(const char *name, char *path, size_t size, struct error *e)
{
    ssize_t len = readlink("/proc/self/exe", path, size - 32);
    if (len > 0) {
        path[len] = '\0';
        char *slash = strrchr(path, '/');
        snprintf(slash + 1, size - (size_t)(slash + 1 - path), "%s", name);
        if (access(path, X_OK) == 0)
            return OK;
    }
    snprintf(path, size, "%s/%s", BERTH_LIBEXECDIR, name);
    if (access(path, X_OK) == 0)
        return OK;
    return error_set(e, ERR_NOT_FOUND,
                     "cannot find %s beside berth or in %s; install Berth again, or run make", name,
                     BERTH_LIBEXECDIR);
}

// In the child of the child.
_Noreturn static void become(const char *path, char *const *argv, int log, const int *keep,
                             size_t keeps)
{
    int none = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(none, STDIN_FILENO);
    dup2(log >= 0 ? log : none, STDOUT_FILENO);
    dup2(log >= 0 ? log : none, STDERR_FILENO);
    for (size_t i = 0; i < keeps; i++)
        fcntl(keep[i], F_SETFD, 0);
    execv(path, argv);
    dprintf(STDERR_FILENO, "cannot start '%s': %s\n", path, strerror(errno));
    _exit(127);
}

err_t host_start_daemon(const char *path, char *const *argv, int log, const int *keep, size_t keeps,
                        struct error *e)
{
    pid_t child = fork();
    if (child == 0) {
        setsid();
        pid_t grandchild = fork();
        if (grandchild == 0)
            become(path, argv, log, keep, keeps);
        _exit(grandchild < 0);
    }
    int status = 1;
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (child < 0 || status)
        return error_set(e, ERR_IO, "cannot start '%s': the host has no room for a process", path);
    return OK;
}
