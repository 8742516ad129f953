#include "quern/recipe/recipe.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cyaml/cyaml.h>

/* Finest group sizes of the built-in recipes: measured in docs/quality.md. Coarser than 512, a whole row is as good. */
enum {
    BINARY_GROUP_SIZE = 128,
    TERNARY_GROUP_SIZE = 64,
    COARSEST_GROUP_SIZE = 512,
    MAX_GROUP_SIZE = 1 << 20
};

/* The file as YAML sees it; absent parts keep the defaults that are filled in before loading is applied. */
typedef struct recipe_quantize {
    int64_t *group_size;
    int *rule;
} recipe_quantize;
typedef struct recipe_rescue {
    double *max_fraction;
} recipe_rescue;
typedef struct recipe_file {
    char *name;
    recipe_quantize *quantize;
    recipe_rescue *rescue;
} recipe_file;

static const cyaml_strval_t k_rules[] = {{"optimal", QN_FIT_OPTIMAL}, {"published", QN_FIT_PUBLISHED}};
static const cyaml_schema_field_t k_quantize_fields[] = {
    CYAML_FIELD_INT_PTR("group_size", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, recipe_quantize, group_size),
    CYAML_FIELD_ENUM_PTR("rule", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL | CYAML_FLAG_STRICT,
                         recipe_quantize, rule, k_rules, 2),
    CYAML_FIELD_END};
static const cyaml_schema_field_t k_rescue_fields[] = {
    CYAML_FIELD_FLOAT_PTR("max_fraction", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, recipe_rescue,
                          max_fraction),
    CYAML_FIELD_END};
static const cyaml_schema_field_t k_file_fields[] = {
    CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, recipe_file, name, 1,
                           sizeof((qn_recipe *)0)->name - 1),
    CYAML_FIELD_MAPPING_PTR("quantize", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, recipe_file, quantize,
                            k_quantize_fields),
    CYAML_FIELD_MAPPING_PTR("rescue", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, recipe_file, rescue,
                            k_rescue_fields),
    CYAML_FIELD_END};
static const cyaml_schema_value_t k_file_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, recipe_file, k_file_fields)};

/* libcyaml explains itself in log lines, position included: they become the error message. */
typedef struct yaml_log {
    char text[600];
    size_t n;
} yaml_log;

static void collect_log(cyaml_log_t level, void *user, const char *format, va_list arguments) {
    yaml_log *log = user;
    if (level < CYAML_LOG_ERROR || log->n >= sizeof log->text) return;
    int n = vsnprintf(log->text + log->n, sizeof log->text - log->n, format, arguments);
    if (n > 0) log->n += (size_t)n;
    for (size_t i = 0; i < log->n && i < sizeof log->text; i++)
        if (log->text[i] == '\n') log->text[i] = ' ';
}

static qn_status seal(qn_recipe *recipe, qn_error *err) {
    char canonical[256];
    int n =
        snprintf(canonical, sizeof canonical, "quern recipe 1\ngroup_size %d\nrule %d\nmax_fraction %.17g\n",
                 recipe->group_size, (int)recipe->rule, recipe->max_rescue_fraction);
    return qn_sha256_of_memory(canonical, (size_t)n, recipe->sha256, err);
}

qn_status qn_recipe_builtin(const char *name, qn_track track, qn_recipe *out, qn_error *err) {
    if (name && strcmp(name, "fast") != 0)
        return qn_fail(err, QN_E_ARGUMENT, "no built-in recipe '%s'; there is: fast (or give a .yaml file)",
                       name);
    qn_recipe recipe = {.name = "fast",
                        .group_size = track == QN_TRACK_BINARY ? BINARY_GROUP_SIZE : TERNARY_GROUP_SIZE,
                        .automatic_groups = true,
                        .rule = QN_FIT_OPTIMAL,
                        .max_rescue_fraction = qn_profile_builtin(track).rescue_fraction};
    QN_TRY(seal(&recipe, err));
    *out = recipe;
    return QN_OK;
}

int32_t qn_recipe_coarser_group(int32_t group_size) {
    if (group_size == 0) return -1;
    return group_size < COARSEST_GROUP_SIZE ? 2 * group_size : 0;
}

static qn_status apply(const recipe_file *file, const char *path, qn_recipe *recipe, qn_error *err) {
    snprintf(recipe->name, sizeof recipe->name, "%s", file->name);
    if (file->quantize && file->quantize->group_size) {
        int64_t group_size = *file->quantize->group_size;
        if (group_size < 0 || group_size > MAX_GROUP_SIZE)
            return qn_fail(err, QN_E_VALUE, "%s: quantize.group_size is %lld; expected 0 (whole row) to %d",
                           path, (long long)group_size, MAX_GROUP_SIZE);
        recipe->group_size = (int32_t)group_size;
        recipe->automatic_groups = false;
    }
    if (file->quantize && file->quantize->rule) recipe->rule = (qn_fit_rule)*file->quantize->rule;
    if (file->rescue && file->rescue->max_fraction) {
        double fraction = *file->rescue->max_fraction;
        if (!(fraction >= 0 && fraction <= 1))
            return qn_fail(err, QN_E_VALUE, "%s: rescue.max_fraction is %g; expected 0 to 1", path, fraction);
        recipe->max_rescue_fraction = fraction;
    }
    return seal(recipe, err);
}

qn_status qn_recipe_load(const char *path, qn_track track, qn_recipe *out, qn_error *err) {
    qn_recipe recipe;
    QN_TRY(qn_recipe_builtin(NULL, track, &recipe, err));
    if (access(path, R_OK) != 0) return qn_fail_errno(err, "cannot read recipe %s", path);

    yaml_log log = {0};
    const cyaml_config_t config = {
        .log_fn = collect_log, .log_ctx = &log, .log_level = CYAML_LOG_WARNING, .mem_fn = cyaml_mem};
    recipe_file *file = NULL;
    cyaml_err_t status = cyaml_load_file(path, &config, &k_file_schema, (cyaml_data_t **)&file, NULL);
    if (status != CYAML_OK)
        return qn_fail(err, QN_E_FORMAT, "%s: not a recipe (%s): %s", path, cyaml_strerror(status), log.text);
    qn_status st = apply(file, path, &recipe, err);
    if (st == QN_OK) *out = recipe;
    (void)cyaml_free(&config, &k_file_schema, file, 0);
    return st;
}
