// Both flavours: console, the run of the tests, what the loader said, memory helpers.

#include <stdarg.h>

#include "guest.h"

#define COM1 0x3f8
#define DEBUG_EXIT 0xf4

void guest_start(void);
void trap_init(void);

extern u8 guest_end[];
static u8 *next_page = guest_end;
static unsigned failures; // of the running test
static bool skipped;

static void put(char c)
{
    while (!(inb(COM1 + 5) & 0x20)) {
    }
    outb(COM1, (u8)c);
}

static void put_text(const char *s)
{
    for (; *s; s++) {
        put(*s);
    }
}

static void put_hex(u64 v)
{
    int shift = 60;
    while (shift && !(v >> shift)) {
        shift -= 4;
    }
    for (; shift >= 0; shift -= 4) {
        put("0123456789abcdef"[v >> shift & 15]);
    }
}

static void put_decimal(word v)
{
    char text[24], *p = text + sizeof text;
    *--p = 0;
    do {
        *--p = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    put_text(p);
}

static void put_signed(long v)
{
    if (v < 0) {
        put('-');
    }
    put_decimal(v < 0 ? 0 - (word)v : (word)v);
}

// One conversion; longs: how many l it has.
static void convert(char c, unsigned longs, va_list *ap)
{
    switch (c) {
    case 's': put_text(va_arg(*ap, const char *)); break;
    case 'c': put((char)va_arg(*ap, int)); break;
    case 'd': put_signed(longs ? va_arg(*ap, long) : va_arg(*ap, int)); break;
    case 'u': put_decimal(longs ? va_arg(*ap, word) : va_arg(*ap, unsigned)); break;
    case 'x':
        put_hex(longs == 2 ? va_arg(*ap, u64) : longs ? va_arg(*ap, word) : va_arg(*ap, unsigned));
        break;
    default: put(c);
    }
}

void print(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    for (; *fmt; fmt++) {
        if (*fmt != '%') {
            put(*fmt);
            continue;
        }
        unsigned longs = 0;
        while (*++fmt == 'l') {
            longs++;
        }
        convert(*fmt, longs, &ap);
    }
    va_end(ap);
}

_Noreturn void machine_exit(unsigned value)
{
    for (;;) {
        outb(DEBUG_EXIT, (u8)value);
        __asm__ volatile("cli; hlt");
    }
}

void test_failed(const char *file, int line, const char *what)
{
    print("# %s:%d: %s\n", file, line, what);
    failures++;
}

void test_differs(const char *file, int line, const char *what, u64 got, u64 want)
{
    print("# %s:%d: %s = 0x%llx, expected 0x%llx\n", file, line, what, (unsigned long long)got,
          (unsigned long long)want);
    failures++;
}

void test_skip(const char *why)
{
    print("# not tried: %s\n", why);
    skipped = true;
}

static unsigned run_tests(void)
{
    unsigned count = 0, failed = 0;
    while (tests[count].name) {
        count++;
    }
    print("1..%u\n", count);
    for (unsigned i = 0; i < count; i++) {
        failures = 0;
        skipped = false;
        tests[i].run();
        print("%sok %u - %s%s\n", failures ? "not " : "", i + 1, tests[i].name,
              skipped ? " # SKIP" : "");
        failed += failures != 0;
    }
    return failed;
}

static void serial_init(void)
{
    outb(COM1 + 1, 0);
    outb(COM1 + 3, 0x80);
    outb(COM1, 1);
    outb(COM1 + 1, 0);
    outb(COM1 + 3, 3);
    outb(COM1 + 2, 7);
    outb(COM1 + 4, 3);
}

void guest_start(void)
{
    serial_init();
    trap_init();
    pic_init();
    unsigned failed = run_tests();
    machine_exit(failed ? 1 : 0);
}

const char *boot_cmdline(void)
{
    const u8 *info = (const u8 *)(word)boot_info;
    u32 at = 0;
    if (boot_magic == MULTIBOOT_MAGIC) {
        at = *(const u32 *)(info + 16);
    } else if (boot_magic == PVH_MAGIC) {
        at = *(const u32 *)(info + 24);
    }
    return at ? (const char *)(word)at : "";
}

bool boot_option(const char *option)
{
    size_t len = strlen(option);
    for (const char *p = boot_cmdline(); *p;) {
        size_t n = 0;
        while (p[n] && p[n] != ' ') {
            n++;
        }
        if (n == len && memcmp(p, option, n) == 0) {
            return true;
        }
        p += n + (p[n] == ' ');
    }
    return false;
}

void *page_alloc(void)
{
    void *page = next_page;
    next_page += 4096;
    return memset(page, 0, 4096);
}

void *memset(void *to, int c, size_t len)
{
    void *p = to;
    __asm__ volatile("rep stosb" : "+D"(p), "+c"(len) : "a"(c) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, size_t len)
{
    void *p = to;
    __asm__ volatile("rep movsb" : "+D"(p), "+S"(from), "+c"(len)::"memory");
    return to;
}

int memcmp(const void *a, const void *b, size_t len)
{
    const u8 *p = a, *q = b;
    for (; len; len--, p++, q++) {
        if (*p != *q) {
            return *p < *q ? -1 : 1;
        }
    }
    return 0;
}

size_t strlen(const char *s)
{
    size_t len = 0;
    while (s[len]) {
        len++;
    }
    return len;
}
