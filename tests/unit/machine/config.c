// VM definitions: the round trip through JSON, and the words for what is wrong.
#include "machine/config.h"

#include <stdlib.h>

#include "engine/engine.h"
#include "test.h"

static struct error load_error(const char *text)
{
    struct vm_config config;
    struct error e = {0};
    if (vm_config_load(&config, text, strlen(text), &e) == OK)
        vm_config_release(&config);
    return e;
}

#define CHECK_REFUSED(json, words) CHECK_STR(load_error(json).text, words)

static void a_definition_survives_the_round_trip(void)
{
    struct vm_config a, b;
    char *text = NULL;
    CHECK(vm_config_init(&a, NULL) == OK);
    a.vcpus = 3;
    a.memory_bytes = 768 * MIB;
    a.exit_device = true;
    a.debug = ENGINE_DEBUG_INTERPRET | ENGINE_DEBUG_LOCKSTEP;
    CHECK(vm_config_set(&a.kernel, "/boot/\"odd\" näme", NULL) == OK);
    CHECK(vm_config_set(&a.append, "quiet\tx", NULL) == OK);
    CHECK(vm_config_add_disk(&a, "a.img", false, NULL) == OK);
    CHECK(vm_config_add_disk(&a, "b.img", true, NULL) == OK);
    CHECK(vm_config_save(&a, &text, NULL) == OK);
    struct error e = {0};
    CHECK(vm_config_load(&b, text, strlen(text), &e) == OK);
    CHECK_STR(e.text, "");
    CHECK_STR(b.name, "vm");
    CHECK_EQ(b.vcpus, 3);
    CHECK_EQ(b.memory_bytes, 768 * MIB);
    CHECK_EQ(b.debug, a.debug);
    CHECK(b.exit_device && !b.no_reboot && !b.json);
    CHECK_STR(b.kernel, a.kernel);
    CHECK_STR(b.append, a.append);
    CHECK(b.initrd == NULL && b.cpu == NULL);
    CHECK_EQ(b.disks, 2);
    CHECK_STR(b.disk[1].path, "b.img");
    CHECK(b.disk[1].read_only && !b.disk[0].read_only);
    vm_config_release(&a);
    vm_config_release(&b);
    free(text);
}

static void amounts_of_cpu_time_are_read_as_people_write_them(void)
{
    static const struct {
        const char *text;
        uint32_t millis;
    } good[] = {{"50%", 500}, {"1.5", 1500}, {"0.25", 250},
                {"none", 0},  {"1%", 10},    {"200%", 2000}};
    uint32_t millis;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        CHECK(vm_cpu_amount_parse(good[i].text, &millis, NULL) == OK);
        CHECK_EQ(millis, good[i].millis);
    }
    static const char *const bad[] = {"", "half", "-1", "0.001", "50%x", "nan", "1e9", "%"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        CHECK(vm_cpu_amount_parse(bad[i], &millis, NULL) == ERR_INVALID);
}

static void lists_of_cpus_are_for_all_vcpus_or_for_each(void)
{
    cpu_set_t set[2] = {0};
    CHECK(vm_cpu_pin_parse("0-2,5", 2, set, NULL) == OK);
    CHECK_EQ(CPU_COUNT(&set[0]), 4);
    CHECK(CPU_EQUAL(&set[0], &set[1]));
    CHECK(vm_cpu_pin_parse("1:7", 2, set, NULL) == OK);
    CHECK(CPU_COUNT(&set[0]) == 4 && CPU_COUNT(&set[1]) == 1 && CPU_ISSET(7, &set[1]));
    CHECK(vm_cpu_pin_parse("0:1;1:2", 2, set, NULL) == OK);
    CHECK(CPU_ISSET(1, &set[0]) && CPU_ISSET(2, &set[1]));
    static const char *const bad[] = {
        "", "a", "3-1", "1-", "2:0", "0:", "0;", "0:1;;", "1,", "99999", "0 "};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        CHECK(vm_cpu_pin_parse(bad[i], 2, NULL, NULL) == ERR_INVALID);
}

static void errors_name_the_key_and_what_is_right(void)
{
    CHECK_REFUSED("[]", "the definition is not a JSON object");
    CHECK_REFUSED("{}", "berth-vm: must be 1");
    CHECK_REFUSED("{\"berth-vm\": 1, \"colour\": 2}", "colour: there is no such key");
    CHECK_REFUSED("{\"berth-vm\": 1, \"vcpus\": 0}", "vcpus: 0 is outside 1 to 64");
    CHECK_REFUSED("{\"berth-vm\": 1, \"vcpus\": \"2\"}", "vcpus: must be a whole number");
    CHECK_REFUSED("{\"berth-vm\": 1, \"vcpus\": -1}", "vcpus: must be a whole number");
    CHECK_REFUSED(
        "{\"berth-vm\": 1, \"name\": \"a b\"}",
        "name: 'a b' is not a VM name; use 1 to 63 of A-Z a-z 0-9 . _ -, a letter or digit first");
    CHECK_REFUSED("{\"berth-vm\": 1, \"no_reboot\": 1}", "no_reboot: must be true or false");
    CHECK_REFUSED("{\"berth-vm\": 1, \"initrd\": \"x\"}", "initrd: needs a kernel to go with it");
    CHECK_REFUSED("{\"berth-vm\": 1, \"engine\": \"xen\"}",
                  "engine: there is no 'xen'; give one of auto, kvm, translate");
    CHECK_REFUSED("{\"berth-vm\": 1, \"engine\": \"kvm,irqchip=new\"}",
                  "engine: irqchip is kernel, split or user, not 'new'");
    CHECK_REFUSED("{\"berth-vm\": 1, \"engine\": \"kvm,fast\"}",
                  "engine: there is no option 'fast'; give irqchip=kernel, split or user, "
                  "halt-poll=NANOSECONDS, code-cache=SIZE, shared-code=SIZE, "
                  "translation-cache=FILE, perf-map=FILE or direct=on, off or auto");
    CHECK_REFUSED("{\"berth-vm\": 1, \"serial\": \"com\"}",
                  "serial: there is no 'com'; give stdio, pty, shared, file:PATH or none");
}

static void firmware_is_for_what_it_can_start(void)
{
#define VM(more) "{\"berth-vm\": 1, " more "}"
    CHECK_REFUSED(VM("\"kernel\": \"k\", \"firmware\": \"auto\""),
                  "firmware: auto is for disks; a kernel from a file starts with none or uefi");
    CHECK_REFUSED(VM("\"kernel\": \"k\", \"firmware\": \"bios\""),
                  "firmware: a BIOS does not start a kernel from a file; give none or uefi");
    CHECK_REFUSED(VM("\"kernel\": \"k\", \"uefi_vars\": \"v\""), "uefi_vars: needs firmware uefi");
    CHECK_REFUSED(VM("\"firmware\": \"bios:\""),
                  "firmware: there is no 'bios:'; give auto, none, bios, uefi, bios:FILE or "
                  "uefi:FILE");
    CHECK_REFUSED(VM("\"memory_mib\": 64, \"firmware\": \"uefi\""),
                  "memory: this firmware needs at least 96 MiB");
    CHECK_REFUSED(VM("\"firmware\": \"uefi:/f\", \"uefi_vars\": \"v\""), "");
    CHECK_REFUSED(VM("\"uefi_vars\": \"v\""), ""); // guessed: may be UEFI
#undef VM
}

static void engine_may_have_options(void)
{
    struct vm_engine engine;
    struct error e = {0};
    CHECK_EQ(vm_engine_parse("kvm,irqchip=split", &engine, &e), OK);
    CHECK_STR(engine.name, "kvm");
    CHECK_EQ(engine.chips, ENGINE_CHIPS_LAPIC);
    CHECK_EQ(engine.poll_ns, 0);
    CHECK_EQ(vm_engine_parse("kvm,halt-poll=50000,irqchip=kernel", &engine, &e), OK);
    CHECK_EQ(engine.poll_ns, 50000);
    CHECK_EQ(engine.chips, ENGINE_CHIPS_ALL);
    CHECK_EQ(vm_engine_parse("kvm,halt-poll=0", &engine, &e), OK);
    CHECK_EQ(engine.poll_ns, ENGINE_POLL_NEVER);
    CHECK_EQ(vm_engine_parse("kvm,halt-poll=1000001", &engine, &e), ERR_INVALID);
    CHECK_EQ(vm_engine_parse("kvm,halt-poll=5s", &engine, &e), ERR_INVALID);
    CHECK_STR(e.text, "engine: halt-poll is 0 to 1000000 nanoseconds, not '5s'");
    CHECK_EQ(vm_engine_parse("kvm,irqchip=", &engine, &e), ERR_INVALID);
    CHECK_EQ(vm_engine_parse("translate,code-cache=32M,perf-map=/a/System.map", &engine, &e), OK);
    CHECK_EQ(engine.code_cache_bytes, 32 * MIB);
    CHECK_STR(engine.perf_map, "/a/System.map");
    CHECK_EQ(vm_engine_parse("translate,code-cache=2G", &engine, &e), ERR_INVALID);
    CHECK_STR(e.text, "engine: code-cache: 2G is outside 1M to 1G");
    CHECK_EQ(engine.direct, VM_DIRECT_AUTO);
    CHECK_EQ(vm_engine_parse("translate,direct=on", &engine, &e), OK);
    CHECK_EQ(engine.direct, VM_DIRECT_ON);
    CHECK_EQ(vm_engine_parse("auto,direct=off", &engine, &e), OK);
    CHECK_EQ(engine.direct, VM_DIRECT_OFF);
    CHECK_EQ(vm_engine_parse("translate,direct=yes", &engine, &e), ERR_INVALID);
    CHECK_STR(e.text, "engine: direct is on, off or auto, not 'yes'");
    CHECK_EQ(vm_engine_parse("translate,perf-map=", &engine, &e), ERR_INVALID);
    CHECK_EQ(vm_engine_parse("auto", &engine, &e), OK);
    CHECK_EQ(engine.chips, ENGINE_CHIPS_BEST);
    CHECK_STR(engine.perf_map, "");
    CHECK_EQ(engine.code_cache_bytes, 0);
    CHECK_EQ(vm_engine_parse("a-name-longer-than-any", &engine, &e), ERR_INVALID);
}

static void repeated_keys_and_broken_json_are_refused_with_their_place(void)
{
    CHECK(strstr(load_error("{\"berth-vm\": 1, \"vcpus\": 1, \"vcpus\": 2}").text, "duplicate"));
    CHECK(strstr(load_error("{\"berth-vm\": 1,\n \"vcpus\" 1}").text, "line 2"));
    CHECK(strstr(load_error("{\"berth-vm\": 1, \"disks\": [{\"file\": \"x\"}]}").text, "disks[0]"));
}

static void more_than_sixteen_disks_are_refused(void)
{
    struct vm_config config;
    CHECK(vm_config_init(&config, NULL) == OK);
    for (int i = 0; i < VM_DISKS_MAX; i++)
        CHECK(vm_config_add_disk(&config, "x", false, NULL) == OK);
    CHECK(vm_config_add_disk(&config, "x", false, NULL) == ERR_INVALID);
    vm_config_release(&config);
}

static void memory_amounts_are_mib_unless_a_unit_is_given(void)
{
    uint64_t bytes = 0;
    CHECK(vm_memory_parse("512", &bytes, NULL) == OK && bytes == 512 * MIB);
    CHECK(vm_memory_parse("64M", &bytes, NULL) == OK && bytes == 64 * MIB);
    CHECK(vm_memory_parse("2g", &bytes, NULL) == OK && bytes == 2 * GIB);
    static const char *const wrong[] = {"", "M", "-1", "1T", "2Gi", "99999999999999999999", "257G"};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        CHECK(vm_memory_parse(wrong[i], &bytes, NULL) == ERR_INVALID);
}

static void debug_words_are_checked(void)
{
    uint32_t debug = 0;
    CHECK(vm_debug_parse("interpret,poll", &debug, NULL) == OK);
    CHECK_EQ(debug, ENGINE_DEBUG_INTERPRET | ENGINE_DEBUG_POLL_EVERY_BLOCK);
    CHECK(vm_debug_parse("inter", &debug, NULL) == ERR_INVALID);
}

static void a_card_says_what_it_is_to_have_of_its_port(void)
{
    static const char *const wrong[] = {
        "lab,policy=permit all", "lab,in=5",     "lab,isolated=yes", "lab,policy",
        "lab,mtu=1279",          "lab,mtu=9001", "lab,colour=",      "lab,vlan=1,trunk",
        "lab,priority=8",        "lab,address=x"};
    struct vm_config a, b;
    struct error e = {0};
    char *text = NULL;
    CHECK(vm_config_init(&a, NULL) == OK);
    CHECK(vm_nic_parse(&a,
                       "lab,policy=allow a.org:1-9/tcp; deny all,in=10M,out=1.5G,priority=3,"
                       "isolated,trusting,address=10.0.0.9,mtu=9000,rom=/r.rom",
                       &e) == OK);
    CHECK_STR(e.text, "");
    CHECK(vm_config_save(&a, &text, NULL) == OK);
    CHECK(vm_config_load(&b, text, strlen(text), &e) == OK);
    CHECK_STR(b.nic[0].policy, "allow a.org:1-9/tcp; deny all");
    CHECK_STR(b.nic[0].address, "10.0.0.9");
    CHECK_EQ(b.nic[0].in, 10000000);
    CHECK_EQ(b.nic[0].out, 1500000000);
    CHECK(b.nic[0].priority == 3 && b.nic[0].isolated && b.nic[0].trusting && !b.nic[0].trunk);
    CHECK(!b.nic[0].socket);
    CHECK_EQ(b.nic[0].mtu, 9000);
    CHECK(vm_nic_rom_file(&b.nic[0]));
    free(text);
    vm_config_release(&a);
    vm_config_release(&b);
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        CHECK(vm_config_init(&a, NULL) == OK);
        err_t err = vm_nic_parse(&a, wrong[i], NULL);
        if (!err)
            err = vm_config_check(&a, NULL);
        CHECK(err == ERR_INVALID);
        vm_config_release(&a);
    }
}

static void a_card_may_be_plugged_into_another_programs_back_end(void)
{
    struct vm_config a, b;
    struct error e = {0};
    char *text = NULL;
    CHECK(vm_config_init(&a, NULL) == OK);
    CHECK(vm_nic_parse(&a, "vhost-user:/run/dpdk.sock,queues=2", &e) == OK);
    CHECK(vm_nic_parse(&a, "lab,socket", &e) == OK);
    CHECK(vm_config_save(&a, &text, NULL) == OK);
    CHECK(vm_config_load(&b, text, strlen(text), &e) == OK);
    CHECK_STR(e.text, "");
    CHECK_STR(vm_network_vhost(b.nic[0].network), "/run/dpdk.sock");
    CHECK(!vm_network_vhost(b.nic[1].network) && b.nic[1].socket && !b.nic[0].socket);
    free(text);
    vm_config_release(&a);
    vm_config_release(&b);
    char path[200] = "vhost-user:/";
    CHECK(vm_network_valid(path));
    memset(path + 12, 'x', sizeof path - 13);
    CHECK(!vm_network_valid(path) && !vm_network_valid("vhost-user:"));
    CHECK(!vm_network_valid("vhost:/x") && !vm_network_valid("a/b") && vm_network_valid("lab"));
}

TEST_MAIN(TEST(a_definition_survives_the_round_trip),
          TEST(amounts_of_cpu_time_are_read_as_people_write_them),
          TEST(lists_of_cpus_are_for_all_vcpus_or_for_each),
          TEST(errors_name_the_key_and_what_is_right), TEST(firmware_is_for_what_it_can_start),
          TEST(engine_may_have_options),
          TEST(repeated_keys_and_broken_json_are_refused_with_their_place),
          TEST(more_than_sixteen_disks_are_refused),
          TEST(memory_amounts_are_mib_unless_a_unit_is_given), TEST(debug_words_are_checked),
          TEST(a_card_says_what_it_is_to_have_of_its_port),
          TEST(a_card_may_be_plugged_into_another_programs_back_end))
