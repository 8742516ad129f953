/* The built-in recipes, and the settings that all recipes have. */
#include "recipe/recipe_settings.h"

#include <stdio.h>
#include <string.h>

#include "base/banned.h"

/* Finest group sizes of the built-in recipes: measured in docs/quality.md. Coarser than 512, a whole row is as good. */
enum {
    BINARY_GROUP_SIZE = 128,
    TERNARY_GROUP_SIZE = 64,
    COARSEST_GROUP_SIZE = 512,
    MAX_GROUP_SIZE = 1 << 20,
    MAX_TOKENS = 1 << 28,
    MAX_CONTEXT = 1 << 20,
    MAX_SWEEPS = 1000,
    MAX_HADAMARD = 1 << 14,
    MAX_STEPS = 1 << 24,
    MAX_BATCH = 1 << 16,
    MAX_WINDOW = 64
};

#define FIELD(name)  offsetof(qn_recipe, name)
#define CHOICE(name) QNI_SETTING_CHOICE, FIELD(name), sizeof((qn_recipe *)0)->name, 0, 0

const qni_setting qni_settings[QNI_SETTING_COUNT] = {
    {"calibrate", "tokens", QNI_SETTING_INTEGER, FIELD(tokens), 0, 1, MAX_TOKENS, {NULL}, true},
    {"calibrate", "context", QNI_SETTING_INTEGER, FIELD(context), 0, 2, MAX_CONTEXT, {NULL}, true},
    {"calibrate", "fisher_tokens", QNI_SETTING_INTEGER, FIELD(fisher_tokens), 0, 1, MAX_TOKENS, {NULL}, true},
    {"quantize", "fit", CHOICE(fit), {"closed-form", "weighted", "feedback", "descent"}, false},
    {"quantize", "group_size", QNI_SETTING_INTEGER, FIELD(group_size), 0, 0, MAX_GROUP_SIZE, {NULL}, false},
    {"quantize", "rule", CHOICE(rule), {"optimal", "published"}, false},
    {"quantize", "lines", CHOICE(lines), {"rows", "columns"}, true},
    {"quantize", "planes", QNI_SETTING_INTEGER, FIELD(planes), 0, 1, QN_MAX_PLANES, {NULL}, true},
    {"quantize", "scales", CHOICE(scales), {"f16", "log6"}, true},
    {"quantize", "sweeps", QNI_SETTING_INTEGER, FIELD(sweeps), 0, 0, MAX_SWEEPS, {NULL}, true},
    {"quantize", "damping", QNI_SETTING_REAL, FIELD(damping), 0, 0, 1e3, {NULL}, true},
    {"quantize", "shrinkage", QNI_SETTING_REAL, FIELD(shrinkage), 0, 0, 1e3, {NULL}, true},
    {"quantize", "order", CHOICE(activation_order), {"natural", "activation"}, true},
    {"quantize", "error_decay", QNI_SETTING_REAL, FIELD(error_decay), 0, 0, 1, {NULL}, true},
    {"quantize", "hadamard", QNI_SETTING_INTEGER, FIELD(hadamard), 0, 0, MAX_HADAMARD, {NULL}, true},
    {"quantize", "rotate", CHOICE(measured_rotation), {"all", "measured"}, true},
    {"quantize", "inputs", CHOICE(student_inputs), {"teacher", "student"}, true},
    {"quantize", "target_blend", QNI_SETTING_REAL, FIELD(target_blend), 0, 0, 1, {NULL}, true},
    {"quantize", "column_scales", CHOICE(column_scales), {"false", "true"}, true},
    {"quantize", "entropy", CHOICE(entropy_coding), {"none", "zlib"}, true},
    {"quantize", "rate", QNI_SETTING_REAL, FIELD(rate), 0, 0, 1e3, {NULL}, true},
    {"plan", "errors", CHOICE(measured_errors), {"normal", "measured"}, true},
    {"plan", "sensitivity", CHOICE(measured_sensitivity), {"fisher", "measured"}, true},
    {"plan", "probe_tokens", QNI_SETTING_INTEGER, FIELD(probe_tokens), 0, 1, MAX_TOKENS, {NULL}, true},
    {"plan", "overbook", QNI_SETTING_REAL, FIELD(overbook), 0, 0, 1, {NULL}, true},
    {"distill", "steps", QNI_SETTING_INTEGER, FIELD(distill.steps), 0, 0, MAX_STEPS, {NULL}, true},
    {"distill", "batch", QNI_SETTING_INTEGER, FIELD(distill.batch), 0, 1, MAX_BATCH, {NULL}, true},
    {"distill", "lr", QNI_SETTING_REAL, FIELD(distill.lr), 0, 1e-9, 1, {NULL}, true},
    {"distill", "scale_rate", QNI_SETTING_REAL, FIELD(distill.scale_rate), 0, 0, 1e3, {NULL}, true},
    {"distill", "threshold_rate", QNI_SETTING_REAL, FIELD(distill.threshold_rate), 0, 0, 1e3, {NULL}, true},
    {"distill", "vector_rate", QNI_SETTING_REAL, FIELD(distill.vector_rate), 0, 0, 1e3, {NULL}, true},
    {"distill", "loss", CHOICE(distill.loss), {"squared", "huber", "fisher"}, true},
    {"distill", "window", QNI_SETTING_INTEGER, FIELD(distill.window), 0, 1, MAX_WINDOW, {NULL}, true},
    {"distill", "temperature", QNI_SETTING_REAL, FIELD(distill.temperature), 0, 0, 10, {NULL}, true},
    {"distill", "inputs", CHOICE(distill.student_inputs), {"teacher", "student"}, true},
    {"distill", "patience", QNI_SETTING_INTEGER, FIELD(distill.patience), 0, 0, MAX_STEPS, {NULL}, true},
    {"distill", "compute", CHOICE(distill.compute), {"f32", "bf16"}, true},
    {"finetune", "tokens", QNI_SETTING_INTEGER, FIELD(finetune.tokens), 0, 1, MAX_TOKENS, {NULL}, true},
    {"finetune", "steps", QNI_SETTING_INTEGER, FIELD(finetune.steps), 0, 0, MAX_STEPS, {NULL}, true},
    {"finetune", "batch", QNI_SETTING_INTEGER, FIELD(finetune.batch), 0, 1, MAX_BATCH, {NULL}, true},
    {"finetune", "lr", QNI_SETTING_REAL, FIELD(finetune.lr), 0, 1e-9, 1, {NULL}, true},
    {"finetune", "scale_rate", QNI_SETTING_REAL, FIELD(finetune.scale_rate), 0, 0, 1e3, {NULL}, true},
    {"finetune", "vector_rate", QNI_SETTING_REAL, FIELD(finetune.vector_rate), 0, 0, 1e3, {NULL}, true},
    {"finetune", "codes", CHOICE(finetune.trained_codes), {"frozen", "trained"}, true},
    {"finetune", "kl_weight", QNI_SETTING_REAL, FIELD(finetune.kl_weight), 0, 0, 1e3, {NULL}, true},
    {"finetune", "ce_weight", QNI_SETTING_REAL, FIELD(finetune.ce_weight), 0, 0, 1e3, {NULL}, true},
    {"finetune", "top_k", QNI_SETTING_INTEGER, FIELD(finetune.top_k), 0, 0, MAX_TOKENS, {NULL}, true},
    {"finetune", "samples", QNI_SETTING_INTEGER, FIELD(finetune.samples), 0, 0, MAX_TOKENS, {NULL}, true},
    {"finetune", "compute", CHOICE(finetune.compute), {"f32", "bf16"}, true},
    {"rescue", "max_fraction", QNI_SETTING_REAL, FIELD(max_rescue_fraction), 0, 0, 1, {NULL}, false},
};

bool qn_recipe_calibrates(const qn_recipe *recipe) {
    return recipe->fit != QN_RECIPE_CLOSED_FORM;
}

static unsigned choice_of(const qn_recipe *recipe, const qni_setting *s) {
    unsigned value = 0; /* little endian, as all else of Quern: checked when it is built */
    memcpy(&value, (const char *)recipe + s->offset, s->n_bytes);
    return value;
}

static int print_setting(const qn_recipe *recipe, const qni_setting *s, char *out, size_t n_bytes) {
    const void *field = (const char *)recipe + s->offset;
    int64_t integer;
    double real;
    switch (s->kind) {
    case QNI_SETTING_INTEGER:
        memcpy(&integer, field, sizeof integer);
        return snprintf(out, n_bytes, "%s.%s %lld\n", s->stage, s->key, (long long)integer);
    case QNI_SETTING_REAL:
        memcpy(&real, field, sizeof real);
        return snprintf(out, n_bytes, "%s.%s %.17g\n", s->stage, s->key, real);
    case QNI_SETTING_CHOICE:
        return snprintf(out, n_bytes, "%s.%s %s\n", s->stage, s->key, s->words[choice_of(recipe, s)]);
    }
    return 0;
}

const char *const qni_override_words[] = {"single", "double", "q4", NULL};

qn_status qni_recipe_seal(qn_recipe *recipe, qn_error *err) {
    char text[4096];
    size_t n = (size_t)snprintf(text, sizeof text, "quern recipe 2\n%s",
                                recipe->automatic_groups ? "or coarser groups\n" : "");
    for (int i = 0; i < QNI_SETTING_COUNT && n < sizeof text; i++) {
        if (qni_settings[i].calibrated && !qn_recipe_calibrates(recipe)) continue;
        n += (size_t)print_setting(recipe, &qni_settings[i], text + n, sizeof text - n);
    }
    for (int i = 0; i < recipe->n_overrides && n < sizeof text; i++) {
        const qn_recipe_override *o = &recipe->overrides[i];
        n += (size_t)snprintf(text + n, sizeof text - n, "override %s %s\n", qni_override_words[o->code],
                              o->match);
    }
    if (n >= sizeof text) return qn_fail(err, QN_E_INTERNAL, "a recipe's canonical form is too long");
    return qn_sha256_of_memory(text, n, recipe->sha256, err);
}

static const qn_recipe_distill k_distill = {.steps = 168,
                                            .batch = 6,
                                            .window = 1,
                                            .patience = 4,
                                            .lr = 0.003,
                                            .scale_rate = 0.5,
                                            .vector_rate = 0.25,
                                            .student_inputs = true};
static const qn_recipe_finetune k_finetune = {.tokens = 1 << 20,
                                              .steps = 270,
                                              .batch = 6,
                                              .samples = 32,
                                              .lr = 0.006,
                                              .scale_rate = 0.5,
                                              .vector_rate = 0.15,
                                              .kl_weight = 0.8,
                                              .ce_weight = 0.2,
                                              .trained_codes = true};

qn_recipe qni_recipe_base(qn_track track, bool calibrated) {
    qn_recipe recipe = {.name = "fast",
                        .group_size = track == QN_TRACK_BINARY ? BINARY_GROUP_SIZE : TERNARY_GROUP_SIZE,
                        .automatic_groups = !calibrated,
                        .rule = QN_FIT_OPTIMAL,
                        .max_rescue_fraction = qn_profile_builtin(track).rescue_fraction};
    if (!calibrated) return recipe;
    snprintf(recipe.name, sizeof recipe.name, "%s", qn_track_name(track));
    recipe.fit = QN_RECIPE_DESCENT;
    recipe.tokens = 131072;
    recipe.context = 512;
    recipe.fisher_tokens = 16384;
    recipe.lines = QN_AXIS_COLUMNS;
    recipe.planes = 2;
    recipe.sweeps = 4;
    recipe.scales = QN_SCALE_LOG6;
    recipe.damping = 0.01;
    recipe.shrinkage = 1.0;
    recipe.error_decay = 1.0;
    recipe.target_blend = 0.5;
    recipe.activation_order = true;
    recipe.student_inputs = true;
    recipe.measured_errors = track == QN_TRACK_BINARY; /* in ternary it changes nothing: docs/quality.md */
    recipe.probe_tokens = 2048;
    recipe.distill = k_distill;
    recipe.finetune = k_finetune;
    if (track == QN_TRACK_BINARY) { /* signs turn at zero alone: farther to go (docs/quality.md) */
        recipe.distill.lr = 0.02;
        recipe.finetune.lr = 0.008;
    }
    return recipe;
}

const char *qn_effort_name(qn_effort effort) {
    static const char *const names[] = {"fast", "default", "max"};
    return names[effort];
}

qn_status qn_recipe_set_effort(qn_recipe *recipe, qn_effort effort, qn_error *err) {
    static const int64_t distill_factors[] = {0, 1, 2}, finetune_factors[] = {0, 1, 4};
    if (!qn_recipe_calibrates(recipe)) return QN_OK;
    recipe->distill.steps *= distill_factors[effort];
    recipe->finetune.steps *= finetune_factors[effort];
    if (effort == QN_EFFORT_MAX && recipe->finetune.long_ce_weight > 0.0) {
        recipe->finetune.ce_weight = recipe->finetune.long_ce_weight;
        recipe->finetune.kl_weight = 1.0 - recipe->finetune.long_ce_weight;
    }
    return qni_recipe_seal(recipe, err);
}

qn_status qn_recipe_builtin(const char *name, qn_track track, qn_recipe *out, qn_error *err) {
    const char *wanted = name ? name : "fast";
    const bool is_strict = strcmp(wanted, "strict") == 0;
    const bool is_best = strcmp(wanted, qn_track_name(track)) == 0;
    if (!is_strict && !is_best && strcmp(wanted, "fast") != 0)
        return qn_fail(
            err, QN_E_ARGUMENT,
            "no built-in recipe '%s' for the %s track; there are: fast, %s, strict (or give a .yaml file)",
            wanted, qn_track_name(track), qn_track_name(track));
    qn_recipe recipe = qni_recipe_base(track, is_strict || is_best);
    /* In long runs, which go on learning from the text when the teacher has little more to say (docs/quality.md). */
    if (track == QN_TRACK_BINARY) recipe.finetune.long_ce_weight = 0.3;
    if (is_strict) {
        snprintf(recipe.name, sizeof recipe.name, "strict");
        recipe.lines = QN_AXIS_ROWS;
        recipe.planes = 1;
        recipe.scales = QN_SCALE_F16;
    }
    QN_TRY(qni_recipe_seal(&recipe, err));
    *out = recipe;
    return QN_OK;
}

int64_t qn_recipe_coarser_group(int64_t group_size) {
    if (group_size == 0) return -1;
    return group_size < COARSEST_GROUP_SIZE ? 2 * group_size : 0;
}
