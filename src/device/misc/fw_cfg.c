// The firmware configuration device: a selector port, a data port and a DMA interface to a set of
// named, read-only blobs.
//
// Source: the interface's published specification (QEMU docs/specs/fw_cfg) and its users (SeaBIOS,
// OVMF, Linux drivers/firmware/qemu_fw_cfg.c). Not modelled: items that the guest may write.
#include "device/misc/fw_cfg.h"

#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/bytes.h"
#include "device/platform.h"

#define ITEMS (FW_CFG_FILES + 16)
#define DIR_HEADER 4
#define DIR_ENTRY (8 + FW_CFG_NAME_BYTES)
#define INTERFACES 3u // traditional and DMA

#define PORT_DMA (PC_PORT_FW_CFG + 4)
#define DMA_SIGNATURE 0x51454d5520434647ull
#define DMA_ERROR 1u
#define DMA_READ 2u
#define DMA_SKIP 4u
#define DMA_SELECT 8u
#define DMA_WRITE 16u
#define DMA_COMMAND_BYTES 16
// Reading beyond an item's end gives zeros; a guest that wants more than this of them has gone
// astray.
#define DMA_PADDING_MAX MIB

struct item {
    uint8_t *data; // owned
    uint32_t len;
    uint16_t selector;
    void (*refresh)(void *opaque, uint8_t *data, uint32_t len); // or NULL
    void *opaque;
};

struct fw_cfg {
    struct device dev;
    struct item item[ITEMS];
    uint32_t items;
    uint32_t files;
    uint8_t directory[DIR_HEADER + FW_CFG_FILES * DIR_ENTRY];
    uint8_t directory_pad[4];
    uint64_t dma_address;
    uint32_t offset; // in the selected item
    uint16_t selector;
    uint8_t pad[6];
};

static const struct state_field fw_cfg_fields[] = {
    SKIP(struct fw_cfg, dev, "wiring, rebuilt from configuration"),
    SKIP(struct fw_cfg, item, "contents, rebuilt from configuration"),
    SKIP(struct fw_cfg, items, "contents, rebuilt from configuration"),
    SKIP(struct fw_cfg, files, "contents, rebuilt from configuration"),
    SKIP(struct fw_cfg, directory, "contents, rebuilt from configuration"),
    SKIP(struct fw_cfg, directory_pad, "alignment"),
    FIELD(struct fw_cfg, dma_address),
    FIELD(struct fw_cfg, offset),
    FIELD(struct fw_cfg, selector),
    SKIP(struct fw_cfg, pad, "alignment"),
    FIELDS_END,
};
static const struct state_desc fw_cfg_state = STATE_DESC("fw-cfg", struct fw_cfg, 1, fw_cfg_fields);

static struct fw_cfg *fw_cfg_of(struct device *dev)
{
    return (struct fw_cfg *)dev;
}

// --- contents ---

// The selected blob; an empty one for selectors that nobody filled.
static struct item find(struct fw_cfg *f, uint16_t selector)
{
    if (selector == FW_CFG_FILE_DIR)
        return (struct item){f->directory, (uint32_t)(DIR_HEADER + f->files * DIR_ENTRY), selector,
                             NULL, NULL};
    for (unsigned i = 0; i < f->items; i++)
        if (f->item[i].selector == selector)
            return f->item[i];
    return (struct item){.selector = selector};
}

err_t fw_cfg_add_item(struct device *dev, uint16_t selector, const void *data, uint32_t len)
{
    struct fw_cfg *f = fw_cfg_of(dev);
    if (f->items == ITEMS)
        return ERR_INVALID;
    if (selector == FW_CFG_FILE_DIR || find(f, selector).data)
        return ERR_EXISTS;
    uint8_t *copy = malloc(len ? len : 1);
    if (!copy)
        return ERR_NO_MEMORY;
    memcpy(copy, data, len);
    f->item[f->items++] = (struct item){copy, len, selector, NULL, NULL};
    return OK;
}

err_t fw_cfg_add_file(struct device *dev, const char *name, const void *data, uint32_t len)
{
    struct fw_cfg *f = fw_cfg_of(dev);
    if (f->files == FW_CFG_FILES || strlen(name) >= FW_CFG_NAME_BYTES)
        return ERR_INVALID;
    for (unsigned i = 0; i < f->files; i++)
        if (strcmp((char *)f->directory + DIR_HEADER + i * DIR_ENTRY + 8, name) == 0)
            return ERR_EXISTS;
    uint16_t selector = (uint16_t)(FW_CFG_FILE_FIRST + f->files);
    err_t err = fw_cfg_add_item(dev, selector, data, len);
    if (err)
        return err;
    uint8_t *entry = f->directory + DIR_HEADER + f->files * DIR_ENTRY;
    store_be32(entry, len);
    store_be16(entry + 4, selector);
    memcpy(entry + 8, name, strlen(name));
    store_be32(f->directory, ++f->files);
    return OK;
}

err_t fw_cfg_keep_fresh(struct device *dev, const char *name,
                        void (*refresh)(void *opaque, uint8_t *data, uint32_t len), void *opaque)
{
    struct fw_cfg *f = fw_cfg_of(dev);
    unsigned file = 0;
    while (file < f->files &&
           strcmp((char *)f->directory + DIR_HEADER + file * DIR_ENTRY + 8, name) != 0)
        file++;
    for (unsigned i = 0; file < f->files && i < f->items; i++) {
        if (f->item[i].selector != FW_CFG_FILE_FIRST + file)
            continue;
        f->item[i].refresh = refresh;
        f->item[i].opaque = opaque;
        return OK;
    }
    return ERR_NOT_FOUND;
}

// --- reading ---

static void select_item(struct fw_cfg *f, uint16_t selector)
{
    struct item item = find(f, selector);
    if (item.refresh)
        item.refresh(item.opaque, item.data, item.len);
    f->selector = selector;
    f->offset = 0;
}

static uint8_t next_byte(struct fw_cfg *f)
{
    struct item item = find(f, f->selector);
    return f->offset < item.len ? item.data[f->offset++] : 0;
}

static bool zero_fill(struct fw_cfg *f, gpa_t at, uint32_t len)
{
    static const uint8_t zeros[512];
    while (len) {
        uint32_t part = (uint32_t)min_u64(len, sizeof zeros);
        if (f->dev.env->dma_write(&f->dev, at, zeros, part) != OK)
            return false;
        at += part;
        len -= part;
    }
    return true;
}

static bool transfer(struct fw_cfg *f, uint32_t control, gpa_t at, uint32_t len)
{
    struct item item = find(f, f->selector);
    uint32_t left = item.len > f->offset ? item.len - f->offset : 0;
    uint32_t part = (uint32_t)min_u64(len, left);
    if ((control & DMA_READ) && part &&
        f->dev.env->dma_write(&f->dev, at, item.data + f->offset, part) != OK)
        return false;
    f->offset += part;
    if (!(control & DMA_READ))
        return true;
    return len - part <= DMA_PADDING_MAX && zero_fill(f, at + part, len - part);
}

// Runs the command whose address the guest has written: control, length and address, big-endian.
static void run_dma(struct fw_cfg *f)
{
    uint8_t command[DMA_COMMAND_BYTES], result[4];
    gpa_t at = f->dma_address;
    f->dma_address = 0;
    if (f->dev.env->dma_read(&f->dev, at, command, sizeof command) != OK)
        return;
    uint32_t control = load_be32(command);
    if (control & DMA_SELECT)
        select_item(f, (uint16_t)(control >> 16));
    bool good = true;
    if (control & (DMA_READ | DMA_SKIP))
        good = transfer(f, control, load_be64(command + 8), load_be32(command + 4));
    else if (control & DMA_WRITE)
        good = false; // nothing here can be written
    store_be32(result, good ? 0 : DMA_ERROR);
    (void)f->dev.env->dma_write(&f->dev, at, result, sizeof result);
}

// --- ports ---

static uint64_t port_read(struct device *dev, uint64_t offset, unsigned size)
{
    return offset == 1 && size == 1 ? next_byte(fw_cfg_of(dev)) : 0;
}

static void port_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    if (offset == 0 && size == 2)
        select_item(fw_cfg_of(dev), (uint16_t)value);
}

static uint64_t dma_read(struct device *dev, uint64_t offset, unsigned size)
{
    uint8_t signature[8];
    store_be64(signature, DMA_SIGNATURE);
    return load_le(signature + offset, size);
}

// The address is big-endian: high half at offset 0, low half, which starts the command, at 4.
static void dma_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct fw_cfg *f = fw_cfg_of(dev);
    uint64_t half = __builtin_bswap32((uint32_t)value);
    if (size != 4)
        return;
    f->dma_address = bits_set(f->dma_address, offset ? 31 : 63, offset ? 0 : 32, half);
    if (offset)
        run_dma(f);
}

static const struct io_ops port_ops = {port_read, port_write, 1, 2};
static const struct io_ops dma_ops = {dma_read, dma_write, 1, 4};

// --- the device ---

static err_t add_standard_items(struct device *dev, const struct fw_cfg_config *config)
{
    uint8_t id[4], cpus[2], ram[8], menu[2] = {0};
    store_le32(id, INTERFACES);
    store_le16(cpus, config->cpus);
    store_le64(ram, config->ram_bytes);
    const struct item items[] = {
        {.data = (uint8_t *)"QEMU", 4, FW_CFG_SIGNATURE}, // what drivers look for
        {.data = id, sizeof id, FW_CFG_ID},
        {.data = ram, sizeof ram, FW_CFG_RAM_SIZE},
        {.data = cpus, sizeof cpus, FW_CFG_NB_CPUS},
        {.data = cpus, sizeof cpus, FW_CFG_MAX_CPUS},
        {.data = menu, sizeof menu, FW_CFG_BOOT_MENU},
    };
    for (unsigned i = 0; i < ARRAY_LEN(items); i++) {
        err_t err = fw_cfg_add_item(dev, items[i].selector, items[i].data, items[i].len);
        if (err)
            return err;
    }
    return OK;
}

static err_t init(struct device *dev, const void *config, struct error *e)
{
    err_t err = add_standard_items(dev, config);
    if (err)
        return error_set(e, err, "no memory for the firmware's configuration");
    err = dev->env->map_pio(dev, PC_PORT_FW_CFG, 2, &port_ops);
    if (!err)
        err = dev->env->map_pio(dev, PORT_DMA, 8, &dma_ops);
    return err ? error_set(e, err, "firmware configuration ports are taken") : OK;
}

static void reset(struct device *dev)
{
    struct fw_cfg *f = fw_cfg_of(dev);
    select_item(f, FW_CFG_SIGNATURE);
    f->dma_address = 0;
}

static err_t loaded(struct device *dev, struct error *e)
{
    struct fw_cfg *f = fw_cfg_of(dev);
    if (f->offset > find(f, f->selector).len)
        return error_set(e, ERR_CORRUPT, "fw-cfg: offset beyond the selected item");
    return OK;
}

static void fini(struct device *dev)
{
    struct fw_cfg *f = fw_cfg_of(dev);
    for (unsigned i = 0; i < f->items; i++)
        free(f->item[i].data);
    f->items = 0;
}

const struct device_type fw_cfg_type = {
    .name = "fw-cfg",
    .size = sizeof(struct fw_cfg),
    .state = &fw_cfg_state,
    .init = init,
    .reset = reset,
    .loaded = loaded,
    .fini = fini,
};
