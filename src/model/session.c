#include "quern/model/generate.h"

#include "base/alloc.h"
#include "base/smaller.h"
#include "model/block.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum {
    FEED_TOKENS = 1024, /* of a prompt pass the layers together */
    FIRST_CAPACITY = 256
};

struct qn_session {
    qni_pass pass;
    qni_workspace work;
    qni_cache *caches; /* owned [L] */
    void **decoded;    /* owned [layout->n]: weights that cannot be used in place, or NULL */
    float *x;          /* owned [work_tokens, h] */
    int64_t *positions;
    int64_t n_past, capacity, max_tokens, work_tokens;
};

/* Puts a matrix that cannot be used in place into memory: as bf16 for bf16 arithmetic, else as f32. (bf16
 * weights stay as they are in f32 arithmetic too: widening them on the way costs less than reading twice the
 * bytes.) */
static qn_status settle_matrix(qni_pass *pass, int64_t index, void **owned, qn_error *err) {
    const qn_weight *weight = pass->model->weights[index];
    qni_matrix *matrix = &pass->matrices[index];
    const int64_t rows = matrix->rows, cols = matrix->cols;
    const char *name = pass->model->layout->entries[index].name;
    if (matrix->bf16 || (matrix->f32 && !pass->bf16)) return QN_OK;
    const size_t row_bytes = (size_t)cols * (pass->bf16 ? sizeof(uint16_t) : sizeof(float));
    float *wide = NULL; /* one row a thread */
    char *settled = NULL;
    QN_TRY(QNI_ALLOC(wide, pass->n_threads * cols, name, err));
    settled = qni_alloc_aligned(rows, row_bytes);
    if (!settled) {
        free(wide);
        return qni_fail_nomem(err, name);
    }
#pragma omp parallel for schedule(static) num_threads(pass->n_threads)
    for (int64_t r = 0; r < rows; r++) {
        float *row = wide + omp_get_thread_num() * cols;
        qn_weight_decode_rows(weight, r, 1, row);
        if (pass->bf16) {
            pass->ops->kernels->narrow_bf16(row, cols, (uint16_t *)(void *)(settled + (size_t)r * row_bytes));
        } else {
            memcpy(settled + (size_t)r * row_bytes, row, row_bytes);
        }
    }
    free(wide);
    *owned = settled;
    *matrix = (qni_matrix){.rows = rows, .cols = cols};
    if (pass->bf16) {
        matrix->bf16 = *owned;
    } else {
        matrix->f32 = *owned;
    }
    return QN_OK;
}

static qn_status open_session(qn_session *s, const qn_model *model, qn_compute compute, const qn_context *ctx,
                              qn_error *err) {
    const qn_layout *layout = model->layout;
    const int64_t h = model->config->hidden_size;
    QN_TRY(qni_pass_open(&s->pass, model, compute, ctx, err));
    s->work_tokens = qni_min(s->max_tokens, FEED_TOKENS);
    s->caches = qni_alloc_array(model->config->n_layers, sizeof *s->caches);
    s->decoded = qni_alloc_array(layout->n, sizeof *s->decoded);
    if (!s->caches || !s->decoded) return qni_fail_nomem(err, "session");
    QN_TRY(QNI_ALLOC(s->x, s->work_tokens * h, "session", err));
    QN_TRY(QNI_ALLOC(s->positions, s->work_tokens, "session", err));
    QN_TRY(qni_workspace_make(model, s->work_tokens, &s->work, err));
    for (int64_t i = 0; i < layout->n; i++)
        if (layout->entries[i].is_matrix) QN_TRY(settle_matrix(&s->pass, i, &s->decoded[i], err));
    return QN_OK;
}

qn_status qn_session_new(const qn_model *model, int64_t max_tokens, qn_compute compute, const qn_context *ctx,
                         qn_session **out, qn_error *err) {
    if (max_tokens < 1) return qn_fail(err, QN_E_ARGUMENT, "a session needs room for at least one token");
    qn_session *s = qni_alloc_array(1, sizeof *s);
    if (!s) return qni_fail_nomem(err, "session");
    s->max_tokens = max_tokens;
    const qn_status status = open_session(s, model, compute, ctx, err);
    if (status != QN_OK) {
        qn_session_free(s);
        return status;
    }
    *out = s;
    return QN_OK;
}

void qn_session_free(qn_session *session) {
    if (!session) return;
    const qn_model *model = session->pass.model;
    for (int64_t i = 0; session->caches && i < model->config->n_layers; i++) {
        free(session->caches[i].k);
        free(session->caches[i].v);
    }
    for (int64_t i = 0; session->decoded && i < model->layout->n; i++) free(session->decoded[i]);
    free(session->caches);
    free(session->decoded);
    free(session->x);
    free(session->positions);
    qni_workspace_release(&session->work);
    qni_pass_release(&session->pass);
    free(session);
}

static qn_status grow_rows(float **rows, int64_t width, int64_t used, int64_t capacity, qn_error *err) {
    float *larger = NULL;
    int64_t floats;
    if (!qni_multiply_i64(capacity, width, &floats)) return qni_fail_nomem(err, "key-value cache");
    QN_TRY(QNI_ALLOC(larger, floats, "key-value cache", err));
    if (used) memcpy(larger, *rows, (size_t)(used * width) * sizeof *larger);
    free(*rows);
    *rows = larger;
    return QN_OK;
}

/* Room for n_tokens tokens in all: at least doubled, so that growing costs little. */
static qn_status make_room(qn_session *s, int64_t n_tokens, qn_error *err) {
    const qn_config *config = s->pass.model->config;
    const int64_t width = config->n_kv_heads * config->head_dim;
    int64_t capacity = s->capacity ? s->capacity : FIRST_CAPACITY;
    if (n_tokens <= s->capacity) return QN_OK;
    while (capacity < n_tokens) capacity *= 2;
    capacity = qni_min(capacity, s->max_tokens);
    QN_TRY(qni_pass_cover(&s->pass, capacity, err));
    for (int64_t l = 0; l < config->n_layers; l++) {
        QN_TRY(grow_rows(&s->caches[l].k, width, s->n_past, capacity, err));
        QN_TRY(grow_rows(&s->caches[l].v, width, s->n_past, capacity, err));
    }
    s->capacity = capacity;
    return QN_OK;
}

/* Tokens [n_past, n_past + n) through all layers; s->x holds the stream afterwards. */
static qn_status feed_chunk(qn_session *s, const int32_t *ids, int64_t n_past, int64_t n, qn_error *err) {
    const qn_model *model = s->pass.model;
    const qni_span span = {.n_queries = n, .n_keys = n_past + n};
    const qni_chunk chunk = {
        .first_token = n_past, .n_tokens = n, .spans = &span, .n_spans = 1, .positions = s->positions};
    QN_TRY(qni_embed(&s->pass, ids, n, s->x, err));
    for (int64_t i = 0; i < n; i++) s->positions[i] = n_past + i;
    for (int64_t l = 0; l < model->config->n_layers; l++) {
        s->caches[l].n_past = n_past;
        QN_TRY(qni_block_forward(&s->pass, &model->layers[l], &chunk, &s->caches[l], &s->work, s->x, err));
    }
    return QN_OK;
}

qn_status qn_session_feed(qn_session *session, const int32_t *ids, int64_t n, float *logits, qn_error *err) {
    const qn_model *model = session->pass.model;
    const int64_t h = model->config->hidden_size;
    int64_t done = 0, n_chunk = 0;
    float largest = 0.0f;
    if (n < 1) return qn_fail(err, QN_E_ARGUMENT, "nothing to feed");
    if (n > session->max_tokens - session->n_past) {
        return qn_fail(err, QN_E_ARGUMENT,
                       "the session has room for %lld tokens, %lld are used, %lld more do not fit",
                       (long long)session->max_tokens, (long long)session->n_past, (long long)n);
    }
    QN_TRY(make_room(session, session->n_past + n, err));
    for (; done < n; done += n_chunk) {
        n_chunk = qni_min(session->work_tokens, n - done);
        QN_TRY(feed_chunk(session, ids + done, session->n_past + done, n_chunk, err));
    }
    float *last = session->x + (n_chunk - 1) * h;
    QN_TRY(qni_norm(&session->pass, model->final_norm, last, 1, h, last, err));
    const qni_linear_args args = {.bf16 = session->pass.bf16,
                                  .x = last,
                                  .m = 1,
                                  .w = &session->pass.matrices[model->head],
                                  .y = logits};
    QN_TRY(session->pass.ops->linear(session->pass.ops, &args, session->pass.n_threads, &largest, err));
    QN_TRY(qni_note_largest(&session->pass, largest, -1, "logits", err));
    session->n_past += n;
    return QN_OK;
}
