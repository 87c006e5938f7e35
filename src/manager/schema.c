// The inventory's tables, as the steps that made them. A step that was ever in a release stays as
// it is; what changes is a new step at the end. Times are milliseconds since 1970 UTC.
#include "manager/db.h"

static const char version_1[] =
    "CREATE TABLE vm ("
    "  id TEXT PRIMARY KEY," // 12 hexadecimal digits
    "  name TEXT NOT NULL UNIQUE,"
    "  definition TEXT NOT NULL,"          // docs/formats/vm-definition.md
    "  phase TEXT NOT NULL,"               // 'making', 'whole', 'removing'
    "  wanted INTEGER NOT NULL DEFAULT 0," // it is to run
    "  autostart INTEGER NOT NULL DEFAULT 0,"
    "  restart TEXT NOT NULL DEFAULT 'no'," // 'no', 'on-failure', 'always'
    "  stop_seconds INTEGER NOT NULL DEFAULT 60,"
    "  created INTEGER NOT NULL,"
    "  started INTEGER,"                        // the last time
    "  ended INTEGER,"                          // null while it runs
    "  status INTEGER, reason TEXT, text TEXT," // of the last end
    "  restarts INTEGER NOT NULL DEFAULT 0);"   // by policy, since somebody started it
    "CREATE TABLE image ("
    "  name TEXT PRIMARY KEY,"
    "  hash TEXT NOT NULL," // SHA-256 of the file; it is images/HASH.FORMAT
    "  format TEXT NOT NULL,"
    "  size_bytes INTEGER NOT NULL," // of the disk
    "  file_bytes INTEGER NOT NULL,"
    "  created INTEGER NOT NULL);"
    // What a VM's disk stands on: an image or a layer, which is a disk that was made read-only
    // when its VM was cloned.
    "CREATE TABLE layer ("
    "  id TEXT PRIMARY KEY," // it is layers/ID.qcow2
    "  base TEXT NOT NULL);" // path below the state's directory
    "CREATE TABLE disk ("
    "  vm TEXT NOT NULL REFERENCES vm(id) ON DELETE CASCADE,"
    "  number INTEGER NOT NULL," // in the VM's folder: diskNUMBER.qcow2
    "  base TEXT NOT NULL,"
    "  PRIMARY KEY (vm, number));"
    "CREATE TABLE event ("
    "  number INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  at INTEGER NOT NULL,"
    "  vm TEXT,"             // its name then
    "  line TEXT NOT NULL);" // the event as JSON
    "CREATE TABLE note (name TEXT PRIMARY KEY, value TEXT NOT NULL);";

static const char tokens[] = "CREATE TABLE token ("
                             "  name TEXT PRIMARY KEY,"
                             "  role TEXT NOT NULL," // 'operator', 'reader'
                             "  hash TEXT NOT NULL," // SHA-256 of the secret, hexadecimal
                             "  created INTEGER NOT NULL);";

static const char made_from[] = "ALTER TABLE vm ADD COLUMN image TEXT;"; // its name

// Pools, and VMs' places in them (pools.h). The root's name and a missing parent are ''; allotments
// are objects as the request pool-set takes them.
static const char pools[] = "CREATE TABLE pool ("
                            "  name TEXT PRIMARY KEY,"
                            "  parent TEXT NOT NULL,"
                            "  allotment TEXT NOT NULL);"
                            "CREATE TABLE tenant ("
                            "  vm TEXT PRIMARY KEY REFERENCES vm(id) ON DELETE CASCADE,"
                            "  pool TEXT NOT NULL,"
                            "  allotment TEXT NOT NULL);";

const char *const schema_steps[] = {version_1, tokens, made_from, pools};
const int schema_version = sizeof schema_steps / sizeof *schema_steps;
