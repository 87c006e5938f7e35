// The virtio transport over PCI: capabilities, common configuration, notification, interrupts.
//
// BAR 0 (64-bit, 16 KiB): common configuration at 0, ISR at 0x1000, device configuration at 0x2000,
// notification at 0x3000 with 4 bytes a queue. BAR 2: MSI-X, one vector a queue and one for changes
// of the configuration.
//
// Specification: VIRTIO 1.2, 4.1 (PCI), 2.1 (status), 2.2 (features). See virtio_pci.h for what is
// not offered.
#include "device/virtio/virtio_pci.h"

#include "base/bits.h"
#include "base/bytes.h"

enum {
    BAR_MAIN = 0,
    BAR_MSIX = 2,
    BAR_BYTES = 0x4000,
    AREA_COMMON = 0x0000,
    AREA_ISR = 0x1000,
    AREA_CONFIG = 0x2000,
    AREA_NOTIFY = 0x3000,
    AREA_BYTES = 0x1000,
    NOTIFY_STRIDE = 4,

    CAP_LEN = 16,
    CAP_TYPE = 3,
    CAP_BAR = 4,
    CAP_OFFSET = 8,
    CAP_LENGTH = 12,
    CAP_EXTRA = 16, // notification: the stride; window: the data
    CAP_TYPE_COMMON = 1,
    CAP_TYPE_NOTIFY = 2,
    CAP_TYPE_ISR = 3,
    CAP_TYPE_DEVICE = 4,
    CAP_TYPE_WINDOW = 5,

    STATUS_DRIVER_OK = 4,
    STATUS_FEATURES_OK = 8,
    STATUS_NEEDS_RESET = 64,
    STATUS_BY_DRIVER = 0x8f, // ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, FAILED

    ISR_QUEUE = 1,
    ISR_CONFIG = 2,
    NO_VECTOR = 0xffff,

    REQUESTS_A_CALLBACK = 4 * VIRTQ_SIZE_MAX,
};

// Common configuration (4.1.4.3).
enum {
    COMMON_FEATURE_SELECT = 0x00,
    COMMON_FEATURE = 0x04,
    COMMON_DRIVER_FEATURE_SELECT = 0x08,
    COMMON_DRIVER_FEATURE = 0x0c,
    COMMON_CONFIG_VECTOR = 0x10,
    COMMON_QUEUES = 0x12,
    COMMON_STATUS = 0x14,
    COMMON_GENERATION = 0x15,
    COMMON_QUEUE_SELECT = 0x16,
    COMMON_QUEUE_SIZE = 0x18,
    COMMON_QUEUE_VECTOR = 0x1a,
    COMMON_QUEUE_ENABLE = 0x1c,
    COMMON_QUEUE_NOTIFY_OFF = 0x1e,
    COMMON_QUEUE_DESC = 0x20,
    COMMON_QUEUE_DRIVER = 0x28,
    COMMON_QUEUE_DEVICE = 0x30,
    COMMON_BYTES = 0x38,
};

static const struct state_field virtio_fields[] = {
    SUB(struct virtio_pci, pci, pci_function_state),
    SKIP(struct virtio_pci, model, "set by the model"),
    SKIP(struct virtio_pci, features, "follows the configuration"),
    FIELD(struct virtio_pci, driver_features),
    SUB_ARRAY(struct virtio_pci, queues, virtq_state),
    SKIP(struct virtio_pci, log, "a budget of messages, not hardware"),
    SKIP(struct virtio_pci, budget, "of one callback"),
    FIELD(struct virtio_pci, later),
    FIELD(struct virtio_pci, feature_select),
    FIELD(struct virtio_pci, driver_feature_select),
    ARRAY(struct virtio_pci, queue_vectors),
    FIELD(struct virtio_pci, config_vector),
    FIELD(struct virtio_pci, queue_select),
    SKIP(struct virtio_pci, queue_count, "follows the configuration"),
    FIELD(struct virtio_pci, status),
    FIELD(struct virtio_pci, generation),
    FIELD(struct virtio_pci, isr),
    SKIP(struct virtio_pci, resetting, "0 once the back ends are drained"),
    SKIP(struct virtio_pci, config, "kept by the model"),
    SKIP(struct virtio_pci, window_cap, "set at creation"),
    SKIP(struct virtio_pci, signals, "set at creation"),
    SKIP(struct virtio_pci, pad, "padding"),
    FIELDS_END,
};
const struct state_desc virtio_pci_state =
    STATE_DESC("virtio-pci", struct virtio_pci, 1, virtio_fields);

bool virtio_has(const struct virtio_pci *v, unsigned feature_bit)
{
    return v->driver_features >> feature_bit & 1;
}

bool virtio_running(const struct virtio_pci *v)
{
    return (v->status & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET)) == STATUS_DRIVER_OK &&
           !v->resetting && pci_is_master(&v->pci);
}

// --- Interrupts ---

static void interrupt(struct virtio_pci *v, uint16_t vector, uint8_t isr)
{
    if (pci_msix_enabled(&v->pci)) {
        if (vector != NO_VECTOR)
            pci_send_msix(&v->pci, vector);
        return;
    }
    v->isr |= isr;
    pci_set_intx(&v->pci, true);
}

void virtio_signal(struct virtio_pci *v, unsigned queue)
{
    if (virtq_wants_interrupt(&v->queues[queue]))
        interrupt(v, v->queue_vectors[queue], ISR_QUEUE);
}

void virtio_config_changed(struct virtio_pci *v)
{
    v->generation++;
    if (v->status & STATUS_DRIVER_OK)
        interrupt(v, v->config_vector, ISR_CONFIG);
}

void virtio_broken(struct virtio_pci *v, const char *why)
{
    struct device *dev = &v->pci.dev;

    if (v->status & STATUS_NEEDS_RESET)
        return;
    v->status |= STATUS_NEEDS_RESET;
    if (log_allowed(&v->log, dev->env->now(dev)))
        log_line(LOG_WARN, "%s: stopped, its guest driver broke the rules: %s", dev->id, why);
    if (v->status & STATUS_DRIVER_OK)
        interrupt(v, v->config_vector, ISR_CONFIG);
}

// --- Queues ---

bool virtio_pop(struct virtio_pci *v, unsigned queue, struct virtq_chain *chain)
{
    struct device *dev = &v->pci.dev;
    const char *why;

    if (!virtio_running(v))
        return false;
    if (v->budget == 0) {
        v->later |= 1u << queue;
        dev->env->set_timer(dev, VIRTIO_TIMER, dev->env->now(dev));
        return false;
    }
    v->budget--;
    switch (virtq_pop(&v->queues[queue], chain, &why)) {
    case VIRTQ_GOT: return true;
    case VIRTQ_EMPTY: return false;
    case VIRTQ_BROKEN: break;
    }
    virtio_broken(v, why);
    return false;
}

void virtio_push(struct virtio_pci *v, unsigned queue, const struct virtq_chain *chain,
                 uint32_t written)
{
    if (!virtq_push(&v->queues[queue], chain, written))
        virtio_broken(v, "the used ring is not in RAM");
}

bool virtio_wait(struct virtio_pci *v, unsigned queue, ns_t most)
{
    struct device *dev = &v->pci.dev;

    if (virtio_waits(v, queue))
        return true;
    if (!dev->env->set_timer_or_rest ||
        !dev->env->set_timer_or_rest(dev, VIRTIO_TIMER, dev->env->now(dev) + most))
        return false;
    v->later |= 1u << queue;
    return true;
}

void virtio_begin(struct virtio_pci *v)
{
    v->budget = REQUESTS_A_CALLBACK;
}

static void notify(struct virtio_pci *v, unsigned queue)
{
    virtio_begin(v);
    if (virtio_running(v) && queue < v->queue_count && v->queues[queue].enabled)
        v->model->notify(v, queue);
}

void virtio_pci_timer(struct virtio_pci *v)
{
    uint32_t later = v->later;

    v->later = 0;
    for (unsigned i = 0; i < v->queue_count; i++) {
        if (later >> i & 1)
            notify(v, i);
    }
}

// Notifications are doorbells: where the machine can, they do not stop the vCPU. Placing one may
// cost a wait for the host's kernel, so it is done once there is a driver that rings.
static void place_doorbells(struct virtio_pci *v)
{
    struct device *dev = &v->pci.dev;
    uint64_t at = v->status & STATUS_DRIVER_OK ? v->pci.bars[BAR_MAIN].mapped : 0;

    for (unsigned i = 0; i < v->queue_count; i++)
        dev->env->set_doorbell(
            dev, i, at && v->queues[i].enabled ? at + AREA_NOTIFY + NOTIFY_STRIDE * i : 0);
}

// --- Interrupts by another process ---

static void signalled(struct device *dev, unsigned queue)
{
    struct virtio_pci *v = virtio_of(dev);

    if (v->status & STATUS_DRIVER_OK)
        interrupt(v, v->queue_vectors[queue], ISR_QUEUE);
}

// As with doorbells: a change may cost a wait, so nothing is said until there is a driver.
static void place_signals(struct virtio_pci *v)
{
    struct device *dev = &v->pci.dev;

    for (unsigned i = 0; v->signals && i < v->queue_count; i++) {
        uint64_t address = 0;
        uint32_t data = 0;
        if (v->status & STATUS_DRIVER_OK)
            (void)pci_msix_message(&v->pci, v->queue_vectors[i], &address, &data);
        dev->env->set_signal(dev, i, address, data);
    }
}

static void messages_changed(struct pci_function *f)
{
    place_signals(virtio_of(&f->dev));
}

void virtio_add_signals(struct virtio_pci *v)
{
    v->signals = true;
    v->pci.dev.env->add_signals(&v->pci.dev, v->queue_count, signalled);
}

int virtio_signal_fd(struct virtio_pci *v, unsigned queue)
{
    return v->pci.dev.env->signal_fd(&v->pci.dev, queue);
}

// --- Device status ---

static void reset_transport(struct virtio_pci *v)
{
    v->driver_features = 0;
    v->feature_select = v->driver_feature_select = 0;
    v->config_vector = NO_VECTOR;
    v->queue_select = 0;
    v->later = 0;
    v->status = v->isr = v->resetting = 0;
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
        virtq_reset(&v->queues[i]);
        v->queue_vectors[i] = NO_VECTOR;
    }
    pci_set_intx(&v->pci, false);
    place_doorbells(v);
    place_signals(v);
    if (v->model->reset)
        v->model->reset(v);
}

// The guest waits until it reads a status of 0 (4.1.4.3.2), so its reset can wait for what is in
// flight in its memory.
static void guest_reset(struct virtio_pci *v)
{
    if (v->model->busy && v->model->busy(v))
        v->resetting = 1;
    else
        reset_transport(v);
}

void virtio_idle(struct virtio_pci *v)
{
    if (v->resetting)
        reset_transport(v);
}

static bool features_acceptable(const struct virtio_pci *v)
{
    return !(v->driver_features & ~v->features) && virtio_has(v, VIRTIO_F_VERSION_1);
}

// Bits are only ever added (2.1.1); FEATURES_OK sticks only when the features suit us, and
// DRIVER_OK only after it.
static void write_status(struct virtio_pci *v, uint8_t value)
{
    uint8_t before = v->status;

    if (v->resetting)
        return;
    if (value == 0) {
        guest_reset(v);
        return;
    }
    value &= STATUS_BY_DRIVER;
    if (!(before & STATUS_FEATURES_OK) && !features_acceptable(v))
        value &= (uint8_t)~STATUS_FEATURES_OK;
    if (!((before | value) & STATUS_FEATURES_OK))
        value &= (uint8_t)~STATUS_DRIVER_OK;
    v->status |= value;
    if (!(before & STATUS_DRIVER_OK) && (v->status & STATUS_DRIVER_OK)) {
        place_doorbells(v);
        place_signals(v);
        if (v->model->started)
            v->model->started(v);
        for (unsigned i = 0; i < v->queue_count; i++)
            notify(v, i);
    }
}

// --- Common configuration ---

static uint32_t half(uint64_t value, uint64_t select)
{
    return select < 2 ? (uint32_t)(value >> (32 * select)) : 0;
}

static uint64_t queue_register(const struct virtio_pci *v, unsigned offset)
{
    bool upper = offset & 4;
    const struct virtq *q;

    if (v->queue_select >= v->queue_count)
        return 0;
    q = &v->queues[v->queue_select];
    switch (offset & ~7u) {
    case COMMON_QUEUE_DESC: return half(q->desc, upper);
    case COMMON_QUEUE_DRIVER: return half(q->driver, upper);
    case COMMON_QUEUE_DEVICE: return half(q->device, upper);
    default: break;
    }
    switch (offset) {
    case COMMON_QUEUE_SIZE: return q->size;
    case COMMON_QUEUE_VECTOR: return v->queue_vectors[v->queue_select];
    case COMMON_QUEUE_ENABLE: return q->enabled;
    case COMMON_QUEUE_NOTIFY_OFF: return v->queue_select;
    default: return 0;
    }
}

static uint64_t common_read(const struct virtio_pci *v, unsigned offset)
{
    switch (offset) {
    case COMMON_FEATURE_SELECT: return v->feature_select;
    case COMMON_FEATURE: return half(v->features, v->feature_select);
    case COMMON_DRIVER_FEATURE_SELECT: return v->driver_feature_select;
    case COMMON_DRIVER_FEATURE: return half(v->driver_features, v->driver_feature_select);
    case COMMON_CONFIG_VECTOR: return v->config_vector;
    case COMMON_QUEUES: return v->queue_count;
    case COMMON_STATUS: return v->status;
    case COMMON_GENERATION: return v->generation;
    case COMMON_QUEUE_SELECT: return v->queue_select;
    default: return queue_register(v, offset);
    }
}

static void set_half(uint64_t *value, bool upper, uint64_t part)
{
    *value = upper ? bits_set(*value, 63, 32, part) : bits_set(*value, 31, 0, part);
}

// A vector that does not exist reads back as NO_VECTOR, which tells the driver (4.1.5.1.2.1).
static uint16_t usable_vector(const struct virtio_pci *v, uint64_t vector)
{
    return vector < v->pci.msix_vectors ? (uint16_t)vector : NO_VECTOR;
}

static void write_queue_setup(struct virtio_pci *v, unsigned offset, uint64_t value)
{
    struct virtq *q = &v->queues[v->queue_select];
    bool upper = offset & 4;

    switch (offset & ~7u) {
    case COMMON_QUEUE_DESC: set_half(&q->desc, upper, value); return;
    case COMMON_QUEUE_DRIVER: set_half(&q->driver, upper, value); return;
    case COMMON_QUEUE_DEVICE: set_half(&q->device, upper, value); return;
    default: break;
    }
    switch (offset) {
    case COMMON_QUEUE_SIZE: q->size = value <= q->size_max ? (uint16_t)value : q->size_max; break;
    case COMMON_QUEUE_ENABLE:
        if (value == 1 && (v->status & STATUS_FEATURES_OK) && !virtq_enable(q, v->driver_features))
            virtio_broken(v, "a queue was enabled with an impossible size or address");
        break;
    default: break;
    }
}

static void write_queue_register(struct virtio_pci *v, unsigned offset, uint64_t value)
{
    if (v->queue_select >= v->queue_count)
        return;
    if (offset == COMMON_QUEUE_VECTOR) {
        v->queue_vectors[v->queue_select] = usable_vector(v, value);
        place_signals(v);
    } else if (!v->queues[v->queue_select].enabled) {
        write_queue_setup(v, offset, value);
    }
}

static void write_driver_features(struct virtio_pci *v, uint64_t value)
{
    if (v->driver_feature_select < 2 && !(v->status & STATUS_FEATURES_OK))
        set_half(&v->driver_features, v->driver_feature_select, value);
}

static void common_write(struct virtio_pci *v, unsigned offset, uint64_t value)
{
    switch (offset) {
    case COMMON_FEATURE_SELECT: v->feature_select = (uint32_t)value; break;
    case COMMON_DRIVER_FEATURE_SELECT: v->driver_feature_select = (uint32_t)value; break;
    case COMMON_DRIVER_FEATURE: write_driver_features(v, value); break;
    case COMMON_CONFIG_VECTOR: v->config_vector = usable_vector(v, value); break;
    case COMMON_STATUS: write_status(v, (uint8_t)value); break;
    case COMMON_QUEUE_SELECT: v->queue_select = (uint16_t)value; break;
    default: write_queue_register(v, offset, value); break;
    }
}

// --- The BAR ---

static uint64_t read_isr(struct virtio_pci *v)
{
    uint8_t isr = v->isr;

    v->isr = 0;
    pci_set_intx(&v->pci, false);
    return isr;
}

static uint64_t bar_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct virtio_pci *v = virtio_of(dev);
    unsigned at = offset % AREA_BYTES;

    switch (offset - at) {
    case AREA_COMMON: return common_read(v, at) & size_mask(size);
    case AREA_ISR: return at == 0 ? read_isr(v) : 0;
    case AREA_CONFIG: return at + size <= v->model->config_len ? load_le(v->config + at, size) : 0;
    default: return 0;
    }
}

static void bar_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct virtio_pci *v = virtio_of(dev);
    unsigned at = offset % AREA_BYTES;

    value &= size_mask(size);
    switch (offset - at) {
    case AREA_COMMON: common_write(v, at, value); break;
    case AREA_CONFIG:
        if (v->model->config_written && at + size <= v->model->config_len)
            v->model->config_written(v, at, size, (uint32_t)value);
        break;
    case AREA_NOTIFY:
        if (at % NOTIFY_STRIDE == 0)
            notify(v, at / NOTIFY_STRIDE);
        break;
    default: break;
    }
}

static const struct io_ops bar_ops = {bar_read, bar_write, .min_size = 1, .max_size = 4};

// --- The window to the BAR in configuration space (4.1.4.9) ---

// Whether this access touches the window's data, and the window shows a valid part of the BAR.
static bool window_open(const struct virtio_pci *v, unsigned offset, unsigned size, uint32_t *at,
                        uint32_t *len)
{
    const uint8_t *cap = v->pci.config + v->window_cap;
    unsigned data = v->window_cap + CAP_EXTRA;

    *at = load_le32(cap + CAP_OFFSET);
    *len = load_le32(cap + CAP_LENGTH);
    return offset < data + 4 && offset + size > data && cap[CAP_BAR] == BAR_MAIN &&
           (*len == 1 || *len == 2 || *len == 4) && *at % *len == 0 && *at < BAR_BYTES;
}

static void window_read(struct pci_function *f, unsigned offset, unsigned size)
{
    struct virtio_pci *v = virtio_of(&f->dev);
    uint32_t at, len;

    if (window_open(v, offset, size, &at, &len))
        store_le(f->config + v->window_cap + CAP_EXTRA, len, bar_read(&f->dev, at, len));
}

static void window_written(struct pci_function *f, unsigned offset, unsigned size)
{
    struct virtio_pci *v = virtio_of(&f->dev);
    uint32_t at, len;

    if (window_open(v, offset, size, &at, &len))
        bar_write(&f->dev, at, len, load_le(f->config + v->window_cap + CAP_EXTRA, len));
}

static void bar_moved(struct pci_function *f, unsigned bar, uint64_t at)
{
    if (bar == BAR_MAIN)
        place_doorbells(virtio_of(&f->dev));
}

static void rung(struct device *dev, unsigned queue)
{
    notify(virtio_of(dev), queue);
}

static const struct pci_hooks hooks = {window_read, window_written, bar_moved, messages_changed};

// --- Life ---

static unsigned add_capability(struct pci_function *f, unsigned type, unsigned extra,
                               uint32_t offset, uint32_t length)
{
    unsigned at = pci_add_capability(f, PCI_CAP_VENDOR, CAP_LEN + extra);

    pci_set_register(f, at + 2, 1, CAP_LEN + extra, 0);
    pci_set_register(f, at + CAP_TYPE, 1, type, 0);
    pci_set_register(f, at + CAP_BAR, 1, BAR_MAIN, 0);
    pci_set_register(f, at + CAP_OFFSET, 4, offset, 0);
    pci_set_register(f, at + CAP_LENGTH, 4, length, 0);
    return at;
}

static void add_window(struct virtio_pci *v)
{
    struct pci_function *f = &v->pci;
    unsigned at = add_capability(f, CAP_TYPE_WINDOW, 4, 0, 0);

    v->window_cap = (uint8_t)at;
    pci_set_register(f, at + CAP_BAR, 1, 0, 0xff);
    pci_set_register(f, at + CAP_OFFSET, 4, 0, 0xffffffff);
    pci_set_register(f, at + CAP_LENGTH, 4, 0, 0xffffffff);
    pci_set_register(f, at + CAP_EXTRA, 4, 0, 0xffffffff);
}

static void init_function(struct virtio_pci *v)
{
    const struct virtio_model *model = v->model;
    struct pci_function *f = &v->pci;
    struct pci_id id = {
        .vendor = 0x1af4,
        .device = (uint16_t)(0x1040 + model->id),
        .subsystem_vendor = 0x1af4,
        .subsystem = (uint16_t)(0x1040 + model->id),
        .class_code = model->class_code,
        .revision = 1,
        .pin = 1,
    };
    unsigned notify_cap;

    pci_init(f, &id, &hooks);
    pci_add_bar(f, BAR_MAIN, PCI_BAR_MEM64, BAR_BYTES, &bar_ops);
    add_capability(f, CAP_TYPE_COMMON, 0, AREA_COMMON, COMMON_BYTES);
    add_capability(f, CAP_TYPE_ISR, 0, AREA_ISR, 1);
    if (model->config_len)
        add_capability(f, CAP_TYPE_DEVICE, 0, AREA_CONFIG, model->config_len);
    notify_cap = add_capability(f, CAP_TYPE_NOTIFY, 4, AREA_NOTIFY, NOTIFY_STRIDE * v->queue_count);
    pci_set_register(f, notify_cap + CAP_EXTRA, 4, NOTIFY_STRIDE, 0);
    add_window(v);
    pci_add_msix(f, v->queue_count + 1u, BAR_MSIX);
}

void virtio_pci_init(struct virtio_pci *v, const struct virtio_model *model, uint64_t features,
                     unsigned queues, uint16_t queue_size)
{
    v->model = model;
    v->features = features | VIRTIO_FEATURE(VIRTIO_F_VERSION_1) |
                  VIRTIO_FEATURE(VIRTIO_F_INDIRECT_DESC) | VIRTIO_FEATURE(VIRTIO_F_EVENT_IDX) |
                  VIRTIO_FEATURE(VIRTIO_F_RING_PACKED);
    v->queue_count = (uint16_t)queues;
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
        virtq_init(&v->queues[i], &v->pci.dev, i < queues ? queue_size : 0);
        v->queue_vectors[i] = NO_VECTOR;
    }
    v->config_vector = NO_VECTOR;
    v->pci.dev.env->add_doorbells(&v->pci.dev, queues, rung);
    init_function(v);
}

void virtio_pci_reset(struct virtio_pci *v)
{
    pci_reset(&v->pci);
    reset_transport(v);
    v->generation = 0;
}

static bool vector_valid(const struct virtio_pci *v, uint16_t vector)
{
    return vector == NO_VECTOR || vector < v->pci.msix_vectors;
}

err_t virtio_pci_loaded(struct virtio_pci *v, struct error *e)
{
    bool valid = vector_valid(v, v->config_vector) && v->isr <= (ISR_QUEUE | ISR_CONFIG);

    v->resetting = 0;
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
        err_t err = virtq_loaded(&v->queues[i], v->driver_features, e);
        if (err != OK)
            return err;
        valid &= vector_valid(v, v->queue_vectors[i]);
        valid &= !v->queues[i].enabled || (v->status & STATUS_FEATURES_OK);
    }
    if ((v->status & STATUS_FEATURES_OK) && !features_acceptable(v))
        return error_set(e, ERR_CORRUPT, "the guest uses virtio features that this device lacks");
    if (!valid || (v->status & ~(STATUS_BY_DRIVER | STATUS_NEEDS_RESET)))
        return error_set(e, ERR_CORRUPT, "the virtio transport has impossible values");
    if (v->later)
        v->pci.dev.env->set_timer(&v->pci.dev, VIRTIO_TIMER, v->pci.dev.env->now(&v->pci.dev));
    err_t err = pci_loaded(&v->pci, e);
    if (err == OK) {
        place_doorbells(v);
        place_signals(v);
    }
    return err;
}

void virtio_pci_fini(struct virtio_pci *v)
{
    pci_fini(&v->pci);
}
