// The NVMe controller, driven as drivers drive it.
#include "device/storage/nvme.h"

#include "base/bytes.h"
#include "fake_guest.h"
#include "ram_disk.h"
#include "test.h"

#define BAR 0x8000000000ull
#define MSIX 0xd0000000ull
#define ADMIN_SQ 0x10000ull
#define ADMIN_CQ 0x11000ull
#define IO_SQ 0x12000ull
#define IO_CQ 0x13000ull
#define LIST 0x20000ull
#define A 0x40000ull
#define B 0x60000ull
#define ENTRIES 8
#define DNR 0x4000

enum { CC = 0x14, CSTS = 0x1c, ENABLED = 0x00460001 };

struct queue {
    gpa_t sq, cq;
    unsigned tail, head;
    bool phase;
};

struct setup {
    struct fake_guest *g;
    struct device *dev;
    struct ram_disk *disk;
    struct nvme_config config;
    struct queue q[3];
    uint32_t result;
    uint16_t cid;
};

struct command {
    uint8_t op, flags;
    uint32_t nsid;
    uint64_t prp1, prp2;
    uint32_t cdw10, cdw11, cdw12;
};

static uint32_t reg(struct setup *s, unsigned at)
{
    return (uint32_t)fake_read(s->g, false, BAR + at, 4);
}

static void set_reg(struct setup *s, unsigned at, uint32_t value)
{
    fake_write(s->g, false, BAR + at, 4, value);
}

static void enable_controller(struct setup *s)
{
    set_reg(s, 0x24, (ENTRIES - 1) << 16 | (ENTRIES - 1));
    fake_write(s->g, false, BAR + 0x28, 8, ADMIN_SQ);
    fake_write(s->g, false, BAR + 0x30, 8, ADMIN_CQ);
    set_reg(s, CC, ENABLED);
    memset(s->g->ram + ADMIN_SQ, 0, 0x4000);
    s->q[0] = (struct queue){ADMIN_SQ, ADMIN_CQ, .phase = true};
}

static void set_up(struct setup *s, bool read_only, bool msix)
{
    *s = (struct setup){.g = fake_guest_new(), .disk = ram_disk_new(read_only)};
    s->config = (struct nvme_config){.block = &s->disk->block, .serial = "N-1"};
    s->dev = fake_device(s->g, &nvme_type, &s->config);
    struct pci_function *f = pci_function_of(s->dev);
    pci_config_write(f, PCI_BAR0 + 4, 4, BAR >> 32);
    pci_config_write(f, PCI_BAR0 + 16, 4, MSIX);
    pci_config_write(f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    if (msix) {
        pci_config_write(f, f->msix_cap + PCI_MSIX_CONTROL, 2, PCI_MSIX_ENABLE);
        for (unsigned i = 0; i < 4; i++) {
            fake_write(s->g, false, MSIX + 16 * i, 8, 0xfee00000);
            fake_write(s->g, false, MSIX + 16 * i + 8, 8, 0x40 + i);
        }
    }
    enable_controller(s);
}

static void tear_down(struct setup *s)
{
    fake_device_free(s->dev);
    fake_guest_free(s->g);
    free(s->disk);
}

static void put(struct setup *s, unsigned queue, const struct command *c)
{
    struct queue *q = &s->q[queue];
    uint8_t *entry = s->g->ram + q->sq + 64 * q->tail;

    memset(entry, 0, 64);
    entry[0] = c->op;
    entry[1] = c->flags;
    store_le16(entry + 2, ++s->cid);
    store_le32(entry + 4, c->nsid);
    store_le64(entry + 24, c->prp1);
    store_le64(entry + 32, c->prp2);
    store_le32(entry + 40, c->cdw10);
    store_le32(entry + 44, c->cdw11);
    store_le32(entry + 48, c->cdw12);
    q->tail = (q->tail + 1) % ENTRIES;
    set_reg(s, 0x1000 + 8 * queue, q->tail);
}

// Status of the next completion, which is taken; ~0u: there is none.
static uint32_t get(struct setup *s, unsigned queue)
{
    struct queue *q = &s->q[queue];
    const uint8_t *entry = s->g->ram + q->cq + 16 * q->head;

    if ((load_le16(entry + 14) & 1) != q->phase)
        return ~0u;
    s->result = load_le32(entry);
    q->head = (q->head + 1) % ENTRIES;
    q->phase ^= q->head == 0;
    set_reg(s, 0x1004 + 8 * queue, q->head);
    return load_le16(entry + 14) >> 1;
}

static uint32_t run(struct setup *s, unsigned queue, const struct command *c)
{
    put(s, queue, c);
    ram_disk_run(s->disk, 1000);
    return get(s, queue);
}

static void make_queue(struct setup *s, unsigned id)
{
    gpa_t sq = IO_SQ + 0x2000 * (id - 1), cq = IO_CQ + 0x2000 * (id - 1);

    memset(s->g->ram + sq, 0, 0x2000);
    s->q[id] = (struct queue){sq, cq, .phase = true};
    CHECK_EQ(
        run(s, 0,
            &(struct command){
                .op = 5, .prp1 = cq, .cdw10 = (ENTRIES - 1) << 16 | id, .cdw11 = id << 16 | 3}),
        0);
    CHECK_EQ(
        run(s, 0,
            &(struct command){
                .op = 1, .prp1 = sq, .cdw10 = (ENTRIES - 1) << 16 | id, .cdw11 = id << 16 | 1}),
        0);
}

static struct command io(uint8_t op, uint32_t lba, uint32_t blocks, uint64_t prp1, uint64_t prp2)
{
    return (struct command){
        .op = op, .nsid = 1, .prp1 = prp1, .prp2 = prp2, .cdw10 = lba, .cdw12 = blocks - 1};
}

static uint32_t run_io(struct setup *s, struct command c)
{
    return run(s, 1, &c);
}

static void nvme_becomes_ready_only_with_usable_settings(void)
{
    struct setup s;

    set_up(&s, false, false);
    CHECK_EQ(reg(&s, CSTS), 1);
    CHECK_EQ(reg(&s, 8), 0x10400);
    set_reg(&s, CC, 0);
    CHECK_EQ(reg(&s, CSTS), 0);
    set_reg(&s, CC, ENABLED | 1 << 7); // 8 KiB pages
    CHECK_EQ(reg(&s, CSTS), 2);
    set_reg(&s, CC, 0);
    CHECK_EQ(reg(&s, CSTS), 0);
    enable_controller(&s);
    CHECK_EQ(reg(&s, CSTS), 1);
    tear_down(&s);
}

static void nvme_describes_itself_and_its_namespace(void)
{
    struct command c = {.op = 6, .prp1 = A, .cdw10 = 1};
    struct setup s;

    set_up(&s, true, true);
    CHECK_EQ(run(&s, 0, &c), 0);
    CHECK(memcmp(s.g->ram + A + 4, "N-1     ", 8) == 0);
    CHECK_EQ(load_le32(s.g->ram + A + 516), 1);
    CHECK_EQ(s.g->msis, 1);
    c.cdw10 = 0;
    c.nsid = 1;
    CHECK_EQ(run(&s, 0, &c), 0);
    CHECK_EQ(load_le64(s.g->ram + A), RAM_DISK_BYTES / 512);
    CHECK_EQ(s.g->ram[A + 130], 9);
    CHECK_EQ(s.g->ram[A + 99], 1);
    c.nsid = 2;
    CHECK_EQ(run(&s, 0, &c), 0x0b | DNR);
    c = (struct command){.op = 6, .prp1 = A, .cdw10 = 2};
    CHECK_EQ(run(&s, 0, &c), 0);
    CHECK_EQ(load_le32(s.g->ram + A), 1);
    c.cdw10 = 0x55;
    CHECK_EQ(run(&s, 0, &c), 2 | DNR);
    c = (struct command){.op = 2, .prp1 = A, .cdw10 = 127 << 16 | 2};
    CHECK_EQ(run(&s, 0, &c), 0);
    CHECK_EQ(load_le16(s.g->ram + A + 1), 303);
    tear_down(&s);
}

static void nvme_moves_data_through_pages_and_lists(void)
{
    struct setup s;

    set_up(&s, false, true);
    make_queue(&s, 1);
    for (unsigned i = 0; i < 0x8000; i++)
        s.g->ram[A + i] = (uint8_t)(i * 7 + i / 4096);
    CHECK_EQ(run_io(&s, io(1, 0, 8, A + 512, A + 0x1000)), 0); // from the middle of a page
    CHECK(memcmp(s.disk->data, s.g->ram + A + 512, 4096) == 0);
    // A list in two pages: the last entry of the first one is the second one's address.
    for (unsigned i = 0; i < 2; i++)
        store_le64(s.g->ram + LIST + 4096 - 24 + 8 * i, A + 0x1000 * (i + 1));
    store_le64(s.g->ram + LIST + 4096 - 8, LIST + 0x2000);
    for (unsigned i = 0; i < 5; i++)
        store_le64(s.g->ram + LIST + 0x2000 + 8 * i, A + 0x1000 * (i + 3));
    CHECK_EQ(run_io(&s, io(1, 64, 64, A, LIST + 4096 - 24)), 0);
    CHECK(memcmp(s.disk->data + 64 * 512, s.g->ram + A, 0x8000) == 0);
    CHECK_EQ(run_io(&s, io(2, 64, 16, B, B + 0x3000)), 0);
    CHECK(memcmp(s.g->ram + B, s.g->ram + A, 4096) == 0);
    CHECK(memcmp(s.g->ram + B + 0x3000, s.g->ram + A + 4096, 4096) == 0);
    CHECK_EQ(s.g->msi_data, 0x41);
    tear_down(&s);
}

static void nvme_answers_what_is_in_memory_at_once(void)
{
    struct setup s;

    set_up(&s, false, true);
    make_queue(&s, 1);
    s.disk->cached = true;
    memset(s.disk->data + 4096, 0x5a, 4096);
    CHECK_EQ(run_io(&s, io(2, 8, 8, B, 0)), 0);
    CHECK_EQ(s.g->ram[B + 4095], 0x5a);
    CHECK_EQ(s.disk->ops[BLOCK_READ], 0);
    CHECK_EQ(s.g->msi_data, 0x41);
    s.disk->fail = true;
    CHECK_EQ(run_io(&s, io(2, 8, 8, B, 0)) & 0x7ff, 0x281);
    tear_down(&s);
}

static void nvme_refuses_wrong_data_pointers(void)
{
    struct setup s;

    set_up(&s, false, false);
    make_queue(&s, 1);
    CHECK_EQ(run_io(&s, io(2, 0, 1, FAKE_RAM_BYTES, 0)), 4);
    CHECK_EQ(run_io(&s, io(2, 0, 1, A + 1, 0)), 0x13 | DNR);
    CHECK_EQ(run_io(&s, io(2, 0, 16, A, B + 8)), 0x13 | DNR);
    CHECK_EQ(run_io(&s, io(2, 0, 64, A, FAKE_RAM_BYTES)), 4);
    CHECK_EQ(run_io(&s, io(2, 0, 64, A, LIST + 4)), 0x13);
    // A list that leads back into itself ends where its chain is not a whole page.
    store_le64(s.g->ram + LIST + 4088, LIST + 4088);
    CHECK_EQ(run_io(&s, io(2, 0, 64, A, LIST + 4088)), 0x13);
    CHECK_EQ(run_io(&s, io(2, 0, 2048, A, LIST)), 2 | DNR); // longer than MDTS
    struct command sgl = io(2, 0, 1, A, 0);
    sgl.flags = 0x40;
    CHECK_EQ(run_io(&s, sgl), 2 | DNR);
    CHECK_EQ(s.disk->ops[BLOCK_READ], 0);
    tear_down(&s);
}

static void nvme_refuses_what_is_outside_or_unknown(void)
{
    struct command c;
    struct setup s;

    set_up(&s, false, false);
    make_queue(&s, 1);
    CHECK_EQ(run_io(&s, io(2, RAM_DISK_BYTES / 512 - 1, 2, A, 0)), 0x80 | DNR);
    c = io(2, ~0u, 1, A, 0);
    c.cdw11 = ~0u;
    CHECK_EQ(run_io(&s, c), 0x80 | DNR);
    CHECK_EQ(run_io(&s, io(0x77, 0, 1, A, 0)), 1 | DNR);
    c = io(2, 0, 1, A, 0);
    c.nsid = 7;
    CHECK_EQ(run_io(&s, c), 0x0b | DNR);
    s.disk->fail = true;
    CHECK_EQ(run_io(&s, io(2, 0, 1, A, 0)), 0x281);
    CHECK_EQ(run_io(&s, io(1, 0, 1, A, 0)), 0x280);
    tear_down(&s);
}

static void nvme_flushes_zeroes_and_deallocates(void)
{
    struct command c;
    struct setup s;

    set_up(&s, false, false);
    make_queue(&s, 1);
    memset(s.disk->data, 1, 8192);
    CHECK_EQ(run_io(&s, io(0, 0, 1, 0, 0)), 0);
    CHECK_EQ(s.disk->ops[BLOCK_FLUSH], 1);
    CHECK_EQ(run_io(&s, io(8, 2, 2, 0, 0)), 0);
    CHECK(s.disk->data[1024] == 0 && s.disk->data[2048] == 1);
    store_le32(s.g->ram + A + 4, 1);
    store_le64(s.g->ram + A + 8, 5);
    store_le32(s.g->ram + A + 20, 1);
    store_le64(s.g->ram + A + 24, 8);
    c = (struct command){.op = 9, .nsid = 1, .prp1 = A, .cdw10 = 1, .cdw11 = 4};
    CHECK_EQ(run_io(&s, c), 0);
    CHECK_EQ(s.disk->ops[BLOCK_DISCARD], 2);
    CHECK(s.disk->data[5 * 512] == 0 && s.disk->data[8 * 512] == 0 && s.disk->data[7 * 512] == 1);
    store_le64(s.g->ram + A + 24, ~0ull);
    CHECK_EQ(run_io(&s, c), 0x80 | DNR);
    c = io(1, 0, 1, A, 0);
    c.cdw12 |= 1u << 30; // FUA
    CHECK_EQ(run_io(&s, c), 0);
    CHECK_EQ(s.disk->ops[BLOCK_FLUSH], 2);
    CHECK_EQ(run(&s, 0, &(struct command){.op = 9, .cdw10 = 6, .cdw11 = 0}), 0); // cache off
    CHECK_EQ(run_io(&s, io(1, 0, 1, A, 0)), 0);
    CHECK_EQ(s.disk->ops[BLOCK_FLUSH], 3);
    tear_down(&s);
}

static void nvme_read_only_namespace_refuses_writes(void)
{
    struct setup s;

    set_up(&s, true, false);
    make_queue(&s, 1);
    CHECK_EQ(run_io(&s, io(1, 0, 1, A, 0)), 0x20 | DNR);
    CHECK_EQ(run_io(&s, io(8, 0, 1, A, 0)), 0x20 | DNR);
    CHECK_EQ(run_io(&s, io(2, 0, 1, A, 0)), 0);
    tear_down(&s);
}

static void nvme_waits_with_commands_until_completions_have_room(void)
{
    struct command c = io(2, 0, 1, A, 0);
    struct setup s;

    set_up(&s, false, false);
    make_queue(&s, 1);
    for (unsigned i = 0; i < 5; i++)
        put(&s, 1, &c);
    ram_disk_run(s.disk, 100);
    for (unsigned i = 0; i < 4; i++) // entries 5 to 7, and 0
        put(&s, 1, &c);
    CHECK_EQ(s.disk->ops[BLOCK_READ], 7); // one slot of eight stays empty
    ram_disk_run(s.disk, 100);
    for (unsigned i = 0; i < 9; i++) {
        CHECK_EQ(get(&s, 1), 0);
        ram_disk_run(s.disk, 100);
    }
    CHECK_EQ(get(&s, 1), ~0u);
    CHECK_EQ(s.disk->ops[BLOCK_READ], 9);
    tear_down(&s);
}

static void nvme_checks_queues_it_is_to_make_or_delete(void)
{
    struct setup s;

    set_up(&s, false, false);
    make_queue(&s, 1);
#define ADMIN(...) run(&s, 0, &(struct command){__VA_ARGS__})
    CHECK_EQ(ADMIN(.op = 5, .prp1 = A, .cdw10 = 7 << 16 | 1, .cdw11 = 1), 0x101 | DNR);
    CHECK_EQ(ADMIN(.op = 5, .prp1 = A, .cdw10 = 7 << 16 | 99, .cdw11 = 1), 0x101 | DNR);
    CHECK_EQ(ADMIN(.op = 5, .prp1 = A, .cdw10 = 2000 << 16 | 2, .cdw11 = 1), 0x102 | DNR);
    CHECK_EQ(ADMIN(.op = 5, .prp1 = A, .cdw10 = 7 << 16 | 2, .cdw11 = 99 << 16 | 1), 0x108 | DNR);
    CHECK_EQ(ADMIN(.op = 5, .prp1 = A + 8, .cdw10 = 7 << 16 | 2, .cdw11 = 1), 0x13 | DNR);
    CHECK_EQ(ADMIN(.op = 1, .prp1 = A, .cdw10 = 7 << 16 | 2, .cdw11 = 5 << 16 | 1), 0x100 | DNR);
    CHECK_EQ(ADMIN(.op = 4, .cdw10 = 1), 0x10c | DNR); // a submission queue uses it
    CHECK_EQ(ADMIN(.op = 0, .cdw10 = 2), 0x101 | DNR);
    CHECK_EQ(ADMIN(.op = 0, .cdw10 = 1), 0);
    CHECK_EQ(ADMIN(.op = 4, .cdw10 = 1), 0);
    CHECK_EQ(ADMIN(.op = 4, .cdw10 = 1), 0x101 | DNR);
    tear_down(&s);
}

static void nvme_deletes_a_queue_after_its_commands(void)
{
    struct command c = io(2, 0, 1, A, 0);
    struct setup s;

    set_up(&s, false, false);
    make_queue(&s, 1);
    put(&s, 1, &c);
    put(&s, 0, &(struct command){.op = 0, .cdw10 = 1});
    CHECK_EQ(get(&s, 0), ~0u);
    ram_disk_run(s.disk, 10);
    CHECK_EQ(get(&s, 1), 0);
    CHECK_EQ(get(&s, 0), 0);
    tear_down(&s);
}

static void nvme_disabling_waits_for_what_is_in_flight(void)
{
    struct command c = io(2, 0, 1, A, 0);
    struct setup s;

    set_up(&s, false, false);
    make_queue(&s, 1);
    put(&s, 1, &c);
    put(&s, 0, &(struct command){.op = 0, .cdw10 = 1});
    set_reg(&s, CC, 0);
    CHECK_EQ(reg(&s, CSTS), 1);
    ram_disk_run(s.disk, 10);
    CHECK_EQ(reg(&s, CSTS), 0);
    CHECK_EQ(get(&s, 1), ~0u);
    enable_controller(&s);
    make_queue(&s, 1);
    CHECK_EQ(run_io(&s, c), 0);
    tear_down(&s);
}

static void nvme_shutdown_flushes(void)
{
    struct setup s;

    set_up(&s, false, false);
    set_reg(&s, CC, ENABLED | 1 << 14);
    CHECK_EQ(reg(&s, CSTS), 1 | 1 << 2);
    ram_disk_run(s.disk, 10);
    CHECK_EQ(reg(&s, CSTS), 1 | 2 << 2);
    CHECK_EQ(s.disk->ops[BLOCK_FLUSH], 1);
    tear_down(&s);
}

static void nvme_tells_of_wrong_doorbells_once(void)
{
    struct setup s;

    set_up(&s, false, false);
    for (unsigned i = 0; i < 4; i++)
        put(&s, 0, &(struct command){.op = 0x0c});
    CHECK_EQ(run(&s, 0, &(struct command){.op = 0x0c}), 0x105 | DNR);
    set_reg(&s, 0x1000 + 8 * 5, 1); // no such queue
    CHECK_EQ(get(&s, 0), 0);
    CHECK_EQ(s.result, 0x10000);
    set_reg(&s, 0x1000, 99);
    CHECK_EQ(get(&s, 0), ~0u); // until the log is read
    CHECK_EQ(run(&s, 0, &(struct command){.op = 2, .prp1 = A, .cdw10 = 15 << 16 | 1}), 0);
    set_reg(&s, 0x1000, 99);
    CHECK_EQ(get(&s, 0), 0);
    CHECK_EQ(s.result, 0x10100);
    CHECK_EQ(run(&s, 0, &(struct command){.op = 8, .cdw10 = 1}), 0);
    CHECK_EQ(s.result, 1); // not aborted
    tear_down(&s);
}

static void nvme_grants_queues_and_keeps_features(void)
{
    struct setup s;

    set_up(&s, false, false);
    CHECK_EQ(ADMIN(.op = 9, .cdw10 = 7, .cdw11 = 63 << 16 | 63), 0);
    CHECK_EQ(s.result, 15 << 16 | 15);
    CHECK_EQ(ADMIN(.op = 9, .cdw10 = 0x0b, .cdw11 = 0x100), 0);
    CHECK_EQ(ADMIN(.op = 10, .cdw10 = 0x0b), 0);
    CHECK_EQ(s.result, 0x100);
    CHECK_EQ(ADMIN(.op = 10, .cdw10 = 0x10b), 0);
    CHECK_EQ(s.result, 0); // the default
    CHECK_EQ(ADMIN(.op = 9, .cdw10 = 0x80000006), 0x10d | DNR);
    CHECK_EQ(ADMIN(.op = 10, .cdw10 = 0x7f), 2 | DNR);
    tear_down(&s);
}

static void nvme_pin_follows_the_completion_queues(void)
{
    struct setup s;

    set_up(&s, false, false);
    put(&s, 0, &(struct command){.op = 8});
    CHECK(s.g->irq);
    set_reg(&s, 0x0c, 1);
    CHECK(!s.g->irq);
    set_reg(&s, 0x10, 1);
    CHECK(s.g->irq);
    CHECK_EQ(get(&s, 0), 0);
    CHECK(!s.g->irq);
    tear_down(&s);
}

static void nvme_survives_a_move(void)
{
    struct fake_guest *to = fake_guest_new();
    struct device *copy;
    struct setup s;

    set_up(&s, false, true);
    make_queue(&s, 1);
    CHECK_EQ(run_io(&s, io(2, 0, 1, A, 0)), 0);
    put(&s, 0, &(struct command){.op = 0x0c});
    copy = fake_migrate(to, s.dev, &s.config);
    struct setup moved = s;
    moved.g = to;
    moved.dev = copy;
    CHECK_EQ(run_io(&moved, io(2, 0, 1, A, 0)), 0);
    CHECK_EQ(to->msi_data, 0x41);
    set_reg(&moved, 0x1000, 99);
    CHECK_EQ(get(&moved, 0), 0); // the event request moved, too
    fake_device_free(copy);
    fake_guest_free(to);
    tear_down(&s);
}

TEST_MAIN(TEST(nvme_becomes_ready_only_with_usable_settings),
          TEST(nvme_describes_itself_and_its_namespace),
          TEST(nvme_moves_data_through_pages_and_lists),
          TEST(nvme_answers_what_is_in_memory_at_once), TEST(nvme_refuses_wrong_data_pointers),
          TEST(nvme_refuses_what_is_outside_or_unknown), TEST(nvme_flushes_zeroes_and_deallocates),
          TEST(nvme_read_only_namespace_refuses_writes),
          TEST(nvme_waits_with_commands_until_completions_have_room),
          TEST(nvme_checks_queues_it_is_to_make_or_delete),
          TEST(nvme_deletes_a_queue_after_its_commands),
          TEST(nvme_disabling_waits_for_what_is_in_flight), TEST(nvme_shutdown_flushes),
          TEST(nvme_tells_of_wrong_doorbells_once), TEST(nvme_grants_queues_and_keeps_features),
          TEST(nvme_pin_follows_the_completion_queues), TEST(nvme_survives_a_move))
