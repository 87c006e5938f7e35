// The inventory: old schemas, transactions, VMs and their disks as rows and files, and what a
// manager finds that comes after a killed one.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/qcow2.h"
#include "manager/disks.h"
#include "manager/manager.h"
#include "test.h"

static char home[64];

static void in_a_new_directory(struct manager *manager)
{
    strcpy(home, "/tmp/berth-inventory-XXXXXX");
    if (!mkdtemp(home))
        abort();
    setenv("XDG_RUNTIME_DIR", home, 1);
    *manager = (struct manager){.claim = REGISTRY_NO_CLAIM};
    snprintf(manager->state, sizeof manager->state, "%s", home);
    static const char *const folders[] = {"vms", "images", "layers"};
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", home, folders[i]);
        mkdir(path, 0700);
    }
    if (loop_new(&manager->loop, NULL))
        abort();
}

static err_t come_up(struct manager *manager, struct error *e)
{
    char path[128];
    snprintf(path, sizeof path, "%s/berth.db", home);
    err_t err = db_open(path, &manager->db, e);
    return err ? err : managed_load_all(manager, e);
}

static void go_down(struct manager *manager)
{
    managed_free_all(manager);
    db_close(manager->db);
    manager->db = NULL;
}

static void remove_all(struct manager *manager)
{
    char command[100];
    go_down(manager);
    loop_free(manager->loop);
    snprintf(command, sizeof command, "rm -r %s", home);
    CHECK(system(command) == 0);
}

static struct managed *create(struct manager *manager, const char *name, const char *image)
{
    struct managed *m = NULL;
    struct error e = {0};
    json_t *definition = json_pack("{s:s, s:i}", "kernel", "/boot/vmlinuz", "memory_mib", 64);
    const struct managed_new asked = {
        .name = name, .definition = definition, .image = image, .stop_seconds = 7};
    if (managed_create(manager, &asked, &m, &e))
        printf("# %s\n", e.text);
    json_decref(definition);
    return m;
}

static void exec(const char *sql)
{
    char path[128];
    sqlite3 *db;
    snprintf(path, sizeof path, "%s/berth.db", home);
    CHECK(sqlite3_open(path, &db) == SQLITE_OK);
    CHECK(sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK);
    sqlite3_close(db);
}

static bool is_there(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", home, name);
    return access(path, F_OK) == 0;
}

static int count_in(const char *folder)
{
    char command[200];
    int count = -1;
    snprintf(command, sizeof command, "ls -A %s/%s | wc -l", home, folder);
    FILE *out = popen(command, "re");
    CHECK(fscanf(out, "%d", &count) == 1);
    pclose(out);
    return count;
}

// --- schemas

static void every_older_schema_is_brought_up_to_date_with_its_rows(void)
{
    for (int version = 1; version <= schema_version; version++) {
        struct manager manager;
        struct managed *m = NULL;
        struct error e = {0};
        char pragma[64];
        in_a_new_directory(&manager);
        for (int v = 0; v < version; v++)
            exec(schema_steps[v]);
        snprintf(pragma, sizeof pragma, "PRAGMA user_version = %d", version);
        exec(pragma);
        exec("INSERT INTO vm (id, name, definition, phase, autostart, restart, created, started, "
             "ended, status, reason) VALUES ('0123456789ab', 'old', '{\"berth-vm\":1,\"name\":"
             "\"old\",\"kernel\":\"/x\",\"vcpus\":3}', 'whole', 1, 'always', 5, 6, 7, 1, 'panic')");
        CHECK(come_up(&manager, &e) == OK);
        CHECK(managed_find(&manager, "old", &m, &e) == OK);
        if (m) {
            CHECK(m->autostart && m->restart == RESTART_ALWAYS && m->vcpus == 3);
            CHECK(m->state == MANAGED_FAILED && m->created == 5 && m->stop_seconds == 60);
            CHECK_STR(m->reason, "panic");
        }
        CHECK(create(&manager, "new", NULL) != NULL);
        remove_all(&manager);
    }
}

static void a_newer_schema_is_refused_and_left_alone(void)
{
    struct manager manager;
    struct error e = {0};
    in_a_new_directory(&manager);
    exec("CREATE TABLE future (x); PRAGMA user_version = 99");
    CHECK(come_up(&manager, &e) == ERR_UNSUPPORTED);
    CHECK(strstr(e.text, "99") != NULL && strstr(e.text, "newer") != NULL);
    exec("INSERT INTO future VALUES (1)");
    remove_all(&manager);
}

static void a_file_that_is_no_inventory_is_refused(void)
{
    struct manager manager;
    struct error e = {0};
    char path[128];
    in_a_new_directory(&manager);
    snprintf(path, sizeof path, "%s/berth.db", home);
    FILE *f = fopen(path, "we");
    for (int i = 0; i < 1000; i++)
        fputs("this is no database ", f);
    fclose(f);
    CHECK(come_up(&manager, &e) == ERR_CORRUPT);
    CHECK(strstr(e.text, "berth.db") != NULL);
    remove_all(&manager);
}

static void count_rows(void *opaque, sqlite3_stmt *row)
{
    *(int *)opaque = sqlite3_column_int(row, 0);
}

static void a_transaction_that_fails_leaves_nothing(void)
{
    struct manager manager;
    struct error e = {0};
    int count = -1;
    in_a_new_directory(&manager);
    CHECK(come_up(&manager, &e) == OK);
    CHECK(db_begin(manager.db, &e) == OK);
    err_t err = db_run(manager.db, &e, "INSERT INTO note VALUES (?, ?)", "ss", "a", "1");
    CHECK(err == OK);
    err = db_run(manager.db, &e, "INSERT INTO note VALUES (?, ?)", "ss", "a", "2");
    CHECK(err == ERR_EXISTS);
    CHECK(db_end(manager.db, err, &e) == ERR_EXISTS);
    CHECK(db_each(manager.db, &e, count_rows, &count, "SELECT count(*) FROM note", "") == OK);
    CHECK_EQ(count, 0);
    remove_all(&manager);
}

// --- VMs

static void vms_are_found_again_by_name_and_id(void)
{
    struct manager manager;
    struct managed *m = NULL, *found = NULL;
    struct error e = {0};
    char id[MANAGED_ID + 1] = "";
    in_a_new_directory(&manager);
    CHECK(come_up(&manager, &e) == OK);
    CHECK(create(&manager, "b", NULL) && (m = create(&manager, "a", NULL)));
    CHECK(create(&manager, "a", NULL) == NULL);
    if (m)
        strcpy(id, m->id);
    go_down(&manager);
    manager.vms = NULL;
    CHECK(come_up(&manager, &e) == OK);
    CHECK(manager.vms && !strcmp(manager.vms->name, "a") && !strcmp(manager.vms->next->name, "b"));
    CHECK(managed_find(&manager, id, &found, &e) == OK && found == manager.vms);
    id[5] = '\0';
    CHECK(managed_find(&manager, id, &found, &e) == OK && found == manager.vms);
    id[2] = '\0';
    CHECK(managed_find(&manager, id, &found, &e) == ERR_NOT_FOUND);
    CHECK_EQ(manager.vms->stop_seconds, 7);
    CHECK_EQ(manager.vms->memory_mib, 64);
    remove_all(&manager);
}

static void what_was_half_made_or_half_removed_is_cleared_away(void)
{
    struct manager manager;
    struct managed *m;
    struct error e = {0};
    in_a_new_directory(&manager);
    CHECK(come_up(&manager, &e) == OK);
    create(&manager, "making", NULL);
    create(&manager, "removing", NULL);
    create(&manager, "whole", NULL);
    go_down(&manager);
    exec("UPDATE vm SET phase = name WHERE name <> 'whole'");
    CHECK_EQ(count_in("vms"), 3);
    CHECK(come_up(&manager, &e) == OK);
    CHECK(manager.vms && !manager.vms->next && !strcmp(manager.vms->name, "whole"));
    CHECK_EQ(count_in("vms"), 1);
    CHECK(managed_find(&manager, "whole", &m, &e) == OK && managed_remove(m, &e) == OK);
    CHECK_EQ(count_in("vms"), 0);
    remove_all(&manager);
}

static void write_in(const struct managed *m, const char *name, const char *text)
{
    char path[PATH_MAX];
    managed_path(m, name, path);
    FILE *f = fopen(path, "we");
    fputs(text, f);
    fclose(f);
}

static void how_a_vm_ended_meanwhile_is_read_from_its_folder(void)
{
    static const struct {
        const char *file, *text;
        const char *reason;
        int status;
        enum managed_state state;
    } cases[] = {
        {"outcome", "{\"status\":0,\"reason\":\"poweroff\",\"text\":\"\"}", "poweroff", 0,
         MANAGED_STOPPED},
        {"outcome", "{\"status\":1,\"reason\":\"panic\",\"text\":\"at 3\"}", "panic", 1,
         MANAGED_FAILED},
        {"outcome", "{nonsense", "killed", 3, MANAGED_FAILED},
        {"said", "one\nberth: no such kernel\n", "not-started", 3, MANAGED_FAILED},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct manager manager;
        struct error e = {0};
        in_a_new_directory(&manager);
        CHECK(come_up(&manager, &e) == OK);
        struct managed *m = create(&manager, "vm", NULL);
        write_in(m, cases[i].file, cases[i].text);
        go_down(&manager);
        exec("UPDATE vm SET wanted = 1, started = 5, ended = NULL");
        CHECK(come_up(&manager, &e) == OK);
        managed_reconcile(manager.vms);
        CHECK_STR(manager.vms->reason, cases[i].reason);
        CHECK_EQ(manager.vms->status, cases[i].status);
        CHECK_EQ(manager.vms->state, cases[i].state);
        CHECK(manager.vms->ended > 5 && !manager.vms->wanted);
        remove_all(&manager);
    }
}

static void one_that_failed_meanwhile_is_restarted_by_its_policy(void)
{
    struct manager manager;
    struct error e = {0};
    in_a_new_directory(&manager);
    CHECK(come_up(&manager, &e) == OK);
    create(&manager, "vm", NULL);
    go_down(&manager);
    exec("UPDATE vm SET wanted = 1, started = 5, ended = NULL, restart = 'on-failure'");
    CHECK(come_up(&manager, &e) == OK);
    managed_reconcile(manager.vms);
    CHECK_EQ(manager.vms->state, MANAGED_RESTARTING);
    go_down(&manager); // and killed once more before it came to that
    CHECK(come_up(&manager, &e) == OK);
    managed_reconcile(manager.vms);
    CHECK_EQ(manager.vms->state, MANAGED_RESTARTING);
    CHECK(managed_stop(manager.vms, 0, &e) == OK);
    CHECK_EQ(manager.vms->state, MANAGED_FAILED);
    remove_all(&manager);
}

// --- disks

static void import(struct manager *manager, const char *name)
{
    char path[128], hash[65];
    struct error e = {0};
    snprintf(path, sizeof path, "%s/images/.new-1", home);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && ftruncate(fd, 1 << 20) == 0);
    close(fd);
    memset(hash, name[0] == 'i' ? 'a' : 'b', 64);
    hash[64] = '\0';
    CHECK(image_import(manager, name, ".new-1", hash, &e) == OK);
}

static void write_to_disk(const struct managed *m)
{
    struct block *block;
    char path[PATH_MAX];
    const struct block_options options = {.format = "qcow2", .threads = true};
    managed_path(m, "disk0.qcow2", path);
    CHECK(block_open(path, &options, &block, NULL) == OK);
    CHECK(qcow2_snapshot_create(qcow2_of(block), "x", NULL) == OK); // takes clusters of its own
    block_close(block);
}

static void a_killed_clone_is_finished_by_the_next_manager(void)
{
    struct manager manager;
    struct error e = {0};
    struct managed *m, *clone = NULL;
    char disk[PATH_MAX], layer[200];
    struct stat one, other;
    in_a_new_directory(&manager);
    CHECK(come_up(&manager, &e) == OK);
    import(&manager, "image");
    m = create(&manager, "vm", "image");
    write_to_disk(m);
    managed_path(m, "disk0.qcow2", disk);
    // Killed after the disk has become a layer, and before the VM has a new one.
    snprintf(layer, sizeof layer, "%s/layers/77", home);
    mkdir(layer, 0700);
    strcat(layer, "/disk.qcow2");
    CHECK(link(disk, layer) == 0);
    go_down(&manager);
    exec("INSERT INTO layer SELECT '77', base FROM disk;"
         "UPDATE disk SET base = 'layers/77/disk.qcow2'");
    CHECK(come_up(&manager, &e) == OK);
    CHECK(stat(disk, &one) == 0 && stat(layer, &other) == 0 && one.st_ino != other.st_ino);
    m = manager.vms;
    CHECK(managed_clone(m, "two", &clone, &e) == OK);
    CHECK_EQ(count_in("layers"), 1); // the new disk is empty
    CHECK(image_remove(&manager, "image", &e) == ERR_BUSY && strstr(e.text, "two, vm"));
    CHECK(managed_find(&manager, "two", &m, &e) == OK && managed_remove(m, &e) == OK);
    CHECK_EQ(count_in("layers"), 1);
    CHECK(managed_find(&manager, "vm", &m, &e) == OK && managed_remove(m, &e) == OK);
    CHECK_EQ(count_in("layers"), 0);
    CHECK(image_remove(&manager, "image", &e) == OK);
    CHECK_EQ(count_in("images"), 0);
    remove_all(&manager);
}

static void layers_and_images_that_nobody_knows_are_cleared_away(void)
{
    struct manager manager;
    struct error e = {0};
    char path[200];
    in_a_new_directory(&manager);
    CHECK(come_up(&manager, &e) == OK);
    import(&manager, "image");
    go_down(&manager);
    exec("INSERT INTO layer VALUES ('1', 'images/x'), ('2', 'layers/1/disk.qcow2')");
    snprintf(path, sizeof path, "%s/images/%064d.raw", home, 0);
    close(open(path, O_CREAT | O_CLOEXEC, 0600));
    snprintf(path, sizeof path, "%s/images/.new-7", home);
    close(open(path, O_CREAT | O_CLOEXEC, 0600));
    snprintf(path, sizeof path, "%s/images/.new-8", home);
    int busy = open(path, O_CREAT | O_CLOEXEC, 0600);
    CHECK(flock(busy, LOCK_EX) == 0); // its import goes on
    CHECK(come_up(&manager, &e) == OK);
    CHECK(is_there("images/.new-8") && !is_there("images/.new-7"));
    CHECK_EQ(count_in("images"), 2);
    close(busy);
    remove_all(&manager);
}

TEST_MAIN(TEST(every_older_schema_is_brought_up_to_date_with_its_rows),
          TEST(a_newer_schema_is_refused_and_left_alone),
          TEST(a_file_that_is_no_inventory_is_refused),
          TEST(a_transaction_that_fails_leaves_nothing), TEST(vms_are_found_again_by_name_and_id),
          TEST(what_was_half_made_or_half_removed_is_cleared_away),
          TEST(how_a_vm_ended_meanwhile_is_read_from_its_folder),
          TEST(one_that_failed_meanwhile_is_restarted_by_its_policy),
          TEST(a_killed_clone_is_finished_by_the_next_manager),
          TEST(layers_and_images_that_nobody_knows_are_cleared_away))
