/* What surrounds the arithmetic: observers, progress, cancelling, replaced weights, and errors that name
 * their cause. */
#include "quern/model/generate.h"
#include "quern/model/score.h"
#include "tiny_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N = 40 };
static const int64_t k_starts[] = {0, 25, N};
static int32_t k_ids[N];

static qn_sequences sequences(void) {
    for (int i = 0; i < N; i++) k_ids[i] = i * 11 % 257;
    return (qn_sequences){.ids = k_ids, .starts = k_starts, .n = 2};
}

typedef struct fixture {
    char *folder;
    qn_model *model;
    float *hidden;
} fixture;

static fixture open_written(char *folder) {
    fixture f = {.folder = folder};
    qn_error err = {0};
    if (qn_model_open(folder, &f.model, &err) != QN_OK) fail_msg("%s", err.message);
    f.hidden = malloc(sizeof(float) * (size_t)(N * qn_model_config(f.model)->hidden_size));
    return f;
}

static fixture make_fixture(void) {
    char *folder = make_temporary_folder();
    write_tiny_model(folder, &(tiny_options){.attention_bias = true});
    return open_written(folder);
}

static void release(fixture *f) {
    qn_model_close(f->model);
    remove_tree(f->folder);
    free(f->folder);
    free(f->hidden);
}

static qn_status walk(fixture *f, const qn_walk_observer *observer, const qn_context *ctx,
                      qn_walk_stats *stats, qn_error *err) {
    const qn_sequences s = sequences();
    const qn_walk_options options = {.observer = observer};
    return qn_walk(f->model, &s, &options, ctx, f->hidden, stats, err);
}

typedef struct seen {
    const fixture *f;
    int64_t next_depth, n_branches;
    int64_t tokens[64]; /* of each layout entry, in order so far */
    int64_t stop_at;    /* depth at which to fail, or -1 */
} seen;

static qn_status on_hidden(void *user, int64_t depth, const float *x, int64_t n_tokens, qn_error *err) {
    seen *s = user;
    assert_int_equal(depth, s->next_depth++);
    assert_int_equal(n_tokens, N);
    assert_ptr_equal(x, s->f->hidden);
    return depth == s->stop_at ? qn_fail(err, QN_E_BUDGET, "the guest has seen enough") : QN_OK;
}

static qn_status on_linear_input(void *user, int64_t index, const float *x, int64_t first_token,
                                 int64_t n_tokens, int64_t cols, qn_error *err) {
    seen *s = user;
    (void)err;
    assert_int_equal(first_token, s->tokens[index]);
    assert_int_equal(cols, qn_checkpoint_layout(qn_model_checkpoint(s->f->model))->entries[index].cols);
    assert_true(isfinite(x[n_tokens * cols - 1]));
    s->tokens[index] += n_tokens;
    return QN_OK;
}

static qn_status on_branch(void *user, int64_t layer, bool is_mlp, const float *y, int64_t first_token,
                           int64_t n_tokens, qn_error *err) {
    seen *s = user;
    (void)err;
    assert_int_equal(layer * 2 + is_mlp, s->n_branches++);
    assert_true(first_token == 0 && n_tokens == N && isfinite(y[0]));
    return QN_OK;
}

static void test_observers_see_everything_in_order(void **state) {
    (void)state;
    fixture f = make_fixture();
    seen s = {.f = &f, .stop_at = -1};
    const qn_walk_observer observer = {
        .on_hidden = on_hidden, .on_linear_input = on_linear_input, .on_branch = on_branch, .user = &s};
    assert_int_equal(walk(&f, &observer, NULL, NULL, NULL), QN_OK);
    assert_int_equal(s.next_depth, qn_model_config(f.model)->n_layers + 2);
    assert_int_equal(s.n_branches, 2 * qn_model_config(f.model)->n_layers);
    const qn_layout *layout = qn_checkpoint_layout(qn_model_checkpoint(f.model));
    for (int64_t i = 0; i < layout->n; i++)
        assert_int_equal(s.tokens[i], layout->entries[i].is_matrix && layout->entries[i].layer >= 0 ? N : 0);
    release(&f);
}

static void test_observer_stops_the_walk(void **state) {
    (void)state;
    fixture f = make_fixture();
    seen s = {.f = &f, .stop_at = 1};
    const qn_walk_observer observer = {.on_hidden = on_hidden, .user = &s};
    qn_error err = {0};
    assert_int_equal(walk(&f, &observer, NULL, NULL, &err), QN_E_BUDGET);
    assert_string_equal(err.message, "the guest has seen enough");
    assert_int_equal(s.next_depth, 2);
    release(&f);
}

typedef struct watcher {
    uint64_t last, total;
    int n_calls, cancel_after;
} watcher;

static void on_progress(void *user, const qn_progress *progress) {
    watcher *w = user;
    assert_true(progress->done >= w->last && progress->done <= progress->total);
    w->last = progress->done;
    w->total = progress->total;
    w->n_calls++;
}

static bool is_cancelled(void *user) {
    watcher *w = user;
    return w->cancel_after-- == 0;
}

static void test_progress_and_cancelling(void **state) {
    (void)state;
    fixture f = make_fixture();
    watcher w = {.cancel_after = -1};
    const qn_context ctx = {.on_progress = on_progress, .is_cancelled = is_cancelled, .user = &w};
    assert_int_equal(walk(&f, NULL, &ctx, NULL, NULL), QN_OK);
    assert_true(w.last == w.total && w.total == N * 2);
    w = (watcher){.cancel_after = 1};
    assert_int_equal(walk(&f, NULL, &ctx, NULL, NULL), QN_E_CANCELLED);
    assert_true(w.last < w.total);
    release(&f);
}

static void test_ids_outside_the_vocabulary(void **state) {
    (void)state;
    fixture f = make_fixture();
    const qn_walk_options options = {0};
    const int64_t starts[] = {0, 3};
    const int32_t bad[][3] = {{1, 257, 2}, {1, 2, -1}};
    double nll[3];
    float logits[257];
    qn_session *session = NULL;
    qn_error err = {0};
    for (int i = 0; i < 2; i++) {
        const qn_sequences s = {.ids = bad[i], .starts = starts, .n = 1};
        assert_int_equal(qn_walk(f.model, &s, &options, NULL, f.hidden, NULL, &err), QN_E_VALUE);
        assert_non_null(strstr(err.message, i ? "-1" : "257"));
        assert_int_equal(qn_head_nll(f.model, f.hidden, bad[i], 3, QN_COMPUTE_F32, NULL, nll, NULL, &err),
                         QN_E_VALUE);
    }
    assert_int_equal(qn_session_new(f.model, 8, QN_COMPUTE_F32, NULL, &session, NULL), QN_OK);
    assert_int_equal(qn_session_feed(session, bad[0], 3, logits, NULL), QN_E_VALUE);
    qn_session_free(session);
    release(&f);
}

static void test_malformed_sequences(void **state) {
    (void)state;
    fixture f = make_fixture();
    const qn_walk_options options = {0};
    const int64_t late[] = {1, 3}, backwards[] = {0, 3, 2};
    const qn_sequences bad[] = {{.ids = k_ids, .starts = late, .n = 1},
                                {.ids = k_ids, .starts = backwards, .n = 2}};
    for (int i = 0; i < 2; i++)
        assert_int_equal(qn_walk(f.model, &bad[i], &options, NULL, f.hidden, NULL, NULL), QN_E_ARGUMENT);
    qn_window window = {.first = 0, .n_ids = 5, .first_target = 5};
    const qn_windows windows = {.ids = k_ids, .n_ids = 5, .windows = &window, .n_windows = 1};
    qn_score_result result = {.n_targets = 77};
    assert_int_equal(qn_score(f.model, &windows, QN_COMPUTE_F32, NULL, NULL, &result, NULL), QN_E_ARGUMENT);
    window = (qn_window){.first = 1, .n_ids = 5, .first_target = 1};
    assert_int_equal(qn_score(f.model, &windows, QN_COMPUTE_F32, NULL, NULL, &result, NULL), QN_E_ARGUMENT);
    assert_int_equal(result.n_targets, 77);
    release(&f);
}

/* A model whose tensor NAME holds VALUE at one place. */
static fixture damaged(const char *name, float value) {
    tiny_model *tiny = tiny_model_make(&(tiny_options){0});
    char *folder = make_temporary_folder();
    tiny_model_find(tiny, name)->values[3] = value;
    tiny_model_write(tiny, folder, "F32", 1);
    tiny_model_free(tiny);
    return open_written(folder);
}

static void test_non_finite_values_are_located(void **state) {
    (void)state;
    const struct {
        const char *tensor, *place;
        float value;
    } cases[] = {{"model.layers.1.mlp.up_proj.weight", "layer 1 mlp.up_proj output", NAN},
                 {"model.layers.0.self_attn.k_proj.weight", "layer 0 self_attn.k_proj output", INFINITY}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f = damaged(cases[i].tensor, cases[i].value);
        qn_error err = {0};
        assert_int_equal(walk(&f, NULL, NULL, NULL, &err), QN_E_VALUE);
        if (!strstr(err.message, cases[i].place)) fail_msg("%s", err.message);
        assert_non_null(strstr(err.message, f.folder));
        release(&f);
    }
}

static void test_largest_activation(void **state) {
    (void)state;
    fixture f = damaged("model.layers.0.mlp.down_proj.weight", 3e6f);
    qn_walk_stats stats = {0};
    assert_int_equal(walk(&f, NULL, NULL, &stats, NULL), QN_OK);
    assert_true(stats.largest_activation > 1e4);
    assert_true(strstr(stats.largest_where, "layer 0 mlp.down_proj output") ||
                strstr(stats.largest_where, "residual stream"));
    const double before = stats.largest_activation;
    stats.largest_activation = 1e30;
    assert_int_equal(walk(&f, NULL, NULL, &stats, NULL), QN_OK);
    assert_true(stats.largest_activation == 1e30 && before < 1e30);
    release(&f);
}

/* A matrix of signs with a scale a row, and the dense matrix it stands for. */
static void make_signs(int64_t rows, int64_t cols, qn_weight *encoded, qn_weight *dense, float *values) {
    const qn_codec sign = {.code = QN_CODE_SIGN};
    qn_encoded e = {
        .rows = rows, .cols = cols, .n_bands = 1, .bands = {{.codec = sign, .n_planes = 1, .n_lines = rows}}};
    qn_encoded_arrays arrays;
    const int64_t row_bytes = qn_codec_code_bytes(sign, cols);
    int8_t q[512];
    assert_int_equal(qn_encoded_alloc(&e, &arrays, NULL), QN_OK);
    const qn_plane_arrays *plane = &arrays.planes[0][0];
    for (int64_t r = 0; r < rows; r++) {
        const uint16_t scale = qn_f32_to_f16(0.05f + 0.001f * (float)(r % 9));
        for (int64_t c = 0; c < cols; c++) q[c] = (r * 7 + c * c * 3 + c * r) % 5 < 2 ? 1 : -1;
        qn_codec_pack_row(sign, q, cols, plane->codes + r * row_bytes);
        qn_scales_pack(QN_SCALE_F16, &scale, 1, plane->scales + 2 * r);
    }
    assert_int_equal(qn_encoded_bind(&e, "test", NULL), QN_OK);
    qn_encoded_decode_rows(&e, 0, rows, values);
    *encoded = (qn_weight){.kind = QN_WEIGHT_ENCODED, .encoded = e};
    *dense =
        (qn_weight){.kind = QN_WEIGHT_DENSE,
                    .dense = {.data = values, .dtype = QN_DTYPE_F32, .n_dims = 2, .shape = {rows, cols}}};
}

static void walk_with(fixture *f, int64_t index, const qn_weight *weight, float *out) {
    assert_int_equal(qn_model_set_weight(f->model, index, weight, NULL), QN_OK);
    assert_int_equal(walk(f, NULL, NULL, NULL, NULL), QN_OK);
    memcpy(out, f->hidden, sizeof(float) * (size_t)(N * qn_model_config(f->model)->hidden_size));
}

static void session_logits(const fixture *f, qn_compute compute, float *logits) {
    qn_session *session = NULL;
    assert_int_equal(qn_session_new(f->model, N, compute, NULL, &session, NULL), QN_OK);
    assert_int_equal(qn_session_feed(session, k_ids, N, logits, NULL), QN_OK);
    qn_session_free(session);
}

static void test_replaced_weights(void **state) {
    (void)state;
    fixture f = make_fixture();
    const int64_t h = qn_model_config(f.model)->hidden_size;
    const qn_layout *layout = qn_checkpoint_layout(qn_model_checkpoint(f.model));
    const int64_t index = qn_layout_find(layout, QN_TENSOR_UP, 1);
    const qn_layout_entry *entry = &layout->entries[index];
    const size_t bytes = sizeof(float) * (size_t)(N * h);
    float *values = malloc(sizeof(float) * (size_t)(entry->rows * entry->cols));
    float *own = malloc(bytes), *packed = malloc(bytes), *fake = malloc(bytes), *again = malloc(bytes);
    float a[257], b[257];
    qn_weight encoded, dense;
    qn_error err = {0};
    make_signs(entry->rows, entry->cols, &encoded, &dense, values);
    walk_with(&f, index, NULL, own);
    walk_with(&f, index, &encoded, packed);
    assert_ptr_equal(qn_model_weight(f.model, index), &encoded);
    for (int compute = 0; compute < 2; compute++) {
        assert_int_equal(qn_model_set_weight(f.model, index, &encoded, NULL), QN_OK);
        session_logits(&f, (qn_compute)compute, a);
        assert_int_equal(qn_model_set_weight(f.model, index, &dense, NULL), QN_OK);
        session_logits(&f, (qn_compute)compute, b);
        assert_memory_equal(a, b, sizeof a);
    }
    walk_with(&f, index, &dense, fake);
    walk_with(&f, index, NULL, again);
    assert_memory_equal(packed, fake, bytes);
    assert_memory_equal(own, again, bytes);
    assert_memory_not_equal(own, packed, bytes);
    dense.dense.shape[0]--;
    assert_int_equal(qn_model_set_weight(f.model, index, &dense, &err), QN_E_SHAPE);
    assert_non_null(strstr(err.message, entry->name));
    assert_int_equal(qn_model_set_weight(f.model, layout->n, &dense, NULL), QN_E_ARGUMENT);
    assert_int_equal(qn_model_set_weight(f.model, -1, NULL, NULL), QN_E_ARGUMENT);
    assert_null(qn_model_weight(f.model, layout->n));
    qn_encoded_release(&encoded.encoded);
    free(values);
    free(own);
    free(packed);
    free(fake);
    free(again);
    release(&f);
}

static void test_session_limits(void **state) {
    (void)state;
    fixture f = make_fixture();
    qn_session *session = NULL;
    qn_error err = {0};
    float logits[257], again[257];
    sequences();
    assert_int_equal(qn_session_new(f.model, 0, QN_COMPUTE_F32, NULL, &session, NULL), QN_E_ARGUMENT);
    assert_null(session);
    assert_int_equal(qn_session_new(f.model, 5, QN_COMPUTE_F32, NULL, &session, NULL), QN_OK);
    assert_int_equal(qn_session_feed(session, k_ids, 0, logits, NULL), QN_E_ARGUMENT);
    assert_int_equal(qn_session_feed(session, k_ids, 6, logits, &err), QN_E_ARGUMENT);
    assert_non_null(strstr(err.message, "5 tokens"));
    assert_int_equal(qn_session_feed(session, k_ids, 4, logits, NULL), QN_OK);
    assert_int_equal(qn_session_feed(session, k_ids, 2, again, NULL),
                     QN_E_ARGUMENT); /* and nothing is changed */
    assert_int_equal(qn_session_feed(session, k_ids + 4, 1, again, NULL), QN_OK);
    qn_session_free(session);
    qn_session_free(NULL);
    release(&f);
}

/* More tokens than pass together, and more than the cache first holds. */
static void test_long_prompt(void **state) {
    (void)state;
    enum { LONG = 1500 };
    char *folder = make_temporary_folder();
    write_tiny_model(
        folder, &(tiny_options){.hidden = 16, .intermediate = 16, .heads = 2, .kv_heads = 1, .layers = 1});
    fixture f = open_written(folder);
    int32_t ids[LONG];
    const int64_t starts[] = {0, LONG};
    const qn_sequences s = {.ids = ids, .starts = starts, .n = 1};
    const qn_walk_options options = {0};
    float *hidden = malloc(sizeof(float) * 16 * LONG), walked[257], fed[257];
    qn_session *session = NULL;
    for (int i = 0; i < LONG; i++) ids[i] = i * i % 257;
    assert_int_equal(qn_walk(f.model, &s, &options, NULL, hidden, NULL, NULL), QN_OK);
    assert_int_equal(
        qn_head_logits(f.model, hidden + 16 * (LONG - 1), 1, QN_COMPUTE_F32, NULL, walked, NULL, NULL),
        QN_OK);
    assert_int_equal(qn_session_new(f.model, LONG, QN_COMPUTE_F32, NULL, &session, NULL), QN_OK);
    assert_int_equal(qn_session_feed(session, ids, 100, fed, NULL), QN_OK);
    assert_int_equal(qn_session_feed(session, ids + 100, LONG - 100, fed, NULL), QN_OK);
    for (int v = 0; v < 257; v++) assert_true(fabsf(fed[v] - walked[v]) <= 3e-5f);
    qn_session_free(session);
    free(hidden);
    release(&f);
}

static void test_missing_model(void **state) {
    (void)state;
    qn_model *model = NULL;
    qn_error err = {0};
    assert_true(qn_model_open("/nowhere/at/all", &model, &err) != QN_OK);
    assert_non_null(strstr(err.message, "/nowhere/at/all"));
    assert_null(model);
    qn_model_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_observers_see_everything_in_order),
        cmocka_unit_test(test_observer_stops_the_walk),
        cmocka_unit_test(test_progress_and_cancelling),
        cmocka_unit_test(test_ids_outside_the_vocabulary),
        cmocka_unit_test(test_malformed_sequences),
        cmocka_unit_test(test_non_finite_values_are_located),
        cmocka_unit_test(test_largest_activation),
        cmocka_unit_test(test_replaced_weights),
        cmocka_unit_test(test_session_limits),
        cmocka_unit_test(test_long_prompt),
        cmocka_unit_test(test_missing_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
