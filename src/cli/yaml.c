// YAML to JSON and back. Aliases are followed, but a document may not become larger by them than
// NODES_MAX values, or deeper than DEPTH_MAX. Not modelled: tags, keys that are no text, dates,
// numbers other than decimal.
#include "cli/yaml.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/buffer.h"

#define NODES_MAX 20000
#define DEPTH_MAX 32

struct reading {
    yaml_document_t document;
    unsigned nodes;
};

static err_t bad(const yaml_node_t *node, const char *words, struct error *e)
{
    return error_set(e, ERR_INVALID, "line %zu: %s", node->start_mark.line + 1, words);
}

// --- scalars

static bool is_one_of(const char *text, const char *const *words)
{
    for (; *words; words++) {
        if (!strcmp(text, *words))
            return true;
    }
    return false;
}

static json_t *plain(const char *text)
{
    static const char *const yes[] = {"true", "True", "TRUE", "yes", "Yes", "on", "On", NULL};
    static const char *const no[] = {"false", "False", "FALSE", "no", "No", "off", "Off", NULL};
    static const char *const null[] = {"", "~", "null", "Null", "NULL", NULL};
    char *end;
    if (is_one_of(text, null))
        return json_null();
    if (is_one_of(text, yes))
        return json_true();
    if (is_one_of(text, no))
        return json_false();
    bool number =
        strchr("+-.0123456789", text[0]) && strspn(text, "+-.0123456789eE") == strlen(text);
    errno = 0;
    long long n = number ? strtoll(text, &end, 10) : 0;
    if (number && !errno && !*end)
        return json_integer(n);
    double d = number ? strtod(text, &end) : 0;
    return number && !errno && !*end ? json_real(d) : json_string(text);
}

static json_t *scalar(const yaml_node_t *node)
{
    const char *text = (const char *)node->data.scalar.value;
    if (strlen(text) != node->data.scalar.length)
        return NULL;
    return node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? plain(text) : json_string(text);
}

// --- reading

static err_t convert(struct reading *r, int index, unsigned depth, json_t **out, struct error *e);

static err_t convert_list(struct reading *r, const yaml_node_t *node, unsigned depth, json_t *list,
                          struct error *e)
{
    err_t err = OK;
    for (yaml_node_item_t *item = node->data.sequence.items.start;
         !err && item < node->data.sequence.items.top; item++) {
        json_t *value = NULL;
        err = convert(r, *item, depth, &value, e);
        if (!err)
            json_array_append_new(list, value);
    }
    return err;
}

static err_t convert_map(struct reading *r, const yaml_node_t *node, unsigned depth, json_t *map,
                         struct error *e)
{
    err_t err = OK;
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start;
         !err && pair < node->data.mapping.pairs.top; pair++) {
        const yaml_node_t *key = yaml_document_get_node(&r->document, pair->key);
        json_t *value = NULL;
        if (key->type != YAML_SCALAR_NODE)
            return bad(key, "a key must be text", e);
        const char *name = (const char *)key->data.scalar.value;
        if (json_object_get(map, name))
            return bad(key, "this key is given twice", e);
        err = convert(r, pair->value, depth, &value, e);
        if (!err && json_object_set_new(map, name, value))
            err = bad(key, "a key must be UTF-8", e);
    }
    return err;
}

static err_t convert(struct reading *r, int index, unsigned depth, json_t **out, struct error *e)
{
    const yaml_node_t *node = yaml_document_get_node(&r->document, index);
    if (++r->nodes > NODES_MAX || depth > DEPTH_MAX)
        return bad(node, "the document is too large or too deep", e);
    if (node->type == YAML_SCALAR_NODE) {
        *out = scalar(node);
        return *out ? OK : bad(node, "this is not UTF-8 text", e);
    }
    bool list = node->type == YAML_SEQUENCE_NODE;
    json_t *value = list ? json_array() : json_object();
    err_t err = list ? convert_list(r, node, depth + 1, value, e)
                     : convert_map(r, node, depth + 1, value, e);
    if (err)
        json_decref(value);
    else
        *out = value;
    return err;
}

static err_t read_document(yaml_parser_t *parser, json_t *documents, bool *more, struct error *e)
{
    struct reading r = {0};
    if (!yaml_parser_load(parser, &r.document))
        return error_set(e, ERR_INVALID, "line %zu: %s%s%s", parser->problem_mark.line + 1,
                         parser->context ? parser->context : "", parser->context ? ": " : "",
                         parser->problem ? parser->problem : "no YAML");
    *more = yaml_document_get_root_node(&r.document) != NULL;
    json_t *value = NULL;
    err_t err = *more ? convert(&r, 1, 0, &value, e) : OK;
    if (value)
        json_array_append_new(documents, value);
    yaml_document_delete(&r.document);
    return err;
}

err_t yaml_read(const char *text, size_t len, json_t **documents, struct error *e)
{
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser))
        return error_set(e, ERR_NO_MEMORY, "no memory to read YAML");
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
    *documents = json_array();
    err_t err = OK;
    for (bool more = true; !err && more;)
        err = read_document(&parser, *documents, &more, e);
    yaml_parser_delete(&parser);
    if (err) {
        json_decref(*documents);
        *documents = NULL;
    }
    return err;
}

// --- writing

static int add(yaml_document_t *document, const json_t *value);

static int add_scalar(yaml_document_t *document, const char *text, yaml_scalar_style_t style)
{
    return yaml_document_add_scalar(document, NULL, (const yaml_char_t *)text, -1, style);
}

// Text that would be read as something else is quoted.
static int add_text(yaml_document_t *document, const char *text)
{
    json_t *read = plain(text);
    bool quoted = !json_is_string(read);
    json_decref(read);
    yaml_scalar_style_t style = quoted               ? YAML_DOUBLE_QUOTED_SCALAR_STYLE
                                : strchr(text, '\n') ? YAML_LITERAL_SCALAR_STYLE
                                                     : YAML_ANY_SCALAR_STYLE;
    return add_scalar(document, text, style);
}

static int add_map(yaml_document_t *document, const json_t *value)
{
    const char *name;
    json_t *member;
    int map = yaml_document_add_mapping(document, NULL, YAML_BLOCK_MAPPING_STYLE);
    json_object_foreach((json_t *)value, name, member) yaml_document_append_mapping_pair(
        document, map, add_text(document, name), add(document, member));
    return map;
}

static int add(yaml_document_t *document, const json_t *value)
{
    size_t i;
    json_t *member;
    if (json_is_string(value))
        return add_text(document, json_string_value(value));
    if (json_is_object(value))
        return add_map(document, value);
    if (!json_is_array(value)) {
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
        int node = add_scalar(document, text ? text : "null", YAML_PLAIN_SCALAR_STYLE);
        free(text);
        return node;
    }
    int list = yaml_document_add_sequence(document, NULL, YAML_BLOCK_SEQUENCE_STYLE);
    json_array_foreach(value, i, member)
        yaml_document_append_sequence_item(document, list, add(document, member));
    return list;
}

static int append(void *opaque, unsigned char *data, size_t len)
{
    buffer_append(opaque, data, len);
    return 1;
}

err_t yaml_write(const json_t *value, char **text, struct error *e)
{
    yaml_emitter_t emitter;
    yaml_document_t document;
    struct buffer out = BUFFER_EMPTY;
    if (!yaml_emitter_initialize(&emitter))
        return error_set(e, ERR_NO_MEMORY, "no memory to write YAML");
    yaml_emitter_set_output(&emitter, append, &out);
    yaml_emitter_set_unicode(&emitter, 1);
    yaml_emitter_set_width(&emitter, -1);
    bool fine = yaml_document_initialize(&document, NULL, NULL, NULL, 0, 1) &&
                add(&document, value) && yaml_emitter_open(&emitter) &&
                yaml_emitter_dump(&emitter, &document) && yaml_emitter_close(&emitter);
    yaml_emitter_delete(&emitter);
    buffer_append(&out, "", 1);
    if (!fine || out.failed) {
        buffer_release(&out);
        return error_set(e, ERR_NO_MEMORY, "cannot write YAML");
    }
    *text = (char *)out.data;
    return OK;
}
