#include "control/screen.h"

#include "display/text.h"

static json_t *lines(const struct display_text *text)
{
    char line[TEXT_ROW_BYTES];
    json_t *array = json_array();
    for (unsigned row = 0; row < text->rows; row++) {
        size_t len = text_row_utf8(text, row, line);
        json_array_append_new(array, json_stringn(line, len));
    }
    return array;
}

static json_t *cursor(const struct display_text *text)
{
    return text->cursor
               ? json_pack("{s:i, s:i}", "column", text->cursor_column, "row", text->cursor_row)
               : json_null();
}

void screen_to_json(const struct display_text *text, json_t *out)
{
    json_object_set_new(out, "columns", json_integer(text->columns));
    json_object_set_new(out, "rows", json_integer(text->rows));
    json_object_set_new(out, "cursor", cursor(text));
    json_object_set_new(out, "lines", lines(text));
}
