// The manager's inventory as a SQLite database: one writer, write-ahead log, every commit on the
// disk before it returns. The schema's version is in user_version; schema.c lists the steps from
// each version to the next.
#pragma once

#include <sqlite3.h>

#include "base/error.h"

struct db; // opaque

// Makes the file where there is none, and brings an older schema up to date in one transaction.
// ERR_UNSUPPORTED: a newer Berth made it. ERR_BUSY: another manager has it.
err_t db_open(const char *path, struct db **out, struct error *e);
void db_close(struct db *db); // accepts NULL

// Runs one statement. kinds has a letter for each ? in it and each further argument: s a text
// (NULL: null), i an int64_t.
err_t db_run(struct db *db, struct error *e, const char *sql, const char *kinds, ...);

// The same for a query; row() gets each row and may read its columns until it returns.
typedef void db_row_fn(void *opaque, sqlite3_stmt *row);
err_t db_each(struct db *db, struct error *e, db_row_fn *row, void *opaque, const char *sql,
              const char *kinds, ...);

// Several statements as one: all of them happen, or none. db_end() commits when err is OK, else
// takes all back; it returns err, or why it could not commit.
err_t db_begin(struct db *db, struct error *e);
err_t db_end(struct db *db, err_t err, struct error *e);

// A column as text, "" where it is null; valid until row() returns.
const char *db_text(sqlite3_stmt *row, int column);

// The steps, for db_open() and tests: schema_steps[v] leads from version v to v + 1.
extern const char *const schema_steps[];
extern const int schema_version;
