// Tokens for HTTP over TCP: NAME.SECRET, of which the inventory keeps the SECRET's hash only. A
// secret is 256 random bits, so that a plain hash is enough; it is compared in constant time.
// FIPS 180-4 (SHA-256).
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <string.h>

#include "host/random.h"
#include "manager/manager.h"

#define TOKENS_MAX 1000
#define SECRET_BYTES 32
#define HEX (2 * SECRET_BYTES)

const struct request_field token_create_fields[] = {
    {"name", FIELD_TEXT, true, 1, 32, "what to call it: letters, digits, - and _"},
    {"role", FIELD_TEXT, false, 0, 16,
     "operator, who may do all, or reader, who may look; operator"},
    {0},
};
const struct request_field token_name_fields[] = {
    {"name", FIELD_TEXT, true, 1, 32, "its name"},
    {0},
};

static void to_hex(const uint8_t *data, char out[HEX + 1])
{
    for (int i = 0; i < SECRET_BYTES; i++)
        snprintf(out + 2 * i, 3, "%02x", data[i]);
}

static bool hash_of(const char *secret, char out[HEX + 1])
{
    uint8_t hash[SECRET_BYTES];
    if (gnutls_hash_fast(GNUTLS_DIG_SHA256, secret, strlen(secret), hash))
        return false;
    to_hex(hash, out);
    return true;
}

static bool name_valid(const char *name)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    return *name && strspn(name, letters) == strlen(name);
}

static void count(void *opaque, sqlite3_stmt *row)
{
    ++*(int *)opaque;
}

static err_t check_new(struct manager *manager, const char *name, const char *role, struct error *e)
{
    int same = 0, all = 0;
    if (!name_valid(name))
        return error_set(e, ERR_INVALID, "name: use letters, digits, - and _");
    if (strcmp(role, "operator") != 0 && strcmp(role, "reader") != 0)
        return error_set(e, ERR_INVALID, "role: '%s' is none; give operator or reader", role);
    err_t err =
        db_each(manager->db, e, count, &same, "SELECT 1 FROM token WHERE name = ?", "s", name);
    if (!err)
        err = db_each(manager->db, e, count, &all, "SELECT 1 FROM token", "");
    if (!err && same)
        err = error_set(e, ERR_EXISTS, "there is a token '%s'; berth token rm %s revokes it", name,
                        name);
    if (!err && all >= TOKENS_MAX)
        err = error_set(e, ERR_BUSY, "there are %d tokens; revoke one", TOKENS_MAX);
    return err;
}

err_t token_create(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct manager *manager = context;
    const char *name = request_text(args, "name", ""),
               *role = request_text(args, "role", "operator");
    uint8_t random[SECRET_BYTES];
    char secret[HEX + 1], hash[HEX + 1], token[HEX + 40];
    err_t err = check_new(manager, name, role, e);
    if (err)
        return err;
    host_random(random, sizeof random);
    to_hex(random, secret);
    if (!hash_of(secret, hash))
        return error_set(e, ERR_IO, "cannot hash the token");
    err =
        db_run(manager->db, e, "INSERT INTO token (name, role, hash, created) VALUES (?, ?, ?, ?)",
               "sssi", name, role, hash, wall_ms());
    if (err)
        return err;
    snprintf(token, sizeof token, "%s.%s", name, secret);
    json_object_set_new(reply->result, "name", json_string(name));
    json_object_set_new(reply->result, "role", json_string(role));
    json_object_set_new(reply->result, "token", json_string(token));
    explicit_bzero(token, sizeof token);
    explicit_bzero(secret, sizeof secret);
    return OK;
}

static void add_token(void *opaque, sqlite3_stmt *row)
{
    json_array_append_new(opaque, json_pack("{s:s, s:s, s:I}", "name", db_text(row, 0), "role",
                                            db_text(row, 1), "created",
                                            (json_int_t)sqlite3_column_int64(row, 2)));
}

err_t token_ls(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct manager *manager = context;
    json_t *list = json_array();
    json_object_set_new(reply->result, "tokens", list);
    return db_each(manager->db, e, add_token, list,
                   "SELECT name, role, created FROM token ORDER BY name", "");
}

err_t token_rm(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    struct manager *manager = context;
    const char *name = request_text(args, "name", "");
    int same = 0;
    err_t err =
        db_each(manager->db, e, count, &same, "SELECT 1 FROM token WHERE name = ?", "s", name);
    if (!err && !same)
        err =
            error_set(e, ERR_NOT_FOUND, "there is no token '%s'; berth token ls shows them", name);
    return err ? err : db_run(manager->db, e, "DELETE FROM token WHERE name = ?", "s", name);
}

struct search {
    const char *hash;
    enum http_role role;
};

static void compare(void *opaque, sqlite3_stmt *row)
{
    struct search *search = opaque;
    const char *hash = db_text(row, 0);
    if (strlen(hash) == HEX && !gnutls_memcmp(hash, search->hash, HEX))
        search->role = strcmp(db_text(row, 1), "operator") ? HTTP_READER : HTTP_OPERATOR;
}

enum http_role token_role(void *context, const char *token)
{
    struct manager *manager = context;
    char name[40], hash[HEX + 1];
    const char *dot = strrchr(token, '.');
    struct search search = {.hash = hash, .role = HTTP_NOBODY};
    if (!dot || (size_t)(dot - token) >= sizeof name || !hash_of(dot + 1, hash))
        return HTTP_NOBODY;
    snprintf(name, sizeof name, "%.*s", (int)(dot - token), token);
    if (db_each(manager->db, NULL, compare, &search, "SELECT hash, role FROM token WHERE name = ?",
                "s", name))
        return HTTP_NOBODY;
    return search.role;
}
