// Port forwards: what people write, and what programs pass on.
#include "net/forward.h"

#include "test.h"

static void people_write_them_short(void)
{
    static const struct {
        const char *text, *meaning; // NULL: refused
    } cases[] = {
        {"8080:80", "tcp:127.0.0.1:8080:80"},
        {"80", "tcp:127.0.0.1:80:80"},
        {"5353:53/udp", "udp:127.0.0.1:5353:53"},
        {"0.0.0.0:1:65535/tcp", "tcp:0.0.0.0:1:65535"},
        {"[::1]:8080:80", "tcp:[::1]:8080:80"},
        {"[::]:5353:53/udp", "udp:[::]:5353:53"},
        {"[::1]:80", NULL},
        {"[::1:80:80", NULL},
        {"::1:80:80", NULL},
        {"[]:80:80", NULL},
        {":80:80", NULL},
        {"", NULL},
        {"0:80", NULL},
        {"80:65536", NULL},
        {"80:-1", NULL},
        {"80: 80", NULL},
        {"80:80/sctp", NULL},
        {"localhost:80:80", NULL},
        {"1.2.3.4:80", NULL},
        {"255.255.255.255:65535:65535/udp and much more behind it", NULL},
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct forward f;
        struct error e = {0};
        char text[FORWARD_TEXT] = "";
        err_t err = forward_parse(cases[i].text, &f, &e);
        if (!err)
            forward_format(&f, text);
        CHECK_EQ(err, cases[i].meaning ? OK : ERR_INVALID);
        CHECK_STR(text, cases[i].meaning ? cases[i].meaning : "");
        CHECK(!err || strstr(e.text, "8080:80"));
    }
}

static void lists_are_read_to_their_end_or_their_fault(void)
{
    const char *text = "tcp:127.0.0.1:8080:80,udp:0.0.0.0:53:53,bad";
    struct forward f;
    CHECK(forward_next(&text, &f) && !f.udp && f.host == 8080 && f.guest == 80);
    CHECK(forward_next(&text, &f) && f.udp && f.address == 0);
    CHECK(!forward_next(&text, &f));
    CHECK_STR(text, "bad");
    text = "tcp:127.0.0.1:1:1/udp";
    CHECK(!forward_next(&text, &f));
}

static const struct test tests[] = {
    TEST(people_write_them_short),
    TEST(lists_are_read_to_their_end_or_their_fault),
};

int main(void)
{
    return test_main(tests, ARRAY_LEN(tests));
}
