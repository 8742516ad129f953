#include "quern/recipe/recipe.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
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

/* libcyaml explains itself in log lines: what is wrong, then where, from the innermost place outwards. */
typedef struct yaml_log {
    char what[300];
    char field[64]; /* the innermost one; empty for a key that no field has */
    long line;
} yaml_log;

static void collect_log(cyaml_log_t level, void *user, const char *format, va_list arguments) {
    static const char prefix[] = "Load: ", place[] = "(line: ", field[] = "in mapping field '";
    yaml_log *log = user;
    char text[300];
    if (level < CYAML_LOG_ERROR || vsnprintf(text, sizeof text, format, arguments) < 0) return;
    text[strcspn(text, "\n")] = 0;
    const char *at = strstr(text, place);
    if (!log->what[0]) {
        const bool prefixed = strncmp(text, prefix, sizeof prefix - 1) == 0;
        snprintf(log->what, sizeof log->what, "%s", text + (prefixed ? sizeof prefix - 1 : 0));
    } else if (at && log->line == 0) {
        log->line = strtol(at + sizeof place - 1, NULL, 10);
        at = strstr(text, field);
        if (at)
            snprintf(log->field, sizeof log->field, "%.*s", (int)strcspn(at + sizeof field - 1, "'"),
                     at + sizeof field - 1);
    }
}

/* Of an unknown key libcyaml gives the line of what comes before it: the key's own is looked up. */
static void find_unknown_key(const char *path, yaml_log *log) {
    static const char prefix[] = "Unexpected key: ";
    const char *key = log->what + sizeof prefix - 1;
    FILE *file = strncmp(log->what, prefix, sizeof prefix - 1) == 0 ? fopen(path, "re") : NULL;
    char text[512];
    for (long line = 1; file && fgets(text, sizeof text, file); line++) {
        const char *at = strstr(text, key);
        if (line < log->line || !at || at[strlen(key)] != ':') continue;
        log->line = line;
        break;
    }
    if (file) (void)fclose(file);
}

static qn_status fail_yaml(const char *path, cyaml_err_t status, yaml_log *log, qn_error *err) {
    char place[32] = "";
    find_unknown_key(path, log);
    if (log->line) snprintf(place, sizeof place, "%ld: ", log->line);
    return qn_fail(err, QN_E_FORMAT, "%s:%s%s%s%s%s", path,
                   log->line ? place : " not a recipe: ", log->what[0] ? log->what : cyaml_strerror(status),
                   log->field[0] ? " (in '" : "", log->field, log->field[0] ? "')" : "");
}

static qn_status seal(qn_recipe *recipe, qn_error *err) {
    char canonical[256];
    int n = snprintf(canonical, sizeof canonical,
                     "quern recipe 1\ngroup_size %d%s\nrule %d\nmax_fraction %.17g\n", recipe->group_size,
                     recipe->automatic_groups ? " or coarser" : "", (int)recipe->rule,
                     recipe->max_rescue_fraction);
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
    if (status != CYAML_OK) return fail_yaml(path, status, &log, err);
    if (!file) return qn_fail(err, QN_E_FORMAT, "%s: not a recipe: the file is empty", path);
    qn_status st = apply(file, path, &recipe, err);
    if (st == QN_OK) *out = recipe;
    (void)cyaml_free(&config, &k_file_schema, file, 0);
    return st;
}
