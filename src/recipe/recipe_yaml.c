/* Recipe files. */
#include "recipe/recipe_settings.h"

#include <ctype.h>
#include <regex.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cyaml/cyaml.h>

/* The file as YAML sees it. All values are read as text: libcyaml takes "64x" and "1.5" for integers. */
enum { MAX_STAGE_SETTINGS = 18 };
typedef struct stage {
    char *values[MAX_STAGE_SETTINGS]; /* in the order of the settings of the stage */
} stage;
typedef struct override {
    char *match, *code;
} override;
typedef struct recipe_file {
    char *name;
    override *overrides;
    unsigned overrides_count; /* the name libcyaml looks for */
    stage *calibrate, *quantize, *plan, *distill, *finetune, *rescue;
} recipe_file;

#define VALUE(key, index)                                                                                    \
    CYAML_FIELD_STRING_PTR(key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, stage, values[index], 0,           \
                           CYAML_UNLIMITED)
#define STAGE(key, fields)                                                                                   \
    CYAML_FIELD_MAPPING_PTR(#key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, recipe_file, key, fields)

static const cyaml_schema_field_t k_calibrate_fields[] = {VALUE("tokens", 0), VALUE("context", 1),
                                                          VALUE("fisher_tokens", 2), CYAML_FIELD_END};
static const cyaml_schema_field_t k_quantize_fields[] = {VALUE("fit", 0),
                                                         VALUE("group_size", 1),
                                                         VALUE("rule", 2),
                                                         VALUE("lines", 3),
                                                         VALUE("planes", 4),
                                                         VALUE("scales", 5),
                                                         VALUE("sweeps", 6),
                                                         VALUE("damping", 7),
                                                         VALUE("shrinkage", 8),
                                                         VALUE("order", 9),
                                                         VALUE("error_decay", 10),
                                                         VALUE("hadamard", 11),
                                                         VALUE("rotate", 12),
                                                         VALUE("inputs", 13),
                                                         VALUE("target_blend", 14),
                                                         VALUE("column_scales", 15),
                                                         VALUE("entropy", 16),
                                                         VALUE("rate", 17),
                                                         CYAML_FIELD_END};
static const cyaml_schema_field_t k_plan_fields[] = {VALUE("errors", 0), VALUE("sensitivity", 1),
                                                     VALUE("probe_tokens", 2), VALUE("overbook", 3),
                                                     CYAML_FIELD_END};
static const cyaml_schema_field_t k_distill_fields[] = {
    VALUE("steps", 0),      VALUE("batch", 1),          VALUE("lr", 2),
    VALUE("scale_rate", 3), VALUE("threshold_rate", 4), VALUE("vector_rate", 5),
    VALUE("loss", 6),       VALUE("window", 7),         VALUE("temperature", 8),
    VALUE("inputs", 9),     VALUE("patience", 10),      VALUE("compute", 11),
    CYAML_FIELD_END};
static const cyaml_schema_field_t k_finetune_fields[] = {
    VALUE("tokens", 0),     VALUE("steps", 1),       VALUE("batch", 2),    VALUE("lr", 3),
    VALUE("scale_rate", 4), VALUE("vector_rate", 5), VALUE("codes", 6),    VALUE("kl_weight", 7),
    VALUE("ce_weight", 8),  VALUE("top_k", 9),       VALUE("samples", 10), VALUE("compute", 11),
    CYAML_FIELD_END};
static const cyaml_schema_field_t k_rescue_fields[] = {VALUE("max_fraction", 0), CYAML_FIELD_END};
static const cyaml_schema_field_t k_override_fields[] = {
    CYAML_FIELD_STRING_PTR("match", CYAML_FLAG_POINTER, override, match, 1,
                           sizeof((qn_recipe_override *)0)->match - 1),
    CYAML_FIELD_STRING_PTR("code", CYAML_FLAG_POINTER, override, code, 1, CYAML_UNLIMITED), CYAML_FIELD_END};
static const cyaml_schema_value_t k_override_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, override, k_override_fields)};
static const cyaml_schema_field_t k_file_fields[] = {
    CYAML_FIELD_SEQUENCE("overrides", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, recipe_file, overrides,
                         &k_override_schema, 0, QN_RECIPE_MAX_OVERRIDES),

    CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, recipe_file, name, 1,
                           sizeof((qn_recipe *)0)->name - 1),
    STAGE(calibrate, k_calibrate_fields),
    STAGE(quantize, k_quantize_fields),
    STAGE(plan, k_plan_fields),
    STAGE(distill, k_distill_fields),
    STAGE(finetune, k_finetune_fields),
    STAGE(rescue, k_rescue_fields),
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

/* Whether TEXT has `KEY:` with nothing in front of it that would make it another key. */
static bool has_key(const char *text, const char *key) {
    const size_t n = strlen(key);
    for (const char *at = strstr(text, key); at; at = strstr(at + 1, key)) {
        const char before = at > text ? at[-1] : ' ';
        if (at[n] == ':' && before != '_' && !isalnum((unsigned char)before)) return true;
    }
    return false;
}

/* The first line from FROM on that has `KEY:` outside of a comment; FROM when there is none. */
static long line_of_key(const char *path, const char *key, long from) {
    FILE *file = fopen(path, "re");
    char text[512];
    long line = 1, found = from;
    for (; file && fgets(text, sizeof text, file); line++) {
        text[strcspn(text, "#")] = 0;
        if (line < from || !has_key(text, key)) continue;
        found = line;
        break;
    }
    if (file) (void)fclose(file);
    return found;
}

static long line_of_setting(const char *path, const qni_setting *s) {
    return line_of_key(path, s->key, line_of_key(path, s->stage, 1));
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

static qn_status fail_value(const char *path, const qni_setting *s, const char *text, const char *expected,
                            qn_error *err) {
    return qn_fail(err, QN_E_VALUE, "%s:%ld: %s.%s is '%.40s'; expected %s", path, line_of_setting(path, s),
                   s->stage, s->key, text, expected);
}

static qn_status apply_integer(const qni_setting *s, const char *text, const char *path, qn_recipe *recipe,
                               qn_error *err) {
    char *end = NULL, expected[64];
    const long long value = strtoll(text, &end, 10);
    snprintf(expected, sizeof expected, "an integer, %.0f to %.0f", s->smallest, s->largest);
    if (end == text || *end || (double)value < s->smallest || (double)value > s->largest)
        return fail_value(path, s, text, expected, err);
    const int64_t integer = value;
    memcpy((char *)recipe + s->offset, &integer, sizeof integer);
    return QN_OK;
}

static qn_status apply_real(const qni_setting *s, const char *text, const char *path, qn_recipe *recipe,
                            qn_error *err) {
    char *end = NULL, expected[64];
    const double value = strtod(text, &end);
    snprintf(expected, sizeof expected, "a number, %g to %g", s->smallest, s->largest);
    if (end == text || *end || !(value >= s->smallest && value <= s->largest))
        return fail_value(path, s, text, expected, err);
    memcpy((char *)recipe + s->offset, &value, sizeof value);
    return QN_OK;
}

static qn_status apply_choice(const qni_setting *s, const char *text, const char *path, qn_recipe *recipe,
                              qn_error *err) {
    char expected[64] = "";
    for (unsigned k = 0; s->words[k]; k++) {
        if (strcmp(text, s->words[k]) == 0) {
            memcpy((char *)recipe + s->offset, &k, s->n_bytes);
            return QN_OK;
        }
        const size_t n = strlen(expected);
        snprintf(expected + n, sizeof expected - n, "%s%s", k ? ", " : "", s->words[k]);
    }
    return fail_value(path, s, text, expected, err);
}

/* What the file says of setting S; NULL when it is silent. */
static const char *text_of(const recipe_file *file, const qni_setting *s) {
    const struct {
        const char *name;
        const stage *stage;
    } stages[] = {{"calibrate", file->calibrate}, {"quantize", file->quantize}, {"plan", file->plan},
                  {"distill", file->distill},     {"finetune", file->finetune}, {"rescue", file->rescue}};
    const qni_setting *first = s;
    size_t k = 0;
    while (strcmp(stages[k].name, s->stage) != 0) k++;
    while (first > qni_settings && strcmp(first[-1].stage, s->stage) == 0) first--;
    return stages[k].stage ? stages[k].stage->values[s - first] : NULL;
}

static qn_status apply_setting(const recipe_file *file, const qni_setting *s, const char *path,
                               qn_recipe *recipe, qn_error *err) {
    const char *text = text_of(file, s);
    if (!text) return QN_OK;
    if (s->calibrated && !qn_recipe_calibrates(recipe))
        return qn_fail(err, QN_E_VALUE,
                       "%s:%ld: %s.%s means nothing to a data-free recipe; add `quantize: {fit: descent}`",
                       path, line_of_setting(path, s), s->stage, s->key);
    switch (s->kind) {
    case QNI_SETTING_INTEGER:
        return apply_integer(s, text, path, recipe, err);
    case QNI_SETTING_REAL:
        return apply_real(s, text, path, recipe, err);
    case QNI_SETTING_CHOICE:
        return apply_choice(s, text, path, recipe, err);
    }
    return QN_OK;
}

static qn_status apply_overrides(const recipe_file *file, const char *path, qn_recipe *recipe,
                                 qn_error *err) {
    for (unsigned i = 0; i < file->overrides_count; i++) {
        const override *from = &file->overrides[i];
        qn_recipe_override *to = &recipe->overrides[recipe->n_overrides++];
        unsigned code = 0;
        regex_t regex;
        const long line = line_of_key(path, "overrides", 1);
        if (!qn_recipe_calibrates(recipe))
            return qn_fail(err, QN_E_VALUE, "%s:%ld: overrides mean nothing to a data-free recipe", path,
                           line);
        if (regcomp(&regex, from->match, REG_EXTENDED | REG_NOSUB) != 0)
            return qn_fail(err, QN_E_VALUE, "%s:%ld: overrides: '%s' is no regular expression", path, line,
                           from->match);
        regfree(&regex);
        while (qni_override_words[code] && strcmp(from->code, qni_override_words[code]) != 0) code++;
        if (!qni_override_words[code])
            return qn_fail(err, QN_E_VALUE, "%s:%ld: overrides: code is '%.40s'; expected single, double, q4",
                           path, line, from->code);
        snprintf(to->match, sizeof to->match, "%s", from->match);
        to->code = (qn_override_code)code;
    }
    return QN_OK;
}

static const qni_setting *setting_of(size_t offset) {
    const qni_setting *s = qni_settings;
    while (s->offset != offset) s++;
    return s;
}

static qn_status apply(const recipe_file *file, const char *path, qn_track track, qn_recipe *out,
                       qn_error *err) {
    /* The fit decides which recipe the file starts from. */
    const qni_setting *fit = setting_of(offsetof(qn_recipe, fit));
    const char *word = text_of(file, fit);
    qn_recipe recipe = qni_recipe_base(track, word ? strcmp(word, fit->words[QN_RECIPE_CLOSED_FORM]) != 0
                                                   : file->calibrate != NULL);
    for (int i = 0; i < QNI_SETTING_COUNT; i++)
        QN_TRY(apply_setting(file, &qni_settings[i], path, &recipe, err));
    if (text_of(file, setting_of(offsetof(qn_recipe, group_size)))) recipe.automatic_groups = false;
    QN_TRY(apply_overrides(file, path, &recipe, err));
    snprintf(recipe.name, sizeof recipe.name, "%s", file->name);
    QN_TRY(qni_recipe_seal(&recipe, err));
    *out = recipe;
    return QN_OK;
}

qn_status qn_recipe_load(const char *path, qn_track track, qn_recipe *out, qn_error *err) {
    if (access(path, R_OK) != 0) return qn_fail_errno(err, "cannot read recipe %s", path);
    yaml_log log = {0};
    const cyaml_config_t config = {
        .log_fn = collect_log, .log_ctx = &log, .log_level = CYAML_LOG_WARNING, .mem_fn = cyaml_mem};
    recipe_file *file = NULL;
    const cyaml_err_t status = cyaml_load_file(path, &config, &k_file_schema, (cyaml_data_t **)&file, NULL);
    if (status != CYAML_OK) return fail_yaml(path, status, &log, err);
    if (!file) return qn_fail(err, QN_E_FORMAT, "%s: not a recipe: the file is empty", path);
    const qn_status st = apply(file, path, track, out, err);
    (void)cyaml_free(&config, &k_file_schema, file, 0);
    return st;
}
