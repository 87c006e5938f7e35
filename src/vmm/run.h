// One VM's run inside berth-vmm: its loop, streams, signals and terminal, from build to result.
#pragma once

#include "chardev/open.h"
#include "control/control.h"
#include "control/server.h"
#include "display/typist.h"
#include "display/vnc.h"
#include "host/cage.h"
#include "host/clock.h"
#include "host/loop.h"
#include "host/terminal.h"
#include "machine/vm.h"
#include "vmm/port.h"
#include "vmm/vsock.h"

// What berth-vmm's exit status means; --exit-device gives others.
enum vmm_status {
    VMM_POWERED_OFF = 0, // also: the person left, the guest reset itself and was not to start again
    VMM_GUEST_FAILED = 1, // it crashed, or was stopped before it had switched itself off
    VMM_USAGE = 2,
    VMM_HOST_FAILED = 3,
};

struct run {
    struct host_tsc_look begun;
    int pid;               // as the host counts
    int empty_root;        // of isolate_prepare()
    struct cages *cages;   // NULL: none,
    struct error no_cages; // for this reason
    struct vm_config config;
    struct events events;
    struct loop *loop;
    struct loop_fd signals; // a signalfd
    int control_fd;         // the control socket; -1: none
    struct control control;
    struct server *server; // serves it
    int shared_fd;         // the socket of a console that is shared; -1: none
    struct chardev *serial, *console, *firmware_log;
    struct vm *vm;
    struct typist typist;          // at the VM's keyboard
    int vnc_fd;                    // the socket for viewers; -1: none
    struct vnc *vnc;               // serves it
    int port_fd[VM_NICS_MAX];      // sockets of the network cards' first ports; -1: none
    struct port port[VM_NICS_MAX]; // of each network card
    struct vsock vsock;            // of the guest's connections to this host
    struct host_terminal terminal;
    bool asked; // the power button was pressed for a signal
    bool ended; // status is final
    int status;
};

// In this order; each needs what the one before it made. run_release() undoes any of them.
err_t run_read_definition(struct run *run, int fd, struct error *e);
err_t run_make_loop(struct run *run, struct error *e);
err_t run_open_streams(struct run *run, struct error *e);
err_t run_build_vm(struct run *run, struct error *e);
err_t run_plug(struct run *run, struct error *e);
err_t run_show(struct run *run, struct error *e);
err_t run_take_terminal(struct run *run, struct error *e);
err_t run_serve(struct run *run, struct error *e);
err_t run_lock_in(struct run *run, struct error *e);
err_t run_guest(struct run *run, struct error *e); // returns when the VM has ended; status is set
void run_release(struct run *run);
