// What a hostile agent sends to berth cp: frames nearly right, with paths and fields from a list of
// dangerous ones. Whatever comes, nothing outside the folder that was asked for changes.
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "control/agent_tree.h"
#include "standalone.h"

#define BYTES_MAX (60 * KIB) // fit a socket

static char home[] = "/tmp/berth-agent-fuzz-XXXXXX";

static const char *const words[] = {"path=.",    "path=a",        "path=a/b",        "path=../x",
                                    "path=/x",   "path=l/x",      "path=a/../../x",  "path=l",
                                    "type=file", "type=dir",      "type=link",       "type=fifo",
                                    "target=..", "target=/",      "target=../out",   "mode=511",
                                    "mode=4095", "time=99999999", "size=1",          "path=",
                                    "path=a//b", "code=denied",   "text=\033[2Jboo", "name=x"};

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    return remove(path);
}

static void in_folder(char *out, const char *name)
{
    snprintf(out, 100, "%s/%s", home, name);
}

static void make_frames(int fd, const uint8_t *data, size_t size)
{
    static const uint8_t types[] = {AGENT_ENTRY, AGENT_DATA, AGENT_END, AGENT_ERROR};
    static uint8_t out[BYTES_MAX];
    size_t len = 0;

    while (size >= 2 && len + 600 < sizeof out) {
        uint8_t *header = out + len, type = data[0], n = data[1] % 8;
        size_t start = len += AGENT_HEADER;
        data += 2;
        size -= 2;
        memset(header, 0, AGENT_HEADER);
        for (; n && size; n--, data++, size--) {
            const char *word = words[*data % ARRAY_LEN(words)];
            memcpy(out + len, word, strlen(word) + 1);
            len += strlen(word) + 1;
        }
        header[4] = type < 240 ? types[type % ARRAY_LEN(types)] : type;
        store_le32(header, (uint32_t)(len - start) + (type == 239));
    }
    if (write(fd, out, len) != (ssize_t)len)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct agent_link link;
    struct tree_counts counts;
    struct error e = {0};
    char outside[100], inside[100];
    struct stat st;
    int ends[2];

    strcpy(home, "/tmp/berth-agent-fuzz-XXXXXX");
    if (!mkdtemp(home) || socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0)
        abort();
    in_folder(outside, "out");
    in_folder(inside, "in");
    if (mkdir(outside, 0700) < 0 || mkdir(inside, 0700) < 0)
        abort();
    make_frames(ends[0], data, size);
    close(ends[0]);
    link = (struct agent_link){.fd = ends[1], .timeout_ms = 1000};
    if (tree_receive(&link, inside, "top", NULL, &counts, &e) && !e.text[0])
        abort();
    close(ends[1]);
    for (const char *p = e.text; *p; p++)
        if (*p == 033)
            abort();
    in_folder(inside, "x");
    if (rmdir(outside) < 0 || stat(inside, &st) == 0) // something is in there, or beside it
        abort();
    nftw(home, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return 0;
}
