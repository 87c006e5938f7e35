// The block translator against the interpreter: the same snippets and the same random instructions
// must leave the same registers, flags and memory, in every forced mode.
#include "../test.h"

#include "guest64.h"

#include <sys/stat.h>
#include <unistd.h>

#include "cpu/insn.h"

static const uint32_t modes[] = {
    0,
    ENGINE_DEBUG_FLAGS_LIVE,
    ENGINE_DEBUG_TINY_TLB,
    ENGINE_DEBUG_TINY_TLB | ENGINE_DEBUG_FLAGS_LIVE,
    ENGINE_DEBUG_TINY_CACHE,
    ENGINE_DEBUG_POLL_EVERY_BLOCK,
    ENGINE_DEBUG_ALL_HOT,
    ENGINE_DEBUG_ALL_HOT | ENGINE_DEBUG_SLOTS_MISS | ENGINE_DEBUG_TINY_TLB,
    ENGINE_DEBUG_ALL_HOT | ENGINE_DEBUG_FLAGS_LIVE | ENGINE_DEBUG_TINY_CACHE,
    ENGINE_DEBUG_COPY_BLOCKS,
    ENGINE_DEBUG_COPY_BLOCKS | ENGINE_DEBUG_FLAGS_LIVE | ENGINE_DEBUG_TINY_TLB,
    ENGINE_DEBUG_COPY_BLOCKS | ENGINE_DEBUG_TINY_CACHE,
    ENGINE_DEBUG_OPEN_PAGES,
    ENGINE_DEBUG_OPEN_PAGES | ENGINE_DEBUG_FLAGS_LIVE | ENGINE_DEBUG_TINY_TLB,
    ENGINE_DEBUG_OPEN_PAGES | ENGINE_DEBUG_TINY_CACHE,
};

static void compare(const struct guest *want, const struct guest *got, uint64_t flags)
{
    for (unsigned i = 0; i < 16; i++)
        CHECK_EQ(got->state.gpr[i], want->state.gpr[i]);
    CHECK_EQ(got->state.rip, want->state.rip);
    CHECK_EQ(got->state.rflags & flags, want->state.rflags & flags);
    CHECK_EQ(got->state.cr2, want->state.cr2);
    CHECK_EQ(memcmp(got->state.xsave, want->state.xsave, CPU_XSAVE_BYTES), 0);
    for (unsigned i = GUEST_CODE; i < GUEST_BYTES; i++)
        if (got->ram[i] != want->ram[i]) {
            printf("# memory differs at %#x: %#x, expected %#x\n", i, got->ram[i], want->ram[i]);
            test_failures++;
            break;
        }
}

static void run_everywhere(const uint8_t *start, const uint8_t *end, bool code64)
{
    struct guest want;
    if (!guest_init(&want, ENGINE_DEBUG_INTERPRET, code64)) {
        CHECK(false);
        return;
    }
    guest_code(&want, start, (size_t)(end - start));
    CHECK_EQ(guest_run(&want), ENGINE_HALTED);
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
        struct guest got;
        int before = test_failures;
        guest_init(&got, modes[i], code64);
        guest_code(&got, start, (size_t)(end - start));
        CHECK_EQ(guest_run(&got), ENGINE_HALTED);
        compare(&want, &got, ~0ull);
        CHECK(guest_counter(&got, "translated_blocks") > 0);
        if (test_failures != before)
            printf("# with debug mode %#x\n", modes[i]);
        guest_release(&got);
    }
    guest_release(&want);
}

#define RUN64(name) run_everywhere(name##_start, name##_end, true)
#define RUN32(name) run_everywhere(name##_start, name##_end, false)

SNIPPET(sum, "xor eax, eax; mov ecx, 1000; 1: add rax, rcx; dec ecx; jnz 1b; mov [rsi], rax; mov "
             "rbx, [rsi]");

static void a_counting_loop_gives_its_sum(void)
{
    RUN64(sum);
}

SNIPPET(
    high,
    "mov eax, 0x1234; mov ebx, 0x5678; mov ecx, 0x9abc; mov edx, 0xdef0; mov ah, bl; add ch, dh;"
    "mov cl, ah; movzx edx, ch; mov [rsi], ah; add bh, [rsi]; xchg ah, cl; mov byte ptr [rdi+1], "
    "7; add ah, [rdi+1]");

static void high_byte_registers_keep_their_places(void)
{
    RUN64(high);
}

SNIPPET(spilled, "mov r8, 0x1111111122222222; mov r9, rsi; mov r10, 3; mov r11d, r8d; add r8, r9; "
                 "lea r9, [r9+r10*8+16];"
                 "mov [r9], r8; add [r9], r10; mov r8b, 9; mov r10w, 0x77; imul r11, r8, 19; xchg "
                 "r8, r11; shl r9, 3;"
                 "mov ecx, 5; rol r10, cl; shr ecx, cl; xadd [rsi], r8; cmpxchg [rsi], r9; mov "
                 "rsp, r8; mov r9d, esp; mov esp, 0x20000");

static void registers_without_a_host_register_work(void)
{
    RUN64(spilled);
}

SNIPPET(flags, "mov eax, 0x7fffffff; add eax, 1; mov rdx, [rsi]; seto bl; setc bh; mov [rdi], rdx; "
               "pushf; pop r8;"
               "stc; mov rcx, [rsi+8]; adc rcx, 0; sub eax, 1; mov r9, [rsi]; lahf; sahf; cmovs "
               "rdx, rcx; bt rcx, 3; rcl rdx, 1; sbb r10, r10");

static void flags_survive_memory_checks(void)
{
    RUN64(flags);
}

SNIPPET(backward, "mov ebx, 5; jmp 2f; 1: setc al; lahf; add r12, rax; jmp 3f; 2: stc; dec ebx; "
                  "mov rdx, [rsi]; jnz 1b; xor eax, eax; 3: add r13, rdx; test ebx, ebx; jg 2b");

static void flags_survive_the_poll_of_a_conditional_branch(void)
{
    RUN64(backward);
}

SNIPPET(
    calls,
    "mov ebx, 10; 1: call 2f; dec ebx; jnz 1b; lea rax, [rip+3f]; call rax; push rax; "
    "mov [rsi], rax; call [rsi];"
    "pop rdx; push qword ptr [rsi]; pop qword ptr [rdi]; jmp 4f; 2: push rbp; mov rbp, rsp; sub "
    "rsp, 32; add r12, rbx; leave; ret; 3: inc r13; ret 0;"
    "4: push 5; push 0x12345678; pop rax; pop rcx; lea r8, [rip+5f]; jmp r8; ud2; 5: "
    "push rsp; pop r14; jrcxz 6f; inc r15; 6: loop 6b");

static void calls_returns_and_indirect_jumps_arrive(void)
{
    RUN64(calls);
}

SNIPPET(empty, "mov rax, [0x100]; mov byte ptr [0x101], 5; mov rbx, cr3; mov cr3, rbx; mov cl, "
               "[0x101]; mov edx, [0x7fe];"
               "mov r8, 0x8000000000000000; mov r9, [r8+0x10]");

// Neither page 0 nor a non-canonical page is taken for the page of an empty entry.
static void empty_tlb_entries_match_nothing(void)
{
    RUN64(empty);
}

SNIPPET(bits, "mov rax, 0x1234567; mov [rsi], rax; mov rcx, 77; lock bts [rsi], rcx; setc bl; mov "
              "r8, -70; btc [rdi], r8; bt [rsi], r8; adc r12, 0; mov edx, 37;"
              "cmp eax, eax; btr dword ptr [rsi+8], edx; setz r13b; mov r9d, -40; bts dword ptr "
              "[rdi], r9d; bt qword ptr [rsi+rcx*8], rdx; lock btr [rsi], r8; mov rsp, 5; bts "
              "[rsi], rsp; mov esp, 0x20000");

static void bit_strings_reach_beyond_their_operand(void)
{
    RUN64(bits);
}

SNIPPET(deep,
        "mov rsp, 0x180000; mov ebx, 10000; call 1f; jmp 2f; 1: dec ebx; jz 3f; call 1b; 3: inc "
        "r12; ret;"
        "2: mov ebx, 50; 4: call 5f; call 6f; dec ebx; jnz 4b; jmp 7f; 5: call 8f; ud2; 8: add "
        "rsp, 8; inc r13; ret;"
        "6: lea rax, [rip+9f]; push rax; inc r14; ret; 9: inc r15; ret; 7: call 1f; jmp 2f; 1: "
        "xchg [rsp], rdx; mov rax, cr3; mov cr3, rax; xchg [rsp], rdx; ret; 2: mov rsp, 0x20000");

// Deeper than the shadow stack of return addresses, past frames, and to addresses that nobody
// called from.
static void returns_go_where_the_guest_stack_says(void)
{
    RUN64(deep);
}

SNIPPET(crossing, "mov rdi, 0x31ffc; mov rax, 0x1122334455667788; mov [rdi], rax; add [rdi], rax; "
                  "mov rbx, [rdi+1]; lock xadd [rdi], rax;"
                  "mov rdi, 0x1c0008; mov rdx, [rdi]; mov [rdi], rdx; movups xmm0, [rsi]; mov rdi, "
                  "0x31ff8; movups [rdi], xmm0; movdqu xmm1, [rdi+3]; push rax; pop rbx");

static void accesses_across_pages_and_to_devices_are_made(void)
{
    RUN64(crossing);
}

// The second page of the access is mapped elsewhere and is the one that the TLB knows.
SNIPPET(below, "mov dword ptr [0x34ffc], 0x1234; mov dword ptr [0x35000], 0x5678;"
               "mov qword ptr [0x4000+8*0x33], 0x35007; invlpg [0x33000]; mov rdi, 0x32ffc;"
               "mov rax, [0x33000]; stc; mov rax, [rdi]; adc rbx, 0; mov rdx, 0x1111222233334444;"
               "mov [0x33000], ecx; stc; mov [rdi], rdx; adc rbx, 0; mov r12, [0x35000];"
               "mov r13d, [0x34ffc]");

static void an_access_from_below_a_known_page_is_not_taken_for_it(void)
{
    RUN64(below);
}

SNIPPET(strings, "cld; mov rcx, 3000; mov al, 0x5a; mov rdi, 0x32800; rep stosb; mov rsi, 0x32800; "
                 "mov rdi, 0x34010; mov ecx, 700; rep movsq;"
                 "std; mov ecx, 5; mov rdi, 0x34100; rep stosd; cld; mov rdi, 0x32800; mov al, 1; "
                 "mov ecx, 100; repne scasb");

static void strings_are_copied_and_filled(void)
{
    RUN64(strings);
}

// A whole page, up to a page's end, one beyond it, one, none, onto itself; registers and flags that
// the instruction does not name stay.
SNIPPET(repeats,
        "cld; mov eax, 0x89abcdef; mov ecx, 4096; mov rdi, 0x33000; rep stosb; mov ecx, 512; "
        "mov rdi, 0x34000; stc; rep stosq; adc rbx, 0; mov ecx, 16; mov rdi, 0x33fc0; rep stosd; "
        "mov ecx, 17; mov rdi, 0x33fc0; rep stosd; mov rsi, 0x33fbf; mov rdi, 0x34f80; "
        "mov ecx, 128; xor edx, edx; rep movsb; setz bl; mov ecx, 1; rep movsq; mov ecx, 0; stc; "
        "rep movsb; adc rdx, 0; mov rsi, 0x34000; mov rdi, 0x34003; mov byte ptr [rsi], 0x11; "
        "mov ecx, 900; rep movsd; mov r8, rsi; mov r9, rdi; mov ecx, 0; rep stosb; mov r10, rdi; "
        "std; mov ecx, 9; mov rsi, 0x34800; mov rdi, 0x33800; rep movsd; cld; mov r12, rdi; "
        "mov rdi, 0x1ffff8; mov rcx, 0x4000000000000001; rep stosd");

static void repeats_within_a_page_need_no_gate(void)
{
    struct guest g;
    RUN64(repeats);
    guest_init(&g, 0, true);
    guest_code(&g, repeats_start, (size_t)(repeats_end - repeats_start));
    CHECK_EQ(guest_run(&g), ENGINE_HALTED);
    // First uses of pages, page ends, counts of zero, downwards, and the one that faults.
    CHECK(guest_counter(&g, "string_exits") <= 9);
    guest_release(&g);
}

// Equal up to the 1,500th byte, over pages and up to their ends; single ones; counts of 0.
SNIPPET(compared,
        "cld; mov ecx, 3000; mov al, 7; mov rdi, 0x32c00; rep stosb; mov ecx, 3000; mov rdi, "
        "0x34305; rep stosb; mov byte ptr [0x348e1], 9; mov rsi, 0x32c00; mov rdi, 0x34305; "
        "mov ecx, 3000; repe cmpsb; mov r8, rcx; mov r9, rsi; pushf; pop r10;"
        "mov rdi, 0x34305; mov ecx, 3000; mov al, 9; repne scasb; mov r11, rdi; pushf; pop r12;"
        "mov rdi, 0x34302; mov ecx, 400; mov eax, 0x07070707; repe scasd; mov r13, rcx;"
        "mov rsi, 0x32ffd; lodsd; mov rbx, rax; mov rax, -1; lodsb; lodsw; mov rsi, 0x32bf8;"
        "mov ecx, 600; rep lodsq; mov rdx, rax; mov rax, rcx; scasb; setc al; cmpsq; sets ah;"
        "mov rdi, 0x32ffe; cmpsd; scasw; seto bl; xor ecx, ecx; stc; repe cmpsb; adc rdx, 0;"
        "cmp ecx, ecx; repne scasd; sete cl; std; mov rsi, 0x33010; mov rdi, 0x33810; lodsb;"
        "mov ecx, 40; repe cmpsw; cld; pushf; pop r14");

static void strings_are_compared_and_loaded(void)
{
    RUN64(compared);
}

SNIPPET(vectors, "pxor xmm0, xmm0; mov rax, 0x3ff8000000000000; movq xmm1, rax; addsd xmm0, xmm1; "
                 "mulsd xmm0, xmm1; movsd [rsi], xmm0; fld qword ptr [rsi];"
                 "fld1; faddp; fstp qword ptr [rsi+8]; cvttsd2si r8, xmm0; cvtsi2sd xmm3, r8; "
                 "movmskpd ecx, xmm1; pextrw r9d, xmm1, 3; movd xmm5, ecx;"
                 "pinsrw xmm5, r9d, 1; movaps [rsi], xmm0; paddd mm0, [rsi]; emms; ucomisd xmm0, "
                 "xmm1; seta bl; ldmxcsr [rip+1f]; stmxcsr [rdi]; jmp 2f; 1: .long 0x1f80; 2: nop");

static void vector_and_x87_instructions_run_natively(void)
{
    RUN64(vectors);
}

SNIPPET(misaligned, "movaps xmm0, [rsi+1]");
SNIPPET(divide, "xor ecx, ecx; mov eax, 5; cdq; div ecx");
SNIPPET(unmapped, "mov rax, 0x400000; mov ecx, 7; add ecx, 1; mov rdx, [rax]; mov ebx, 1");
SNIPPET(noncanonical, "mov rax, 0x1234000000000000; push rax; ret");
SNIPPET(noncanonical_data, "mov rax, 0x1234000000000000; mov [rax], rax");
SNIPPET(unmasked, "mov dword ptr [rsi], 0x1d00; ldmxcsr [rsi]; pxor xmm0, xmm0; mov eax, 1; "
                  "cvtsi2sd xmm1, eax; divsd xmm1, xmm0");

static void faults_name_their_instruction(void)
{
    RUN64(misaligned);
    RUN64(divide);
    RUN64(unmapped);
    RUN64(noncanonical);
    RUN64(noncanonical_data);
    RUN64(unmasked);
}

SNIPPET(refused, "xor ebx, ebx; movups xmm0, [rsi]; gf2p8mulb xmm0, xmm0; mov ebx, 1; hlt");

static void what_the_host_refuses_is_undefined_for_the_guest(void)
{
    struct cpuid_table host;
    struct feature_set features;
    struct guest g;
    guest_claims_gfni = true;
    cpuid_read_host(&host);
    cpuid_features(&host, &features);
    CHECK(guest_init(&g, 0, true));
    guest_code(&g, refused_start, (size_t)(refused_end - refused_start));
    CHECK_EQ(guest_run(&g), ENGINE_HALTED);
    CHECK_EQ(g.state.gpr[RBX], feature_has(&features, FEATURE_GFNI));
    guest_release(&g);
    guest_claims_gfni = false;
}

// The loop patches the immediate of the instruction ahead of it, in its own block.
SNIPPET(patching, "mov ebx, 20; lea rdi, [rip+2f+1]; 1: inc byte ptr [rdi]; 2: mov eax, 0; add "
                  "r12, rax; dec ebx; jnz 1b;"
                  "mov word ptr [rip+3f], 0x9090; jmp 3f; .balign 64; 3: ud2; 4: nop");

static void code_that_changes_itself_runs_as_changed(void)
{
    RUN64(patching);
}

// Data beside the second half of a loop: that is translated anew in each round, while the first
// half goes on to branch to the first of its translations. Takes minutes when each leads to the
// next.
SNIPPET(neighbours, "mov ebx, 150000; jmp 1f; .balign 64; 1: inc dword ptr [rip+3f]; jmp 2f;"
                    ".balign 64; 2: add r12d, [rip+3f]; dec ebx; jnz 1b; jmp 4f; 3: .long 0;"
                    ".balign 64; 4: nop");

static void code_beside_data_that_changes_stays_fast(void)
{
    struct guest g;
    CHECK(guest_init(&g, 0, true));
    guest_code(&g, neighbours_start, (size_t)(neighbours_end - neighbours_start));
    CHECK_EQ(guest_run(&g), ENGINE_HALTED);
    CHECK_EQ(g.state.gpr[RBX], 0);
    guest_release(&g);
}

SNIPPET(pages, "mov ebx, 3; 1: jmp 2f; .balign 4096; 2: inc r12; call 3f; dec ebx; jz 5f; jmp 1b; "
               ".balign 4096; .skip 4090; 3: mov rax, 0x1122334455667788; inc r13;"
               "call 4f; ret; .balign 4096; 4: inc r14; ret; 5: mov rax, cr3; mov cr3, rax; call "
               "4b; invlpg [rsi]; call 3b");

static void blocks_in_different_pages_find_each_other(void)
{
    RUN64(pages);
}

// What follows a call in a loop is known when that is translated; then the callee has another page
// put in the place of the caller's.
SNIPPET(elsewhere,
        "mov esi, 0x11000; mov edi, 0x32000; mov ecx, 512; rep movsq; inc byte ptr [0x32007]; "
        "mov ebx, 9; jmp 5f; 3: hlt; "
        ".skip 0x1000 - (. - elsewhere_start); 4: call 8f; 5: inc r12; dec ebx; jnz 4b; jmp 3b; "
        ".skip 0x2000 - (. - elsewhere_start); 8: mov dword ptr [0x4000+8*0x11], 0x32007; "
        "invlpg [0x11000]; ret");

static void a_call_comes_back_to_the_page_that_is_there_by_then(void)
{
    RUN64(elsewhere);
}

// A source that is not there, and a destination that cannot be.
SNIPPET(nowhere, "mov qword ptr [0x4000+8*0x33], 0; mov esi, 0x33000; mov rdi, 0x800000001234000; "
                 "mov ecx, 5; rep movsb");

static void a_string_is_read_before_it_is_written(void)
{
    struct guest g;
    RUN64(nowhere);
    if (!guest_init(&g, ENGINE_DEBUG_INTERPRET, true))
        return;
    guest_code(&g, nowhere_start, (size_t)(nowhere_end - nowhere_start));
    guest_run(&g);
    CHECK_EQ(g.state.cr2, 0x33000);
    guest_release(&g);
}

// The immediates lie across the ends of pages 0x11 and 0x13; page 0x12 is then taken from
// elsewhere.
SNIPPET(
    straddling,
    "mov ebx, 40; 1: call 7f; stc; call 8f; dec ebx; jnz 1b; mov esi, 0x12000; mov edi, 0x32000; "
    "mov ecx, 512; rep movsq; inc byte ptr [0x32002]; mov dword ptr [0x4090], 0x32007; "
    "invlpg [0x12000]; call 7f; mov dword ptr [0x4090], 0x12007; invlpg [0x12000]; call 7f; "
    "inc byte ptr [0x12001]; call 7f; inc byte ptr [0x11fff]; call 7f; jmp 9f; "
    ".balign 4096; .skip 4091; 7: mov rax, 0x1122334455667788; add r12, rax; ret; "
    ".balign 4096; .skip 4093; 8: adc r13, 0x12345678; ret; 9: nop");

static void instructions_across_pages_are_translated(void)
{
    struct guest g;
    RUN64(straddling);
    guest_init(&g, 0, true);
    guest_code(&g, straddling_start, (size_t)(straddling_end - straddling_start));
    CHECK_EQ(guest_run(&g), ENGINE_HALTED);
    CHECK(guest_counter(&g, "steps") < 20);
    guest_release(&g);
}

SNIPPET(protected, ".code32; mov eax, 0x12345678; push eax; pop ecx; inc eax; dec ecx; mov [esi], "
                   "eax; add [esi+4], ecx; call 1f; jmp 2f;"
                   "1: push ebp; mov ebp, esp; mov ebx, [ebp+4]; leave; ret; 2: mov edi, 0x31000; "
                   "mov eax, ds:[0x31000]; lea edx, [eax*4+edi-1]; adc [edi-4], edx;"
                   "pushad; popad; daa; fld1; fstp dword ptr [esi]; movzx esi, ah; mov cl, 3; shl "
                   "edi, cl; hlt; .code64");

static void flat_32_bit_code_runs(void)
{
    RUN32(protected);
}

SNIPPET(
    strings32,
    ".code32; cld; mov ecx, 3000; mov al, 0x5a; mov edi, 0x32800; rep stosb; mov esi, "
    "0x32800; mov edi, 0x34010; mov ecx, 700; rep movsd; mov ecx, 3000; "
    "1: movsb; stosw; loop 1b; push esi; push edi; mov ecx, 300; mov esi, 0x32800; "
    "2: lodsb; mov edi, 0x32900; scasb; cmpsb; loop 2b; mov ecx, 500; repe scasb; mov ecx, 400; "
    "rep lodsd; pop edi; pop esi; hlt; .code64");

static void strings_of_32_bit_code_need_no_interpreter(void)
{
    struct guest g;
    RUN32(strings32);
    guest_init(&g, 0, false);
    guest_code(&g, strings32_start, (size_t)(strings32_end - strings32_start));
    for (unsigned i = 0; i < 16; i++)
        g.state.gpr[i] |= 0xdead00000000; // what 64-bit code may have left there
    CHECK_EQ(guest_run(&g), ENGINE_HALTED);
    CHECK(guest_counter(&g, "steps") < 20);
    CHECK_EQ(g.state.gpr[RDI], 0x34010 + 700 * 4 + 3000 * 3);
    CHECK_EQ(g.state.gpr[RSI], 0x32800 + 700 * 4 + 3000);
    guest_release(&g);
}

SNIPPET(spin, "sti; 1: inc rax; jmp 1b");

// An endless loop ends when something is pending, wherever it is.
static void an_interrupt_leaves_an_endless_loop(void)
{
    struct guest g;
    guest_init(&g, 0, true);
    guest_code(&g, spin_start, (size_t)(spin_end - spin_start));
    engine_translate.set_intr(g.vcpu, true);
    CHECK_EQ(guest_run(&g), ENGINE_HALTED);
    CHECK_EQ(g.state.rip, GUEST_HANDLERS + 16 * 0x21 + 1);
    guest_release(&g);
}

// 0x10000000 and 0 have the same index in the TLB; the first comes and goes, the second is looked
// for.
SNIPPET(emptied, "mov eax, 0x4007; mov [0x3400], rax; mov esi, 0x10000000; add rbx, [rsi+0x100]; "
                 "mov [rsi+0x200], rbx; mov rax, cr3; mov cr3, rax; xor edi, edi; "
                 "add rbx, [rdi+0x10]; adc rbx, [rdi+0x7f8]; adc rbx, [rdi+0x800]; mov cr3, rax; "
                 "mov [rdi+0xff8], rbx; mov cr3, rax; adc rcx, [rdi+0xff8]; mov cr3, rax; "
                 "add rdx, [rdi+0xffd]; mov cr3, rax; add rdx, [rsi-4]");

static void an_emptied_tlb_entry_matches_no_address(void)
{
    RUN64(emptied);
}

SNIPPET(bit_strings,
        "mov rdi, 0x30800; mov rax, 0x123456789abcdef0; mov [rdi], rax; mov [rdi-8], rax; "
        "mov rcx, -5; xor ebx, ebx; bt [rdi], rcx; adc rbx, rbx; mov r9, 75; bts [rdi], r9; "
        "adc rbx, rbx; lock btr [rdi], rcx; adc rbx, rbx; mov edx, 20; lock btc [rdi+8], rdx; "
        "adc rbx, rbx; mov r8, 0x7ff; cmp r8, r8; bt [rdi+rdx*4], r8; setz al; setc ah; "
        "bts [0x30900], rdx; adc rbx, rbx; mov rcx, 0x8000; bt [rdi], rcx; adc rbx, rbx; "
        "mov rsi, [rdi-8]; mov rbp, [rdi]; mov r12, [rdi+8]; mov r13, [rdi-16]");

static void bit_strings_reach_in_both_directions(void)
{
    RUN64(bit_strings);
}

SNIPPET(high_stores, "mov rsi, 0x30800; mov ecx, 0x11223344; mov eax, 7; mov [rsi+rax], ch; "
                     "mov [rsi+1], dh; stc; mov [rsi+2], bh; mov [rsi+rax+2], ah; adc rbx, [rsi]; "
                     "adc rbx, [rsi+5]");

static void high_bytes_are_stored(void)
{
    RUN64(high_stores);
}

SNIPPET(swap, "mov eax, 0x1000; xor edx, edx; mov ecx, 0xc0000102; wrmsr; stc; swapgs; rdmsr; "
              "mov rbx, gs:[0x30]; swapgs; adc rbx, gs:[0x30]");

static void swapgs_exchanges_bases(void)
{
    RUN64(swap);
}

// The code runs at an alias of its pages far up, so that constants need all of their 64 bits.
SNIPPET(far, "mov rax, cr3; mov rdx, [rax]; mov [rax+8*254], rdx; lea rax, [rip+1f]; mov rdx, "
             "0x7f0000000000; add rax, rdx; jmp rax; 1: mov ebx, 50; 2: movzx edx, byte ptr "
             "[rip+5f+0x300]; mov r8, [rip+5f+0x80]; add r8, rbx; stc; adc [rip+5f+0x18], r8; "
             "mov rcx, [rip+5f+0x18]; mov r12, [rip+5f]; add r13, r12; mov [rip+5f+8], cl; "
             "push [rip+5f+8]; pop r14; inc qword ptr [rip+5f]; call 3f; dec ebx; jnz 2b; "
             "lea rdx, [rip+3f]; mov ebx, 20; 4: call rdx; call 6f; dec ebx; jnz 4b; jmp 7f; "
             "3: add r15, [rip+5f+0x80]; ret; 6: lea rax, [rip+8f]; push rax; ret; 8: ret; "
             ".balign 64; 5: .quad 1, 2, 3, 4; 7: nop");
// Constants in one page that the code is not in.
SNIPPET(
    farther,
    "mov rax, cr3; mov rdx, [rax]; mov [rax+8*254], rdx; lea rax, [rip+1f]; mov rdx, "
    "0x7f0000000000; add rax, rdx; jmp rax; 1: mov ebx, 50; 2: lea rax, [rip+5f+0xb00]; mov "
    "[rip+5f+0xb30], rax; mov [rip+5f+0xb28], rax; mov [rip+5f+0xb38], rax; jmp 3f; 3: movzx edx, "
    "byte ptr [rip+5f+0xe06]; mov r8, [rip+5f+0xbb0]; mov r12d, edx; and r12d, 0x20; jne 6f; mov "
    "rax, [rip+5f+0xb30]; test rax,rax; je 6f; add [rax+8], rsi;  mov rax, [rip+5f+0xb28]; test "
    "rax,rax; je 6f; add [rax+8], rsi; mov rax, [rip+5f+0xb38]; test rax,rax; je 6f; add [rax+8], "
    "rsi; 6: dec ebx; jnz 3b; hlt; .balign 4096; 5: .quad 0; .balign 4096; nop");

static void constants_far_up_are_found(void)
{
    RUN64(far);
    RUN64(farther);
}

// Fields of records that walk over a page's end; then of one in a page that may only be read, where
// the write behind the loop faults.
SNIPPET(grouped,
        "mov rdi, 0x32e80; mov ebx, 300; 1: mov rax, [rdi]; add rax, [rdi+8]; adc [rdi+16], "
        "rax; mov r9, rdi; inc dword ptr [r9+40]; add [r9+33], bx; push rax; push rbx; "
        "pop rcx; pop rdx; add r12, rdx; mov r8, [rip+4f]; add r8, rcx; mov [rip+4f], r8; "
        "add rdi, 8; dec ebx; jnz 1b; mov rsp, 0x31ff0; mov ebx, 90; 3: push rbx; "
        "push [rip+4f]; pop rax; add r13, [rsp]; call 5f; sub rsp, 24; pop rdx; pop rdx; "
        "dec ebx; jnz 3b; mov rax, cr0; or eax, 0x10000; mov cr0, rax; "
        "mov qword ptr [0x4000+8*0x33], 0x33001; invlpg [0x33000]; mov rdi, 0x33000; "
        "mov ebx, 300; jmp 2f; 5: add [rsp+8], rbx; ret; .balign 64; 4: .quad 5; .balign 64; "
        "2: mov rax, [rdi]; add r14, [rdi+24]; dec ebx; jnz 2b; mov [rdi+16], rax; ud2");

static void accesses_that_are_checked_together_fault_alone(void)
{
    RUN64(grouped);
}

// What a block's branches lead to needs the carry, both ways, by way of others, round a loop.
SNIPPET(beyond,
        "mov ebx, 6; xor ebp, ebp; 1: clc; mov rdx, [rsi]; jmp 2f; .balign 64; 2: mov rax, [rdi]; "
        "jmp 3f; .balign 64; 3: adc r12, rdx; stc; mov rax, [rsi+8]; jnc 4f; mov rdx, [rsi]; "
        "adc r13, rdx; 4: dec ebx; jnz 1b; clc; mov ecx, 5; 5: mov rax, [rsi+rcx*8]; "
        "adc [rdi+rcx*8], rax; dec ecx; mov rdx, [rsi]; jnz 5b; adc r14, 0; clc; mov [rsi], rdx; "
        "call 6f; adc r15, 0; stc; jmp 7f; .balign 64; 6: adc r8, [rsi]; mov [rsi], r8; ret; "
        "7: mov rax, [rsi]; jrcxz 8f; 8: adc r9, 0; cmp r9, r8; mov rax, [rsi]; jmp 9f; "
        ".balign 64; 9: mov [rsi], rax; cmovb r10, r8; seta r11b; pushf; pop rcx");

static void flags_reach_the_blocks_that_need_them(void)
{
    RUN64(beyond);
}

// A block that left the flags to its target, which overwrites them, until that is patched not to.
// A check of memory leaves a carry behind.
SNIPPET(unneeded,
        "xor ecx, ecx; mov ebx, 6; 1: clc; mov rdx, [rsi]; jmp 2f; .balign 64; 2: test eax, eax; "
        "setc cl; add r12, rcx; cmp ebx, 3; jne 3f; mov word ptr [rip+2b], 0x9090; 3: dec ebx; "
        "jnz 1b; mov ebx, 6; 4: clc; mov rdx, [rsi]; cmp ebx, 3; clc; mov rdx, [rsi]; jc 5f; "
        "jmp 5f; .balign 64; 5: nop; jmp 6f; .balign 64; 6: test eax, eax; setc cl; add r13, rcx; "
        "cmp ebx, 3; jne 7f; mov word ptr [rip+6b], 0x9090; 7: dec ebx; jnz 4b");

static void flags_are_kept_once_a_patched_target_needs_them(void)
{
    RUN64(unneeded);
}

// XOR EAX, EAX becomes ADC EAX, 0 where a call comes back to, and where an indirect jump leads.
SNIPPET(arrivals,
        "mov ebx, 3000; xor r12d, r12d; 1: call 5f; 2: xor eax, eax; nop; nop; add r12, rax; "
        "lea rdx, [rip+3f]; stc; jmp rdx; .balign 64; 3: xor eax, eax; nop; nop; "
        "add r13, rax; cmp ebx, 1500; jne 4f; mov dword ptr [rip+2b], 0x9000d083; "
        "mov dword ptr [rip+3b], 0x9000d083; 4: dec ebx; jnz 1b; hlt; .balign 64; "
        "5: mov eax, 5; stc; ret");

static void flags_arrive_once_a_patched_target_needs_them(void)
{
    RUN64(arrivals);
}

// Calls that come back to code that is new, known, patched meanwhile, or in another page.
SNIPPET(landings,
        "mov ebx, 5; jmp 2f; 1: add r12, rbx; ret; 2: call 1b; call 1b; inc r13; call 1b; "
        "3: add r14, 1; dec ebx; jnz 4f; jmp 6f; 4: lea rdx, [rip+3b+3]; call 5f; inc r15; "
        "jmp 2b; 5: inc byte ptr [rdx]; lea rax, [rip+1b]; call rax; ret; .balign 4096; "
        ".skip 4091; 6: call 1b; mov ecx, 3; 7: lea rax, [rip+1b]; push rcx; call rax; pop rcx; "
        "loop 7b");

static void calls_come_back_to_what_follows_them(void)
{
    RUN64(landings);
}

// A loop within a loop: branches forward, over one another and back to several places, a call, a
// jump into the middle from outside, an instruction for the interpreter, flags that live around.
SNIPPET(loops,
        "mov ebx, 40; jmp 2f; 1: inc r8; 2: mov ecx, 300; stc; 3: mov r9, [rsi]; adc r10, r9; "
        "test cl, 3; jz 4f; add r11, rcx; cmp r11b, 77; je 5f; inc r12; jmp 6f; nop; ud2; 4: "
        "xor r11, r8; 5: add r13, r11; 6: mov [rdi+rcx*8], r13; bt r13, 7; lea rcx, [rcx-1]; "
        "inc rcx; loop 3b; mov eax, ebx; and eax, 7; jnz 7f; call 8f; 7: cvtsi2sd xmm1, r10; "
        "addsd xmm2, xmm1; dec ebx; jnz 1b; movq r15, xmm2; jmp 9f; 8: cpuid; mov rbx, r14; "
        "mov ebx, 8; sub ebx, 0; inc r14d; cmp r14d, 3; jne 10f; mov ebx, 1; 10: ret; 9: nop");

static void loops_within_loops_count(void)
{
    struct guest g;
    RUN64(loops);
    guest_init(&g, ENGINE_DEBUG_ALL_HOT, true);
    guest_code(&g, loops_start, (size_t)(loops_end - loops_start));
    CHECK_EQ(guest_run(&g), ENGINE_HALTED);
    CHECK(guest_counter(&g, "hot_loops") >= 2);
    guest_release(&g);
}

// The loop changes itself, and stops when it finds itself changed.
SNIPPET(changing, "mov ebx, 9000; 1: inc r8; add r9, r8; cmp ebx, 20; jne 2f; lea rax, [rip+3f]; "
                  "mov byte ptr [rax+3], 5; 2: nop; 3: add r10, 1; nop; nop; mov r11, r10; "
                  "4: dec ebx; jnz 1b; .balign 64; mov r12, r10");

static void a_loop_that_changes_itself_runs_as_changed(void)
{
    RUN64(changing);
}

// Accesses from equal pairs of base and index, in between other pairs and changes of either
// register, across the end of a page, and to a page that may only be read.
SNIPPET(pairs,
        "mov ebx, 600; xor ecx, ecx; 1: mov rax, [rsi+rcx*8]; add rax, [rdi+rcx*8]; mov "
        "[rdi+rcx*8], rax; mov edx, [rdi+rcx*8+4]; xor [rsi+rcx*8], edx; mov r8, [rsi+rcx*4]; "
        "add [rdi+rcx*8+5], r8; mov r9, [rsi+rcx*8]; inc ecx; add r9, [rsi+rcx*8]; mov "
        "[rsi+rcx*8], r9; mov r10, [rdi+rcx*8]; add rdi, 8; mov [rdi+rcx*8], r10; sub rdi, 8; "
        "movups xmm0, [rdi+rcx*8]; paddd xmm0, [rip+2f]; movups [rdi+rcx*8], xmm0; dec ebx; jnz "
        "1b; jmp 3f; .balign 16; 2: .quad 1, 2; 3: lea r11, [rip+4f]; mov ebp, 2; 4: mov rax, "
        "[r11+rbp*2]; mov r12b, [r11+rbp*2+1]; mov [r11+rbp*2+60], al; mov r13, [r11+rbp*2+60]");

static void pairs_of_base_and_index_are_checked_together(void)
{
    RUN64(pairs);
}

// Into a handler and back by IRET, with flags and control registers looked at on the way; by SYSRET
// to ring 3 and out of it.
SNIPPET(transfers,
        "mov ecx, 0xc0000081; xor eax, eax; mov edx, 8; wrmsr; mov ecx, 0xc0000082; lea rax, "
        "[rip+2f]; xor edx, edx; wrmsr; mov ecx, 0xc0000084; mov eax, 0x401; xor edx, edx; wrmsr; "
        "mov ebp, 3; 1: stc; std; syscall; setc r8b; lea rsi, [rsi+8]; lodsb; dec ebp; jnz 1b; "
        "mov rax, cr0; mov r9, cr3; mov r10, cr4; mov r11, 0x1234; mov cr2, r11; mov rbx, cr2; "
        "mov ecx, 0xc0000081; mov edx, 0x00100008; xor eax, eax; wrmsr; "
        "mov ecx, 0xc0000082; lea rax, [rip+4f]; xor edx, edx; wrmsr; lea rcx, [rip+3f]; mov r11d, "
        "0x3002; sysretq; 2: mov r12, rcx; mov r13, r11; adc r14, 0; mov r15, [rsi]; "
        "mov eax, 0x10; push rax; lea rax, [rsp+8]; push rax; push r11; push 8; push rcx; "
        "cld; cmp eax, eax; std; cld; iretq; 3: pushf; pop rdi; mov edx, 7; "
        "syscall; 4: nop");

static void far_transfers_change_flags_and_levels(void)
{
    struct guest g;
    RUN64(transfers);
    guest_init(&g, 0, true);
    guest_code(&g, transfers_start, (size_t)(transfers_end - transfers_start));
    CHECK_EQ(guest_run(&g), ENGINE_HALTED);
    CHECK(guest_counter(&g, "transfers") >= 7);
    CHECK_EQ(g.state.gpr[RDX], 7);
    guest_release(&g);
}

// As kernels bring the interrupt flag back, and programs their arithmetic flags.
SNIPPET(restored,
        "mov ebx, 300; sti; 1: cmp ebx, 150; pushf; cli; xor eax, eax; add r9, [rsi]; popf; "
        "adc r12, 0; lahf; add r13, rax; pushf; pop rdx; xor r14, rdx; rol r14, 7; "
        "imul ecx, ebx, 0x8d5; and ecx, 0x8d5; push rcx; popf; seto al; adc r15, rax; "
        "jp 2f; lea r12, [r12+5]; 2: pushf; pop r8; add r10, r8; push 0x602; popf; std; "
        "pushf; pop rdi; cld; dec ebx; jnz 1b; cli");
SNIPPET(restored32, ".code32; mov ebx, 300; 1: cmp ebx, 150; pushfd; cli; xor eax, eax; add ecx, "
                    "[esi]; popfd; adc ebp, 0; lahf; add ebp, eax; imul edx, ebx, 0xad5; and edx, "
                    "0xad5; push edx; popfd; seto al; adc ebp, eax; pushfd; pop edi; add ebp, edi; "
                    "dec ebx; jnz 1b; cli; hlt; .code64");

static void flags_come_back_from_the_stack_without_the_interpreter(void)
{
    for (unsigned code64 = 0; code64 < 2; code64++) {
        const uint8_t *start = code64 ? restored_start : restored32_start,
                      *end = code64 ? restored_end : restored32_end;
        struct guest g;
        run_everywhere(start, end, code64);
        guest_init(&g, 0, code64);
        guest_code(&g, start, (size_t)(end - start));
        CHECK_EQ(guest_run(&g), ENGINE_HALTED);
        CHECK(guest_counter(&g, "steps") < 20);
        guest_release(&g);
    }
}

// NT, AC, ID and IOPL, what a processor ignores (RF, VM, VIF and VIP), and in the end TF.
SNIPPET(rare, "xor r12d, r12d; mov ebx, 5; 1: push 0x3f7ad7; popf; adc r12, 0; pushf; pop rax; "
              "add r13, rax; push 2; popf; pushf; pop rax; add r14, rax; push 0x3000; popf; pushf; "
              "pop rax; add r15, rax; .byte 0x66, 0x9c, 0x66, 0x9d; dec ebx; jnz 1b; "
              "push 0x1d5; popf; adc r12, 7; nop");

// The same in ring 3, where IF and IOPL stay as they are unless IOPL allows it.
static void popf_in_ring_3(uint64_t rflags, uint32_t debug)
{
    struct guest want, got;
    guest_init(&want, ENGINE_DEBUG_INTERPRET, true);
    guest_init(&got, debug, true);
    struct guest *each[] = {&want, &got};
    for (unsigned i = 0; i < 2; i++) {
        guest_user(each[i], true);
        each[i]->state.rflags |= rflags;
        guest_code(each[i], rare_start, (size_t)(rare_end - rare_start));
        CHECK_EQ(guest_run(each[i]), ENGINE_HALTED);
    }
    compare(&want, &got, ~0ull);
    guest_release(&want);
    guest_release(&got);
}

static void popf_changes_what_the_level_may_change(void)
{
    RUN64(rare);
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
        popf_in_ring_3(0, modes[i]);
        popf_in_ring_3(FLAG_IF, modes[i]);
        popf_in_ring_3(FLAG_IOPL, modes[i]);
    }
}

SNIPPET(unmask,
        "mov ebx, 9; 1: push 2; popf; dec ebx; jnz 1b; push 0x202; popf; inc rax; 2: jmp 2b");

static void an_interrupt_that_waits_is_taken_behind_the_popf_that_lets_it(void)
{
    struct guest g;
    guest_init(&g, 0, true);
    guest_code(&g, unmask_start, (size_t)(unmask_end - unmask_start));
    engine_translate.set_intr(g.vcpu, true);
    CHECK_EQ(guest_run(&g), ENGINE_HALTED);
    CHECK_EQ(g.state.rip, GUEST_HANDLERS + 16 * 0x21 + 1);
    CHECK_EQ(g.state.gpr[RAX], GUEST_DATA + 0x1000); // in front of the INC
    guest_release(&g);
}

SNIPPET(again, "mov ebx, 10; 1: call 2f; dec ebx; jnz 1b; lea rax, [rip+2f]; call rax; jmp 3f; "
               "2: mov [rsi], rbx; add r12, [rip+4f]; ret; 4: .quad 7; 3: mov r13, [rsi]");

// Of a run with the file: how many blocks came from it and how many were refused.
static void run_with_file(const char *path, uint64_t *loaded, uint64_t *refused)
{
    struct guest g;
    guest_translations = path;
    CHECK(guest_init(&g, 0, true));
    guest_translations = NULL;
    guest_code(&g, again_start, (size_t)(again_end - again_start));
    CHECK_EQ(guest_run(&g), ENGINE_HALTED);
    CHECK_EQ(g.state.gpr[RBX], 0);
    CHECK_EQ(g.state.gpr[R12], GUEST_DATA + 0x1000 + 64 * R12 + 77);
    *loaded = guest_counter(&g, "loaded_blocks");
    *refused = guest_counter(&g, "refused_blocks");
    CHECK(*loaded > 0 || guest_counter(&g, "translated_blocks") > 0);
    guest_release(&g);
}

static void change_file(const char *path, long at, uint8_t by)
{
    FILE *f = fopen(path, "r+");
    CHECK(f != NULL);
    if (!f)
        return;
    fseek(f, at, at < 0 ? SEEK_END : SEEK_SET);
    int byte = fgetc(f);
    fseek(f, at, at < 0 ? SEEK_END : SEEK_SET);
    fputc(byte ^ by, f);
    fclose(f);
}

static void translations_of_one_run_serve_the_next(void)
{
    char folder[] = "/tmp/berth-translations.XXXXXX", path[64], link[64];
    uint64_t loaded, refused;
    CHECK(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/file", folder);
    snprintf(link, sizeof link, "%s/link", folder);
    run_with_file(path, &loaded, &refused);
    CHECK_EQ(loaded, 0);
    run_with_file(path, &loaded, &refused);
    CHECK(loaded > 3);
    CHECK_EQ(refused, 0);
    change_file(path, -20, 1); // in the code of the last block
    run_with_file(path, &loaded, &refused);
    CHECK_EQ(refused, 1);
    CHECK_EQ(symlink(path, link), 0);
    run_with_file(link, &loaded, &refused);
    CHECK_EQ(loaded, 0);
    CHECK_EQ(chmod(path, 0640), 0);
    run_with_file(path, &loaded, &refused);
    CHECK_EQ(loaded, 0);
    CHECK_EQ(chmod(path, 0600), 0);
    change_file(path, 16, 1); // of another program, and so made anew
    run_with_file(path, &loaded, &refused);
    CHECK_EQ(loaded, 0);
    run_with_file(path, &loaded, &refused);
    CHECK(loaded > 3);
    CHECK_EQ(chmod(folder, 0777), 0);
    run_with_file(path, &loaded, &refused);
    CHECK_EQ(loaded, 0);
    unlink(link);
    unlink(path);
    rmdir(folder);
}

// Code as a kernel's, for GUEST_HIGH(0), with addresses of its data in all forms: they begin with
// 0x8103 where they are that, and 0x7f01 where [rip + X] is to be 0x30020 wherever the code lies.
SNIPPET(kernel,
        "mov ecx, 2; mov rax, -0x7efd0000; mov rbx, [rcx*8-0x7efd0000]; jmp 2f; 1: nop; "
        "2: mov rsi, -0x7efcfff0; lea r13, [rcx-0x7efd0000]; cmp qword ptr [rcx*8-0x7efd0000], 3; "
        "push -0x7efd0000; pop r12; mov r15, ds:[-0x7efcffc0]; mov r8, [rcx-0x7efcffc2]; "
        "cmp rax, -0x7efd0000; sete dil; mov r14, [rip+0x7f010000]; "
        "mov qword ptr [rcx*4-0x7efcff00], -0x7efd0000");

// As it would be at base, with one of the fields so much further off.
static void kernel_code(struct guest *g, uint64_t base, unsigned changed, uint32_t by)
{
    size_t len = (size_t)(kernel_end - kernel_start);
    uint8_t code[256];
    memcpy(code, kernel_start, len);
    for (size_t at = 0, n = 0; at + 4 <= len; at++) {
        uint32_t field = load_le32(code + at);
        if (field >> 16 == 0x8103)
            store_le32(code + at, field + (uint32_t)(base - GUEST_HIGH(0)) + (n++ == changed) * by);
        if (field == 0x7f010000)
            store_le32(code + at, GUEST_DATA + 0x20 - (uint32_t)(base + GUEST_CODE + at + 4));
    }
    guest_code(g, code, len);
    g->state.rip = base + GUEST_CODE;
}

static void check_kernel(const struct guest *g, uint64_t data, uint32_t by)
{
    CHECK_EQ(g->state.gpr[RAX], data);
    CHECK_EQ(g->state.gpr[RBX], load_le64(g->ram + GUEST_DATA + 16));
    CHECK_EQ(g->state.gpr[RSI], data + 0x10 + by);
    CHECK_EQ(g->state.gpr[R13], data + 2);
    CHECK_EQ(g->state.gpr[R12], data);
    CHECK_EQ(g->state.gpr[R15], load_le64(g->ram + GUEST_DATA + 0x40));
    CHECK_EQ(g->state.gpr[R8], g->state.gpr[R15]);
    CHECK_EQ(g->state.gpr[RDI] & 0xff, 1);
    CHECK_EQ(g->state.gpr[R14], load_le64(g->ram + GUEST_DATA + 0x20));
    CHECK_EQ(load_le64(g->ram + GUEST_DATA + 0x108), data);
}

// Runs it with the file. Field 2 is RSI's. Returns how many blocks were translated.
static uint64_t run_kernel(const char *path, uint64_t base, uint32_t by, uint32_t debug)
{
    struct guest g;
    guest_translations = path;
    CHECK(guest_init(&g, debug, true));
    guest_translations = NULL;
    for (unsigned i = 0; i < 0x200; i++)
        g.ram[GUEST_DATA + i] = (uint8_t)(i * 7 + 1);
    kernel_code(&g, base, 2, by);
    CHECK_EQ(guest_run(&g), ENGINE_HALTED);
    check_kernel(&g, base + GUEST_DATA, by);
    uint64_t translated = guest_counter(&g, "translated_blocks");
    CHECK_EQ(guest_counter(&g, "refused_blocks"), 0);
    guest_release(&g);
    return translated;
}

static void translations_of_a_kernel_serve_where_it_has_moved_to(void)
{
    char folder[] = "/tmp/berth-translations.XXXXXX", path[64];
    CHECK(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/file", folder);
    uint64_t all = run_kernel(path, GUEST_HIGH(0), 0, 0);
    CHECK(all >= 2);
    CHECK_EQ(run_kernel(path, GUEST_HIGH(0), 0, 0), 0);
    CHECK_EQ(run_kernel(path, GUEST_HIGH(1), 0, 0), 0);
    CHECK_EQ(run_kernel(path, GUEST_HIGH(1), 0x1000, 0), 2); // it, and what looks ahead to it
    CHECK_EQ(run_kernel(path, GUEST_HIGH(0), 0x1000, 0), 0);
    CHECK(run_kernel(path, GUEST_HIGH(0), 8, 0) > 0);
    unlink(path);
    rmdir(folder);
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++)
        run_kernel(NULL, GUEST_HIGH(1), 0, modes[i]);
}

// A function that the loop in its page changes again and again, then a long loop beside it.
SNIPPET(restless,
        "mov ebx, 2000; xor r12d, r12d; 1: call 3f; add r12, rax; mov [rip+3f+1], ebx; dec ebx; "
        "jnz 1b; mov ebx, 40000000; 2: add r13, rbx; dec ebx; jnz 2b; hlt; "
        "3: mov eax, 0; ret");

static void restless_pages_are_left_open_and_closed_when_all_is_quiet(void)
{
    struct guest g;
    guest_init(&g, 0, true);
    guest_code(&g, restless_start, (size_t)(restless_end - restless_start));
    uint64_t before = g.state.gpr[R13];
    CHECK_EQ(guest_run(&g), ENGINE_HALTED);
    CHECK_EQ(g.state.gpr[R12], 2000 * 2001 / 2 - 1);
    CHECK_EQ(g.state.gpr[R13] - before, 40000000ull * 40000001 / 2);
    CHECK(guest_counter(&g, "verifying_blocks") > 0);
    CHECK(guest_counter(&g, "changed_blocks") > 0);
    CHECK(guest_counter(&g, "invalidated_blocks") < 1000);
    CHECK(guest_counter(&g, "hot_loops") > 0);
    guest_release(&g);
}

int main(void)
{
    static const struct test tests[] = {
        TEST(a_counting_loop_gives_its_sum),
        TEST(restless_pages_are_left_open_and_closed_when_all_is_quiet),
        TEST(translations_of_one_run_serve_the_next),
        TEST(translations_of_a_kernel_serve_where_it_has_moved_to),
        TEST(high_byte_registers_keep_their_places),
        TEST(registers_without_a_host_register_work),
        TEST(flags_survive_memory_checks),
        TEST(flags_survive_the_poll_of_a_conditional_branch),
        TEST(calls_returns_and_indirect_jumps_arrive),
        TEST(bit_strings_reach_beyond_their_operand),
        TEST(returns_go_where_the_guest_stack_says),
        TEST(empty_tlb_entries_match_nothing),
        TEST(accesses_across_pages_and_to_devices_are_made),
        TEST(an_access_from_below_a_known_page_is_not_taken_for_it),
        TEST(strings_are_copied_and_filled),
        TEST(repeats_within_a_page_need_no_gate),
        TEST(strings_are_compared_and_loaded),
        TEST(vector_and_x87_instructions_run_natively),
        TEST(faults_name_their_instruction),
        TEST(what_the_host_refuses_is_undefined_for_the_guest),
        TEST(code_that_changes_itself_runs_as_changed),
        TEST(code_beside_data_that_changes_stays_fast),
        TEST(blocks_in_different_pages_find_each_other),
        TEST(a_call_comes_back_to_the_page_that_is_there_by_then),
        TEST(a_string_is_read_before_it_is_written),
        TEST(instructions_across_pages_are_translated),
        TEST(flat_32_bit_code_runs),
        TEST(strings_of_32_bit_code_need_no_interpreter),
        TEST(an_interrupt_leaves_an_endless_loop),
        TEST(bit_strings_reach_in_both_directions),
        TEST(high_bytes_are_stored),
        TEST(swapgs_exchanges_bases),
        TEST(accesses_that_are_checked_together_fault_alone),
        TEST(constants_far_up_are_found),
        TEST(an_emptied_tlb_entry_matches_no_address),
        TEST(flags_reach_the_blocks_that_need_them),
        TEST(flags_are_kept_once_a_patched_target_needs_them),
        TEST(flags_arrive_once_a_patched_target_needs_them),
        TEST(calls_come_back_to_what_follows_them),
        TEST(loops_within_loops_count),
        TEST(a_loop_that_changes_itself_runs_as_changed),
        TEST(pairs_of_base_and_index_are_checked_together),
        TEST(far_transfers_change_flags_and_levels),
        TEST(flags_come_back_from_the_stack_without_the_interpreter),
        TEST(popf_changes_what_the_level_may_change),
        TEST(an_interrupt_that_waits_is_taken_behind_the_popf_that_lets_it),
    };
    return test_main(tests, ARRAY_LEN(tests));
}
