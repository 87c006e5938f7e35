// The sandbox, each case in a child process: what is forbidden kills, what is needed works.
#include "host/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "test.h"

#define SETUP (-1)

// The wait status of a child that enters the sandbox, confines itself to a class (or stays in the
// preparing state) and runs fn; it exits with what fn returns.
static int in_sandbox(int thread_class, int (*fn)(void))
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        bool network = thread_class == HOST_THREAD_SWITCH || thread_class == HOST_THREAD_NAT;
        if (network ? sandbox_shed(NULL, 0, NULL) : sandbox_enter(NULL, 0, NULL))
            _exit(99);
        if (thread_class != SETUP)
            sandbox_confine((enum host_thread_class)thread_class);
        _exit(fn());
    }
    int status = 0;
    waitpid(child, &status, 0);
    return status;
}

static bool dies(int thread_class, int (*fn)(void))
{
    int status = in_sandbox(thread_class, fn);
    return BERTH_SANITIZED || (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

static bool works(int thread_class, int (*fn)(void))
{
    int status = in_sandbox(thread_class, fn);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static int make_socket(void)
{
    return socket(AF_UNIX, SOCK_STREAM, 0) < 0;
}

static int make_internet_socket(void)
{
    return socket(AF_INET, SOCK_STREAM, 0) < 0 || socket(AF_INET6, SOCK_DGRAM, 0) < 0;
}

static int make_packet_socket(void)
{
    return socket(AF_PACKET, SOCK_RAW, 0) < 0;
}

static int make_pair(void)
{
    int pair[2];
    return socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0;
}

static int write_file(void)
{
    return open("/dev/null", O_WRONLY) < 0;
}

static int start_program(void)
{
    execl("/bin/true", "true", (char *)NULL);
    return 1;
}

static int make_process(void)
{
    return fork() < 0;
}

static int open_file(void)
{
    int fd = open("/dev/null", O_RDONLY);
    return fd < 0 && errno != EACCES;
}

static int map_code(void)
{
    void *p = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED;
}

static int map_data(void)
{
    void *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED;
}

static int type_into_terminal(void)
{
    char key = 'x';
    return ioctl(0, TIOCSTI, &key) == 12345;
}

static int signal_parent(void)
{
    return kill(getppid(), 0);
}

// Nobody, but the filter does not know that.
static int signal_by_pidfd(void)
{
    return syscall(SYS_pidfd_send_signal, -1, SIGUSR1, NULL, 0) == 0;
}

static int forge_a_signal(void)
{
    siginfo_t from_the_kernel = {.si_code = SI_KERNEL};
    return syscall(SYS_pidfd_send_signal, -1, SIGUSR1, &from_the_kernel, 0) == 0;
}

static int open_pidfd(void)
{
    return syscall(SYS_pidfd_open, getppid(), 0) < 0;
}

static int read_modes(void)
{
    struct termios modes;
    return tcgetattr(0, &modes) < 0 && errno != ENOTTY && errno != EBADF && errno != EIO;
}

// On no descriptor at all: the filter looks at the request first.
static int set_modes(void)
{
    struct termios modes = {0};
    return tcsetattr(-1, TCSADRAIN, &modes) == 0;
}

static int use_heap(void)
{
    for (size_t size = 16; size < 1 << 24; size *= 4) {
        char *p = malloc(size);
        if (!p)
            return 1;
        memset(p, 1, size);
        free(p);
    }
    return 0;
}

static int write_a_pipe(void)
{
    return write(STDOUT_FILENO, "", 0) < 0;
}

static int sync_standard_output(void)
{
    return fdatasync(STDOUT_FILENO) < 0 && errno != EINVAL && errno != EROFS;
}

static void *thread_body(void *opaque)
{
    return opaque;
}

static int start_thread(void)
{
    pthread_t id;
    void *result = NULL;
    int value = 0;
    if (pthread_create(&id, NULL, thread_body, &value) || pthread_join(id, &result))
        return 1;
    return result != &value;
}

static int abort_call(void)
{
    abort();
}

static void a_preparing_vm_makes_threads_but_no_programs_processes_or_sockets(void)
{
    CHECK(works(SETUP, open_file));
    CHECK(works(SETUP, start_thread));
    CHECK(works(SETUP, map_code));
    CHECK(dies(SETUP, start_program));
    CHECK(dies(SETUP, make_process));
    CHECK(dies(SETUP, make_socket));
}

static void no_class_opens_files_sockets_or_executable_memory(void)
{
    for (int c = HOST_THREAD_MAIN; c <= HOST_THREAD_BLOCK; c++) {
        CHECK(dies(c, open_file));
        CHECK(dies(c, make_socket));
        CHECK(dies(c, map_code));
        CHECK(dies(c, start_program));
        CHECK(dies(c, make_process));
        CHECK(dies(c, start_thread));
        CHECK(dies(c, type_into_terminal));
        CHECK(dies(c, signal_parent));
    }
}

static void every_class_has_memory_and_writes_what_is_open(void)
{
    for (int c = HOST_THREAD_MAIN; c <= HOST_THREAD_BLOCK; c++) {
        CHECK(works(c, map_data));
        CHECK(works(c, use_heap));
        CHECK(works(c, write_a_pipe));
        CHECK(works(c, read_modes));
    }
}

static void every_class_signals_processes_that_it_was_given_and_no_others(void)
{
    for (int c = HOST_THREAD_MAIN; c <= HOST_THREAD_BLOCK; c++) {
        CHECK(works(c, signal_by_pidfd));
        CHECK(dies(c, forge_a_signal));
        CHECK(dies(c, open_pidfd));
    }
}

static void each_class_has_what_is_its_own(void)
{
    CHECK(works(HOST_THREAD_MAIN, set_modes));
    CHECK(dies(HOST_THREAD_VCPU, set_modes));
    CHECK(dies(HOST_THREAD_BLOCK, set_modes));
    CHECK(works(HOST_THREAD_BLOCK, sync_standard_output));
    CHECK(dies(HOST_THREAD_VCPU, sync_standard_output));
}

static void networks_have_their_sockets_and_nothing_else(void)
{
    for (int c = HOST_THREAD_SWITCH; c <= HOST_THREAD_NAT; c++) {
        CHECK(works(c, make_pair));
        CHECK(works(c, use_heap));
        CHECK(dies(c, make_socket));
        CHECK(dies(c, make_packet_socket));
        CHECK(dies(c, write_file));
        CHECK(dies(c, map_code));
        CHECK(dies(c, start_program));
        CHECK(dies(c, make_process));
        CHECK(dies(c, start_thread));
        CHECK(dies(c, type_into_terminal));
        CHECK(dies(c, signal_parent));
    }
    CHECK(works(HOST_THREAD_NAT, make_internet_socket));
    CHECK(works(HOST_THREAD_NAT, open_file));
    CHECK(dies(HOST_THREAD_SWITCH, make_internet_socket));
    CHECK(dies(HOST_THREAD_SWITCH, open_file));
}

static void abort_still_ends_the_process_as_itself(void)
{
    int status = in_sandbox(HOST_THREAD_VCPU, abort_call);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static int count_open(void)
{
    int open_fds = 0;
    for (int fd = 3; fd < 64; fd++)
        open_fds += fcntl(fd, F_GETFD) >= 0;
    return open_fds;
}

static void descriptors_from_the_caller_are_closed(void)
{
    int fds[4];
    CHECK(pipe(fds) == 0 && pipe(fds + 2) == 0);
    CHECK(works(SETUP, count_open));
    for (int i = 0; i < 4; i++)
        close(fds[i]);
}

TEST_MAIN(TEST(a_preparing_vm_makes_threads_but_no_programs_processes_or_sockets),
          TEST(no_class_opens_files_sockets_or_executable_memory),
          TEST(every_class_has_memory_and_writes_what_is_open),
          TEST(every_class_signals_processes_that_it_was_given_and_no_others),
          TEST(each_class_has_what_is_its_own), TEST(networks_have_their_sockets_and_nothing_else),
          TEST(abort_still_ends_the_process_as_itself),
          TEST(descriptors_from_the_caller_are_closed))
