// See host_run.h. A trampoline loads the state from fixed low addresses, so that no register is
// needed to find it, runs the instruction, and stores the state.
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#undef REG_RIP // of <ucontext.h>; cpu/insn.h has its own

#include "host_run.h"

#include "engine/translate/codebuf.h"
#include "engine/translate/emit.h"

#define PLACE 0x20000000ull // of struct place

struct place {
    struct host_state s;
    uint64_t host_rsp;
    uint8_t stack[256];
};

static struct codebuf code;
static struct place *place;
static sigjmp_buf after_signal;

static struct emit_mem field(size_t offset)
{
    return (struct emit_mem){
        .base = REG_NONE, .index = REG_NONE, .scale = 1, .disp = (int32_t)(PLACE + offset)};
}

static struct emit_mem gpr_field(unsigned reg)
{
    return field(offsetof(struct place, s.gpr) + 8 * reg);
}

static const uint8_t callee_saved[] = {RBX, RBP, R12, R13, R14, R15};

static void vector_state(struct emit *e, bool save)
{
    emit_mov_ri(e, RAX, 7);
    emit_mov_ri(e, RDX, 0);
    emit_mov_ri(e, RDI, PLACE + offsetof(struct place, s.xsave));
    emit_bytes(e, save ? "\x48\x0f\xae\x27" : "\x48\x0f\xae\x2f", 4); // xsave64, xrstor64 [rdi]
}

static void enter(struct emit *e)
{
    for (unsigned i = 0; i < sizeof callee_saved; i++)
        emit_push(e, callee_saved[i]);
    emit_store(e, 8, field(offsetof(struct place, host_rsp)), RSP);
    vector_state(e, false);
    emit_op_rm(e, 4, 0, MAP_ONE, 0xff, 6, field(offsetof(struct place, s.rflags))); // push
    emit_u8(e, 0x9d);                                                               // popfq
    for (unsigned reg = 0; reg < 16; reg++)
        emit_load(e, 8, reg, gpr_field(reg));
}

static void leave(struct emit *e)
{
    for (unsigned reg = 0; reg < 16; reg++)
        emit_store(e, 8, gpr_field(reg), reg);
    emit_load(e, 8, RSP, field(offsetof(struct place, host_rsp)));
    emit_u8(e, 0x9c);                                                               // pushfq
    emit_op_rm(e, 4, 0, MAP_ONE, 0x8f, 0, field(offsetof(struct place, s.rflags))); // pop
    emit_u8(e, 0xfc);                                                               // cld
    vector_state(e, true);
    emit_bytes(e, "\xdb\xe3", 2); // fninit
    for (unsigned i = sizeof callee_saved; i-- > 0;)
        emit_pop(e, callee_saved[i]);
    emit_ret(e);
}

static void on_signal(int number)
{
    siglongjmp(after_signal, number);
}

static void set_up(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    static uint8_t signal_stack[65536];
    stack_t stack = {.ss_sp = signal_stack, .ss_size = sizeof signal_stack};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    place = mmap((void *)PLACE, sizeof *place, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    sigaltstack(&stack, NULL);
    for (unsigned i = 0; i < sizeof signals / sizeof signals[0]; i++)
        sigaction(signals[i], &action, NULL);
    struct error e;
    if (codebuf_init(&code, PAGE_SIZE, &e) != OK)
        abort();
}

int host_run(struct host_state *s, const uint8_t *bytes, unsigned len)
{
    if (!place)
        set_up();
    struct emit e = {code.write, code.write + code.len, codebuf_to_exec(&code), false};
    enter(&e);
    emit_bytes(&e, bytes, len);
    leave(&e);
    place->s = *s;
    int number = sigsetjmp(after_signal, 1);
    if (number) {
        uint32_t mxcsr = 0x1f80;
        asm volatile("cld\n\tfninit\n\tldmxcsr %0" : : "m"(mxcsr));
        return number;
    }
    uint32_t eax = 0, ecx = 0, ebx, edx; // serializes: the code was written through another view
    asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx) : : "memory");
    ((void (*)(void))(uintptr_t)code.exec)();
    uint32_t mxcsr = 0x1f80;
    asm volatile("ldmxcsr %0" : : "m"(mxcsr) : "memory");
    *s = place->s;
    return 0;
}

void host_run_end(void)
{
    codebuf_release(&code);
}
