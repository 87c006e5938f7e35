// The list of all device models. A new model gets a line here.
#include "device/catalog.h"

#include <string.h>

#include "device/display/vga.h"
#include "device/irq/ioapic.h"
#include "device/irq/lapic.h"
#include "device/irq/pic.h"
#include "device/misc/debug_exit.h"
#include "device/misc/debugcon.h"
#include "device/misc/flash.h"
#include "device/misc/fw_cfg.h"
#include "device/misc/i8042.h"
#include "device/misc/panic.h"
#include "device/misc/reset.h"
#include "device/net/e1000.h"
#include "device/pci/hotplug.h"
#include "device/pci/q35.h"
#include "device/serial/uart.h"
#include "device/storage/ahci.h"
#include "device/storage/nvme.h"
#include "device/storage/virtio_blk.h"
#include "device/timer/hpet.h"
#include "device/timer/pit.h"
#include "device/timer/pm.h"
#include "device/timer/rtc.h"
#include "device/virtio/balloon.h"
#include "device/virtio/console.h"
#include "device/virtio/net.h"
#include "device/virtio/rng.h"
#include "device/virtio/vsock.h"

const struct device_type *const device_catalog[] = {
    &pic_type,
    &ioapic_type,
    &lapic_type,
    &pit_type,
    &rtc_type,
    &hpet_type,
    &pm_type,
    &pci_hotplug_type,
    &uart_type,
    &i8042_type,
    &fw_cfg_type,
    &panic_type,
    &debug_exit_type,
    &debugcon_type,
    &flash_type,
    &fast_a20_type,
    &reset_control_type,
    &q35_host_type,
    &ich9_lpc_type,
    &vga_type,
    &e1000_type,
    &ahci_type,
    &nvme_type,
    &virtio_blk_type,
    &virtio_balloon_type,
    &virtio_console_type,
    &virtio_net_type,
    &virtio_rng_type,
    &virtio_vsock_type,
    NULL,
};

const struct device_type *device_find(const char *name)
{
    for (unsigned i = 0; device_catalog[i]; i++)
        if (strcmp(device_catalog[i]->name, name) == 0)
            return device_catalog[i];
    return NULL;
}
