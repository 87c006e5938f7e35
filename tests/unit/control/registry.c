// Names of running VMs: who holds one, what is left behind, who is not trusted.
#include "control/registry.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

static char home[] = "/tmp/berth-registry-XXXXXX";

static void in_a_new_directory(void)
{
    strcpy(home, "/tmp/berth-registry-XXXXXX");
    if (!mkdtemp(home))
        abort();
    setenv("XDG_RUNTIME_DIR", home, 1);
}

static void remove_it(void)
{
    char command[100];
    snprintf(command, sizeof command, "rm -r %s", home);
    CHECK(system(command) == 0);
}

static void note(void *opaque, const char *name)
{
    char *names = opaque;
    strcat(names, name);
    strcat(names, " ");
}

static const char *running(void)
{
    static char names[200];
    names[0] = '\0';
    CHECK(registry_each(REGISTRY_VM, note, names, NULL) == OK);
    return names;
}

static void a_name_is_held_once_and_given_back(void)
{
    struct registry_claim one, two;
    struct error e = {0};
    int fd;
    in_a_new_directory();
    CHECK(registry_claim(REGISTRY_VM, "b", &one, &e) == OK);
    CHECK(registry_claim(REGISTRY_VM, "b", &two, &e) == ERR_BUSY);
    CHECK(strstr(e.text, "berth info b") != NULL);
    CHECK(registry_claim(REGISTRY_VM, "a", &two, &e) == OK);
    CHECK_STR(running(), "a b ");
    registry_release(&one);
    CHECK_STR(running(), "a ");
    CHECK(registry_connect(REGISTRY_VM, "b", &fd, &e) == ERR_NOT_FOUND);
    registry_release(&two);
    registry_release(&two);
    CHECK_STR(running(), "");
    remove_it();
}

static void a_socket_is_reached_by_name(void)
{
    struct registry_claim claim;
    int listener = -1, fd = -1;
    in_a_new_directory();
    CHECK(registry_claim(REGISTRY_VM, "x", &claim, NULL) == OK);
    CHECK(registry_connect(REGISTRY_VM, "x", &fd, NULL) == ERR_NOT_FOUND);
    CHECK(registry_listen(&claim, REGISTRY_CONTROL, &listener, NULL) == OK);
    CHECK(registry_connect(REGISTRY_VM, "x", &fd, NULL) == OK);
    close(fd);
    close(listener);
    registry_release(&claim);
    remove_it();
}

static void what_a_killed_program_left_is_cleared_away(void)
{
    struct registry_claim claim;
    int fd;
    in_a_new_directory();
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (registry_claim(REGISTRY_VM, "x", &claim, NULL) ||
            registry_listen(&claim, REGISTRY_CONTROL, &fd, NULL))
            _exit(1);
        raise(SIGKILL);
    }
    waitpid(child, NULL, 0);
    char path[100];
    snprintf(path, sizeof path, "%s/berth/vm/x/control.sock", home);
    CHECK(access(path, F_OK) == 0);
    CHECK(registry_connect(REGISTRY_VM, "x", &fd, NULL) == ERR_NOT_FOUND);
    CHECK_STR(running(), "");
    CHECK(access(path, F_OK) < 0);
    CHECK(registry_claim(REGISTRY_VM, "x", &claim, NULL) == OK);
    registry_release(&claim);
    remove_it();
}

static void names_that_are_paths_are_refused(void)
{
    static const char *const names[] = {"",     ".",  "..",  "../x",    "a/b",
                                        "/etc", "-n", "a b", "\xc3\xa4"};
    struct registry_claim claim;
    int fd;
    in_a_new_directory();
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        CHECK(registry_claim(REGISTRY_VM, names[i], &claim, NULL) == ERR_INVALID);
        CHECK(registry_connect(REGISTRY_VM, names[i], &fd, NULL) == ERR_INVALID);
    }
    remove_it();
}

static void a_directory_that_others_can_enter_is_not_used(void)
{
    struct registry_claim claim;
    struct error e = {0};
    char path[100];
    in_a_new_directory();
    snprintf(path, sizeof path, "%s/berth", home);
    CHECK(mkdir(path, 0755) == 0);
    CHECK(registry_claim(REGISTRY_VM, "x", &claim, &e) == ERR_DENIED);
    CHECK(strstr(e.text, "XDG_RUNTIME_DIR") != NULL);
    CHECK(rmdir(path) == 0 && symlink("/tmp", path) == 0);
    CHECK(registry_claim(REGISTRY_VM, "x", &claim, &e) != OK);
    remove_it();
}

TEST_MAIN(TEST(a_name_is_held_once_and_given_back), TEST(a_socket_is_reached_by_name),
          TEST(what_a_killed_program_left_is_cleared_away), TEST(names_that_are_paths_are_refused),
          TEST(a_directory_that_others_can_enter_is_not_used))
