#include "quern/artifact/profile.h"

#include "base/json.h"
#include "base/mapping.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/banned.h"

static const char *const track_names[] = {"binary", "ternary"};

const char *qn_track_name(qn_track track) {
    return track_names[track];
}

qn_status qn_track_parse(const char *text, qn_track *out, qn_error *err) {
    for (int i = 0; i < 2; i++) {
        if (strcmp(text, track_names[i]) != 0) continue;
        *out = (qn_track)i;
        return QN_OK;
    }
    return qn_fail(err, QN_E_ARGUMENT, "unknown track '%s'; expected binary or ternary", text);
}

/* Written as the scorer writes it: the order of the double operations decides the last bit of the budget. */
static double mixed_bits(const qn_profile *p) {
    return (1 - p->rescue_fraction) * p->native_bits + p->rescue_fraction * p->rescue_bits;
}

qn_profile qn_profile_builtin(qn_track track) {
    qn_profile p = {.track = track,
                    .reference_parameters = INT64_C(27000000000),
                    .native_bits = track == QN_TRACK_BINARY ? 1.0 : 2.0,
                    .rescue_fraction = 0.10,
                    .rescue_bits = 4.125,
                    .max_parameter_factor = 16,
                    .two_planes = true,
                    .log6_scales = true,
                    .column_bands = true,
                    .rotation = true,
                    .entropy_coding = true,
                    .column_scales = true};
    snprintf(p.name, sizeof p.name, "%s", qn_track_name(track));
    p.budget_bits = mixed_bits(&p);
    return p;
}

qn_profile qn_profile_strict(qn_track track) {
    qn_profile p = qn_profile_builtin(track);
    snprintf(p.name, sizeof p.name, "%s-strict", qn_track_name(track));
    p.two_planes = p.log6_scales = p.column_bands = p.rotation = p.entropy_coding = p.column_scales = false;
    return p;
}

const char *qn_profile_forbids(const qn_profile *profile, const qn_encoded *shape) {
    if (!profile->column_bands && shape->axis == QN_AXIS_COLUMNS) return "column bands";
    if (!profile->rotation && shape->hadamard) return "rotation";
    if (!profile->column_scales && shape->column_scaled) return "column scales";
    if (!profile->entropy_coding && shape->stream_bytes) return "entropy coding";
    for (int b = 0; b < shape->n_bands; b++) {
        if (!profile->two_planes && shape->bands[b].n_planes > 1) return "two planes";
        if (!profile->log6_scales && shape->bands[b].codec.scale == QN_SCALE_LOG6) return "log6 scales";
    }
    return NULL;
}

static qn_status refuse_unknown_keys(const json_t *object, const char *path, qn_error *err) {
    static const char *const known[] = {
        "name",           "track",        "reference_parameters", "native_bits",
        "rescue_bits",    "budget_bits",  "max_parameter_factor", "rescue_fraction",
        "two_planes",     "log6_scales",  "column_bands",         "rotation",
        "entropy_coding", "column_scales"};
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)object, key, value) {
        size_t i = 0;
        while (i < sizeof known / sizeof known[0] && strcmp(key, known[i]) != 0) i++;
        if (i == sizeof known / sizeof known[0]) {
            return qn_fail(err, QN_E_FORMAT, "%s: unknown key '%s' in a profile", path, key);
        }
    }
    return QN_OK;
}

static qn_status check_ranges(const qn_profile *p, const char *path, qn_error *err) {
    const bool sane = p->reference_parameters > 0 && p->max_parameter_factor > 0 &&
                      p->reference_parameters <= INT64_MAX / p->max_parameter_factor && p->native_bits > 0 &&
                      p->rescue_bits > 0 && p->budget_bits > 0 && p->rescue_fraction >= 0 &&
                      p->rescue_fraction <= 1 && p->native_bits <= 64 && p->rescue_bits <= 64 &&
                      p->budget_bits <= 64;
    if (sane) return QN_OK;
    return qn_fail(err, QN_E_VALUE,
                   "%s: a profile needs positive counts, bits in (0, 64] and a rescue_fraction in [0, 1]",
                   path);
}

/* What matrices may be made of. */
static qn_status read_flags(const json_t *object, const char *path, qn_profile *p, qn_error *err) {
    const struct {
        const char *key;
        bool *flag;
    } flags[] = {{"two_planes", &p->two_planes},         {"log6_scales", &p->log6_scales},
                 {"column_bands", &p->column_bands},     {"rotation", &p->rotation},
                 {"entropy_coding", &p->entropy_coding}, {"column_scales", &p->column_scales}};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        QN_TRY(qni_json_get_bool(object, flags[i].key, false, path, flags[i].flag, err));
    return QN_OK;
}

static qn_status read_fields(const json_t *object, const char *path, qn_profile *p, qn_error *err) {
    const char *name = p->name, *track = qn_track_name(p->track);
    double budget = 0;

    QN_TRY(refuse_unknown_keys(object, path, err));
    QN_TRY(qni_json_get_string(object, "track", false, path, &track, err));
    QN_TRY(qn_track_parse(track, &p->track, err));
    *p = qn_profile_builtin(p->track);
    QN_TRY(qni_json_get_string(object, "name", false, path, &name, err));
    if (strlen(name) >= sizeof p->name)
        return qn_fail(err, QN_E_VALUE, "%s: name is longer than 63 bytes", path);
    QN_TRY(qni_json_get_i64(object, "reference_parameters", false, path, &p->reference_parameters, err));
    QN_TRY(qni_json_get_f64(object, "native_bits", false, path, &p->native_bits, err));
    QN_TRY(qni_json_get_f64(object, "rescue_fraction", false, path, &p->rescue_fraction, err));
    QN_TRY(qni_json_get_f64(object, "rescue_bits", false, path, &p->rescue_bits, err));
    QN_TRY(qni_json_get_f64(object, "budget_bits", false, path, &budget, err));
    QN_TRY(qni_json_get_i64(object, "max_parameter_factor", false, path, &p->max_parameter_factor, err));
    QN_TRY(read_flags(object, path, p, err));
    snprintf(p->name, sizeof p->name, "%s", name);
    p->budget_bits = budget != 0 ? budget : mixed_bits(p);
    return check_ranges(p, path, err);
}

qn_status qn_profile_load(const char *path, qn_track track, qn_profile *out, qn_error *err) {
    qni_mapping file = {0};
    json_t *object = NULL;
    qn_profile p = qn_profile_builtin(track);

    QN_TRY(qni_mapping_open(path, &file, err));
    qn_status status = qni_json_parse(file.data, file.n_bytes, path, &object, err);
    if (status == QN_OK && !json_is_object(object)) {
        status = qn_fail(err, QN_E_FORMAT, "%s: a profile is a JSON object, found %s", path,
                         qni_json_type_name(object));
    }
    if (status == QN_OK) status = read_fields(object, path, &p, err);
    if (status == QN_OK) *out = p;
    json_decref(object);
    qni_mapping_release(&file);
    return status;
}

int64_t qn_profile_budget_bytes(const qn_profile *profile, int64_t parameters) {
    return (int64_t)ceil((double)parameters * profile->budget_bits) / 8;
}

int64_t qn_profile_max_rescued(const qn_profile *profile, int64_t parameters) {
    if (parameters <= 0) return 0;
    int64_t n = (int64_t)floor((double)parameters * profile->rescue_fraction);
    while (n > 0 && (double)n / (double)parameters > profile->rescue_fraction) n--;
    return n;
}
