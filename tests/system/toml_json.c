// Reads TOML and prints it as JSON, and as TOML again: toml_json [--toml] < FILE. Status 1:
// refused.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/toml.h"
#include "host/file.h"

int main(int argc, char **argv)
{
    struct host_file file = {0};
    struct error e = {0};
    json_t *value = NULL;
    char *text = NULL;
    err_t err = host_file_read_fd(STDIN_FILENO, "input", MIB, &file, &e);
    if (!err)
        err = toml_read(file.data ? (char *)file.data : "", file.len, &value, &e);
    if (!err && argc > 1)
        err = toml_write(value, &text, &e);
    else if (!err)
        text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    if (err)
        fprintf(stderr, "%s\n", e.text);
    else
        fputs(text, stdout);
    free(text);
    json_decref(value);
    host_file_release(&file);
    return err != OK;
}
