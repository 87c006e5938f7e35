// The virtio socket device as the VM's owner reaches it.
#include "device/virtio/vsock.h"
#include "machine/vm_impl.h"

int vm_vsock_connect(struct vm *vm, enum vsock_type type, uint32_t guest_port)
{
    struct device *dev = board_vsock(vm);
    if (!dev)
        return -1;
    device_lock(dev);
    int connection = virtio_vsock_connect(dev, type, guest_port);
    device_unlock(dev);
    return connection;
}

size_t vm_vsock_send(struct vm *vm, unsigned connection, const uint8_t *data, size_t len)
{
    struct device *dev = board_vsock(vm);
    device_lock(dev);
    size_t taken = virtio_vsock_send(dev, connection, data, len);
    device_unlock(dev);
    return taken;
}

void vm_vsock_consumed(struct vm *vm, unsigned connection, size_t len)
{
    struct device *dev = board_vsock(vm);
    device_lock(dev);
    virtio_vsock_consumed(dev, connection, len);
    device_unlock(dev);
}

void vm_vsock_shutdown(struct vm *vm, unsigned connection, bool both)
{
    struct device *dev = board_vsock(vm);
    device_lock(dev);
    virtio_vsock_shutdown(dev, connection, both);
    device_unlock(dev);
}

void vm_vsock_release(struct vm *vm, unsigned connection)
{
    struct device *dev = board_vsock(vm);
    device_lock(dev);
    virtio_vsock_release(dev, connection);
    device_unlock(dev);
}
