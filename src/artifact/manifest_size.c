/* A size for quern.json before its digests are known, and the manifest that keeps to it.
 *
 * All numbers but the size of the whole file follow from the shapes. In a folder the bound is exact arithmetic: that size at
 * its longest. Deflated, the manifest's size depends on the digits, and no useful bound is provable; so the reserve is the
 * largest of a few manifests with random digests (nothing deflates worse) and a margin. Should the real one still be longer,
 * its entries are summed by role, and that short form is below the reserve by arithmetic again. The recipe's digest and name
 * are made up, too, the name at its longest: what has nothing to do with the shapes must not move them. */
#include "artifact/plan.h"

#include "base/alloc.h"
#include "quern/base/rng.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { N_DRAWS = 4, DEFLATE_MARGIN = 48 };
static const uint64_t DRAW_SEED = 1;

/* N_CHARS of LETTERS and a zero. */
static void draw_text(qn_rng *rng, const char *letters, int n_chars, char *out) {
    const size_t last = strlen(letters) - 1;
    for (int i = 0; i < n_chars; i++) out[i] = letters[qn_rng_interval(rng, last)];
    out[n_chars] = 0;
}

static void draw_hex(qn_rng *rng, char hex[QN_SHA256_HEX]) {
    draw_text(rng, "0123456789abcdef", QN_SHA256_HEX - 1, hex);
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

/* Digests and a name made up, and the facts that point to them. */
typedef struct sample {
    qni_manifest_facts facts;
    char source_sha256[QN_SHA256_HEX], recipe_sha256[QN_SHA256_HEX], recipe_name[QN_MAX_RECIPE_NAME + 1];
    char (*sha256)[QN_SHA256_HEX]; /* owned */
    qn_rng rng;
} sample;

static void sample_draw(sample *s) {
    draw_hex(&s->rng, s->source_sha256);
    draw_hex(&s->rng, s->recipe_sha256);
    draw_text(&s->rng, "abcdefghijklmnopqrstuvwxyz-_.0123456789", QN_MAX_RECIPE_NAME, s->recipe_name);
    for (int64_t k = 0; k < s->facts.sizing->n_shards; k++) draw_hex(&s->rng, s->sha256[k]);
}

static qn_status sample_init(sample *s, const qni_sizing *sizing, qn_error *err) {
    *s = (sample){.facts = {.sizing = sizing}};
    s->sha256 = qni_alloc_array(sizing->n_shards, sizeof *s->sha256);
    if (!s->sha256) return qni_fail_nomem(err, "a sample manifest");
    s->facts.payload_sha256 = (const char(*)[QN_SHA256_HEX])s->sha256;
    s->facts.source_sha256 = s->source_sha256;
    s->facts.recipe_sha256 = s->recipe_sha256;
    s->facts.recipe_name = s->recipe_name;
    qn_rng_seed(&s->rng, DRAW_SEED);
    sample_draw(s);
    return QN_OK;
}

/* Longest possible text of the given kind. */
static qn_status text_bound(const qn_artifact_plan *plan, sample *s, bool summed, int64_t *out,
                            qn_error *err) {
    s->facts.total_bytes = INT64_MAX;
    s->facts.summed = summed;
    return rendered_bytes(plan, &s->facts, false, out, err);
}

static qn_status largest_draw(const qn_artifact_plan *plan, sample *s, int64_t *out, qn_error *err) {
    s->facts.summed = false;
    s->facts.total_bytes = 0; /* about that of the whole: the payload is nearly all */
    for (int64_t k = 0; k < s->facts.sizing->n_shards; k++)
        s->facts.total_bytes += qni_shard_bytes(s->facts.sizing, k);
    *out = 0;
    for (int draw = 0; draw < N_DRAWS; draw++) {
        int64_t bytes = 0;
        sample_draw(s);
        QN_TRY(rendered_bytes(plan, &s->facts, true, &bytes, err));
        if (bytes > *out) *out = bytes;
    }
    return QN_OK;
}

/* Deflate never expands by more than 5 bytes a stored block of at least 16 KiB less one, and a few at the
 * end. */
static int64_t deflate_bound(int64_t n_bytes) {
    return n_bytes + 5 * (n_bytes / 16383 + 1) + 8;
}

static qn_status deflated_reserve(const qn_artifact_plan *plan, sample *s, int64_t *out, qn_error *err) {
    /* Reserve, spare bytes and a few of ZIP64 may all end in the comment. */
    const int64_t most = QNI_MAX_COMMENT - QNI_PADDING_FROM - 256;
    int64_t drawn = 0, summed = 0;

    QN_TRY(largest_draw(plan, s, &drawn, err));
    QN_TRY(text_bound(plan, s, true, &summed, err));
    drawn += DEFLATE_MARGIN;
    summed = deflate_bound(summed);
    *out = drawn > summed ? drawn : summed;
    if (*out <= most) return QN_OK;
    return qn_fail(err, QN_E_UNSUPPORTED,
                   "the manifest of %lld tensors may take %lld deflated bytes; %lld fit",
                   (long long)qn_checkpoint_layout(plan->source)->n, (long long)*out, (long long)most);
}

qn_status qni_size_manifest(const qn_artifact_plan *plan, qni_sizing *sizing, qn_error *err) {
    sample s;
    qn_status status = sample_init(&s, sizing, err);
    if (status == QN_OK && plan->as_archive)
        status = deflated_reserve(plan, &s, &sizing->manifest_bytes, err);
    else if (status == QN_OK)
        status = text_bound(plan, &s, false, &sizing->manifest_bytes, err);
    free(s.sha256);
    return status;
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
