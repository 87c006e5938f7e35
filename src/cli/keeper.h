// What berth run does for a VM that no terminal watches: it keeps what the VM and its guest's
// console say in logs of bounded size, lets people attach to the console, and leaves behind how it
// all ended. docs/cli.md, "Kept VMs".
#pragma once

#include <poll.h>

#include "base/error.h"

#define KEEPER_VIEWERS 8
#define KEEPER_POLLS (4 + KEEPER_VIEWERS)
#define KEEPER_BACKLOG (64 * KIB)

// A log that is moved to NAME.1 when it has become long.
struct kept_log {
    int folder;
    const char *name;
    int fd; // -1: none
    uint64_t size;
};

struct keeper {
    int folder;   // of --keep; -1: none
    int lock;     // says that this VM runs; inherited or ours; -1
    int said[2];  // what the VM's process says: read end, write end; -1: it says it to our own
    int out;      // our standard output of before, where somebody waits for a sign; -1
    int vm;       // the shared console; -1: none
    int vm_end;   // the VM's end of it, until it is started; -1
    int listener; // for those who want to attach; -1
    struct kept_log console, log;
    struct {
        int fd;      // -1: free
        uint64_t at; // of the console's bytes, the next that it gets
    } viewer[KEEPER_VIEWERS];
    char *backlog;  // the last bytes of the console
    uint64_t total; // bytes that came so far
    char input[4096];
    size_t input_len; // typed by viewers, and not yet taken by the VM
    char line[4096];  // the last line of said, as far as it has come
    size_t line_len;
    char reason[24], text[200]; // from the VM's last words
};

void keeper_init(struct keeper *keeper);
// Takes the folder over for this process: its lock, where descriptor 3 is not that already, and
// standard output. ERR_BUSY: another VM is kept there.
err_t keeper_keep(struct keeper *keeper, const char *folder, struct error *e);
// listener, a listening socket, is taken over.
err_t keeper_share(struct keeper *keeper, int listener, struct error *e);
void keeper_ready(struct keeper *keeper); // the VM can be talked to: says so to who waits

// In the VM's process to be: its standard output and error.
void keeper_become(const struct keeper *keeper);
void keeper_started(struct keeper *keeper); // the VM has its ends

// fds has room for KEEPER_POLLS; returns how many are used.
unsigned keeper_poll(const struct keeper *keeper, struct pollfd *fds);
void keeper_work(struct keeper *keeper, const struct pollfd *fds);

// The VM has ended: takes the rest of its words, and leaves behind its status and the reason.
void keeper_ended(struct keeper *keeper, int status);
void keeper_release(struct keeper *keeper);
