// Control groups, in a folder that looks like their file system.
#include "manager/groups.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "test.h"

static char dir[] = "/tmp/berth-groups-XXXXXX";

static void put(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    fputs(text, f);
    fclose(f);
}

static const char *get(const char *name)
{
    static char text[64];
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "r");
    text[0] = '\0';
    if (f && !fgets(text, sizeof text, f))
        text[0] = '\0';
    if (f)
        fclose(f);
    return text;
}

static void make(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    mkdir(path, 0700);
}

static void without_the_cpu_controller_there_are_no_groups(void)
{
    struct groups *groups;
    put("cgroup.controllers", "cpuset io memory\n");
    CHECK(!groups_open(dir, &groups) && !groups);
    CHECK(!groups_open("/nowhere", &groups) && !groups);
}

static void the_manager_moves_to_a_leaf_and_vms_get_weights_and_quotas(void)
{
    struct groups *groups;
    char pid[16];
    put("cgroup.controllers", "cpuset cpu io\n");
    put("cgroup.subtree_control", "");
    put("cgroup.procs", "");
    make("berthd"); // a real one has its files from the start
    put("berthd/cgroup.procs", "");
    CHECK(groups_open(dir, &groups));
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    CHECK_STR(get("berthd/cgroup.procs"), pid);
    CHECK_STR(get("cgroup.subtree_control"), "+cpu");
    make("vm-a");
    put("vm-a/cgroup.procs", "");
    put("vm-a/cpu.weight", "");
    put("vm-a/cpu.max", "");
    CHECK(groups_join(groups, "a", 4711));
    CHECK_STR(get("vm-a/cgroup.procs"), "4711");
    groups_weigh(groups, "a", 571, 1500);
    CHECK_STR(get("vm-a/cpu.weight"), "571");
    CHECK_STR(get("vm-a/cpu.max"), "150000 100000");
    put("vm-a/cpu.weight", "");
    put("vm-a/cpu.max", "");
    groups_weigh(groups, "a", 1000000, 0);
    CHECK_STR(get("vm-a/cpu.weight"), "10000");
    CHECK_STR(get("vm-a/cpu.max"), "max 100000");
    groups_remember(groups, "a", 1, 2);
    CHECK_STR(get("vm-a/memory.min"), ""); // no such controller
    groups_remember(groups, "a", 1, 2);
    CHECK_STR(get("vm-a/memory.min"), ""); // there is no such file
    CHECK(!groups_join(groups, "b", 1));   // no such file appears: refused
    groups_close(groups);
}

static void a_memory_controller_keeps_reservations_and_limits(void)
{
    struct groups *groups;
    put("cgroup.controllers", "cpu memory\n");
    put("cgroup.subtree_control", "cpu memory\n");
    CHECK(groups_open(dir, &groups));
    put("vm-a/memory.min", "");
    put("vm-a/memory.high", "");
    groups_remember(groups, "a", 1 << 20, 2 << 20);
    CHECK_STR(get("vm-a/memory.min"), "1048576");
    CHECK_STR(get("vm-a/memory.high"), "2097152");
    put("vm-a/memory.high", "");
    groups_remember(groups, "a", 0, 0);
    CHECK_STR(get("vm-a/memory.high"), "max");
    groups_close(groups);
}

static void what_a_manager_divided_is_whole_again(void)
{
    put("cgroup.controllers", "cpu memory\n");
    put("cgroup.subtree_control", "cpu\n");
    CHECK(groups_undivide(dir));
    CHECK_STR(get("cgroup.subtree_control"), "-cpu");
    put("cgroup.subtree_control", "");
    CHECK(groups_undivide(dir));
    CHECK_STR(get("cgroup.subtree_control"), "");
    CHECK(!groups_undivide("/nowhere"));
}

static void remove_all(void)
{
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", dir);
    if (system(command) != 0)
        puts("# the folder stays");
}

int main(void)
{
    static const struct test tests[] = {
        TEST(without_the_cpu_controller_there_are_no_groups),
        TEST(the_manager_moves_to_a_leaf_and_vms_get_weights_and_quotas),
        TEST(a_memory_controller_keeps_reservations_and_limits),
        TEST(what_a_manager_divided_is_whole_again)};
    if (!mkdtemp(dir))
        return 1;
    int failed = test_main(tests, ARRAY_LEN(tests));
    remove_all();
    return failed;
}
