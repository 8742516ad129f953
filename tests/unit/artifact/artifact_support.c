#include "artifact_support.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

void expect_ok(qn_status status, const qn_error *err) {
    if (status != QN_OK) fail_msg("%s: %s", qn_status_name(status), err->message);
}

void expect_error(qn_status status, qn_status code, const qn_error *err, const char *text) {
    if (status != code) {
        fail_msg("expected %s, got %s: %s", qn_status_name(code), qn_status_name(status),
                 status == QN_OK ? "" : err->message);
    }
    if (!strstr(err->message, text)) fail_msg("'%s' is not in '%s'", text, err->message);
}

char *fixture_path(const fixture *f, const char *name) {
    return path_in(f->folder, name);
}

void write_text(const char *folder, const char *name, const char *text) {
    write_test_file(folder, name, text, strlen(text));
}

void fixture_open(fixture *f, const tiny_options *options) {
    qn_error err;
    *f = (fixture){.folder = make_temporary_folder()};
    char *model = fixture_path(f, "model");
    assert_int_equal(mkdir(model, 0777), 0);
    write_tiny_model(model, options);
    expect_ok(qn_checkpoint_open(model, &f->source, &err), &err);
    free(model);
    f->profile = qn_profile_builtin(QN_TRACK_TERNARY);
    f->n_rescued = calloc((size_t)qn_checkpoint_layout(f->source)->n, sizeof *f->n_rescued);
    assert_non_null(f->n_rescued);
}

void fixture_close(fixture *f) {
    qn_checkpoint_close(f->source);
    remove_tree(f->folder);
    free(f->folder);
    free(f->n_rescued);
}

qn_artifact_options fixture_options(const fixture *f) {
    return (qn_artifact_options){.profile = &f->profile,
                                 .as_archive = true,
                                 .recipe_name = "test",
                                 .recipe_sha256 = "0123",
                                 .isa = "ref",
                                 .seed = 7};
}

void fixture_rescue(fixture *f, int64_t every) {
    const qn_layout *layout = qn_checkpoint_layout(f->source);
    for (int64_t i = 0; i < layout->n; i++) {
        if (layout->entries[i].is_matrix) f->n_rescued[i] = every ? layout->entries[i].rows / every : 0;
    }
}

static void add_band(qn_encoded *e, qn_codec codec, int n_planes, int64_t n_lines) {
    if (n_lines > 0)
        e->bands[e->n_bands++] = (qn_band){.codec = codec, .n_planes = n_planes, .n_lines = n_lines};
}

static qn_encoded shape_of(const fixture *f, int64_t entry) {
    const qn_layout_entry *t = &qn_checkpoint_layout(f->source)->entries[entry];
    const qn_code native = f->profile.track == QN_TRACK_BINARY ? QN_CODE_SIGN : QN_CODE_TERNARY;
    qn_encoded e = {.rows = t->rows, .cols = t->cols};
    if (f->banded) {
        e.axis = QN_AXIS_COLUMNS;
        e.hadamard = entry % 2 ? 16 : 0;
        add_band(&e, (qn_codec){native, 32, QN_SCALE_LOG6}, 1, t->cols - 7);
        add_band(&e, (qn_codec){native, 32, QN_SCALE_LOG6}, 2, 4);
        add_band(&e, (qn_codec){QN_CODE_Q4, 128, QN_SCALE_F16}, 1, 3);
    } else {
        add_band(&e, (qn_codec){native, 0, QN_SCALE_F16}, 1, t->rows - f->n_rescued[entry]);
        add_band(&e, (qn_codec){QN_CODE_Q4, 128, QN_SCALE_F16}, 1, f->n_rescued[entry]);
    }
    return e;
}

/* The bytes of the stream that the provider's matrix makes. */
static int64_t stream_bytes_of(const fixture *f, int64_t entry) {
    qn_encoded e = {0};
    qn_error err;
    expect_ok(fixture_encode((void *)(uintptr_t)f, entry, &e, &err), &err);
    const int64_t n_bytes = e.stream_bytes;
    qn_encoded_release(&e);
    return n_bytes;
}

qn_encoded *fixture_shapes(const fixture *f) {
    const qn_layout *layout = qn_checkpoint_layout(f->source);
    qn_encoded *shapes = calloc((size_t)layout->n, sizeof *shapes);
    assert_non_null(shapes);
    for (int64_t i = 0; i < layout->n; i++) {
        if (!layout->entries[i].is_matrix) continue;
        shapes[i] = shape_of(f, i);
        if (f->deflated) shapes[i].stream_bytes = stream_bytes_of(f, i);
    }
    return shapes;
}

qn_artifact_plan *fixture_plan(const fixture *f, const qn_artifact_options *options, int64_t slack) {
    qn_artifact_plan *plan = NULL;
    qn_encoded *shapes = fixture_shapes(f);
    int64_t need = 0;
    qn_error err;
    expect_ok(qn_artifact_plan_new(f->source, options, &plan, &err), &err);
    expect_ok(qn_artifact_plan_need(plan, shapes, &need, &err), &err);
    expect_ok(qn_artifact_plan_fix(plan, shapes, need + slack, &err), &err);
    free(shapes);
    return plan;
}

static bool row_rescued(int64_t row, int64_t rows, int64_t n_rescued) {
    return row * n_rescued / rows != (row + 1) * n_rescued / rows;
}

static void encode_row(qn_codec codec, const float *w, int64_t cols, uint8_t *codes, uint8_t *scales) {
    const int64_t group = codec.group_size ? codec.group_size : cols;
    const int max = qn_code_max(codec.code);
    int8_t *q = malloc((size_t)cols);
    assert_non_null(q);
    for (int64_t g = 0; g * group < cols; g++) {
        const int64_t end = (g + 1) * group < cols ? (g + 1) * group : cols;
        double sum = 0;
        for (int64_t c = g * group; c < end; c++) sum += fabs((double)w[c]);
        const uint16_t bits = qn_f32_to_f16((float)(1e-4 + 2 * sum / (double)((end - g * group) * max)));
        const float scale = qn_f16_to_f32(bits);
        qn_scales_pack(QN_SCALE_F16, &bits, 1, scales + 2 * g);
        for (int64_t c = g * group; c < end; c++) {
            const float r = roundf(w[c] / scale);
            q[c] = (int8_t)(r > (float)max ? max : r < (float)-max ? -max : (int)r);
            if (codec.code == QN_CODE_SIGN) q[c] = w[c] < 0 ? -1 : 1;
        }
    }
    qn_codec_pack_row(codec, q, cols, codes);
    free(q);
}

static void encode_rows(const qn_weight *weight, const qn_encoded *e, const qn_encoded_arrays *to) {
    const int64_t n_rescued = e->n_bands > 1 ? e->bands[1].n_lines : 0;
    int64_t n_in[2] = {0};
    float *w = malloc((size_t)e->cols * sizeof *w);
    assert_non_null(w);
    for (int64_t r = 0; r < e->rows; r++) {
        const int band = row_rescued(r, e->rows, n_rescued);
        const qn_codec codec = e->bands[band].codec;
        const qn_plane_arrays *plane = &to->planes[band][0];
        const int64_t k = n_in[band]++;
        qn_weight_decode_rows(weight, r, 1, w);
        if (e->n_bands > 1) qn_mask_set(to->mask, e->n_bands, r, band);
        encode_row(codec, w, e->cols, plane->codes + k * qn_codec_code_bytes(codec, e->cols),
                   plane->scales + 2 * k * qn_codec_groups(codec, e->cols));
    }
    free(w);
}

static void fill_plane(qn_codec codec, int64_t rows, int64_t cols, const qn_plane_arrays *to) {
    const int64_t n_scales = rows * qn_codec_groups(codec, cols);
    uint16_t *scales = malloc((size_t)n_scales * sizeof *scales);
    int8_t *q = malloc((size_t)cols);
    assert_true(scales && q);
    for (int64_t i = 0; i < n_scales; i++)
        scales[i] = (uint16_t)(codec.scale == QN_SCALE_LOG6 ? i * 7 % 64 : 0x2000 + i % 500);
    qn_scales_pack(codec.scale, scales, n_scales, to->scales);
    if (codec.scale == QN_SCALE_LOG6) qn_log6_grid_pack(0.01f, 1.03f, to->grid);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < cols; c++) q[c] = (r * 31 + c * 7) % 3 ? 1 : -1;
        qn_codec_pack_row(codec, q, cols, to->codes + r * qn_codec_code_bytes(codec, cols));
    }
    free(scales);
    free(q);
}

static void fill_bands(const qn_encoded *e, const qn_encoded_arrays *to) {
    for (int64_t line = 0; line < qn_encoded_lines(e); line++)
        qn_mask_set(to->mask, e->n_bands, line, line < 3 ? 2 : line < 7 ? 1 : 0);
    for (int b = 0; b < e->n_bands; b++) {
        for (int p = 0; p < e->bands[b].n_planes; p++)
            fill_plane(e->bands[b].codec, qn_band_rows(e, b), qn_band_cols(e, b), &to->planes[b][p]);
    }
}

qn_status fixture_encode(void *user, int64_t entry, qn_encoded *out, qn_error *err) {
    const fixture *f = user;
    qn_encoded e = shape_of(f, entry);
    qn_encoded_arrays to;
    QN_TRY(qn_encoded_alloc(&e, &to, err));
    if (f->banded)
        fill_bands(&e, &to);
    else
        encode_rows(qn_checkpoint_weight(f->source, entry), &e, &to);
    if (f->deflated) {
        uint8_t *stream = NULL;
        expect_ok(qn_encoded_deflate(&e, &stream, &e.stream_bytes, err), err);
        free(stream);
    }
    *out = e;
    return QN_OK;
}

qn_artifact_result fixture_write(fixture *f, const char *name, const qn_artifact_options *options,
                                 int64_t every, int64_t slack) {
    qn_artifact_result result = {0};
    qn_error err;
    char *path = fixture_path(f, name);

    fixture_rescue(f, every);
    qn_artifact_plan *plan = fixture_plan(f, options, slack);
    expect_ok(qn_artifact_write(plan, path, fixture_encode, f, NULL, &result, &err), &err);
    qn_artifact_plan_free(plan);
    free(path);
    return result;
}

int count_files(const char *folder, const char *text) {
    DIR *dir = opendir(folder);
    struct dirent *entry;
    int n = 0;
    assert_non_null(dir);
    while ((entry = readdir(dir))) n += strstr(entry->d_name, text) != NULL;
    closedir(dir);
    return n;
}
