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
    f->folder = make_temporary_folder();
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
                                 .native = {QN_CODE_TERNARY, 0},
                                 .rescue = {QN_CODE_Q4, 128},
                                 .as_archive = true,
                                 .recipe_name = "test",
                                 .recipe_sha256 = "0123",
                                 .isa = "ref",
                                 .seed = 7};
}

int64_t fixture_rescue(fixture *f, const qn_artifact_plan *plan, int64_t every) {
    const qn_layout *layout = qn_checkpoint_layout(f->source);
    int64_t cost = 0;
    for (int64_t i = 0; i < layout->n; i++) {
        if (!layout->entries[i].is_matrix) continue;
        f->n_rescued[i] = every ? layout->entries[i].rows / every : 0;
        cost += f->n_rescued[i] * qn_artifact_plan_row_price(plan, i);
    }
    return cost;
}

static bool row_rescued(int64_t row, int64_t rows, int64_t n_rescued) {
    return row * n_rescued / rows != (row + 1) * n_rescued / rows;
}

static void encode_row(qn_codec codec, const float *w, int64_t cols, uint8_t *codes, uint16_t *scales) {
    const int64_t group = codec.group_size ? codec.group_size : cols;
    const int max = qn_code_max(codec.code);
    int8_t *q = malloc((size_t)cols);
    assert_non_null(q);
    for (int64_t g = 0; g * group < cols; g++) {
        const int64_t end = (g + 1) * group < cols ? (g + 1) * group : cols;
        double sum = 0;
        for (int64_t c = g * group; c < end; c++) sum += fabs((double)w[c]);
        scales[g] = qn_f32_to_f16((float)(1e-4 + 2 * sum / (double)((end - g * group) * max)));
        const float scale = qn_f16_to_f32(scales[g]);
        for (int64_t c = g * group; c < end; c++) {
            const float r = roundf(w[c] / scale);
            q[c] = (int8_t)(r > (float)max ? max : r < (float)-max ? -max : (int)r);
            if (codec.code == QN_CODE_SIGN) q[c] = w[c] < 0 ? -1 : 1;
        }
    }
    qn_codec_pack_row(codec, q, cols, codes);
    free(q);
}

qn_status fixture_encode(void *user, int64_t entry, qn_encoded *out, qn_error *err) {
    const fixture *f = user;
    const qn_weight *weight = qn_checkpoint_weight(f->source, entry);
    const int64_t rows = qn_weight_rows(weight), cols = qn_weight_cols(weight), n = f->n_rescued[entry];
    qn_encoded e = {.rows = rows, .cols = cols, .native = {QN_CODE_TERNARY, 0}, .n_rescue_rows = n};
    if (f->profile.track == QN_TRACK_BINARY) e.native.code = QN_CODE_SIGN;
    if (n) e.rescue = (qn_codec){QN_CODE_Q4, 128};
    qn_encoded_arrays to;
    QN_TRY(qn_encoded_alloc(&e, &to, err));
    float *w = malloc((size_t)cols * sizeof *w);
    assert_non_null(w);
    int64_t n_native = 0, n_rescue = 0;
    for (int64_t r = 0; r < rows; r++) {
        const bool rescued = row_rescued(r, rows, n);
        const qn_codec codec = rescued ? e.rescue : e.native;
        const int64_t k = rescued ? n_rescue++ : n_native++;
        qn_weight_decode_rows(weight, r, 1, w);
        if (rescued) to.rescue_mask[r / 8] = (uint8_t)(to.rescue_mask[r / 8] | 1 << r % 8);
        encode_row(codec, w, cols,
                   (rescued ? to.rescue_codes : to.codes) + k * qn_codec_code_bytes(codec, cols),
                   (rescued ? to.rescue_scales : to.scales) + k * qn_codec_groups(codec, cols));
    }
    free(w);
    *out = e;
    return QN_OK;
}

qn_artifact_result fixture_write(fixture *f, const char *name, const qn_artifact_options *options,
                                 int64_t every, int64_t slack) {
    qn_artifact_plan *plan = NULL;
    qn_artifact_result result = {0};
    qn_error err;
    char *path = fixture_path(f, name);

    expect_ok(qn_artifact_plan_new(f->source, options, &plan, &err), &err);
    const int64_t extra = fixture_rescue(f, plan, every) + slack;
    expect_ok(qn_artifact_write(plan, path, f->n_rescued, extra, fixture_encode, f, NULL, &result, &err),
              &err);
    assert_int_equal(result.bytes, qn_artifact_plan_bytes(plan, extra));
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
