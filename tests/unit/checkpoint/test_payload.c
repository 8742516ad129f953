/* Packed payloads: the description lines, opening an artifact that the test packs by itself, and damaged
 * ones. */
#include "quern/checkpoint/checkpoint.h"
#include "quern/checkpoint/safetensors.h"

#include "expect_error.h"
#include "tiny_model.h"

#include <stdlib.h>

enum { MAX_ITEMS = 200, N_RESCUE = 3, PAYLOADS = 2 };

/* What goes into the payload files; tests edit it before it is written. */
typedef struct artifact {
    char *folder;
    tiny_model *model;
    qn_encoded encoded[MAX_ITEMS]; /* by tensor of the model; vectors stay zero */
    uint16_t *vectors[MAX_ITEMS];  /* F16 values, or NULL */
    qn_safetensors_item items[PAYLOADS][MAX_ITEMS];
    qn_safetensors_meta meta[PAYLOADS][MAX_ITEMS];
    size_t n_items[PAYLOADS], n_meta[PAYLOADS];
    void *owned[MAX_ITEMS]; /* metadata lines */
    size_t n_owned;
} artifact;

static char *keep(artifact *a, char *text) {
    assert_non_null(text);
    a->owned[a->n_owned++] = text;
    return text;
}

/* Rows 1, 3 and 5 in q4 when there are enough, the rest ternary in groups of 20; scales that tell the rows
 * apart. */
static bool in_q4(const tiny_tensor *t, int64_t row) {
    return t->shape[0] % 2 == 0 && row < 2 * N_RESCUE && row % 2 == 1;
}

static qn_encoded shape_of(const tiny_tensor *t) {
    const int64_t rows = t->shape[0];
    const bool banded = in_q4(t, 1);
    return (qn_encoded){
        .rows = rows,
        .cols = t->shape[1],
        .n_bands = banded ? 2 : 1,
        .bands = {
            {.codec = {QN_CODE_TERNARY, 20, QN_SCALE_F16},
             .n_planes = 1,
             .n_lines = banded ? rows - N_RESCUE : rows},
            {.codec = {QN_CODE_Q4, 128, QN_SCALE_F16}, .n_planes = 1, .n_lines = banded ? N_RESCUE : 0}}};
}

static void pack_matrix(const tiny_tensor *t, qn_encoded *e) {
    qn_encoded_arrays arrays;
    *e = shape_of(t);
    const int64_t cols = e->cols;
    assert_ok(qn_encoded_alloc(e, &arrays, err));
    int8_t *q = malloc((size_t)cols);
    int64_t n_in[2] = {0};
    for (int64_t r = 0; r < e->rows; r++) {
        const int band = in_q4(t, r);
        const qn_codec codec = e->bands[band].codec;
        const qn_plane_arrays *to = &arrays.planes[band][0];
        const int64_t at = n_in[band]++, groups = qn_codec_groups(codec, cols);
        const uint16_t scale = qn_f32_to_f16((float)(1 + r % 7) / 64.0f);
        for (int64_t c = 0; c < cols; c++) q[c] = (int8_t)((r + c) % (band ? 15 : 3) - (band ? 7 : 1));
        qn_codec_pack_row(codec, q, cols, to->codes + at * qn_codec_code_bytes(codec, cols));
        for (int64_t g = 0; g < groups; g++)
            qn_scales_pack(QN_SCALE_F16, &scale, 1, to->scales + 2 * (at * groups + g));
        if (e->n_bands > 1) qn_mask_set(arrays.mask, e->n_bands, r, band);
    }
    free(q);
}

static float expected_value(const tiny_tensor *t, int64_t r, int64_t c) {
    const float q = in_q4(t, r) ? (float)((r + c) % 15 - 7) : (float)((r + c) % 3 - 1);
    return q * ((float)(1 + r % 7) / 64.0f);
}

static void add_matrix(artifact *a, size_t payload, size_t i) {
    const tiny_tensor *t = &a->model->tensors[i];
    char line[QN_PACKED_SPEC_BYTES];
    pack_matrix(t, &a->encoded[i]);
    const qn_view view = {.data = a->encoded[i].data,
                          .dtype = QN_DTYPE_U8,
                          .n_dims = 1,
                          .shape = {qn_encoded_bytes(&a->encoded[i])}};
    a->items[payload][a->n_items[payload]++] = (qn_safetensors_item){t->name, view};
    qn_packed_spec_format(&a->encoded[i], line);
    a->meta[payload][a->n_meta[payload]++] = (qn_safetensors_meta){t->name, keep(a, strdup(line))};
}

static void add_vector(artifact *a, size_t payload, size_t i) {
    const tiny_tensor *t = &a->model->tensors[i];
    a->vectors[i] = malloc((size_t)t->shape[0] * sizeof(uint16_t));
    for (int64_t k = 0; k < t->shape[0]; k++) a->vectors[i][k] = qn_f32_to_f16(t->values[k]);
    const qn_view view = {.data = a->vectors[i], .dtype = QN_DTYPE_F16, .n_dims = 1, .shape = {t->shape[0]}};
    a->items[payload][a->n_items[payload]++] = (qn_safetensors_item){t->name, view};
}

static const char k_payload_names[PAYLOADS][40] = {"payload-00001-of-00002.safetensors",
                                                   "payload-00002-of-00002.safetensors"};

static artifact *make_artifact(void) {
    artifact *a = calloc(1, sizeof *a);
    a->folder = make_temporary_folder();
    a->model = tiny_model_make(&(tiny_options){.tied = true});
    json_object_set_new(
        a->model->config, "quern",
        json_pack("{s:i, s:[s, s]}", "format", 2, "payload", k_payload_names[0], k_payload_names[1]));
    for (size_t p = 0; p < PAYLOADS; p++) {
        a->meta[p][a->n_meta[p]++] = (qn_safetensors_meta){"format", "quern"};
        a->meta[p][a->n_meta[p]++] = (qn_safetensors_meta){"version", "2"};
    }
    for (size_t i = 0; i < a->model->n_tensors; i++) {
        const size_t payload = i >= a->model->n_tensors / 2;
        if (a->model->tensors[i].n_dims == 2)
            add_matrix(a, payload, i);
        else
            add_vector(a, payload, i);
    }
    return a;
}

static void write_artifact(const artifact *a) {
    char *config = json_dumps(a->model->config, JSON_INDENT(2));
    write_test_file(a->folder, "config.json", config, strlen(config));
    free(config);
    for (size_t p = 0; p < PAYLOADS; p++) {
        char *path = path_in(a->folder, k_payload_names[p]);
        assert_ok(qn_safetensors_save(path, a->items[p], a->n_items[p], a->meta[p], a->n_meta[p], NULL, err));
        free(path);
    }
}

static void free_artifact(artifact *a) {
    for (size_t i = 0; i < MAX_ITEMS; i++) {
        qn_encoded_release(&a->encoded[i]);
        free(a->vectors[i]);
    }
    for (size_t i = 0; i < a->n_owned; i++) free(a->owned[i]);
    tiny_model_free(a->model);
    remove_tree(a->folder);
    free(a->folder);
    free(a);
}

static qn_safetensors_item *item_called(artifact *a, const char *name) {
    for (size_t p = 0; p < PAYLOADS; p++)
        for (size_t i = 0; i < a->n_items[p]; i++)
            if (strcmp(a->items[p][i].name, name) == 0) return &a->items[p][i];
    fail_msg("no item '%s'", name);
    return NULL;
}

static qn_safetensors_meta *line_called(artifact *a, const char *key) {
    for (size_t p = 0; p < PAYLOADS; p++)
        for (size_t i = 0; i < a->n_meta[p]; i++)
            if (strcmp(a->meta[p][i].key, key) == 0) return &a->meta[p][i];
    fail_msg("no metadata line '%s'", key);
    return NULL;
}

/* Stores a matrix as its stream, if there is a smaller one; the stream is the caller's to free. */
static uint8_t *deflate_matrix(artifact *a, size_t tensor) {
    const tiny_tensor *t = &a->model->tensors[tensor];
    qn_encoded *e = &a->encoded[tensor];
    uint8_t *stream = NULL;
    char line[QN_PACKED_SPEC_BYTES];
    assert_ok(qn_encoded_deflate(e, &stream, &e->stream_bytes, err));
    if (!stream) return NULL;
    qn_view *view = &item_called(a, t->name)->view;
    view->data = stream;
    view->shape[0] = e->stream_bytes;
    qn_packed_spec_format(e, line);
    line_called(a, t->name)->value = keep(a, strdup(line));
    return stream;
}

static void check_artifact_opens(bool deflated) {
    artifact *a = make_artifact();
    uint8_t *streams[MAX_ITEMS] = {0};
    size_t n_streams = 0;
    for (size_t i = 0; deflated && i < a->model->n_tensors; i++) {
        if (a->model->tensors[i].n_dims == 2) streams[i] = deflate_matrix(a, i);
        n_streams += streams[i] != NULL;
    }
    assert_true(!deflated || n_streams > 5);
    static const uint8_t zeros[11] = {0};
    a->items[1][a->n_items[1]++] = (qn_safetensors_item){
        "quern.padding", {.data = zeros, .dtype = QN_DTYPE_U8, .n_dims = 1, .shape = {sizeof zeros}}};
    write_artifact(a);
    qn_checkpoint *c = NULL;
    assert_ok(qn_checkpoint_open(a->folder, &c, err));
    assert_true(qn_checkpoint_is_artifact(c));
    assert_int_equal(qn_checkpoint_layout(c)->n_parameters, tiny_model_parameters(a->model));
    assert_ok(qn_checkpoint_check_finite(c, NULL, err));
    for (int64_t i = 0; i < qn_checkpoint_layout(c)->n; i++) {
        const qn_layout_entry *e = &qn_checkpoint_layout(c)->entries[i];
        const tiny_tensor *t = tiny_model_find(a->model, e->name);
        const qn_weight *w = qn_checkpoint_weight(c, i);
        float *row = malloc((size_t)e->cols * sizeof *row);
        assert_int_equal(w->kind, e->is_matrix ? QN_WEIGHT_ENCODED : QN_WEIGHT_DENSE);
        for (int64_t r = 0; r < e->rows; r++) {
            qn_weight_decode_rows(w, r, 1, row);
            for (int64_t k = 0; k < e->cols; k++)
                assert_true(row[k] == (e->is_matrix ? expected_value(t, r, k) : t->values[k]));
        }
        free(row);
    }
    qn_checkpoint_close(c);
    for (size_t i = 0; i < MAX_ITEMS; i++) free(streams[i]);
    free_artifact(a);
}

static void test_artifact_opens(void **state) {
    (void)state;
    check_artifact_opens(false);
}

static void test_artifact_of_streams_opens(void **state) {
    (void)state;
    check_artifact_opens(true);
}

#define UP     "model.layers.0.mlp.up_proj.weight" /* 80 x 48 with rescued rows */
#define EMBED  "model.embed_tokens.weight"         /* 257 x 48 without */
#define NORM   "model.layers.0.input_layernorm.weight"
#define SECOND "model.layers.1.mlp.down_proj.weight" /* in the second file */

static void set_quern(artifact *a, const char *text) {
    json_object_set_new(a->model->config, "quern", json_loads(text, 0, NULL));
}

static void format_1(artifact *a) {
    set_quern(a, "{\"format\": 1, \"payload\": [\"payload-00001-of-00002.safetensors\"]}");
}
static void no_payload(artifact *a) {
    set_quern(a, "{\"format\": 2}");
}
static void payload_of_numbers(artifact *a) {
    set_quern(a, "{\"format\": 2, \"payload\": [1]}");
}
static void payload_outside(artifact *a) {
    set_quern(a, "{\"format\": 2, \"payload\": [\"../payload-00001-of-00002.safetensors\"]}");
}
static void payload_absent(artifact *a) {
    set_quern(a, "{\"format\": 2, \"payload\": [\"payload-00003-of-00002.safetensors\"]}");
}
static void payload_twice(artifact *a) {
    set_quern(a, "{\"format\": 2, \"payload\": [\"payload-00001-of-00002.safetensors\","
                 "\"payload-00001-of-00002.safetensors\"]}");
}
static void payload_too_few(artifact *a) {
    set_quern(a, "{\"format\": 2, \"payload\": [\"payload-00001-of-00002.safetensors\"]}");
}
static void wrong_format(artifact *a) {
    line_called(a, "format")->value = "pt";
}
static void wrong_version(artifact *a) {
    line_called(a, "version")->value = "1";
}
static void wrong_rows(artifact *a) {
    line_called(a, UP)->value = "79x48 rows 76 ternary/20/f16 3 q4/128/f16";
}
static void wrong_rescue_count(artifact *a) {
    line_called(a, UP)->value = "80x48 rows 76 ternary/20/f16 4 q4/128/f16";
}
static void other_band(artifact *a) {
    line_called(a, UP)->value = "80x48 rows 76 ternary/20/f16 3 q4/128/f16";
}
static void stream_too_long(artifact *a) {
    line_called(a, UP)->value = "80x48 rows 77 ternary/20/f16 3 q4/128/f16 zlib/1000";
}
static void stream_that_is_none(artifact *a) {
    line_called(a, UP)->value = "80x48 rows 77 ternary/20/f16 3 q4/128/f16 zlib/1000";
    item_called(a, UP)->view.shape[0] = 1000;
}
static void unknown_code(artifact *a) {
    line_called(a, UP)->value = "80x48 rows 77 q3/20/f16 3 q4/128/f16";
}
static void block_missing(artifact *a) {
    item_called(a, UP)->name = "model.layers.0.mlp.up_proj.weigth";
}
static void block_of_wrong_shape(artifact *a) {
    qn_view *view = &item_called(a, UP)->view;
    view->n_dims = 2;
    view->shape[1] = 1;
}
static void block_of_wrong_dtype(artifact *a) {
    item_called(a, UP)->view.dtype = QN_DTYPE_I8;
}
/* Offsets into the block of UP: 10 bytes of mask, 77 rows of 3 scales, 77 of 10 code bytes. */
static uint8_t *byte_of(artifact *a, const char *name, size_t at) {
    return (uint8_t *)(uintptr_t)item_called(a, name)->view.data + at;
}
static void illegal_code(artifact *a) {
    *byte_of(a, UP, 10 + 77 * 6 + 10) = 250;
}
static void illegal_mask(artifact *a) {
    *byte_of(a, UP, 0) ^= 1;
}
static void infinite_scale(artifact *a) {
    memcpy(byte_of(a, SECOND, 6 + 4), "\x00\x7c", 2); /* 48 rows: 6 bytes of mask */
}
static void matrix_without_line(artifact *a) {
    line_called(a, EMBED)->key = "unused";
}
static void vector_in_f32(artifact *a) {
    qn_view *view = &item_called(a, NORM)->view;
    view->dtype = QN_DTYPE_F32;
    view->shape[0] /= 2;
}
static void nan_vector(artifact *a) {
    ((uint16_t *)(uintptr_t)item_called(a, NORM)->view.data)[3] = 0x7e00;
}
static void surplus(artifact *a) {
    a->items[0][a->n_items[0]++] = (qn_safetensors_item){"extra", item_called(a, NORM)->view};
}
static void padding_in_first_file(artifact *a) {
    qn_safetensors_item item = {"quern.padding", item_called(a, UP)->view};
    a->items[0][a->n_items[0]++] = item;
}
static void matrix_in_both_files(artifact *a) {
    a->items[1][a->n_items[1]++] = *item_called(a, UP);
    a->meta[1][a->n_meta[1]++] = *line_called(a, UP);
}

static void test_damaged_artifacts(void **state) {
    (void)state;
    static const struct {
        void (*edit)(artifact *a);
        qn_status code;
        const char *words;
    } cases[] = {
        {format_1, QN_E_UNSUPPORTED, "format 1, supported is 2"},
        {no_payload, QN_E_FORMAT, "quern.payload|names no file"},
        {payload_of_numbers, QN_E_FORMAT, "payload[0] is not a string"},
        {payload_outside, QN_E_FORMAT, "'../payload-00001-of-00002.safetensors'|plain name"},
        {payload_absent, QN_E_FORMAT, "payload-00003-of-00002.safetensors|absent"},
        {payload_twice, QN_E_FORMAT, "twice"},
        {payload_too_few, QN_E_SHAPE, "is missing"},
        {wrong_format, QN_E_FORMAT, "payload-00001|'pt', expected 'quern'"},
        {wrong_version, QN_E_UNSUPPORTED, "payload-00001|version '1'"},
        {wrong_rows, QN_E_SHAPE, UP "|79x48|80x48"},
        {wrong_rescue_count, QN_E_SHAPE, UP "' is U8|[1320, ...], expected U8 [1330]"},
        {other_band, QN_E_SHAPE, UP "|1 of 80 lines lie in no band"},
        {stream_too_long, QN_E_SHAPE, UP "' is U8|[1320, ...], expected U8 [1000]"},
        {stream_that_is_none, QN_E_FORMAT, "payload-00001|" UP "|zlib stream is damaged"},
        {unknown_code, QN_E_FORMAT, "q3|sign, ternary, q4"},
        {block_missing, QN_E_FORMAT, UP "' is missing"},
        {block_of_wrong_shape, QN_E_SHAPE, UP "' is U8 with 2 dimensions"},
        {block_of_wrong_dtype, QN_E_SHAPE, UP "' is I8|expected U8"},
        {illegal_code, QN_E_VALUE, "payload-00001|" UP "|illegal ternary code|row 1, column 0"},
        {illegal_mask, QN_E_FORMAT, UP "|the mask"},
        {infinite_scale, QN_E_VALUE, "payload-00002|" SECOND "|scale 0x7c00"},
        {matrix_without_line, QN_E_FORMAT, EMBED "' has no line in __metadata__"},
        {vector_in_f32, QN_E_SHAPE, NORM "' is F32, expected F16 or BF16"},
        {surplus, QN_E_SHAPE, "'extra' is not part of the qwen3 model"},
        {padding_in_first_file, QN_E_SHAPE, "'quern.padding' is not part"},
        {matrix_in_both_files, QN_E_FORMAT, "payload-00002|" UP "' lies in|payload-00001"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        artifact *a = make_artifact();
        qn_checkpoint *c = NULL;
        cases[i].edit(a);
        write_artifact(a);
        assert_error(qn_checkpoint_open(a->folder, &c, err), cases[i].code, cases[i].words);
        assert_null(c);
        free_artifact(a);
    }
}

static void test_nan_in_vector(void **state) {
    (void)state;
    artifact *a = make_artifact();
    qn_checkpoint *c = NULL;
    nan_vector(a);
    write_artifact(a);
    assert_ok(qn_checkpoint_open(a->folder, &c, err));
    assert_error(qn_checkpoint_check_finite(c, NULL, err), QN_E_VALUE, "payload-00001|" NORM "|column 3");
    qn_checkpoint_close(c);
    free_artifact(a);
}

static void test_spec_lines(void **state) {
    (void)state;
    static const char *const good[] = {
        "3072x1024 rows 3060 ternary/64/f16 12 q4/128/f16",
        "1x1 rows 1 sign/0/f16",
        "8x5 rows 8 q4/128/log6",
        "8x6 rows 8 sign+sign/2/log6 hadamard/2",
        "768x256 columns 200 ternary/64/log6 40 ternary+ternary/64/log6 16 q4/128/f16 hadamard/128",
        "768x256 rows 768 ternary/0/log6 zlib/40512", /* one less than the block */
        "768x256 rows 768 sign/0/f16 hadamard/256 zlib/26",
        "8x6 rows 8 sign/0/f16 column-scales",
        "768x256 columns 200 ternary/64/log6 56 q4/128/f16 column-scales hadamard/128 zlib/30000",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        qn_encoded e = {0};
        char line[QN_PACKED_SPEC_BYTES];
        assert_ok(qn_packed_spec_parse(good[i], "f", &e, err));
        qn_packed_spec_format(&e, line);
        assert_string_equal(line, good[i]);
        assert_null(e.data);
    }
    qn_encoded e = {0};
    assert_ok(qn_packed_spec_parse(good[4], "f", &e, err));
    assert_int_equal(e.axis, QN_AXIS_COLUMNS);
    assert_int_equal(e.n_bands, 3);
    assert_int_equal(e.bands[1].n_planes, 2);
    assert_int_equal(e.bands[1].codec.scale, QN_SCALE_LOG6);
    assert_int_equal(e.bands[2].n_lines, 16);
    assert_int_equal(e.hadamard, 128);
    assert_int_equal(e.stream_bytes, 0);
    assert_ok(qn_packed_spec_parse(good[6], "f", &e, err));
    assert_int_equal(e.stream_bytes, 26);
    assert_false(e.column_scaled);
    assert_ok(qn_packed_spec_parse(good[8], "f", &e, err));
    assert_true(e.column_scaled && e.hadamard == 128 && e.stream_bytes == 30000);

    static const char *const bad[] = {
        "",
        "8",
        "8x",
        "8x5",
        "8x5 rows",
        "8x5 rows ",
        "8x5 rows 8",
        "8x5 rows 8 sign",
        "8x5 rows 8 sign/0",
        "8x5 rows 8 sign/0/",
        "8x5 rows 8 sign/0/f16 ",
        " 8x5 rows 8 sign/0/f16",
        "+8x5 rows 8 sign/0/f16",
        "08x5 rows 8 sign/0/f16",
        "8x5 rows 08 sign/0/f16",
        "8x5  rows 8 sign/0/f16",
        "8x5 rows  8 sign/0/f16",
        "8X5 rows 8 sign/0/f16",
        "8x5 row 8 sign/0/f16",
        "0x5 rows 0 sign/0/f16",
        "-8x5 rows -8 sign/0/f16",
        "8x5 rows 7 sign/0/f16",
        "8x5 rows 9 sign/0/f16",
        "8x5 rows 8 none/0/f16",
        "8x5 rows 8 sign/-1/f16",
        "8x5 rows 8 sign/99999999999/f16",
        "8x5 rows 8 sign/0/f32",
        "8x5 rows 8 sign/0/?",
        "8x5 rows 8 sign+ternary/0/f16",
        "8x5 rows 8 sign+sign+sign/0/f16",
        "8x5 rows 8 sign+/0/f16",
        "8x5 rows 8 q4+q4/128/f16",
        "8x5 columns 5 sign/0/f16",
        "8x5 rows 5 sign/0/f16 3 q4/128/f16 0 q4/128/f16",
        "8x5 rows 5 sign/0/f16 1 q4/128/f16 1 q4/128/f16 1 q4/128/f16",
        "8x6 rows 8 sign/0/f16 hadamard/0",
        "8x6 rows 8 sign/0/f16 hadamard/1",
        "8x6 rows 8 sign/0/f16 hadamard/4",
        "8x6 rows 8 sign/0/f16 hadamard/6",
        "8x6 rows 8 sign/0/f16 hadamard/-2",
        "8x6 rows 8 sign/0/f16 hadamard/2 ",
        "8x6 rows hadamard/2 8 sign/0/f16",
        "9999999999x99999999999999 rows 9999999999 sign/0/f16",
        "8x6 rows 8 sign/0/f16 column-scale",
        "8x6 rows 8 sign/0/f16 column-scaleshadamard/2",
        "8x6 rows 8 sign/0/f16 hadamard/2 column-scales",
        "8x6 rows 8 sign/0/f16 column-scales column-scales",
        "8x600 rows 8 sign/0/f16 zlib/",
        "8x600 rows 8 sign/0/f16 zlib/0",
        "8x600 rows 8 sign/0/f16 zlib/-5",
        "8x600 rows 8 sign/0/f16 zlib/616",
        "8x600 rows 8 sign/0/f16 zlib/99999999999999999999",
        "8x600 rows 8 sign/0/f16 zlib/500 ",
        "8x600 rows 8 sign/0/f16 zlib/500 hadamard/8",
        "8x600 rows 8 sign/0/f16 hadamard/8zlib/500",
        "768x256 rows 768 sign/0/f16 zlib/25", /* a stream holds at most 1032 times its bytes */
        "768x256 rows 768 ternary/0/log6 zlib/40520",
        "99999999999999999999x5 rows 8 sign/0/f16",
        "8x5 rows 8 signsignsignsignsign/0/f16",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        qn_encoded untouched = {.rows = 77};
        if (qn_packed_spec_parse(bad[i], "f", &untouched, NULL) == QN_OK)
            fail_msg("'%s' was accepted", bad[i]);
        assert_int_equal(untouched.rows, 77);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_artifact_opens),    cmocka_unit_test(test_artifact_of_streams_opens),
        cmocka_unit_test(test_damaged_artifacts), cmocka_unit_test(test_nan_in_vector),
        cmocka_unit_test(test_spec_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
