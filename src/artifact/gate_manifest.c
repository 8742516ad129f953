/* What an artifact declares, against the scorer's rules and against what is really there. */
#include "artifact/gates.h"

#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/banned.h"

/* One file's declarations, summed. Bits are exact while every entry gives an integer. */
typedef struct declared {
    const char *file;
    int64_t parameters, rescued;
    double bits;
    int64_t exact_bits;
    bool exact;
    int64_t role_bits[QN_ROLE_COUNT];
} declared;

static const char *const rescue_roles[] = {"high_precision", "full_precision", "rescue", "q4_rescue",
                                           "rescue_q4"};
static const char *const other_roles[] = {"binary", "ternary", "quantized", "residual",
                                          "scale",  "side",    "metadata"};
static const double ROUNDING = 1 + 1e-9; /* of the scorer's comparisons */

static bool is_one_of(const char *text, const char *const *names, size_t n) {
    for (size_t i = 0; text && i < n; i++) {
        if (strcmp(text, names[i]) == 0) return true;
    }
    return false;
}

static const json_t *either(const json_t *object, const char *key, const char *other) {
    const json_t *value = json_object_get(object, key);
    return value ? value : json_object_get(object, other);
}

static const char *label_of(const json_t *entry, size_t index, char buffer[24]) {
    const char *name = json_string_value(json_object_get(entry, "name"));
    if (name) return name;
    (void)snprintf(buffer, 24, "%zu", index);
    return buffer;
}

/* ------------------------------------------------------------------------------------------- one entry */

static bool is_q4_code(const json_t *code) {
    return json_is_integer(code) && json_integer_value(code) >= -7 && json_integer_value(code) <= 7;
}

static bool is_f16_scale(const json_t *scale) {
    const double value = json_number_value(scale);
    if (!json_is_number(scale) || !(value > 0) || value > QN_F16_MAX) return false;
    return (double)qn_f16_to_f32(qn_f32_to_f16((float)value)) == value;
}

static qn_status check_q4(qni_verification *v, const declared *d, const json_t *entry, const char *label,
                          qn_error *err) {
    const json_t *codes = json_object_get(entry, "q4_codes"), *scales = json_object_get(entry, "q4_scales");
    const size_t n_codes = json_array_size(codes), n_scales = json_array_size(scales);

    for (size_t i = 0; i < n_codes; i++) {
        if (is_q4_code(json_array_get(codes, i))) continue;
        return qni_reject(v, err, "file=%s entry=%.200s reason=q4_code_range", d->file, label);
    }
    if (codes && n_scales != (n_codes + 127) / 128) {
        return qni_reject(v, err, "file=%s entry=%.200s reason=q4_scale_count scales=%zu codes=%zu", d->file,
                          label, n_scales, n_codes);
    }
    for (size_t i = 0; i < n_scales; i++) {
        const json_t *scale = json_array_get(scales, i);
        char value[QNI_REAL_BYTES];
        if (is_f16_scale(scale)) continue;
        qni_real_text(json_number_value(scale), value);
        return qni_reject(v, err, "file=%s entry=%.200s reason=q4_scale_not_fp16 value=%s", d->file, label,
                          value);
    }
    return QN_OK;
}

/* Bits of an entry: an integer or real, or bits per parameter. NaN when nothing of that is there. */
static double entry_bits(const json_t *entry, int64_t parameters, bool *is_integer) {
    const json_t *bits = either(entry, "bits", "total_bits");
    const json_t *rate = json_object_get(entry, "bits_per_parameter");
    *is_integer = json_is_integer(bits);
    if (json_is_number(bits)) return json_number_value(bits);
    return !bits && json_is_number(rate) ? json_number_value(rate) * (double)parameters : (double)NAN;
}

static void count_role(declared *d, const char *role, double bits) {
    for (int r = 0; r < QN_ROLE_COUNT; r++) {
        if (strcmp(role, qn_role_name((qn_role)r)) == 0) d->role_bits[r] += (int64_t)bits;
    }
}

static qn_status check_rescue_bits(qni_verification *v, const declared *d, const char *label, int64_t n,
                                   double bits, qn_error *err) {
    const double limit = v->options->profile->rescue_bits;
    char rate[QNI_REAL_BYTES], most[QNI_REAL_BYTES];

    if (bits <= (double)n * limit * ROUNDING) return QN_OK;
    qni_real_text(bits / (double)n, rate);
    qni_real_text(limit, most);
    return qni_reject(v, err, "file=%s entry=%.200s reason=rescue_bits bits_per_parameter=%s limit=%s",
                      d->file, label, rate, most);
}

static qn_status add_entry(qni_verification *v, declared *d, const json_t *entry, size_t index,
                           qn_error *err) {
    char buffer[24];
    const char *label = label_of(entry, index, buffer);
    const char *role = json_string_value(json_object_get(entry, "role"));
    const json_t *count = either(entry, "parameters", "parameter_count");
    const bool is_rescue = is_one_of(role, rescue_roles, sizeof rescue_roles / sizeof rescue_roles[0]);
    bool is_integer;

    if (!is_rescue && !is_one_of(role, other_roles, sizeof other_roles / sizeof other_roles[0])) {
        return qni_reject(v, err, "file=%s entry=%.200s reason=unknown_role role=%.60s", d->file, label,
                          role ? role : "None");
    }
    if (!json_is_integer(count) || json_integer_value(count) < 0 ||
        json_integer_value(count) > INT64_MAX / 64) {
        return qni_reject(v, err, "file=%s entry=%.200s reason=parameter_count", d->file, label);
    }
    const int64_t n = json_integer_value(count);
    const double bits = entry_bits(entry, n, &is_integer);
    if (!(bits >= 0) || bits > 0x1p62)
        return qni_reject(v, err, "file=%s entry=%.200s reason=bits", d->file, label);
    if (is_rescue) QN_TRY(check_rescue_bits(v, d, label, n, bits, err));
    QN_TRY(check_q4(v, d, entry, label, err));
    if (n > INT64_MAX - d->parameters || (int64_t)bits > INT64_MAX - d->exact_bits) {
        return qni_reject(v, err, "file=%s entry=%.200s reason=parameter_count", d->file, label);
    }
    d->parameters += n;
    d->rescued += is_rescue ? n : 0;
    d->bits += bits;
    d->exact_bits += (int64_t)bits;
    d->exact = d->exact && is_integer;
    count_role(d, role, bits);
    return QN_OK;
}

/* ------------------------------------------------------------------------------------------- totals */

/* A total as computed: exact is -1 for a real number. */
typedef struct fact {
    const char *key;
    double value;
    int64_t exact;
} fact;

static bool agrees(const json_t *declared_value, const fact *f) {
    if (!json_is_number(declared_value)) return false;
    if (json_is_integer(declared_value) && f->exact >= 0)
        return json_integer_value(declared_value) == f->exact;
    const double a = json_number_value(declared_value), b = f->value, difference = fabs(a - b);
    return difference <= 1e-6 * fmax(fabs(a), fabs(b)) || difference <= 1e-9;
}

static qn_status check_totals(qni_verification *v, const declared *d, const json_t *manifest, qn_error *err) {
    const double n = (double)d->parameters;
    const fact facts[] = {
        {"total_parameters", n, d->parameters},
        {"parameter_count", n, d->parameters},
        {"rescue_parameters", (double)d->rescued, d->rescued},
        {"rescue_fraction", d->parameters ? (double)d->rescued / n : 0, -1},
        {"total_bits", d->exact ? (double)d->exact_bits : d->bits, d->exact ? d->exact_bits : -1},
        {"bits_per_parameter", d->parameters ? d->bits / n : 0, -1},
    };
    char declared_text[QNI_REAL_BYTES], computed[QNI_REAL_BYTES];

    for (size_t i = 0; i < sizeof facts / sizeof facts[0]; i++) {
        const json_t *value = json_object_get(manifest, facts[i].key);
        if (!value || agrees(value, &facts[i])) continue;
        qni_real_text(json_number_value(value), declared_text);
        qni_real_text(facts[i].value, computed);
        return qni_reject(v, err, "file=%s reason=declared_total key=%s declared=%s computed=%s", d->file,
                          facts[i].key, declared_text, computed);
    }
    return QN_OK;
}

static qn_status check_limits(qni_verification *v, const declared *d, const json_t *manifest, qn_error *err) {
    const double limit = v->options->profile->rescue_fraction;
    const double fraction = d->parameters ? (double)d->rescued / (double)d->parameters : 0;
    const json_t *covers = json_object_get(manifest, "covers_model");
    char value[QNI_REAL_BYTES], most[QNI_REAL_BYTES];

    if (fraction > limit * ROUNDING) {
        qni_real_text(fraction, value);
        qni_real_text(limit, most);
        return qni_reject(v, err, "file=%s reason=rescue_fraction value=%s limit=%s", d->file, value, most);
    }
    QN_TRY(check_totals(v, d, manifest, err));
    if (d->bits > 8 * (double)v->file_bytes) {
        qni_real_text(d->bits, value);
        return qni_reject(v, err, "file=%s reason=more_than_the_file bits=%s file_bits=%lld", d->file, value,
                          (long long)(8 * v->file_bytes));
    }
    if (!json_is_false(covers) && d->parameters > v->report->parameters) {
        return qni_reject(v, err, "file=%s reason=more_than_the_model declared=%lld model=%lld", d->file,
                          (long long)d->parameters, (long long)v->report->parameters);
    }
    return QN_OK;
}

/* ------------------------------------------------------------------------------------------- one file */

/* A list of objects of which one has a role: the scorer's test for a manifest. */
static const json_t *find_entries(const json_t *manifest) {
    static const char *const keys[] = {"entries", "tensors", "components"};
    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
        const json_t *list = json_object_get(manifest, keys[k]);
        bool has_role = false, all_objects = true;
        for (size_t i = 0; i < json_array_size(list); i++) {
            const json_t *entry = json_array_get(list, i);
            all_objects = all_objects && json_is_object(entry);
            has_role = has_role || json_object_get(entry, "role");
        }
        if (has_role && all_objects) return list;
    }
    return NULL;
}

static qn_status check_manifest(qni_verification *v, const char *file, const json_t *manifest, declared *d,
                                qn_error *err) {
    const json_t *entries = find_entries(manifest);
    *d = (declared){.file = file, .exact = true};
    if (!entries) return QN_OK;
    for (size_t i = 0; i < json_array_size(entries); i++)
        QN_TRY(add_entry(v, d, json_array_get(entries, i), i, err));
    return check_limits(v, d, manifest, err);
}

/* ------------------------------------------------------------------------------------------- our own
 * manifest */

static const char *text_at(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static qn_status check_payload_file(qni_verification *v, const json_t *item, qn_error *err) {
    qn_store *store = qn_checkpoint_store(qn_model_checkpoint(v->model));
    const char *name = text_at(item, "name"), *expected = text_at(item, "sha256");
    const json_int_t bytes = json_integer_value(json_object_get(item, "bytes"));
    const uint8_t *data;
    size_t index, n_bytes;
    char hex[QN_SHA256_HEX];

    if (!qn_store_find(store, name, &index))
        return qni_reject(v, err, "reason=payload_missing file=%.200s", name);
    QN_TRY(qn_store_map(store, name, &data, &n_bytes, err));
    if ((json_int_t)n_bytes != bytes) {
        return qni_reject(v, err, "reason=payload_bytes file=%.200s expected=%lld got=%zu", name,
                          (long long)bytes, n_bytes);
    }
    QN_TRY(qn_sha256_of_memory(data, n_bytes, hex, err));
    if (strcmp(hex, expected) == 0) return QN_OK;
    return qni_reject(v, err, "reason=payload_sha256 file=%.200s expected=%.80s got=%s", name, expected, hex);
}

static bool lists_payload(const json_t *payload, const char *name) {
    for (size_t i = 0; i < json_array_size(payload); i++) {
        if (strcmp(text_at(json_array_get(payload, i), "name"), name) == 0) return true;
    }
    return false;
}

static qn_status check_payload(qni_verification *v, const json_t *manifest, qn_error *err) {
    const json_t *payload = json_object_get(manifest, "payload");

    for (size_t i = 0; i < json_array_size(payload); i++) {
        QN_TRY(check_payload_file(v, json_array_get(payload, i), err));
    }
    for (size_t i = 0; i < qn_store_count(v->store); i++) {
        const char *name = qn_store_name(v->store, i);
        const size_t n = strlen(name);
        if (n < 12 || strcmp(name + n - 12, ".safetensors") != 0 || lists_payload(payload, name)) continue;
        return qni_reject(v, err, "reason=payload_undeclared file=%.200s", name);
    }
    return QN_OK;
}

static qn_status count_matrix(qni_verification *v, const char *name, const qn_encoded *e, int64_t *counted,
                              qn_error *err) {
    const char *feature = qn_profile_forbids(v->options->profile, e);
    qn_part parts[QN_MAX_PARTS];
    const int n = qn_encoded_parts(e, parts);

    if (feature) {
        return qni_reject(v, err, "reason=forbidden tensor=%.200s feature='%s' profile=%s", name, feature,
                          v->options->profile->name);
    }
    for (int p = 0; p < n; p++) {
        v->report->role_bytes[parts[p].role] += parts[p].stored_bytes;
        *counted += parts[p].stored_bytes;
        if (parts[p].role == QN_ROLE_RESCUE) v->report->rescued_parameters += parts[p].n_weights;
    }
    return QN_OK;
}

/* Bytes by role of what is stored, and the rescued parameters; nothing may be stored in a way that the profile forbids. */
static qn_status count_stored(qni_verification *v, qn_error *err) {
    const qn_checkpoint *checkpoint = qn_model_checkpoint(v->model);
    const qn_layout *layout = qn_checkpoint_layout(checkpoint);
    int64_t *role_bytes = v->report->role_bytes, counted = 0;

    for (int64_t i = 0; i < layout->n; i++) {
        const qn_weight *w = qn_checkpoint_weight(checkpoint, i);
        if (w->kind == QN_WEIGHT_ENCODED) {
            QN_TRY(count_matrix(v, layout->entries[i].name, &w->encoded, &counted, err));
            continue;
        }
        const int64_t bytes = qn_view_elements(&w->dense) * (int64_t)qn_dtype_bytes(w->dense.dtype);
        role_bytes[QN_ROLE_SIDE] += bytes;
        counted += bytes;
    }
    role_bytes[QN_ROLE_METADATA] = v->file_bytes - counted;
    v->report->rescue_fraction = (double)v->report->rescued_parameters / (double)v->report->parameters;
    return QN_OK;
}

static qn_status check_stored(qni_verification *v, const declared *d, qn_error *err) {
    const qn_verify_report *r = v->report;

    if (d->parameters != r->parameters || d->rescued != r->rescued_parameters) {
        return qni_reject(v, err,
                          "file=%s reason=stored_parameters declared=%lld stored=%lld declared_rescue=%lld "
                          "stored_rescue=%lld",
                          d->file, (long long)d->parameters, (long long)r->parameters, (long long)d->rescued,
                          (long long)r->rescued_parameters);
    }
    for (int i = 0; i < QN_ROLE_METADATA; i++) {
        if (d->role_bits[i] == 8 * r->role_bytes[i]) continue;
        return qni_reject(v, err, "file=%s reason=stored_bits role=%s declared=%lld stored=%lld", d->file,
                          qn_role_name((qn_role)i), (long long)d->role_bits[i],
                          (long long)(8 * r->role_bytes[i]));
    }
    return QN_OK;
}

/* The accounting of the file must add up; that it speaks of another file only shows that it was packed again.
 */
static qn_status check_file(qni_verification *v, const declared *d, const json_t *manifest, qn_error *err) {
    const json_t *file = json_object_get(manifest, "file");
    const json_int_t bytes = json_integer_value(json_object_get(file, "bytes"));
    json_int_t sum = 0;

    for (int r = 0; r < QN_ROLE_COUNT; r++) {
        sum += json_integer_value(json_object_get(file, qn_role_name((qn_role)r)));
    }
    if (sum != bytes) {
        return qni_reject(v, err, "file=%s reason=file_total declared=%lld computed=%lld", d->file,
                          (long long)bytes, (long long)sum);
    }
    if (bytes == v->file_bytes) return QN_OK;
    return qni_findings_add(&v->lint, err,
                            "%s: accounts for %lld bytes, the artifact has %lld (packed again?)", d->file,
                            (long long)bytes, (long long)v->file_bytes);
}

static qn_status check_own(qni_verification *v, const declared *d, const json_t *manifest, qn_error *err) {
    QN_TRY(check_payload(v, manifest, err));
    QN_TRY(check_stored(v, d, err));
    return check_file(v, d, manifest, err);
}

/* ------------------------------------------------------------------------------------------- the gate */

static qn_status check_json(qni_verification *v, const char *name, bool is_own, bool *found, qn_error *err) {
    const uint8_t *data;
    size_t n_bytes;
    json_t *manifest = NULL;
    declared d;

    QN_TRY(qn_store_map(v->store, name, &data, &n_bytes, err));
    if (qni_json_parse(data, n_bytes, name, &manifest, NULL) != QN_OK)
        return QN_OK; /* the scorer passes it by, too */
    qn_status status = check_manifest(v, name, manifest, &d, err);
    *found = *found || find_entries(manifest);
    if (status == QN_OK && is_own) status = check_own(v, &d, manifest, err);
    json_decref(manifest);
    return status;
}

qn_status qni_gate_manifest(qni_verification *v, qn_error *err) {
    const bool is_artifact = qn_checkpoint_is_artifact(qn_model_checkpoint(v->model));
    bool found = false;
    size_t index;

    QN_TRY(count_stored(v, err));
    if (is_artifact && !qn_store_find(v->store, "quern.json", &index)) {
        return qni_reject(v, err, "reason=missing file=quern.json");
    }
    for (size_t i = 0; i < qn_store_count(v->store); i++) {
        const char *name = qn_store_name(v->store, i);
        const size_t n = strlen(name);
        if (n < 5 || strcmp(name + n - 5, ".json") != 0) continue;
        QN_TRY(check_json(v, name, is_artifact && strcmp(name, "quern.json") == 0, &found, err));
    }
    return found ? QN_OK : qni_skip(v, "a dense checkpoint declares nothing");
}
