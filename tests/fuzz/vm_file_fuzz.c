// Files of VMs, YAML and TOML: what is read can be written, and what was written is read as the
// same. The first byte chooses the language.
#include <stdlib.h>
#include <string.h>

#include "cli/toml.h"
#include "cli/yaml.h"
#include "standalone.h"

// Numbers are written with 15 digits, so what is compared has been written once before.
static void again_as_toml(const json_t *value)
{
    struct error e;
    char *text = NULL, *second = NULL;
    json_t *read = NULL;
    if (toml_write(value, &text, &e) || toml_read(text, strlen(text), &read, &e) ||
        toml_write(read, &second, &e) || strcmp(text, second) != 0)
        abort();
    json_decref(read);
    free(text);
    free(second);
}

static void try_toml(const char *text, size_t len)
{
    json_t *value = NULL;
    struct error e;
    if (toml_read(text, len, &value, &e))
        return;
    again_as_toml(value);
    json_decref(value);
}

static void try_yaml(const char *text, size_t len)
{
    json_t *documents = NULL, *value;
    struct error e;
    size_t i;
    if (yaml_read(text, len, &documents, &e))
        return;
    json_array_foreach(documents, i, value)
    {
        char *written = NULL;
        if (!yaml_write(value, &written, &e))
            free(written);
    }
    json_decref(documents);
}

// Pieces that both languages are made of: random bytes alone do not come far.
static size_t spell(const uint8_t *data, size_t size, char *out, size_t room)
{
    static const char *const pieces[] = {
        "a",    "b",  " = ",  ": ",     "\n",    "[",   "]",       "[[",   "]]",   "{",      "}",
        ", ",   "\"", "'",    "\"\"\"", "'''",   "\\",  "\\u00e9", ".",    "1",    "-2.5e3", "true",
        "0x1f", "_",  "#c\n", "- ",     "---\n", "&x ", "*x",      "|\n ", "null", "~",      "\t",
    };
    size_t len = 0;
    for (size_t i = 0; i < size && len + 16 < room; i++) {
        const char *piece = pieces[data[i] % (sizeof pieces / sizeof *pieces)];
        if (data[i] >= 240)
            out[len++] = (char)data[i];
        else
            len += (size_t)(stpcpy(out + len, piece) - (out + len));
    }
    return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char text[8192];
    if (!size)
        return 0;
    bool raw = data[0] & 2;
    size_t len = raw ? size - 1 : spell(data + 1, size - 1, text, sizeof text);
    const char *from = raw ? (const char *)data + 1 : text;
    if (data[0] & 1)
        try_toml(from, len);
    else
        try_yaml(from, len);
    return 0;
}
