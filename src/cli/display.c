// Verbs that look at a VM's screen and press its keys.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/manager.h"
#include "control/client.h"
#include "control/screen.h"
#include "display/glyphs.h"
#include "display/png.h"

#define ANSWER_MS 10000

const char screen_help[] =
    "usage: berth screen [--json] VM\n"
    "\n"
    "Prints the text on the VM's screen: that of a text mode, or what a console has drawn with a\n"
    "font that is known (the VGA's, Linux', GRUB's, UEFI's).\n";
const char screenshot_help[] = "usage: berth screenshot [--json] VM FILE.png\n"
                               "\n"
                               "Saves what the VM's screen shows as a PNG picture.\n";
const char sendkey_help[] =
    "usage: berth sendkey [--json] VM KEY...\n"
    "       berth sendkey [--json] VM --text TEXT\n"
    "\n"
    "Presses keys on the VM's keyboard (US layout), one after another. Keys that are held "
    "together\n"
    "are joined: ctrl-alt-delete, shift-f2, alt-tab. Names: esc f1..f12 tab enter space backspace\n"
    "insert delete home end pageup pagedown up down left right ctrl shift alt altgr super menu\n"
    "print capslock numlock minus plus kp0..kp9 kpenter, and any character.\n"
    "\n"
    "      --text TEXT   types the text; a newline in it is the enter key\n";

// --- pictures

static err_t read_pixels(int fd, const json_t *result, struct picture *p, struct error *e)
{
    json_int_t width = json_integer_value(json_object_get(result, "width"));
    json_int_t height = json_integer_value(json_object_get(result, "height"));
    if (fd < 0 || width < 1 || width > DISPLAY_WIDTH_MAX || height < 1 ||
        height > DISPLAY_HEIGHT_MAX)
        return error_set(e, ERR_CORRUPT, "the VM's answer is no picture");
    picture_resize(p, (uint32_t)width, (uint32_t)height);
    size_t want = (size_t)(width * height) * 4, got = 0;
    for (ssize_t n = 1; n > 0 && got<want; got += n> 0 ? (size_t)n : 0)
        n = read(fd, (char *)p->pixels + got, want - got);
    return got == want ? OK : error_set(e, ERR_CORRUPT, "the VM's picture is cut short");
}

// *p is new; *result the answer that describes it.
static err_t fetch_picture(struct client *client, struct picture *p, json_t **result,
                           struct error *e)
{
    int fd = -1;
    err_t err = client_ask(client, "screenshot", NULL, result, &fd, e);
    if (!err)
        err = picture_init(p, false, e);
    if (!err)
        err = read_pixels(fd, *result, p, e);
    if (fd >= 0)
        close(fd);
    return err;
}

// --- screen

// Without the blank lines at the end.
static void print_lines(const json_t *lines)
{
    size_t count = json_array_size(lines);
    while (count && !json_string_length(json_array_get(lines, count - 1)))
        count--;
    for (size_t i = 0; i < count; i++)
        puts(json_string_value(json_array_get(lines, i)));
}

// Text that the guest draws is read off the picture.
static bool read_picture(struct client *client, json_t **result)
{
    struct picture picture = {0};
    struct display_text *text = malloc(sizeof *text);
    bool read =
        text && fetch_picture(client, &picture, result, NULL) == OK && glyphs_read(&picture, text);
    if (read) {
        json_object_clear(*result);
        screen_to_json(text, *result);
    }
    picture_release(&picture);
    free(text);
    return read;
}

static err_t read_screen(const struct verb *verb, json_t **result, struct error *e)
{
    struct client *client = NULL;
    err_t err = vm_connect(verb->vm, ANSWER_MS, &client, e);
    if (!err)
        err = client_ask(client, "screen", NULL, result, NULL, e);
    if (err == ERR_UNSUPPORTED && read_picture(client, result))
        err = OK;
    client_free(client);
    return err;
}

int cmd_screen(int argc, char **argv)
{
    struct verb verb;
    struct error e = {0};
    json_t *result = NULL;
    int status = verb_parse(argc, argv, "", &verb);
    if (status)
        return status;
    err_t err = read_screen(&verb, &result, &e);
    if (!err && verb.json)
        return print_json(result);
    if (!err)
        print_lines(json_object_get(result, "lines"));
    json_decref(result);
    return err ? complain(status_of(err), "%s", e.text) : EXIT_OK;
}

// --- screenshot

static err_t take_screenshot(const struct verb *verb, const char *path, json_t **result,
                             struct error *e)
{
    struct client *client = NULL;
    struct picture picture = {0};
    err_t err = vm_connect(verb->vm, ANSWER_MS, &client, e);
    if (!err)
        err = fetch_picture(client, &picture, result, e);
    if (!err)
        err = png_write(&picture, path, e);
    picture_release(&picture);
    client_free(client);
    return err;
}

int cmd_screenshot(int argc, char **argv)
{
    struct verb verb;
    int status = verb_parse(argc, argv, "r", &verb);
    if (status)
        return status;
    if (verb.rest != argc - 1 || argv[verb.rest][0] == '-')
        return complain(EXIT_USAGE,
                        "screenshot needs one file to write: berth screenshot %s "
                        "screen.png",
                        verb.vm);
    struct error e = {0};
    json_t *result = NULL;
    const char *path = argv[verb.rest];
    err_t err = take_screenshot(&verb, path, &result, &e);
    if (err) {
        json_decref(result);
        return complain(status_of(err), "%s", e.text);
    }
    json_object_set_new(result, "path", json_string(path));
    if (verb.json)
        return print_json(result);
    printf("%s: %lld x %lld pixels\n", path,
           (long long)json_integer_value(json_object_get(result, "width")),
           (long long)json_integer_value(json_object_get(result, "height")));
    json_decref(result);
    return EXIT_OK;
}

// --- sendkey

static json_t *joined(int argc, char **argv, int from)
{
    char words[4096] = "";
    size_t used = 0;
    for (int i = from; i < argc; i++) {
        int n = snprintf(words + used, sizeof words - used, "%s%s", used ? " " : "", argv[i]);
        if (n < 0 || (size_t)n >= sizeof words - used)
            return NULL;
        used += (size_t)n;
    }
    return json_string(words);
}

int cmd_sendkey(int argc, char **argv)
{
    struct verb verb;
    int status = verb_parse(argc, argv, "r", &verb);
    if (status)
        return status;
    bool text = verb.rest < argc && !strcmp(argv[verb.rest], "--text");
    if (verb.rest >= argc || (text && verb.rest + 2 != argc))
        return complain(EXIT_USAGE, "sendkey needs keys or --text TEXT; see berth sendkey --help");
    json_t *value = text ? json_string(argv[argc - 1]) : joined(argc, argv, verb.rest);
    if (!value)
        return complain(EXIT_USAGE, "these are too many keys, or not UTF-8; send fewer at a time");
    json_t *result = NULL;
    status = verb_ask(&verb, "keys", json_pack("{s:o}", text ? "text" : "keys", value), &result);
    if (!status && verb.json)
        return print_json(result);
    json_decref(result);
    return status;
}
