#include "artifact/plan.h"

#include "artifact/archive.h"
#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static const char *or_empty(const char *text) {
    return text ? text : "";
}

static qn_status check_options(const qn_artifact_options *o, qn_error *err) {
    if (!o->profile) return qn_fail(err, QN_E_ARGUMENT, "an artifact needs a profile");
    if (o->native.code != QN_CODE_SIGN && o->native.code != QN_CODE_TERNARY) {
        return qn_fail(err, QN_E_ARGUMENT, "native code '%s'; expected sign or ternary",
                       qn_code_name(o->native.code));
    }
    if (o->rescue.code != QN_CODE_NONE && o->rescue.code != QN_CODE_Q4) {
        return qn_fail(err, QN_E_ARGUMENT, "rescue code '%s'; expected q4 or none",
                       qn_code_name(o->rescue.code));
    }
    if (o->native.group_size < 0 || o->rescue.group_size < 0 || o->max_shard_bytes < 0) {
        return qn_fail(err, QN_E_ARGUMENT, "group sizes and max_shard_bytes are not negative");
    }
    if (o->seed > INT64_MAX) return qn_fail(err, QN_E_ARGUMENT, "the seed of an artifact is below 2^63");
    return QN_OK;
}

static qn_status copy_options(qn_artifact_plan *plan, const qn_artifact_options *o, qn_error *err) {
    plan->profile = *o->profile;
    plan->native = o->native;
    plan->rescue = o->rescue;
    plan->as_archive = o->as_archive;
    plan->seed = o->seed;
    plan->recipe_name = qni_copy_string(or_empty(o->recipe_name));
    plan->recipe_sha256 = qni_copy_string(or_empty(o->recipe_sha256));
    plan->isa = qni_copy_string(or_empty(o->isa));
    if (!plan->recipe_name || !plan->recipe_sha256 || !plan->isa)
        return qni_fail_nomem(err, "an artifact plan");
    return QN_OK;
}

int64_t qn_artifact_plan_row_price(const qn_artifact_plan *plan, int64_t entry) {
    const qn_layout_entry *t = &qn_checkpoint_layout(plan->source)->entries[entry];
    if (!t->is_matrix || plan->rescue.code == QN_CODE_NONE) return 0;
    return qn_codec_row_bytes(plan->rescue, t->cols) - qn_codec_row_bytes(plan->native, t->cols);
}

static qn_status check_prices(const qn_artifact_plan *plan, qn_error *err) {
    const qn_layout *layout = qn_checkpoint_layout(plan->source);
    for (int64_t i = 0; i < layout->n; i++) {
        if (qn_artifact_plan_row_price(plan, i) >= 0) continue;
        return qn_fail(err, QN_E_ARGUMENT,
                       "%s: a rescued row is smaller than a native row; use larger native groups",
                       layout->entries[i].name);
    }
    return QN_OK;
}

typedef struct price {
    int64_t bytes, cols, rows;
} price;

/* Dearest per weight first; ties in a fixed order. */
static int compare_prices(const void *a, const void *b) {
    const price *x = a, *y = b;
    const double left = (double)x->bytes * (double)y->cols, right = (double)y->bytes * (double)x->cols;
    if (left != right) return left < right ? 1 : -1;
    return (x->cols < y->cols) - (x->cols > y->cols);
}

/* The linear relaxation of choosing rows: whole rows, dearest first, then one more row in place of a
 * fraction. */
static int64_t spend(const price *prices, int64_t n, int64_t max_weights) {
    int64_t bytes = 0;
    for (int64_t i = 0; i < n && max_weights > 0; i++) {
        int64_t rows = max_weights / prices[i].cols;
        if (rows >= prices[i].rows) {
            bytes += prices[i].rows * prices[i].bytes;
            max_weights -= prices[i].rows * prices[i].cols;
            continue;
        }
        bytes += (rows + 1) * prices[i].bytes;
        max_weights = 0;
    }
    return bytes;
}

static qn_status extra_bound(const qn_artifact_plan *plan, int64_t max_weights, int64_t *out, qn_error *err) {
    const qn_layout *layout = qn_checkpoint_layout(plan->source);
    price *prices = qni_alloc_array(layout->n, sizeof *prices);
    int64_t n = 0;

    if (!prices) return qni_fail_nomem(err, "row prices");
    for (int64_t i = 0; i < layout->n; i++) {
        const qn_layout_entry *t = &layout->entries[i];
        if (t->is_matrix) prices[n++] = (price){qn_artifact_plan_row_price(plan, i), t->cols, t->rows};
    }
    qsort(prices, (size_t)n, sizeof *prices, compare_prices);
    *out = spend(prices, n, max_weights);
    free(prices);
    return QN_OK;
}

int64_t qn_artifact_plan_extra_bound(const qn_artifact_plan *plan, int64_t max_weights) {
    int64_t bytes = plan->max_extra;
    if (extra_bound(plan, max_weights, &bytes, NULL) != QN_OK) return plan->max_extra;
    return bytes < plan->max_extra ? bytes : plan->max_extra;
}

/* Bytes of a payload file without extra bytes. */
static int64_t shard_bytes(const qni_shard *shard, qni_form form) {
    return shard->header_bytes[form] + shard->native_bytes + (form == QNI_RESCUED ? shard->mask_bytes : 0);
}

/* Every shard may take all the extra bytes, and no offset can then be larger: a bound on the ZIP64 fields for
 * any choice of rows. The few bytes that a real archive needs less go into its comment. */
static qn_status archive_total(const qn_artifact_plan *plan, qni_form form, int64_t *out, qn_error *err) {
    const int64_t extra = form == QNI_RESCUED ? plan->max_extra : 0;
    const size_t n = plan->texts.n + (size_t)plan->n_shards + 1;
    qni_zip_member *members = qni_alloc_array((int64_t)n, sizeof *members);
    size_t k = 0;

    if (!members) return qni_fail_nomem(err, "archive members");
    for (size_t i = 0; i < plan->texts.n; i++) {
        const qni_text *text = &plan->texts.items[i];
        members[k++] = (qni_zip_member){
            .name = text->name, .raw_bytes = text->n_bytes, .packed_bytes = text->deflated_bytes};
    }
    for (int64_t i = 0; i < plan->n_shards; i++) {
        const int64_t bytes = shard_bytes(&plan->shards[i], form) + extra;
        members[k++] = (qni_zip_member){
            .name = plan->shards[i].name, .stored = true, .raw_bytes = bytes, .packed_bytes = bytes};
    }
    members[k++] = (qni_zip_member){.name = "quern.json", .packed_bytes = plan->form[form].manifest_bytes};
    qni_zip_sort(members, n);
    *out = qni_archive_bytes(members, n) - extra * plan->n_shards;
    free(members);
    return QN_OK;
}

static int64_t folder_total(const qn_artifact_plan *plan, qni_form form) {
    int64_t bytes = plan->form[form].manifest_bytes;
    for (size_t i = 0; i < plan->texts.n; i++) bytes += plan->texts.items[i].n_bytes;
    for (int64_t i = 0; i < plan->n_shards; i++) bytes += shard_bytes(&plan->shards[i], form);
    return bytes;
}

qni_form qni_plan_last_form(const qn_artifact_plan *plan) {
    return plan->rescue.code == QN_CODE_NONE ? QNI_PLAIN : QNI_RESCUED;
}

static qn_status plan_totals(qn_artifact_plan *plan, qn_error *err) {
    for (int form = QNI_PLAIN; form <= (int)qni_plan_last_form(plan); form++) {
        int64_t *total = &plan->form[form].total_bytes;
        if (!plan->as_archive)
            *total = folder_total(plan, (qni_form)form);
        else
            QN_TRY(archive_total(plan, (qni_form)form, total, err));
    }
    return QN_OK;
}

static qn_status make_plan(qn_artifact_plan *plan, const qn_artifact_options *options, qn_error *err) {
    const int64_t parameters = qn_checkpoint_layout(plan->source)->n_parameters;

    QN_TRY(copy_options(plan, options, err));
    QN_TRY(check_prices(plan, err));
    QN_TRY(extra_bound(plan, qn_profile_max_rescued(&plan->profile, parameters), &plan->max_extra, err));
    QN_TRY(qni_plan_shards(plan, options->max_shard_bytes, err));
    QN_TRY(qni_plan_headers(plan, err));
    QN_TRY(qni_texts_collect(plan, options->with_tokenizer, &plan->texts, err));
    QN_TRY(qni_plan_manifest(plan, err));
    return plan_totals(plan, err);
}

qn_status qn_artifact_plan_new(const qn_checkpoint *source, const qn_artifact_options *options,
                               qn_artifact_plan **out, qn_error *err) {
    QN_TRY(check_options(options, err));
    qn_artifact_plan *plan = qni_alloc_array(1, sizeof *plan);
    if (!plan) return qni_fail_nomem(err, "an artifact plan");
    plan->source = source;
    qn_status status = make_plan(plan, options, err);
    if (status != QN_OK) {
        qn_artifact_plan_free(plan);
        return status;
    }
    *out = plan;
    return QN_OK;
}

void qn_artifact_plan_free(qn_artifact_plan *plan) {
    if (!plan) return;
    qni_texts_release(&plan->texts);
    free(plan->shards);
    free(plan->recipe_name);
    free(plan->recipe_sha256);
    free(plan->isa);
    free(plan);
}

int64_t qn_artifact_plan_bytes(const qn_artifact_plan *plan, int64_t extra_bytes) {
    if (extra_bytes <= 0 || qni_plan_last_form(plan) == QNI_PLAIN) return plan->form[QNI_PLAIN].total_bytes;
    return plan->form[QNI_RESCUED].total_bytes + extra_bytes;
}
