#include "recipe/calibrated.h"

#include "base/alloc.h"
#include "recipe/run_text.h"

#include <regex.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { MAX_PLANS = 16 }; /* of one file: each hands the next what the bytes around the matrices really are */

static qn_status read_text(qni_calibrated *c, const qn_context *ctx, qn_error *err) {
    const qn_compress_options *o = c->options;
    const qn_config *config = qn_model_config(c->model);
    if (!o->text && o->statistics && o->dry_run) return QN_OK; /* a plan needs no walk then */
    QN_TRY(qni_run_text(o, config, o->recipe->tokens, ctx, &c->text, err));
    if (o->recipe->finetune.steps == 0) return QN_OK;
    return qni_run_text(o, config, o->recipe->finetune.tokens, ctx, &c->tuning_text, err);
}

/* Fewer tokens than inputs leave directions that no token ever went: there the fits go by the damping. */
static void warn_of_rank(const qni_calibrated *c, const qn_context *ctx) {
    const int64_t n_tokens = c->text.n * c->text.context;
    int64_t widest = 0;
    for (int64_t i = 0; i < c->layout->n; i++)
        if (c->layout->entries[i].is_matrix && c->layout->entries[i].cols > widest)
            widest = c->layout->entries[i].cols;
    if (n_tokens < widest)
        qn_log(ctx, QN_LOG_WARNING,
               "%lld calibration tokens for inputs of up to %lld values: second moments of rank %lld at "
               "most, so their diagonal is raised by %.2g of itself (quantize.shrinkage); give more text",
               (long long)n_tokens, (long long)widest, (long long)n_tokens,
               c->options->recipe->shrinkage * (double)widest / (double)n_tokens);
}

static qn_status check_overrides(const qn_recipe *recipe, qn_error *err) {
    for (int i = 0; i < recipe->n_overrides; i++) {
        const qn_recipe_override *o = &recipe->overrides[i];
        if ((o->code == QN_OVERRIDE_DOUBLE && recipe->planes < 2) ||
            (o->code == QN_OVERRIDE_Q4 && recipe->max_rescue_fraction <= 0))
            return qn_fail(err, QN_E_ARGUMENT,
                           "recipe '%s': the override of '%s' asks for a code that the recipe rules out",
                           recipe->name, o->match);
    }
    return QN_OK;
}

/* Codes that are there already need no plan. */
static bool needs_loss(const qn_compress_options *options) {
    return !options->start || options->recipe->distill.loss == QN_RECIPE_LOSS_FISHER;
}

/* Training knows weights by their codes and scales of groups alone. */
static qn_status check_column_scales(const qn_recipe *recipe, qn_error *err) {
    if (!recipe->column_scales || (recipe->distill.steps == 0 && recipe->finetune.steps == 0)) return QN_OK;
    return qn_fail(
        err, QN_E_ARGUMENT,
        "recipe '%s': quantize.column_scales goes with no training; leave it out, or distill.steps and "
        "finetune.steps",
        recipe->name);
}

qn_status qni_calibrated_open(const qn_compress_options *options, const qn_model *model,
                              const qn_context *ctx, qni_calibrated *out, qn_error *err) {
    const int64_t hadamard = options->recipe->hadamard;
    QN_TRY(check_overrides(options->recipe, err));
    if (hadamard & (hadamard - 1))
        return qn_fail(err, QN_E_ARGUMENT,
                       "recipe '%s': quantize.hadamard is %lld; expected a power of two or 0",
                       options->recipe->name, (long long)hadamard);
    QN_TRY(check_column_scales(options->recipe, err));
    if (options->recipe->overbook > 0 && !options->recipe->entropy_coding)
        return qn_fail(err, QN_E_ARGUMENT,
                       "recipe '%s': plan.overbook counts on entropy coding; add quantize.entropy: zlib",
                       options->recipe->name);
    qni_calibrated c = {.options = options, .model = model};
    c.layout = qn_checkpoint_layout(qn_model_checkpoint(model));
    qn_status status = read_text(&c, ctx, err);
    if (status == QN_OK && needs_loss(options)) {
        if (c.text.n > 0) warn_of_rank(&c, ctx);
        status = qni_calibrated_make_loss(&c, ctx, err);
    }
    if (status == QN_OK) {
        *out = c;
    } else {
        qni_calibrated_close(&c);
    }
    return status;
}

static void release_choices(qni_calibrated *c) {
    for (int64_t i = 0; c->choices && i < c->layout->n; i++) qni_plan_choice_release(&c->choices[i]);
}

void qni_calibrated_close(qni_calibrated *c) {
    release_choices(c);
    free(c->choices);
    free(c->shapes);
    free(c->relative_errors);
    free(c->block_reports);
    qni_dev_trace_close(c->dev);
    qn_calibration_text_release(&c->tuning_text);
    qni_loss_model_release(&c->loss);
    qn_calibration_text_release(&c->text);
    *c = (qni_calibrated){0};
}

/* What the recipe's overrides make of a matrix. */
static void force_kind(const qn_recipe *recipe, const char *name, qni_plan_matrix *m) {
    static const qni_band_kind kinds[] = {[QN_OVERRIDE_SINGLE] = QNI_BAND_SINGLE,
                                          [QN_OVERRIDE_DOUBLE] = QNI_BAND_DOUBLE,
                                          [QN_OVERRIDE_Q4] = QNI_BAND_Q4};
    for (int i = 0; i < recipe->n_overrides && !m->is_forced; i++) {
        regex_t regex;
        if (regcomp(&regex, recipe->overrides[i].match, REG_EXTENDED | REG_NOSUB) != 0) continue;
        m->is_forced = regexec(&regex, name, 0, NULL, 0) == 0;
        m->forced = kinds[recipe->overrides[i].code];
        regfree(&regex);
    }
}

/* Embedding and head are cut by rows: a row is a token. */
static qni_plan_matrix matrix_of(const qni_calibrated *c, int64_t entry) {
    const qn_layout_entry *e = &c->layout->entries[entry];
    const qn_axis axis = e->layer < 0 ? QN_AXIS_ROWS : c->options->recipe->lines;
    const qni_matrix_losses *losses = &c->loss.matrices[entry];
    qni_plan_matrix m = {.rows = e->rows,
                         .cols = e->cols,
                         .axis = axis,
                         .column_scaled = c->options->recipe->column_scales,
                         .n_bases = losses->n_bases};
    for (int b = 0; b < m.n_bases; b++) {
        const qni_line_losses *basis = &losses->bases[b];
        m.bases[b] = (qni_plan_basis){.hadamard = basis->hadamard,
                                      .sensitivity = axis == QN_AXIS_ROWS ? basis->rows : basis->columns};
        memcpy(m.bases[b].relative_error, basis->relative_error, sizeof basis->relative_error);
    }
    force_kind(c->options->recipe, e->name, &m);
    return m;
}

/* One plan with that many bytes for the matrices. */
static qn_status plan_matrices(qni_calibrated *c, const qni_plan_limits *limits, int64_t *least_bytes,
                               qn_error *err) {
    const int64_t n = c->layout->n_matrices;
    const qni_band_codecs codecs = qni_band_codecs_of(c->options->recipe, c->options->profile->track);
    qni_plan_matrix *matrices = qni_alloc_array(n, sizeof *matrices);
    qni_plan_choice *choices = qni_alloc_array(n, sizeof *choices);
    qn_status status = matrices && choices ? QN_OK : qni_fail_nomem(err, "a plan");
    if (status == QN_OK) {
        int64_t k = 0;
        for (int64_t i = 0; i < c->layout->n; i++)
            if (c->layout->entries[i].is_matrix) matrices[k++] = matrix_of(c, i);
        status = qni_plan(matrices, n, &codecs, limits, choices, least_bytes, err);
    }
    if (status == QN_OK) {
        int64_t k = 0;
        release_choices(c);
        for (int64_t i = 0; i < c->layout->n; i++) {
            if (!c->layout->entries[i].is_matrix) continue;
            c->choices[i] = choices[k++];
            c->shapes[i] = c->choices[i].shape;
        }
    }
    free(choices);
    free(matrices);
    return status;
}

static int64_t matrix_bytes(const qni_calibrated *c) {
    int64_t bytes = 0;
    for (int64_t i = 0; i < c->layout->n; i++)
        if (c->layout->entries[i].is_matrix) bytes += c->choices[i].n_bytes;
    return bytes;
}

qn_status qni_calibrated_plan(qni_calibrated *c, const qn_artifact_plan *plan, int64_t budget_bytes,
                              int64_t max_q4_weights, int64_t *minimum_bytes, qn_error *err) {
    qni_plan_limits limits = {.max_bytes = INT64_MAX, .max_q4_weights = max_q4_weights};
    int64_t need = 0, least = 0;
    c->choices = qni_alloc_array(c->layout->n, sizeof *c->choices);
    c->shapes = qni_alloc_array(c->layout->n, sizeof *c->shapes);
    if (!c->choices || !c->shapes) return qni_fail_nomem(err, "a plan");
    c->file_bytes = budget_bytes;
    /* What stands around the matrices depends a little on their shapes; the first plan, of all the bytes one could want, tells about how
     * much it is. */
    for (int round = 0; round < MAX_PLANS; round++) {
        const qn_status status = plan_matrices(c, &limits, &least, err);
        if (status == QN_E_BUDGET) *minimum_bytes = need - matrix_bytes(c) + least;
        QN_TRY(status);
        QN_TRY(qn_artifact_plan_need(plan, c->shapes, &need, err));
        *minimum_bytes = need - matrix_bytes(c) + least;
        if (need <= budget_bytes) {
            if (round == 0) c->file_bytes = need; /* the finest codes everywhere: more would be padding */
            return QN_OK;
        }
        limits.max_bytes = matrix_bytes(c) - (need - budget_bytes);
    }
    return qn_fail(err, QN_E_BUDGET, "no plan fits %lld bytes", (long long)budget_bytes);
}
