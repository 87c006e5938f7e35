// The firmware configuration device: named blobs that firmware and kernels read from the machine.
#pragma once

#include "device/device.h"

// Selectors of items that are not files.
#define FW_CFG_SIGNATURE 0x00
#define FW_CFG_ID 0x01
#define FW_CFG_UUID 0x02
#define FW_CFG_RAM_SIZE 0x03
#define FW_CFG_NB_CPUS 0x05
#define FW_CFG_KERNEL_SIZE 0x08
#define FW_CFG_INITRD_SIZE 0x0b
#define FW_CFG_BOOT_MENU 0x0e
#define FW_CFG_MAX_CPUS 0x0f
#define FW_CFG_KERNEL_DATA 0x11
#define FW_CFG_INITRD_DATA 0x12
#define FW_CFG_CMDLINE_SIZE 0x14
#define FW_CFG_CMDLINE_DATA 0x15
#define FW_CFG_SETUP_SIZE 0x17
#define FW_CFG_SETUP_DATA 0x18
#define FW_CFG_FILE_DIR 0x19
#define FW_CFG_FILE_FIRST 0x20

#define FW_CFG_FILES 48
#define FW_CFG_NAME_BYTES 56

struct fw_cfg_config {
    uint16_t cpus;
    uint64_t ram_bytes;
};

extern const struct device_type fw_cfg_type; // config: struct fw_cfg_config

// Adds what the guest may read; data is copied. Before the first vCPU runs. ERR_EXISTS,
// ERR_NO_MEMORY, ERR_INVALID: name too long or no selector left.
err_t fw_cfg_add_item(struct device *dev, uint16_t selector, const void *data, uint32_t len);
err_t fw_cfg_add_file(struct device *dev, const char *name, const void *data, uint32_t len);
// refresh(opaque, data, len) brings a file's content up to date whenever the guest selects it. It
// is called with the device's lock held.
err_t fw_cfg_keep_fresh(struct device *dev, const char *name,
                        void (*refresh)(void *opaque, uint8_t *data, uint32_t len), void *opaque);
