/* A size for quern.json before its numbers are known, and the manifest that keeps to it.
 *
 * In a folder the bound is exact arithmetic: a manifest whose every number is as long as it can be. Deflated,
 * the size depends on the digits, and no useful bound is provable; so the reserve is the largest of a few
 * manifests with random row counts and digests (nothing deflates worse than random digits) and a margin.
 * Should the real one still be longer, its entries are summed by role, and that short form is below the
 * reserve by arithmetic again. */
#include "artifact/archive.h"
#include "artifact/plan.h"

#include "base/alloc.h"
#include "quern/base/rng.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum {
    N_DRAWS = 4,
    DEFLATE_MARGIN = 48,
    /* What the widest manifest may lack: file.bytes, metadata twice (19 digits each) and two reals (24 each).
     */
    RENDER_SLACK = 3 * 20 + 2 * 24,
};
static const uint64_t DRAW_SEED = 1;

/* Facts with made-up numbers, and what they point to. */
typedef struct sample {
    qni_rows *rows;
    char (*sha256)[QN_SHA256_HEX];
    int64_t *payload_bytes;
    char source_sha256[QN_SHA256_HEX];
    qni_manifest_facts facts;
} sample;

static void sample_release(sample *s) {
    free(s->rows);
    free(s->sha256);
    free(s->payload_bytes);
}

static void draw_hex(qn_rng *rng, char hex[QN_SHA256_HEX]) {
    for (int i = 0; i < QN_SHA256_HEX - 1; i++) hex[i] = "0123456789abcdef"[qn_rng_interval(rng, 15)];
    hex[QN_SHA256_HEX - 1] = 0;
}

static qn_status sample_init(sample *s, const qn_artifact_plan *plan, qn_rng *rng, qn_error *err) {
    *s = (sample){0};
    s->rows = qni_alloc_array(qn_checkpoint_layout(plan->source)->n, sizeof *s->rows);
    s->sha256 = qni_alloc_array(plan->n_shards, sizeof *s->sha256);
    s->payload_bytes = qni_alloc_array(plan->n_shards, sizeof *s->payload_bytes);
    if (!s->rows || !s->sha256 || !s->payload_bytes) return qni_fail_nomem(err, "a sample manifest");
    for (int64_t k = 0; k < plan->n_shards; k++) {
        const qni_shard *shard = &plan->shards[k];
        draw_hex(rng, s->sha256[k]);
        s->payload_bytes[k] =
            shard->header_bytes[QNI_RESCUED] + shard->native_bytes + shard->mask_bytes + plan->max_extra;
        s->facts.total_bytes += s->payload_bytes[k];
    }
    draw_hex(rng, s->source_sha256);
    s->facts.rows = s->rows;
    s->facts.payload_sha256 = (const char(*)[QN_SHA256_HEX])s->sha256;
    s->facts.payload_bytes = s->payload_bytes;
    s->facts.source_sha256 = s->source_sha256;
    return QN_OK;
}

/* rng NULL: every count at its longest. */
static void sample_rows(sample *s, const qn_artifact_plan *plan, qni_form form, qn_rng *rng) {
    const qn_layout *layout = qn_checkpoint_layout(plan->source);
    for (int64_t i = 0; i < layout->n; i++) {
        const int64_t n = layout->entries[i].rows;
        if (!layout->entries[i].is_matrix) continue;
        s->rows[i] = (qni_rows){n, form == QNI_RESCUED ? n : 0};
        if (!rng || form == QNI_PLAIN || n < 2) continue;
        const int64_t rescued = 1 + (int64_t)qn_rng_interval(rng, (uint64_t)n - 2);
        s->rows[i] = (qni_rows){n - rescued, rescued};
    }
}

static qn_status rendered_bytes(const qn_artifact_plan *plan, const qni_manifest_facts *facts, bool deflate,
                                int64_t *out, qn_error *err) {
    char *text = NULL;
    size_t n_bytes = 0;

    QN_TRY(qni_manifest_render(plan, facts, &text, &n_bytes, err));
    qn_status status = QN_OK;
    if (deflate)
        status = qni_deflated_bytes(text, (int64_t)n_bytes, out, err);
    else
        *out = (int64_t)n_bytes;
    free(text);
    return status;
}

/* Longest possible text of the given kind. */
static qn_status text_bound(const qn_artifact_plan *plan, qni_form form, bool summed, int64_t *out,
                            qn_error *err) {
    sample s;
    qn_rng rng;

    qn_rng_seed(&rng, DRAW_SEED);
    qn_status status = sample_init(&s, plan, &rng, err);
    if (status == QN_OK) {
        sample_rows(&s, plan, form, NULL);
        s.facts.summed = summed;
        status = rendered_bytes(plan, &s.facts, false, out, err);
        *out += RENDER_SLACK;
    }
    sample_release(&s);
    return status;
}

static qn_status largest_draw(const qn_artifact_plan *plan, qni_form form, int64_t *out, qn_error *err) {
    qn_rng rng;
    qn_status status = QN_OK;

    qn_rng_seed(&rng, DRAW_SEED);
    *out = 0;
    for (int draw = 0; status == QN_OK && draw < N_DRAWS; draw++) {
        sample s;
        int64_t bytes = 0;
        status = sample_init(&s, plan, &rng, err);
        if (status == QN_OK) {
            sample_rows(&s, plan, form, &rng);
            status = rendered_bytes(plan, &s.facts, true, &bytes, err);
        }
        if (bytes > *out) *out = bytes;
        sample_release(&s);
    }
    return status;
}

/* Deflate never expands by more than 5 bytes a stored block of at least 16 KiB less one, and a few at the
 * end. */
static int64_t deflate_bound(int64_t n_bytes) {
    return n_bytes + 5 * (n_bytes / 16383 + 1) + 8;
}

static qn_status reserve(const qn_artifact_plan *plan, qni_form form, int64_t *out, qn_error *err) {
    int64_t drawn = 0, summed = 0;

    if (!plan->as_archive) return text_bound(plan, form, false, out, err);
    QN_TRY(largest_draw(plan, form, &drawn, err));
    QN_TRY(text_bound(plan, form, true, &summed, err));
    drawn += DEFLATE_MARGIN;
    summed = deflate_bound(summed);
    *out = drawn > summed ? drawn : summed;
    if (*out <= QNI_MAX_COMMENT) return QN_OK;
    return qn_fail(err, QN_E_UNSUPPORTED,
                   "the manifest of %lld tensors may take %lld deflated bytes; at most %d fit",
                   (long long)qn_checkpoint_layout(plan->source)->n, (long long)*out, QNI_MAX_COMMENT);
}

qn_status qni_plan_manifest(qn_artifact_plan *plan, qn_error *err) {
    for (int form = QNI_PLAIN; form <= (int)qni_plan_last_form(plan); form++) {
        QN_TRY(reserve(plan, (qni_form)form, &plan->form[form].manifest_bytes, err));
    }
    return QN_OK;
}

qn_status qni_manifest_fit(const qn_artifact_plan *plan, qni_manifest_facts *facts, int64_t reserve_bytes,
                           char **text, size_t *n_bytes, int64_t *stored_bytes, qn_error *err) {
    for (int summed = 0; summed < 2; summed++) {
        char *made = NULL;
        size_t size = 0;
        int64_t stored = 0;

        facts->summed = summed;
        QN_TRY(qni_manifest_render(plan, facts, &made, &size, err));
        stored = (int64_t)size;
        qn_status status = plan->as_archive ? qni_deflated_bytes(made, stored, &stored, err) : QN_OK;
        if (status == QN_OK && stored <= reserve_bytes) {
            *text = made;
            *n_bytes = size;
            *stored_bytes = stored;
            return QN_OK;
        }
        free(made);
        QN_TRY(status);
    }
    return qn_fail(err, QN_E_INTERNAL, "quern.json does not fit into its %lld planned bytes",
                   (long long)reserve_bytes);
}
