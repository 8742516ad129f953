/* quern.json: what the artifact declares about itself, and a size it cannot exceed. */
#include "artifact/plan.h"

#include "base/alloc.h"
#include "checkpoint/format.h"
#include "quern/base/version.h"

#include <jansson.h>
#include <string.h>

#include "base/banned.h"

/* ------------------------------------------------------------------------------------------- counting */

typedef struct role_count {
    int64_t bytes[QN_ROLE_COUNT], parameters[QN_ROLE_COUNT];
    bool present[QN_ROLE_COUNT];
} role_count;

static role_count count_entry(const qn_layout_entry *t, const qn_encoded *shape) {
    role_count count = {0};

    if (!t->is_matrix) {
        count.bytes[QN_ROLE_SIDE] = 2 * t->cols;
        count.parameters[QN_ROLE_SIDE] = t->cols;
        count.present[QN_ROLE_SIDE] = true;
        return count;
    }
    qn_part parts[QN_MAX_PARTS];
    const int n = qn_encoded_parts(shape, parts);
    for (int p = 0; p < n; p++) {
        count.bytes[parts[p].role] += parts[p].stored_bytes;
        count.parameters[parts[p].role] += parts[p].n_weights;
        count.present[parts[p].role] = true;
    }
    return count;
}

qni_totals qni_count_totals(const qn_artifact_plan *plan, const qn_encoded *shapes, int64_t total_bytes) {
    const qn_layout *layout = qn_checkpoint_layout(plan->source);
    qni_totals totals = {0};
    int64_t bytes = 0;

    for (int64_t i = 0; i < layout->n; i++) {
        const role_count count = count_entry(&layout->entries[i], &shapes[i]);
        for (int r = 0; r < QN_ROLE_METADATA; r++) {
            totals.role_bytes[r] += count.bytes[r];
            totals.role_parameters[r] += count.parameters[r];
            totals.parameters += count.parameters[r];
            bytes += count.bytes[r];
        }
    }
    totals.role_bytes[QN_ROLE_METADATA] = total_bytes - bytes;
    return totals;
}

/* ------------------------------------------------------------------------------------------- rendering */

static bool add_entry(json_t *entries, const char *name, int role, int64_t parameters, int64_t n_bytes) {
    return json_array_append_new(entries,
                                 json_pack("{s:s,s:s,s:I,s:I}", "name", name, "role",
                                           qn_role_name((qn_role)role), "parameters", (json_int_t)parameters,
                                           "bits", (json_int_t)(8 * n_bytes))) == 0;
}

static bool add_tensor_entries(json_t *entries, const qn_artifact_plan *plan, const qn_encoded *shapes) {
    const qn_layout *layout = qn_checkpoint_layout(plan->source);
    bool done = true;

    for (int64_t i = 0; done && i < layout->n; i++) {
        const role_count count = count_entry(&layout->entries[i], &shapes[i]);
        for (int r = 0; done && r < QN_ROLE_COUNT; r++) {
            if (!count.present[r]) continue;
            done = add_entry(entries, layout->entries[i].name, r, count.parameters[r], count.bytes[r]);
        }
    }
    return done;
}

static json_t *make_entries(const qn_artifact_plan *plan, const qni_manifest_facts *facts,
                            const qni_totals *totals) {
    json_t *entries = json_array();
    bool done = entries != NULL;

    if (done && !facts->summed) done = add_tensor_entries(entries, plan, facts->sizing->shapes);
    for (int r = 0; done && facts->summed && r < QN_ROLE_METADATA; r++) {
        if (totals->role_bytes[r] == 0) continue;
        done = add_entry(entries, "model", r, totals->role_parameters[r], totals->role_bytes[r]);
    }
    if (done) return entries;
    json_decref(entries);
    return NULL;
}

static json_t *make_file(const qni_totals *totals, int64_t total_bytes) {
    json_t *file = json_pack("{s:I}", "bytes", (json_int_t)total_bytes);
    bool done = file != NULL;
    for (int r = 0; done && r < QN_ROLE_COUNT; r++) {
        if (totals->role_bytes[r] == 0) continue;
        done = json_object_set_new(file, qn_role_name((qn_role)r), json_integer(totals->role_bytes[r])) == 0;
    }
    return file;
}

static json_t *make_payload(const qni_manifest_facts *facts) {
    const qni_sizing *sizing = facts->sizing;
    json_t *payload = json_array();
    bool done = payload != NULL;
    for (int64_t k = 0; done && k < sizing->n_shards; k++) {
        done = json_array_append_new(payload, json_pack("{s:s,s:I,s:s}", "name", sizing->shards[k].name,
                                                        "bytes", (json_int_t)qni_shard_bytes(sizing, k),
                                                        "sha256", facts->payload_sha256[k])) == 0;
    }
    return payload;
}

static json_t *make_provenance(const qn_artifact_plan *plan, const qni_manifest_facts *facts) {
    return json_pack("{s:s,s:s,s:s,s:I,s:s,s:s}", "source_sha256", facts->source_sha256, "recipe",
                     facts->recipe_name, "recipe_sha256", facts->recipe_sha256, "seed",
                     (json_int_t)plan->seed, "isa", plan->isa, "quern", qn_version());
}

static json_t *make_manifest(const qn_artifact_plan *plan, const qni_manifest_facts *facts) {
    const qni_totals t = qni_count_totals(plan, facts->sizing->shapes, facts->total_bytes);
    const double parameters = (double)t.parameters;
    const int64_t rescued = t.role_parameters[QN_ROLE_RESCUE];
    const int64_t bits = 8 * (facts->total_bytes - t.role_bytes[QN_ROLE_METADATA]);

    return json_pack("{s:s,s:i,s:s,s:I,s:I,s:f,s:I,s:f,s:o,s:o,s:o,s:o}", "format", "quern", "version",
                     QNI_FORMAT, "track", qn_track_name(plan->profile.track), "total_parameters",
                     (json_int_t)t.parameters, "rescue_parameters", (json_int_t)rescued, "rescue_fraction",
                     (double)rescued / parameters, "total_bits", (json_int_t)bits, "bits_per_parameter",
                     (double)bits / parameters, "file", make_file(&t, facts->total_bytes), "payload",
                     make_payload(facts), "provenance", make_provenance(plan, facts), "entries",
                     make_entries(plan, facts, &t));
}

qn_status qni_manifest_render(const qn_artifact_plan *plan, const qni_manifest_facts *facts, char **text,
                              size_t *n_bytes, qn_error *err) {
    json_t *manifest = make_manifest(plan, facts);
    char *made = manifest ? json_dumps(manifest, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(manifest);
    if (!made) return qni_fail_nomem(err, "quern.json");
    *text = made;
    *n_bytes = strlen(made);
    return QN_OK;
}
