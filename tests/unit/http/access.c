// Tokens and origins out of headers.
#include "http/access.h"

#include "test.h"

static char token[ACCESS_TOKEN_MAX + 1];
static struct error e;

static void a_bearer_token_is_taken_from_its_header(void)
{
    CHECK(access_token("Bearer abc_DEF-1.2", NULL, token));
    CHECK_STR(token, "abc_DEF-1.2");
    CHECK(access_token("bearer x", NULL, token));
    CHECK(!access_token("Bearer ", NULL, token));
    CHECK(!access_token("Bearer a b", NULL, token));
    CHECK(!access_token("Basic abc", NULL, token));
    CHECK(!access_token(NULL, NULL, token));
    char longest[ACCESS_TOKEN_MAX + 9] = "Bearer ";
    memset(longest + 7, 'x', ACCESS_TOKEN_MAX);
    CHECK(access_token(longest, NULL, token));
    longest[7 + ACCESS_TOKEN_MAX] = 'x';
    CHECK(!access_token(longest, NULL, token));
}

static void a_websocket_brings_its_token_as_a_protocol(void)
{
    CHECK(access_token(NULL, "berth.stream, berth.token.abc", token));
    CHECK_STR(token, "abc");
    CHECK(access_token(NULL, "berth.token.abc,x", token));
    CHECK(!access_token(NULL, "berth.stream", token));
    CHECK(!access_token(NULL, "berth.token.", token));
    CHECK(!access_token("Bearer", "berth.token.abc", token)); // the header decides where it is
}

static void pages_of_other_sites_are_refused(void)
{
    CHECK_EQ(access_origin("h:1", "https://h:1", "same-origin", false, &e), OK);
    CHECK_EQ(access_origin("h:1", NULL, NULL, false, &e), OK);
    CHECK_EQ(access_origin("h:1", NULL, "none", false, &e), OK);
    CHECK_EQ(access_origin("h:1", "https://h:2", NULL, false, &e), ERR_DENIED);
    CHECK_EQ(access_origin("h:1", "https://evil", NULL, false, &e), ERR_DENIED);
    CHECK_EQ(access_origin("h:1", "null", NULL, false, &e), ERR_DENIED);
    CHECK_EQ(access_origin(NULL, "https://h", NULL, false, &e), ERR_DENIED);
    CHECK_EQ(access_origin("h:1", NULL, "cross-site", false, &e), ERR_DENIED);
    CHECK_EQ(access_origin("h:1", NULL, "same-site", false, &e), ERR_DENIED);
}

static void the_local_socket_answers_to_local_names_only(void)
{
    CHECK_EQ(access_origin("localhost", NULL, NULL, true, &e), OK);
    CHECK_EQ(access_origin("localhost:8080", "http://localhost:8080", NULL, true, &e), OK);
    CHECK_EQ(access_origin("[::1]:80", NULL, NULL, true, &e), OK);
    CHECK_EQ(access_origin("", NULL, NULL, true, &e), OK);
    CHECK_EQ(
        access_origin("evil.example:8080", "http://evil.example:8080", "same-origin", true, &e),
        ERR_DENIED);
    CHECK_EQ(access_origin("localhost.evil", NULL, NULL, true, &e), ERR_DENIED);
}

static void words_of_lists_are_found_whole(void)
{
    CHECK(access_has_word("keep-alive, Upgrade", "upgrade"));
    CHECK(access_has_word("websocket", "websocket"));
    CHECK(!access_has_word("websockets", "websocket"));
    CHECK(!access_has_word(NULL, "websocket"));
    CHECK(!access_has_word("", "websocket"));
}

TEST_MAIN(TEST(a_bearer_token_is_taken_from_its_header),
          TEST(a_websocket_brings_its_token_as_a_protocol), TEST(pages_of_other_sites_are_refused),
          TEST(the_local_socket_answers_to_local_names_only), TEST(words_of_lists_are_found_whole))
