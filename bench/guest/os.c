// The operating system's paths: system calls, pipes, page faults, processes.
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

static uint64_t getppid_loop(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < 400000; i++)
        sum += (uint64_t)syscall(SYS_getppid) != 0;
    return sum;
}

static uint64_t ping_pong(void)
{
    int a[2], b[2];
    char c = 1;
    if (pipe(a) || pipe(b))
        return 0;
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 10000; i++)
            if (read(a[0], &c, 1) != 1 || write(b[1], &c, 1) != 1)
                _exit(1);
        _exit(0);
    }
    uint64_t done = 0;
    for (int i = 0; i < 10000; i++)
        done += write(a[1], &c, 1) == 1 && read(b[0], &c, 1) == 1;
    waitpid(child, NULL, 0);
    close(a[0]), close(a[1]), close(b[0]), close(b[1]);
    return done;
}

static uint64_t page_faults(void)
{
    enum { PAGES = 4096 };
    uint64_t sum = 0;
    for (int round = 0; round < 4; round++) {
        uint8_t *p =
            mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            return 0;
        madvise(p, PAGES * 4096, MADV_NOHUGEPAGE);
        for (int i = 0; i < PAGES; i++)
            p[i * 4096] = (uint8_t)i, sum += p[i * 4096];
        munmap(p, PAGES * 4096);
    }
    return sum;
}

static uint64_t fork_exec(void)
{
    uint64_t ok = 0;
    for (int i = 0; i < 100; i++) {
        pid_t child = fork();
        if (child == 0) {
            execl("/proc/self/exe", "bench", "--nothing", (char *)NULL);
            _exit(127);
        }
        int status = 1;
        waitpid(child, &status, 0);
        ok += status == 0;
    }
    return ok;
}

const struct kernel os_kernels[] = {{"getppid", "os", getppid_loop},
                                    {"pipe", "os", ping_pong},
                                    {"fault", "os", page_faults},
                                    {"forkexec", "os", fork_exec},
                                    {0}};
