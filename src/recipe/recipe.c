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

/* The file as YAML sees it; absent parts keep the defaults that are filled in before loading is applied. Numbers
 * are read as text: libcyaml takes "64x" and "1.5" for integers. */
typedef struct recipe_quantize {
    char *group_size;
    int *rule;
} recipe_quantize;
typedef struct recipe_rescue {
    char *max_fraction;
} recipe_rescue;
typedef struct recipe_file {
    char *name;
    recipe_quantize *quantize;
    recipe_rescue *rescue;
} recipe_file;

static const cyaml_strval_t k_rules[] = {{"optimal", QN_FIT_OPTIMAL}, {"published", QN_FIT_PUBLISHED}};
static const cyaml_schema_field_t k_quantize_fields[] = {
    CYAML_FIELD_STRING_PTR("group_size", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, recipe_quantize,
                           group_size, 0, CYAML_UNLIMITED),
    CYAML_FIELD_ENUM_PTR("rule", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL | CYAML_FLAG_STRICT,
                         recipe_quantize, rule, k_rules, 2),
    CYAML_FIELD_END};
static const cyaml_schema_field_t k_rescue_fields[] = {
    CYAML_FIELD_STRING_PTR("max_fraction", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, recipe_rescue,
                           max_fraction, 0, CYAML_UNLIMITED),
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

__attribute__((format(printf, 3, 0))) static void collect_log(cyaml_log_t level, void *user,
                                                              const char *format, va_list arguments) {
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

/* The first line from FROM on that has `KEY:` outside of a comment; FROM when there is none. */
static long line_of_key(const char *path, const char *key, long from) {
    FILE *file = fopen(path, "re");
    char text[512];
    long line = 1, found = from;
    for (; file && fgets(text, sizeof text, file); line++) {
        text[strcspn(text, "#")] = 0;
        const char *at = strstr(text, key);
        if (line < from || !at || at[strlen(key)] != ':') continue;
        found = line;
        break;
    }
    if (file) (void)fclose(file);
    return found;
}

static qn_status fail_yaml(const char *path, cyaml_err_t status, yaml_log *log, qn_error *err) {
    static const char unknown[] = "Unexpected key: ";
    char place[32] = "";
    /* libcyaml gives the line of what comes before an unknown key. */
    if (strncmp(log->what, unknown, sizeof unknown - 1) == 0)
        log->line = line_of_key(path, log->what + sizeof unknown - 1, log->line);
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

static qn_status fail_value(const char *path, const char *key, const char *text, const char *expected,
                            qn_error *err) {
    const char *dot = strchr(key, '.');
    return qn_fail(err, QN_E_VALUE, "%s:%ld: %s is '%.40s'; expected %s", path, line_of_key(path, dot + 1, 1),
                   key, text, expected);
}

static qn_status apply_quantize(const recipe_quantize *q, const char *path, qn_recipe *recipe,
                                qn_error *err) {
    if (q->rule) recipe->rule = (qn_fit_rule)*q->rule;
    if (!q->group_size) return QN_OK;
    char *end = NULL, expected[64];
    const long long group_size = strtoll(q->group_size, &end, 10);
    snprintf(expected, sizeof expected, "an integer, 0 (whole row) to %d", MAX_GROUP_SIZE);
    if (end == q->group_size || *end || group_size < 0 || group_size > MAX_GROUP_SIZE)
        return fail_value(path, "quantize.group_size", q->group_size, expected, err);
    recipe->group_size = (int32_t)group_size;
    recipe->automatic_groups = false;
    return QN_OK;
}

static qn_status apply_rescue(const recipe_rescue *r, const char *path, qn_recipe *recipe, qn_error *err) {
    if (!r->max_fraction) return QN_OK;
    char *end = NULL;
    const double fraction = strtod(r->max_fraction, &end);
    if (end == r->max_fraction || *end || !(fraction >= 0 && fraction <= 1))
        return fail_value(path, "rescue.max_fraction", r->max_fraction, "a number, 0 to 1", err);
    recipe->max_rescue_fraction = fraction;
    return QN_OK;
}

static qn_status apply(const recipe_file *file, const char *path, qn_recipe *recipe, qn_error *err) {
    snprintf(recipe->name, sizeof recipe->name, "%s", file->name);
    if (file->quantize) QN_TRY(apply_quantize(file->quantize, path, recipe, err));
    if (file->rescue) QN_TRY(apply_rescue(file->rescue, path, recipe, err));
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
