// What VMs and the manager take, for Prometheus: text exposition format 0.0.4.
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "manager/manager.h"

static void put(struct buffer *out, const char *text)
{
    buffer_append(out, text, strlen(text));
}

static void family(struct buffer *out, const char *name, const char *type, const char *help)
{
    char line[400];
    snprintf(line, sizeof line, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
    put(out, line);
}

// labels: "" or "{...}".
static void sample(struct buffer *out, const char *name, const char *labels, double value)
{
    char line[600];
    snprintf(line, sizeof line, "%s%s %.17g\n", name, labels, value);
    put(out, line);
}

// A VM's name holds nothing that a label would have to escape (VM_NAME_RULE).
static void labels_of(const json_t *vm, const char *more, char *out, size_t size)
{
    snprintf(out, size, "{vm=\"%s\",id=\"%s\"%s}", json_string_value(json_object_get(vm, "name")),
             json_string_value(json_object_get(vm, "id")), more);
}

static const struct vm_metric {
    const char *name, *type, *help, *key;
    const char *label; // beside the VM's
    bool continued;    // of the family before
} vm_metrics[] = {
    {"berth_vm_vcpus", "gauge", "Virtual CPUs.", "vcpus", "", false},
    {"berth_vm_memory_bytes", "gauge", "Memory that the guest has.", "memory_bytes", "", false},
    {"berth_vm_memory_resident_bytes", "gauge", "Host memory that the VM's process takes.",
     "memory_resident_bytes", "", false},
    {"berth_vm_cpu_seconds_total", "counter", "Host CPU time of the VM's process.", "cpu_seconds",
     "", false},
    {"berth_vm_uptime_seconds", "gauge", "Since its guest first ran.", "uptime_seconds", "", false},
    {"berth_vm_disk_bytes_total", "counter", "Bytes that its disks read and wrote.",
     "disk_read_bytes", ",direction=\"read\"", false},
    {"berth_vm_disk_bytes_total", "counter", "", "disk_written_bytes", ",direction=\"written\"",
     true},
    {"berth_vm_network_bytes_total", "counter", "Bytes of frames through its network cards.",
     "net_received_bytes", ",direction=\"received\"", false},
    {"berth_vm_network_bytes_total", "counter", "", "net_sent_bytes", ",direction=\"sent\"", true},
    {"berth_vm_exits_total", "counter", "How often its guest needed the VM's devices or registers.",
     "exits", "", false},
    {"berth_vm_restarts", "gauge", "Restarts by policy since somebody started it.", "restarts", "",
     false},
};

static void put_metric(struct buffer *out, const struct vm_metric *metric, const json_t *vms)
{
    size_t i;
    json_t *vm;
    char labels[200];
    json_array_foreach((json_t *)vms, i, vm)
    {
        const json_t *value = json_object_get(vm, metric->key);
        labels_of(vm, metric->label, labels, sizeof labels);
        if (value)
            sample(out, metric->name, labels, json_number_value(value));
    }
}

static void put_states(struct buffer *out, const json_t *vms)
{
    size_t i;
    json_t *vm;
    family(out, "berth_vm_state", "gauge", "1 for the state that the VM is in.");
    json_array_foreach((json_t *)vms, i, vm)
    {
        const char *state = json_string_value(json_object_get(vm, "state"));
        for (int s = 0; s < MANAGED_STATES; s++) {
            char more[60], labels[200];
            snprintf(more, sizeof more, ",state=\"%s\"", managed_states[s]);
            labels_of(vm, more, labels, sizeof labels);
            sample(out, "berth_vm_state", labels, !strcmp(state, managed_states[s]));
        }
    }
}

static void put_manager(struct buffer *out, const json_t *manager, size_t vms)
{
    char labels[80];
    snprintf(labels, sizeof labels, "{version=\"%s\"}", BERTH_VERSION);
    family(out, "berth_info", "gauge", "This version of Berth.");
    sample(out, "berth_info", labels, 1);
    family(out, "berth_vms", "gauge", "VMs in the inventory.");
    sample(out, "berth_vms", "", (double)vms);
    family(out, "process_cpu_seconds_total", "counter", "CPU time of the manager.");
    sample(out, "process_cpu_seconds_total", "",
           json_number_value(json_object_get(manager, "cpu_seconds")));
    family(out, "process_resident_memory_bytes", "gauge", "Host memory of the manager.");
    sample(out, "process_resident_memory_bytes", "",
           json_number_value(json_object_get(manager, "memory_resident_bytes")));
    family(out, "process_start_time_seconds", "gauge", "When the manager began, since 1970 UTC.");
    sample(out, "process_start_time_seconds", "",
           json_number_value(json_object_get(manager, "started")) / 1000);
}

void metrics_text(const json_t *usage, struct buffer *out)
{
    const json_t *vms = json_object_get(usage, "vms");
    put_manager(out, json_object_get(usage, "manager"), json_array_size(vms));
    if (!json_array_size(vms))
        return;
    put_states(out, vms);
    for (size_t i = 0; i < ARRAY_LEN(vm_metrics); i++) {
        if (!vm_metrics[i].continued)
            family(out, vm_metrics[i].name, vm_metrics[i].type, vm_metrics[i].help);
        put_metric(out, &vm_metrics[i], vms);
    }
}
