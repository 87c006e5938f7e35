// SQLite behind a few calls. https://www.sqlite.org/c3ref/intro.html; prepared statements are kept,
// since the manager says the same few things again and again.
#include "manager/db.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEPT 48
#define BUSY_MS 2000

struct db {
    sqlite3 *sqlite;
    struct {
        const char *sql; // the caller's string literal
        sqlite3_stmt *statement;
    } kept[KEPT];
    unsigned next; // to make room in
};

static err_t failed(struct db *db, struct error *e)
{
    int code = sqlite3_errcode(db->sqlite) & 0xff;
    err_t err = code == SQLITE_CONSTRAINT                         ? ERR_EXISTS
                : code == SQLITE_BUSY                             ? ERR_BUSY
                : code == SQLITE_NOTADB || code == SQLITE_CORRUPT ? ERR_CORRUPT
                                                                  : ERR_IO;
    return error_set(e, err, "the inventory: %s", sqlite3_errmsg(db->sqlite));
}

static err_t exec(struct db *db, const char *sql, struct error *e)
{
    return sqlite3_exec(db->sqlite, sql, NULL, NULL, NULL) == SQLITE_OK ? OK : failed(db, e);
}

// --- statements

static err_t prepare(struct db *db, const char *sql, sqlite3_stmt **out, struct error *e)
{
    for (unsigned i = 0; i < KEPT; i++) {
        if (db->kept[i].sql && !strcmp(db->kept[i].sql, sql) &&
            !sqlite3_stmt_busy(db->kept[i].statement)) {
            *out = db->kept[i].statement;
            return OK;
        }
    }
    if (sqlite3_prepare_v2(db->sqlite, sql, -1, out, NULL) != SQLITE_OK)
        return failed(db, e);
    while (db->kept[db->next].sql && sqlite3_stmt_busy(db->kept[db->next].statement))
        db->next = (db->next + 1) % KEPT;
    sqlite3_finalize(db->kept[db->next].statement);
    db->kept[db->next].sql = sql;
    db->kept[db->next].statement = *out;
    db->next = (db->next + 1) % KEPT;
    return OK;
}

static void bind(sqlite3_stmt *statement, const char *kinds, va_list ap)
{
    for (int i = 0; kinds[i]; i++) {
        if (kinds[i] == 's')
            sqlite3_bind_text(statement, i + 1, va_arg(ap, const char *), -1, SQLITE_TRANSIENT);
        else
            sqlite3_bind_int64(statement, i + 1, va_arg(ap, int64_t));
    }
}

static err_t step(struct db *db, db_row_fn *row, void *opaque, const char *sql, const char *kinds,
                  va_list ap, struct error *e)
{
    sqlite3_stmt *statement;
    err_t err = prepare(db, sql, &statement, e);
    if (err)
        return err;
    bind(statement, kinds, ap);
    int result;
    while ((result = sqlite3_step(statement)) == SQLITE_ROW) {
        if (row)
            row(opaque, statement);
    }
    err = result == SQLITE_DONE ? OK : failed(db, e);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return err;
}

err_t db_run(struct db *db, struct error *e, const char *sql, const char *kinds, ...)
{
    va_list ap;
    va_start(ap, kinds);
    err_t err = step(db, NULL, NULL, sql, kinds, ap, e);
    va_end(ap);
    return err;
}

err_t db_each(struct db *db, struct error *e, db_row_fn *row, void *opaque, const char *sql,
              const char *kinds, ...)
{
    va_list ap;
    va_start(ap, kinds);
    err_t err = step(db, row, opaque, sql, kinds, ap, e);
    va_end(ap);
    return err;
}

err_t db_begin(struct db *db, struct error *e)
{
    return exec(db, "BEGIN IMMEDIATE", e);
}

err_t db_end(struct db *db, err_t err, struct error *e)
{
    if (!err)
        err = exec(db, "COMMIT", e);
    if (err)
        (void)!exec(db, "ROLLBACK", NULL);
    return err;
}

const char *db_text(sqlite3_stmt *row, int column)
{
    const char *text = (const char *)sqlite3_column_text(row, column);
    return text ? text : "";
}

// --- opening

static void read_number(void *opaque, sqlite3_stmt *row)
{
    *(int *)opaque = sqlite3_column_int(row, 0);
}

static err_t step_up(struct db *db, int from, struct error *e)
{
    char sql[64];
    err_t err = db_begin(db, e);
    for (int v = from; !err && v < schema_version; v++)
        err = exec(db, schema_steps[v], e);
    snprintf(sql, sizeof sql, "PRAGMA user_version = %d", schema_version);
    if (!err)
        err = exec(db, sql, e);
    return db_end(db, err, e);
}

static err_t migrate(struct db *db, struct error *e)
{
    int version = 0;
    err_t err = db_each(db, e, read_number, &version, "PRAGMA user_version", "");
    if (err || version == schema_version)
        return err;
    if (version > schema_version || version < 0)
        return error_set(e, ERR_UNSUPPORTED,
                         "the inventory is of version %d, this Berth knows up to %d; install the "
                         "newer Berth that wrote it",
                         version, schema_version);
    return step_up(db, version, e);
}

err_t db_open(const char *path, struct db **out, struct error *e)
{
    struct db *db = calloc(1, sizeof *db);
    if (!db)
        return error_set(e, ERR_NO_MEMORY, "no memory for the inventory");
    err_t err = OK;
    if (sqlite3_open_v2(path, &db->sqlite,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX |
                            SQLITE_OPEN_PRIVATECACHE,
                        NULL) != SQLITE_OK)
        err = failed(db, e);
    sqlite3_busy_timeout(db->sqlite, BUSY_MS);
    if (!err)
        err = exec(db,
                   "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"
                   "PRAGMA cache_size = -512; PRAGMA trusted_schema = OFF",
                   e);
    if (!err)
        err = migrate(db, e);
    if (err) {
        (void)!error_in(e, "'%s'", path);
        db_close(db);
        return err;
    }
    *out = db;
    return OK;
}

void db_close(struct db *db)
{
    if (!db)
        return;
    for (unsigned i = 0; i < KEPT; i++)
        sqlite3_finalize(db->kept[i].statement);
    sqlite3_close(db->sqlite);
    free(db);
}
