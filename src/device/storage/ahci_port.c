// A port of the AHCI adapter: its registers, the command list in guest memory, and the FISes that
// the drive would send.
//
// Commands are fetched in order of their slots; a command that is not queued keeps the port busy to
// its end. Resets and a cleared ST bit wait for what is in flight at the back end (CR, BSY and HR
// say so to the guest), because it cannot be called back from guest memory.
//
// Specification: AHCI 1.3.1, 3.3 (registers), 4 (structures), 5.3 and 5.5 (state machines), 6.2
// (errors); Serial ATA 3.x, 10.5 (FISes).
#include "device/storage/ahci_impl.h"

#include <string.h>

#include "base/bits.h"

enum {
    PORT_CLB = 0x00,
    PORT_CLBU = 0x04,
    PORT_FB = 0x08,
    PORT_FBU = 0x0c,
    PORT_IS = 0x10,
    PORT_IE = 0x14,
    PORT_CMD = 0x18,
    PORT_TFD = 0x20,
    PORT_SIG = 0x24,
    PORT_SSTS = 0x28,
    PORT_SCTL = 0x2c,
    PORT_SERR = 0x30,
    PORT_SACT = 0x34,
    PORT_CI = 0x38,

    CMD_ST = 1 << 0,
    CMD_SUD = 1 << 1,
    CMD_POD = 1 << 2,
    CMD_CLO = 1 << 3,
    CMD_FRE = 1 << 4,
    CMD_FR = 1 << 14,
    CMD_CR = 1 << 15,
    CMD_ATAPI = 1 << 24,
    CMD_DLAE = 1 << 25,
    CMD_KEPT = CMD_ST | CMD_FRE | CMD_ATAPI | CMD_DLAE,

    SERR_N = 1 << 16,
    SERR_X = 1 << 26,
    SSTS_UP = 0x133, // device present, 6 Gbit/s, active
    SSTS_OFF = 4,
    SCTL_KEPT = 0xfff,

    HEADER_BYTES = 32,
    TABLE_PACKET = 0x40,
    TABLE_PRDT = 0x80,
    PRD_BYTES = 16,
    PRDS_MAX = 8192, // looked at for one command
    PRDS_AT_ONCE = 16,

    FIS_H2D = 0x27,
    FIS_D2H = 0x34,
    FIS_SDB = 0xa1,
    FIS_PIO = 0x5f,
    AREA_PIO = 0x20, // where FISes are received
    AREA_D2H = 0x40,
    AREA_SDB = 0x58,
};

// What each bit of PxIE may enable.
#define IE_KEPT 0xfdc000ffu
#define IS_SAVED (0xfdc000ffu & ~(uint32_t)(PORT_IS_PCS | PORT_IS_PRCS))
#define SIGNATURE_DISK 0x00000101u
#define SIGNATURE_CDROM 0xeb140101u

static const struct state_field drive_fields[] = {
    FIELD(struct ata_drive, failed_lba),    FIELD(struct ata_drive, failed_count),
    FIELD(struct ata_drive, failed_tag),    FIELD(struct ata_drive, failed_status),
    FIELD(struct ata_drive, failed_error),  FIELD(struct ata_drive, failed_valid),
    FIELD(struct ata_drive, multiple),      FIELD(struct ata_drive, write_cache),
    FIELD(struct ata_drive, look_ahead),    FIELD(struct ata_drive, smart),
    FIELD(struct ata_drive, transfer_mode), FIELD(struct ata_drive, sense_key),
    FIELD(struct ata_drive, asc),           FIELD(struct ata_drive, ascq),
    FIELD(struct ata_drive, attention),     FIELD(struct ata_drive, media_event),
    FIELD(struct ata_drive, tray_open),     FIELD(struct ata_drive, tray_locked),
    SKIP(struct ata_drive, pad, "padding"), FIELDS_END,
};
static const struct state_desc drive_state =
    STATE_DESC("ata-drive", struct ata_drive, 1, drive_fields);

static const struct state_field port_fields[] = {
    SKIP(struct ahci_port, hba, "wiring"),
    SKIP(struct ahci_port, block, "wiring"),
    SKIP(struct ahci_port, slots, "none is in flight when state is saved"),
    SKIP(struct ahci_port, serial, "configuration"),
    FIELD(struct ahci_port, list),
    FIELD(struct ahci_port, fis),
    FIELD(struct ahci_port, is),
    FIELD(struct ahci_port, ie),
    FIELD(struct ahci_port, cmd),
    FIELD(struct ahci_port, tfd),
    FIELD(struct ahci_port, sig),
    FIELD(struct ahci_port, sctl),
    FIELD(struct ahci_port, serr),
    FIELD(struct ahci_port, sact),
    FIELD(struct ahci_port, ci),
    SKIP(struct ahci_port, taken, "none is in flight when state is saved"),
    SKIP(struct ahci_port, in_flight, "none is in flight when state is saved"),
    SKIP(struct ahci_port, cdrom, "configuration"),
    FIELD(struct ahci_port, halted),
    FIELD(struct ahci_port, soft_reset),
    FIELD(struct ahci_port, resetting),
    SKIP(struct ahci_port, running, "set during a callback only"),
    SKIP(struct ahci_port, pad, "padding"),
    SUB(struct ahci_port, drive, drive_state),
    FIELDS_END,
};
const struct state_desc ahci_port_state = STATE_DESC("ahci-port", struct ahci_port, 1, port_fields);

static unsigned slot_number(const struct ahci_slot *s)
{
    return (unsigned)(s - s->port->slots);
}

static struct device *device_of(const struct ahci_port *port)
{
    return &port->hba->pci.dev;
}

// --- Errors and FISes ---

// The adapter stops fetching until the guest clears ST (6.2.2).
static void stop_with(struct ahci_port *port, uint32_t is)
{
    port->is |= is;
    port->halted = 1;
}

static void receive_fis(struct ahci_port *port, unsigned area, const void *fis, size_t len)
{
    struct device *dev = device_of(port);

    if (port->cmd & CMD_FRE && dev->env->dma_write(dev, port->fis + area, fis, len) != OK)
        stop_with(port, PORT_IS_HBFS);
}

static void fill_registers(const struct ahci_port *port, const struct ata_task *task, uint8_t *fis)
{
    fis[2] = (uint8_t)port->tfd;
    fis[3] = (uint8_t)(port->tfd >> 8);
    for (unsigned i = 0; i < 3; i++) {
        fis[4 + i] = (uint8_t)(task->lba >> (8 * i));
        fis[8 + i] = (uint8_t)(task->lba >> (24 + 8 * i));
    }
    fis[7] = task->device;
    store_le16(fis + 12, task->count);
}

static void send_registers(struct ahci_port *port, const struct ata_task *task, bool interrupt)
{
    uint8_t fis[20] = {FIS_D2H, interrupt ? 0x40 : 0};

    fill_registers(port, task, fis);
    receive_fis(port, AREA_D2H, fis, sizeof fis);
    if (interrupt)
        port->is |= PORT_IS_DHRS;
}

// The last data block of a PIO read: no register FIS follows it.
static void send_pio_setup(struct ahci_port *port, const struct ahci_slot *s)
{
    uint8_t fis[20] = {FIS_PIO, 0x60};

    fill_registers(port, &s->task, fis);
    fis[2] |= ATA_DRQ;
    fis[15] = (uint8_t)port->tfd;
    store_le16(fis + 16, (uint16_t)min_u64(s->moved, ATA_SECTOR));
    receive_fis(port, AREA_PIO, fis, sizeof fis);
    port->is |= PORT_IS_PSS;
}

static void send_device_bits(struct ahci_port *port, uint32_t done)
{
    uint8_t fis[8] = {FIS_SDB, 0x40, (uint8_t)(port->tfd & 0x77), (uint8_t)(port->tfd >> 8)};

    store_le32(fis + 4, done);
    port->sact &= ~done;
    receive_fis(port, AREA_SDB, fis, sizeof fis);
    port->is |= PORT_IS_SDBS;
}

void port_signature(struct ahci_port *port)
{
    struct ata_task task = {.count = 1, .lba = 1};

    port->sig = port->cdrom ? SIGNATURE_CDROM : SIGNATURE_DISK;
    port->tfd = 0x100 | (port->cdrom ? 0 : ATA_READY);
    if (port->cdrom)
        task.lba = 0xeb1401;
    send_registers(port, &task, false);
}

// --- The end of a command ---

static void finish_queued(struct ahci_slot *s, uint8_t status, uint8_t error)
{
    struct ahci_port *port = s->port;
    struct ata_drive *drive = &port->drive;

    port->tfd = (port->tfd & (ATA_BSY | ATA_DRQ)) | (uint32_t)error << 8 | status;
    if (!(status & ATA_ERR)) {
        send_device_bits(port, 1u << slot_number(s));
        return;
    }
    drive->failed_valid = 1;
    drive->failed_tag = (uint8_t)slot_number(s);
    drive->failed_status = status;
    drive->failed_error = error;
    drive->failed_lba = s->task.lba;
    drive->failed_count = s->task.count;
    // The other queued commands are aborted with it; the guest gives them again.
    for (unsigned i = 0; i < AHCI_SLOTS; i++)
        port->slots[i].dropped |= port->slots[i].busy;
    send_device_bits(port, 0);
    stop_with(port, PORT_IS_TFES);
}

static void finish_plain(struct ahci_slot *s, uint8_t status, uint8_t error)
{
    struct ahci_port *port = s->port;
    struct device *dev = device_of(port);
    uint8_t moved[4];

    port->tfd = (uint32_t)error << 8 | status;
    store_le32(moved, (uint32_t)s->moved);
    if (dev->env->dma_write(dev, port->list + HEADER_BYTES * slot_number(s) + 4, moved, 4) != OK)
        stop_with(port, PORT_IS_HBFS);
    if (s->protocol == ATA_PIO_IN && !(status & ATA_ERR))
        send_pio_setup(port, s);
    else
        send_registers(port, &s->task, true);
    if (status & ATA_ERR)
        stop_with(port, PORT_IS_TFES);
    else
        port->ci &= ~(1u << slot_number(s));
}

static void release(struct ahci_slot *s)
{
    s->busy = false;
    s->port->taken &= ~(1u << slot_number(s));
}

void port_finish(struct ahci_slot *s, uint8_t status, uint8_t error)
{
    release(s);
    if (s->to_guest)
        scatter_filled(&s->data, device_of(s->port), s->moved);
    if (s->protocol == ATA_QUEUED)
        finish_queued(s, status, error);
    else
        finish_plain(s, status, error);
}

void port_abort(struct ahci_slot *s)
{
    port_finish(s, ATA_READY | ATA_ERR, ATA_ABRT);
}

// The command cannot end as one of the drive's: the adapter itself failed.
static void fail_slot(struct ahci_slot *s, uint32_t is)
{
    release(s);
    s->port->tfd &= ~(uint32_t)ATA_BSY;
    stop_with(s->port, is);
}

// --- Data ---

// Adds one physical region, as much of it as is wanted still.
static bool add_region(struct ahci_slot *s, const uint8_t *prd, uint64_t bytes)
{
    uint64_t len = (load_le32(prd + 12) & 0x3fffff) + 1ull;

    return scatter_add(&s->data, device_of(s->port), load_le64(prd) & ~1ull,
                       min_u64(len, bytes - s->data.bytes));
}

static bool read_regions(struct ahci_slot *s, uint64_t bytes)
{
    struct device *dev = device_of(s->port);
    uint32_t entries = s->prdtl < PRDS_MAX ? s->prdtl : PRDS_MAX;
    uint8_t prds[PRDS_AT_ONCE * PRD_BYTES];

    for (uint32_t i = 0; i < entries && s->data.bytes < bytes; i++) {
        unsigned at = i % PRDS_AT_ONCE;
        if (at == 0) {
            size_t len = PRD_BYTES * min_u64(PRDS_AT_ONCE, entries - i);
            gpa_t from = s->table + TABLE_PRDT + (uint64_t)PRD_BYTES * i;
            if (dev->env->dma_read(dev, from, prds, len) != OK)
                return false;
        }
        if (!add_region(s, prds + at * (size_t)PRD_BYTES, bytes))
            return false;
    }
    return true;
}

bool port_map(struct ahci_slot *s, uint64_t bytes, bool to_guest)
{
    scatter_clear(&s->data);
    s->to_guest = to_guest;
    if (!read_regions(s, bytes)) {
        fail_slot(s, PORT_IS_HBFS);
        return false;
    }
    if (s->data.bytes < bytes) {
        fail_slot(s, PORT_IS_OFS);
        return false;
    }
    return true;
}

// A drive that has less to say than the guest expects, or more, is no error: PRDBC tells.
bool port_reply(struct ahci_slot *s, const void *data, size_t len)
{
    scatter_clear(&s->data);
    s->to_guest = true;
    if (!read_regions(s, len)) {
        fail_slot(s, PORT_IS_HBFS);
        return false;
    }
    s->moved = scatter_write(&s->data, 0, data, min_u64(len, s->data.bytes));
    return true;
}

// --- The back end ---

static void port_run(struct ahci_port *port);

// What the guest gave up is over; a reset that waited for it takes place.
static void drop(struct ahci_slot *s)
{
    struct ahci_port *port = s->port;

    release(s);
    if (port->in_flight)
        return;
    if (port->resetting)
        port_reset_link(port);
    else if (port->tfd & ATA_BSY)
        port->tfd = ATA_READY;
}

// The drive has taken a queued command and is ready for more.
static void accept_queued(struct ahci_slot *s)
{
    struct ahci_port *port = s->port;

    port->ci &= ~(1u << slot_number(s));
    port->tfd = ATA_READY;
    send_registers(port, &s->task, false);
}

static void go_on(struct ahci_slot *s)
{
    if (s->port->cdrom)
        atapi_io_ended(s);
    else
        ata_io_ended(s);
}

static void io_ended(struct device *dev, void *argument)
{
    struct ahci_slot *s = argument;
    struct ahci_port *port = s->port;

    port->in_flight--;
    if (s->dropped)
        drop(s);
    else
        go_on(s);
    port_run(port);
    ahci_update(port->hba);
}

static void io_done(struct block_request *io, err_t result)
{
    struct ahci_slot *s = container_of(io, struct ahci_slot, io);
    struct ahci *hba = s->port->hba;

    s->result = result;
    storage_enter(hba->enter, &hba->pci.dev, io_ended, s);
}

void port_submit(struct ahci_slot *s, enum block_op op, uint64_t offset, uint64_t len)
{
    bool data = op == BLOCK_READ || op == BLOCK_WRITE;
    struct block *block = s->port->block;

    s->io = (struct block_request){.op = op,
                                   .offset = offset,
                                   .len = len,
                                   .iov = data ? s->data.iov : NULL,
                                   .iovs = data ? s->data.count : 0,
                                   .done = io_done};
    if (block_at_once(block, &s->io, &s->result)) {
        if (s->protocol == ATA_QUEUED)
            accept_queued(s);
        go_on(s);
        return;
    }
    s->port->in_flight++;
    block->type->submit(block, &s->io);
}

// --- Fetching commands ---

static void control_fis(struct ahci_slot *s, uint8_t control)
{
    struct ahci_port *port = s->port;
    bool reset = control & 4;

    release(s);
    port->ci &= ~(1u << slot_number(s));
    port->tfd &= ~(uint32_t)ATA_BSY;
    if (port->soft_reset && !reset) {
        if (port->cdrom)
            atapi_reset(port);
        else
            ata_reset(port);
        port_signature(port);
    }
    port->soft_reset = reset;
}

static void take_task(struct ahci_slot *s, const uint8_t *fis)
{
    s->task = (struct ata_task){.command = fis[2],
                                .device = fis[7],
                                .features = (uint16_t)(fis[3] | fis[11] << 8),
                                .count = load_le16(fis + 12)};
    for (unsigned i = 0; i < 3; i++) {
        s->task.lba |= (uint64_t)fis[4 + i] << (8 * i);
        s->task.lba |= (uint64_t)fis[8 + i] << (24 + 8 * i);
    }
}

// Reads a slot's header and table. False: not in RAM, or no command of a host.
static bool fetch(struct ahci_slot *s, uint8_t *fis)
{
    struct ahci_port *port = s->port;
    struct device *dev = device_of(port);
    uint8_t header[HEADER_BYTES];
    gpa_t at = port->list + HEADER_BYTES * slot_number(s);

    if (dev->env->dma_read(dev, at, header, sizeof header) != OK) {
        fail_slot(s, PORT_IS_HBFS);
        return false;
    }
    s->prdtl = load_le16(header + 2);
    s->table = load_le64(header + 8) & ~0x7full;
    if (dev->env->dma_read(dev, s->table, fis, TABLE_PACKET + sizeof s->packet) != OK) {
        fail_slot(s, PORT_IS_HBFS);
        return false;
    }
    memcpy(s->packet, fis + TABLE_PACKET, sizeof s->packet);
    if (fis[0] != FIS_H2D || (header[0] & 0x1f) < 5) {
        fail_slot(s, PORT_IS_IFS);
        return false;
    }
    return true;
}

static void start(struct ahci_port *port, unsigned number)
{
    struct ahci_slot *s = &port->slots[number];
    uint8_t fis[TABLE_PACKET + sizeof s->packet];

    port->taken |= 1u << number;
    port->tfd |= ATA_BSY;
    s->busy = true;
    s->dropped = s->sync = s->to_guest = false;
    s->moved = 0;
    s->protocol = ATA_NO_DATA;
    scatter_clear(&s->data);
    if (!fetch(s, fis))
        return;
    if (!(fis[1] & 0x80)) {
        control_fis(s, fis[15]);
        return;
    }
    take_task(s, fis);
    if (port->cdrom)
        atapi_execute(s);
    else
        ata_execute(s);
    if (s->busy && s->protocol == ATA_QUEUED)
        accept_queued(s);
}

static uint32_t startable(const struct ahci_port *port)
{
    if (!(port->cmd & CMD_ST) || port->halted || port->resetting || port->tfd & ATA_BSY ||
        !pci_is_master(&port->hba->pci))
        return 0;
    return port->ci & ~port->taken;
}

static void port_run(struct ahci_port *port)
{
    uint32_t slots;

    if (port->running)
        return;
    port->running = 1;
    while ((slots = startable(port)))
        start(port, (unsigned)__builtin_ctz(slots));
    port->running = 0;
}

// --- Resets ---

static void give_up_commands(struct ahci_port *port)
{
    port->ci = port->sact = 0;
    port->halted = 0;
    for (unsigned i = 0; i < AHCI_SLOTS; i++)
        port->slots[i].dropped |= port->slots[i].busy;
}

void port_reset_link(struct ahci_port *port)
{
    give_up_commands(port);
    port->resetting = port->in_flight != 0;
    port->tfd = ATA_BSY;
    if (port->resetting || (port->sctl & 0xf) == 1)
        return;
    port->serr |= SERR_X | SERR_N;
    port->soft_reset = 0;
    if (port->cdrom)
        atapi_reset(port);
    else
        ata_reset(port);
    port_signature(port);
}

void port_power_on(struct ahci_port *port)
{
    port->list = port->fis = 0;
    port->is = port->ie = port->cmd = port->sctl = port->serr = 0;
    port->drive = (struct ata_drive){.attention = port->cdrom ? CD_POWER_ON : CD_NOTHING};
    port_reset_link(port);
}

// --- Registers ---

static uint32_t is_now(const struct ahci_port *port)
{
    return port->is | (port->serr & SERR_X ? PORT_IS_PCS : 0) |
           (port->serr & SERR_N ? PORT_IS_PRCS : 0);
}

static uint32_t cmd_now(const struct ahci_port *port)
{
    uint32_t value = port->cmd | CMD_SUD | CMD_POD;

    if (port->cmd & CMD_FRE)
        value |= CMD_FR;
    if (port->cmd & CMD_ST || port->in_flight)
        value |= CMD_CR;
    if (port->taken)
        value |= (uint32_t)__builtin_ctz(port->taken) << 8;
    else if (port->halted && port->ci)
        value |= (uint32_t)__builtin_ctz(port->ci) << 8;
    return value;
}

static uint32_t ssts_now(const struct ahci_port *port)
{
    switch (port->sctl & 0xf) {
    case 0: return SSTS_UP;
    case 4: return SSTS_OFF;
    default: return 0;
    }
}

uint32_t port_read(struct ahci_port *port, unsigned offset)
{
    switch (offset) {
    case PORT_CLB: return (uint32_t)port->list;
    case PORT_CLBU: return (uint32_t)(port->list >> 32);
    case PORT_FB: return (uint32_t)port->fis;
    case PORT_FBU: return (uint32_t)(port->fis >> 32);
    case PORT_IS: return is_now(port);
    case PORT_IE: return port->ie;
    case PORT_CMD: return cmd_now(port);
    case PORT_TFD: return port->tfd;
    case PORT_SIG: return port->sig;
    case PORT_SSTS: return ssts_now(port);
    case PORT_SCTL: return port->sctl;
    case PORT_SERR: return port->serr;
    case PORT_SACT: return port->sact;
    case PORT_CI: return port->ci;
    default: return 0;
    }
}

static void write_cmd(struct ahci_port *port, uint32_t value)
{
    bool was_on = port->cmd & CMD_ST;

    port->cmd = value & CMD_KEPT;
    if (value & CMD_CLO)
        port->tfd &= ~(uint32_t)(ATA_BSY | ATA_DRQ);
    if (was_on && !(value & CMD_ST))
        give_up_commands(port);
}

static void write_sctl(struct ahci_port *port, uint32_t value)
{
    unsigned was = port->sctl & 0xf;

    port->sctl = value & SCTL_KEPT;
    if ((value & 0xf) == 1)
        port_reset_link(port);
    else if (was == 1 && !port->resetting)
        port_reset_link(port);
}

static void write_address(uint64_t *address, bool upper, uint32_t value, uint32_t align)
{
    *address =
        upper ? bits_set(*address, 63, 32, value) : bits_set(*address, 31, 0, value & ~(align - 1));
}

void port_write(struct ahci_port *port, unsigned offset, uint32_t value)
{
    bool on = port->cmd & CMD_ST;

    switch (offset) {
    case PORT_CLB:
    case PORT_CLBU: write_address(&port->list, offset == PORT_CLBU, value, 1024); break;
    case PORT_FB:
    case PORT_FBU: write_address(&port->fis, offset == PORT_FBU, value, 256); break;
    case PORT_IS: port->is &= ~value; break;
    case PORT_IE: port->ie = value & IE_KEPT; break;
    case PORT_CMD: write_cmd(port, value); break;
    case PORT_SCTL: write_sctl(port, value); break;
    case PORT_SERR: port->serr &= ~value; break;
    case PORT_SACT: port->sact |= on ? value : 0; break;
    case PORT_CI: port->ci |= on ? value : 0; break;
    default: break;
    }
    port_run(port);
}

err_t port_loaded(struct ahci_port *port, struct error *e)
{
    if (port->list & 1023 || port->fis & 255 || port->is & ~IS_SAVED || port->ie & ~IE_KEPT ||
        port->cmd & ~(uint32_t)CMD_KEPT || port->tfd >> 16 || port->sctl & ~(uint32_t)SCTL_KEPT ||
        port->halted > 1 || port->soft_reset > 1 || port->resetting)
        return error_set(e, ERR_CORRUPT, "an AHCI port has impossible values");
    return port->cdrom ? atapi_loaded(port, e) : ata_loaded(port, e);
}
