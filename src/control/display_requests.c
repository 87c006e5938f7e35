// Requests about the VM's display and keyboard.
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "control/display_requests.h"
#include "control/screen.h"
#include "display/typist.h"
#include "host/file.h"

static err_t find_display(const struct control *c, const struct display **out, struct error *e)
{
    *out = vm_display(c->vm);
    return *out ? OK
                : error_set(e, ERR_UNSUPPORTED,
                            "the VM has no display; berth run --vga std gives it one");
}

// --- text

err_t request_screen(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    const struct display *display;
    struct display_text *text = malloc(sizeof *text);
    err_t err = text ? find_display(context, &display, e)
                     : error_set(e, ERR_NO_MEMORY, "no memory for the screen");
    if (!err)
        err = display->ops->text(display->opaque, text, e);
    if (!err)
        screen_to_json(text, reply->result);
    free(text);
    return err;
}

// --- pixels

// A file without a name that holds them; the client reads it from its start.
static err_t pixels_file(const struct picture *p, int *fd, struct error *e)
{
    *fd = memfd_create("berth-screen", MFD_CLOEXEC);
    if (*fd < 0 || host_write_all(*fd, p->pixels, (size_t)p->width * p->height * 4) ||
        lseek(*fd, 0, SEEK_SET) < 0) {
        if (*fd >= 0)
            close(*fd);
        *fd = -1;
        return error_set(e, ERR_IO, "cannot pass on the picture");
    }
    return OK;
}

err_t request_screenshot(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    const struct display *display;
    struct picture picture = {0};
    struct damage nobody = {0};
    err_t err = find_display(context, &display, e);
    if (!err)
        err = picture_init(&picture, false, e);
    if (!err) {
        display->ops->draw(display->opaque, &picture, &nobody);
        err = pixels_file(&picture, &reply->fd, e);
    }
    if (!err) {
        json_object_set_new(reply->result, "width", json_integer(picture.width));
        json_object_set_new(reply->result, "height", json_integer(picture.height));
        json_object_set_new(reply->result, "format", json_string("xrgb8888"));
    }
    picture_release(&picture);
    return err;
}

// --- keys

// Combinations with blanks between them.
static err_t add_chords(struct key_list *list, const char *words, struct error *e)
{
    err_t err = OK;
    while (!err && *(words += strspn(words, " "))) {
        char chord[128];
        size_t len = strcspn(words, " ");
        if (len >= sizeof chord)
            return error_set(e, ERR_INVALID, "'%.40s...' is no key", words);
        memcpy(chord, words, len);
        chord[len] = '\0';
        err = keys_add_chord(list, chord, e);
        words += len;
    }
    return err;
}

err_t request_keys(void *context, const json_t *args, struct reply *reply, struct error *e)
{
    const struct control *c = context;
    const struct display *display;
    struct key_list *list = calloc(1, sizeof *list);
    err_t err =
        list ? find_display(c, &display, e) : error_set(e, ERR_NO_MEMORY, "no memory for the keys");
    if (!err)
        err = add_chords(list, request_text(args, "keys", ""), e);
    if (!err)
        err = keys_add_text(list, request_text(args, "text", ""), e);
    if (!err && !list->count)
        err = error_set(e, ERR_INVALID, "no keys; give keys or text");
    if (!err)
        err = typist_press(c->typist, list->event, list->count, e);
    if (!err)
        json_object_set_new(reply->result, "events", json_integer(list->count));
    free(list);
    return err;
}

const struct request_field keys_fields[] = {
    {"keys", FIELD_TEXT, false, 0, 4096, "combinations, for example \"ctrl-alt-delete a f2\""},
    {"text", FIELD_TEXT, false, 0, 4096, "text to type, after them"},
    {0},
};
