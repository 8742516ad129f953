#include "recipe/run_keys.h"

#include "quern/base/sha256.h"
#include "quern/tensor/isa.h"
#include "recipe/recipe_settings.h"

#include <stdio.h>
#include <string.h>

#include "base/banned.h"

static qn_status text_sha256(const qn_calibration_text *text, char hex[QN_SHA256_HEX], qn_error *err) {
    return qn_sha256_of_memory(text->ids, (size_t)(text->n * text->context) * sizeof *text->ids, hex, err);
}

/* A pass over the weights, once a run. */
static qn_status hash_weights(qni_calibrated *c, const qn_context *ctx, qn_error *err) {
    if (c->weights_sha256[0]) return QN_OK;
    return qn_checkpoint_sha256(qn_model_checkpoint(c->model), ctx, c->weights_sha256, err);
}

/* What the plan made of every matrix: a budget, a name or a version may move it. */
static qn_status shapes_sha256(const qni_calibrated *c, char hex[QN_SHA256_HEX], qn_error *err) {
    qn_sha256 *hash = NULL;
    QN_TRY(qn_sha256_new(&hash, err));
    for (int64_t i = 0; i < c->layout->n; i++) {
        char spec[QN_PACKED_SPEC_BYTES];
        if (!c->layout->entries[i].is_matrix) continue;
        qn_packed_spec_format(&c->shapes[i], spec);
        qn_sha256_update(hash, spec, strlen(spec) + 1);
    }
    qn_sha256_hex(hash, hex);
    qn_sha256_free(hash);
    return QN_OK;
}

qn_status qni_loss_key(qni_calibrated *c, const qn_context *ctx, char key[QN_SHA256_HEX], qn_error *err) {
    qn_recipe untrained = *c->options->recipe;
    char ids[QN_SHA256_HEX], text[512];
    qn_isa isa;
    untrained.distill = (qn_recipe_distill){0};
    untrained.finetune = (qn_recipe_finetune){0};
    QN_TRY(qni_recipe_seal(&untrained, err));
    QN_TRY(qn_isa_select(&isa, err));
    QN_TRY(hash_weights(c, ctx, err));
    QN_TRY(text_sha256(&c->text, ids, err));
    const int n = snprintf(text, sizeof text,
                           "quern losses 1\nweights %s\nrecipe %s\ntrack %s\ntokens %s\nseed %llu\nisa %s\n",
                           c->weights_sha256, untrained.sha256, qn_track_name(c->options->profile->track),
                           ids, (unsigned long long)c->options->seed, qn_isa_name(isa));
    return qn_sha256_of_memory(text, (size_t)n, key, err);
}

/* Everything that decides the bytes of a matrix as it is fitted. */
static qn_status make_fitted_key(qni_calibrated *c, const qn_checkpoint *start, const qn_recipe *recipe,
                                 const qn_context *ctx, char key[QN_SHA256_HEX], qn_error *err) {
    char before[QN_SHA256_HEX] = "none", ids[QN_SHA256_HEX], shapes[QN_SHA256_HEX], text[1024];
    qn_isa isa;
    QN_TRY(qn_isa_select(&isa, err));
    QN_TRY(hash_weights(c, ctx, err));
    if (start) QN_TRY(qn_checkpoint_sha256(start, ctx, before, err));
    QN_TRY(text_sha256(&c->text, ids, err));
    QN_TRY(shapes_sha256(c, shapes, err));
    const int n = snprintf(text, sizeof text,
                           "quern bands 2\nweights %s\nstart %s\nrecipe %s\nstatistics %s\ntrack %s\ntokens "
                           "%s\nshapes %s\nseed %llu\nisa %s\n",
                           c->weights_sha256, before, recipe->sha256, c->statistics_sha256,
                           qn_track_name(c->options->profile->track), ids, shapes,
                           (unsigned long long)c->options->seed, qn_isa_name(isa));
    return qn_sha256_of_memory(text, (size_t)n, key, err);
}

/* A later stage's key stands for the stage before and its own settings, which are what differs between both recipes. */
static qn_status make_next_key(const char *before, const qn_recipe *recipe, const qn_calibration_text *text,
                               char key[QN_SHA256_HEX], qn_error *err) {
    char ids[QN_SHA256_HEX] = "", line[256];
    if (text) QN_TRY(text_sha256(text, ids, err));
    const int n =
        snprintf(line, sizeof line, "after %s\nrecipe %s\ntokens %s\n", before, recipe->sha256, ids);
    return qn_sha256_of_memory(line, (size_t)n, key, err);
}

qn_status qni_stage_keys(qni_calibrated *c, const qn_checkpoint *start, const qn_context *ctx,
                         char keys[QNI_STAGE_COUNT][QN_SHA256_HEX], qn_error *err) {
    qn_recipe fitted = *c->options->recipe, trained = fitted;
    const bool keeps_targets = fitted.distill.steps > 0 || fitted.finetune.steps > 0;
    trained.finetune = (qn_recipe_finetune){0};
    fitted.finetune = (qn_recipe_finetune){.steps = keeps_targets};
    /* The student's inputs have passed the blocks that were trained before. */
    if (fitted.distill.steps == 0 || !fitted.student_inputs) fitted.distill = (qn_recipe_distill){0};
    QN_TRY(qni_recipe_seal(&fitted, err));
    QN_TRY(qni_recipe_seal(&trained, err));
    QN_TRY(make_fitted_key(c, start, &fitted, ctx, keys[QNI_STAGE_FITTED], err));
    QN_TRY(make_next_key(keys[QNI_STAGE_FITTED], &trained, NULL, keys[QNI_STAGE_TRAINED], err));
    return make_next_key(keys[QNI_STAGE_TRAINED], c->options->recipe, &c->tuning_text, keys[QNI_STAGE_TUNED],
                         err);
}
