// What an NVMe controller says of itself and of its namespace.
//
// Specification: NVMe 1.4, 5.15.2 (identify), 5.14.1.2 (health).
#include "device/storage/nvme_impl.h"

#include <stdio.h>
#include <string.h>

static void text(uint8_t *at, const char *words, size_t len)
{
    size_t used = strnlen(words, len);

    memset(at, ' ', len);
    memcpy(at, words, used);
}

void nvme_identify_controller(const struct nvme *n, uint8_t page[NVME_PAGE])
{
    const struct block_limits *limits = &n->config.block->limits;
    char name[80];

    store_le16(page, 0x1234);     // PCI vendor
    store_le16(page + 2, 0x1af4); // and of the subsystem
    text(page + 4, n->config.serial, 20);
    text(page + 24, "Berth NVMe disk", 40);
    text(page + 64, "1.0", 8);
    page[77] = 7;                    // 128 pages of data at most
    store_le32(page + 80, 0x010400); // version
    page[111] = 1;                   // an I/O controller
    page[258] = 3;                   // four aborts at once
    page[259] = NVME_EVENTS - 1;
    page[260] = 3; // one firmware slot, read-only
    store_le16(page + 266, 343);
    store_le16(page + 268, 373);
    page[512] = 0x66; // entries of 64 bytes
    page[513] = 0x44; // and of 16
    store_le32(page + 516, 1);
    store_le16(page + 520, (uint16_t)((limits->discard ? 4 : 0) | (limits->write_zeroes ? 8 : 0)));
    page[525] = limits->read_only ? 0 : 7; // a write cache; flushing all namespaces is known
    snprintf(name, sizeof name, "nqn.2014.08.org.nvmexpress:12341af4%-20.20s%-20.20s",
             n->config.serial, n->pci.dev.id);
    memcpy(page + 768, name, strlen(name));
    store_le16(page + 2048, 2500); // power state 0: 25 W
}

static unsigned log2_of(uint32_t value)
{
    return 31 - (unsigned)__builtin_clz(value);
}

void nvme_identify_namespace(const struct nvme *n, uint8_t page[NVME_PAGE])
{
    const struct block_limits *limits = &n->config.block->limits;
    uint64_t blocks = limits->size_bytes / limits->logical_block;
    uint16_t physical = (uint16_t)(limits->physical_block / limits->logical_block);

    store_le64(page, blocks);
    store_le64(page + 8, blocks);
    store_le64(page + 16, blocks);
    page[24] = (uint8_t)((limits->discard ? 1 : 0) | 0x10);         // thin; preferences below hold
    store_le16(page + 64, (uint16_t)(physical ? physical - 1 : 0)); // preferred write granularity
    store_le16(page + 66, (uint16_t)(physical ? physical - 1 : 0)); // and alignment
    page[99] = limits->read_only;                                   // write protected
    page[128 + 2] = (uint8_t)log2_of(limits->logical_block);
}

// A UUID that stays with the disk's serial number and place.
void nvme_identify_descriptors(const struct nvme *n, uint8_t page[NVME_PAGE])
{
    const char *parts[] = {n->config.serial, "/", n->pci.dev.id};
    uint64_t hash[2] = {0xcbf29ce484222325, 0x84222325cbf29ce4}; // FNV-1a, from two bases

    for (unsigned i = 0; i < ARRAY_LEN(parts); i++) {
        for (const char *c = parts[i]; *c; c++) {
            hash[0] = (hash[0] ^ (uint8_t)*c) * 0x100000001b3;
            hash[1] = (hash[1] ^ (uint8_t)*c) * 0x100000001b3;
        }
    }
    page[0] = 3; // UUID
    page[1] = 16;
    memcpy(page + 4, hash, 16);
    page[4 + 6] = (uint8_t)((page[4 + 6] & 0x0f) | 0x80); // version 8: made otherwise
    page[4 + 8] = (uint8_t)((page[4 + 8] & 0x3f) | 0x80);
}

void nvme_health_log(const struct nvme *n, uint8_t page[512])
{
    store_le16(page + 1, 303); // kelvins
    page[3] = 100;             // spare
    page[4] = 10;
    store_le64(page + 32, (n->units_read + 999) / 1000);
    store_le64(page + 48, (n->units_written + 999) / 1000);
    store_le64(page + 64, n->reads);
    store_le64(page + 80, n->writes);
    store_le64(page + 112, 1); // power cycles
}
