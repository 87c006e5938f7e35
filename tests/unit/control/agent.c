// Frames, fields and trees of the agent's protocol, with both sides in one process.
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/agent_tree.h"
#include "test.h"

static struct agent_link here, there;
static struct error e;

static void set_up(void)
{
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    here = (struct agent_link){.fd = ends[0], .timeout_ms = 2000};
    there = (struct agent_link){.fd = ends[1], .timeout_ms = 2000};
    e = (struct error){0};
}

static void tear_down(void)
{
    close(here.fd);
    close(there.fd);
}

static void fields_arrive_as_they_were_sent(void)
{
    struct agent_fields fields = {0};
    set_up();
    agent_add(&fields, "a", "%d", 17);
    agent_add(&fields, "arg", "%s", "x=y z");
    agent_add(&fields, "arg", "%s", "");
    CHECK(agent_send_fields(&here, AGENT_REQUEST, &fields, &e) == OK);
    CHECK(agent_expect(&there, AGENT_REQUEST, &e) == OK);
    CHECK_EQ(agent_number(&there, "a", 100, 0), 17);
    CHECK_EQ(agent_number(&there, "a", 16, 5), 5);
    const char *first = agent_next(&there, "arg", NULL);
    CHECK_STR(first, "x=y z");
    CHECK_STR(agent_next(&there, "arg", first), "");
    CHECK(!agent_next(&there, "arg", agent_next(&there, "arg", first)));
    CHECK(!agent_get(&there, "ar"));
    tear_down();
}

static void fields_that_do_not_fit_are_not_sent(void)
{
    static struct agent_fields fields;
    static char text[5000];
    memset(text, 'x', sizeof text - 1);
    set_up();
    for (int i = 0; i < 20; i++)
        agent_add(&fields, "arg", "%s", text);
    CHECK(fields.overflow && fields.len <= sizeof fields.data);
    CHECK(agent_send_fields(&here, AGENT_REQUEST, &fields, &e) == ERR_INVALID);
    tear_down();
}

static void a_list_without_an_end_has_no_fields(void)
{
    set_up();
    CHECK(agent_send(&here, AGENT_OK, "a=1\0b=22", 8, &e) == OK);
    CHECK(agent_expect(&there, AGENT_OK, &e) == OK);
    CHECK(!agent_get(&there, "a") && !agent_get(&there, "b"));
    tear_down();
}

static void what_is_no_frame_is_refused(void)
{
    static const uint8_t large[] = {1, 0, 1, 0, 1, 0, 0, 0}, odd[] = {0, 0, 0, 0, 1, 0, 0, 1};
    set_up();
    CHECK(write(here.fd, large, 8) == 8);
    CHECK(agent_receive(&there, &e) == ERR_CORRUPT);
    CHECK(write(here.fd, odd, 8) == 8);
    CHECK(agent_receive(&there, &e) == ERR_CORRUPT);
    CHECK(write(here.fd, large, 4) == 4);
    shutdown(here.fd, SHUT_WR);
    CHECK(agent_receive(&there, &e) == ERR_IO);
    tear_down();
}

static void silence_is_given_up(void)
{
    set_up();
    there.timeout_ms = 50;
    CHECK(agent_receive(&there, &e) == ERR_BUSY);
    tear_down();
}

static void an_error_keeps_its_code_and_loses_its_controls(void)
{
    struct error said;
    set_up();
    CHECK(error_set(&said, ERR_DENIED, "no\033[2J way") == ERR_DENIED);
    CHECK(agent_send_error(&here, &said, &e) == OK);
    CHECK(agent_expect(&there, AGENT_OK, &e) == ERR_DENIED);
    CHECK_STR(e.text, "no?[2J way");
    tear_down();
}

// --- trees

static char home[64];

static char *in_home(const char *name)
{
    static char path[4][200];
    static unsigned next;
    char *out = path[next++ % 4];
    snprintf(out, 200, "%s/%s", home, name);
    return out;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    return remove(path);
}

static void write_file(const char *path, const char *text, mode_t mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, mode);
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    fchmod(fd, mode);
    close(fd);
}

static void begin(void)
{
    set_up();
    snprintf(home, sizeof home, "/tmp/berth-agent-XXXXXX");
    if (!mkdtemp(home))
        abort();
}

static void end(void)
{
    nftw(home, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    tear_down();
}

static void *send_tree(void *opaque)
{
    struct tree_counts counts;
    struct error ignored;
    (void)!tree_send(&here, opaque, NULL, &counts, &ignored);
    return NULL;
}

static err_t copy(char *from, const char *to, const char *name, struct tree_counts *counts)
{
    pthread_t thread;
    pthread_create(&thread, NULL, send_tree, from);
    err_t err = tree_receive(&there, to, name, NULL, counts, &e);
    pthread_join(thread, NULL);
    return err;
}

static void a_tree_arrives_with_modes_and_links(void)
{
    struct tree_counts counts;
    struct stat st;
    char target[20] = "";
    begin();
    mkdir(in_home("a"), 0755);
    mkdir(in_home("a/b"), 0750);
    write_file(in_home("a/b/c"), "text", 0741);
    CHECK(symlink("b/c", in_home("a/l")) == 0);
    CHECK(mkfifo(in_home("a/fifo"), 0600) == 0);
    mkdir(in_home("to"), 0755);
    CHECK(copy(in_home("a"), in_home("to"), "a", &counts) == OK);
    CHECK(counts.files == 1 && counts.folders == 2 && counts.links == 1 && counts.bytes == 4);
    CHECK_EQ(agent_number(&there, "skipped", 9, 0), 1);
    CHECK(stat(in_home("to/a/b/c"), &st) == 0 && (st.st_mode & 07777) == 0741);
    CHECK(stat(in_home("to/a/b"), &st) == 0 && (st.st_mode & 07777) == 0750);
    CHECK(readlink(in_home("to/a/l"), target, sizeof target - 1) == 3);
    CHECK_STR(target, "b/c");
    end();
}

static void a_file_takes_the_name_or_goes_into_the_folder(void)
{
    struct tree_counts counts;
    begin();
    write_file(in_home("f"), "1", 0644);
    CHECK(copy(in_home("f"), in_home("g"), "f", &counts) == OK);
    CHECK(access(in_home("g"), F_OK) == 0);
    mkdir(in_home("d"), 0755);
    CHECK(copy(in_home("f"), in_home("d"), "f", &counts) == OK);
    CHECK(access(in_home("d/f"), F_OK) == 0);
    end();
}

static void entry(const char *path, const char *type, const char *target)
{
    struct agent_fields fields = {0};
    agent_add(&fields, "path", "%s", path);
    agent_add(&fields, "type", "%s", type);
    agent_add(&fields, "mode", "%u", 0777);
    agent_add(&fields, "target", "%s", target);
    CHECK(agent_send_fields(&here, AGENT_ENTRY, &fields, &e) == OK);
}

static void nothing_is_written_through_a_link(void)
{
    struct tree_counts counts;
    struct error ignored;
    begin();
    mkdir(in_home("out"), 0755);
    entry(".", "dir", "");
    entry("l", "link", "../out");
    entry("l/evil", "file", "");
    CHECK(tree_receive(&there, in_home("in"), "x", NULL, &counts, &e) != OK);
    tear_down();
    set_up();
    entry(".", "dir", "");
    entry("m", "link", "../out/evil");
    entry("m", "file", "");
    CHECK(tree_receive(&there, in_home("in"), "x", NULL, &counts, &ignored) != OK);
    CHECK(rmdir(in_home("out")) == 0);
    end();
}

static void a_copy_ends_when_the_other_side_refuses(void)
{
    struct tree_counts counts;
    struct error said;
    begin();
    write_file(in_home("f"), "1", 0644);
    CHECK(error_set(&said, ERR_DENIED, "read-only") == ERR_DENIED);
    CHECK(agent_send_error(&there, &said, &e) == OK);
    CHECK(tree_send(&here, in_home("f"), NULL, &counts, &e) == ERR_DENIED);
    CHECK_STR(e.text, "read-only");
    end();
}

static void names_are_single_components(void)
{
    struct tree_counts counts;
    char name[32];
    begin();
    CHECK(tree_receive(&there, home, "..", NULL, &counts, &e) == ERR_INVALID);
    CHECK(tree_receive(&there, home, "a/b", NULL, &counts, &e) == ERR_INVALID);
    CHECK(tree_receive(&there, home, "", NULL, &counts, &e) == ERR_INVALID);
    tree_name("/a/bc//", name, sizeof name);
    CHECK_STR(name, "bc");
    tree_name("..", name, sizeof name);
    CHECK_STR(name, "copy");
    end();
}

TEST_MAIN(TEST(fields_arrive_as_they_were_sent), TEST(fields_that_do_not_fit_are_not_sent),
          TEST(a_list_without_an_end_has_no_fields), TEST(what_is_no_frame_is_refused),
          TEST(silence_is_given_up), TEST(an_error_keeps_its_code_and_loses_its_controls),
          TEST(a_tree_arrives_with_modes_and_links),
          TEST(a_file_takes_the_name_or_goes_into_the_folder),
          TEST(nothing_is_written_through_a_link), TEST(a_copy_ends_when_the_other_side_refuses),
          TEST(names_are_single_components))
