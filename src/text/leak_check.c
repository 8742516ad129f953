#include "quern/text/leak_check.h"

#include "base/alloc.h"
#include "text/tokenizer_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* ---- documents as ids ---- */

typedef struct id_set {
    qn_ids ids;
    int64_t *starts; /* owned [n + 1] */
    int64_t n;
} id_set;

static void id_set_release(id_set *set) {
    qn_ids_release(&set->ids);
    free(set->starts);
}

static qn_status encode(const qn_documents *documents, const qn_tokenizer *tokenizer, id_set *out,
                        qn_error *err) {
    qni_encoder encoder = {.tokenizer = tokenizer};
    qn_status status = QN_OK;
    out->n = documents->n;
    out->starts = qni_alloc_array(documents->n + 1, sizeof *out->starts);
    if (!out->starts) return qni_fail_nomem(err, "documents of the leak check");
    for (int64_t d = 0; d < documents->n && status == QN_OK; d++) {
        const qn_document *document = &documents->documents[d];
        status = qni_encoder_encode(&encoder, document->text, document->n_bytes, &out->ids, err);
        out->starts[d + 1] = out->ids.n;
    }
    qni_encoder_release(&encoder);
    return status;
}

/* ---- the n-grams of the evaluation documents, for one length at a time ---- */

/* An open-addressing table of places in the evaluation ids; of equal n-grams the first place stands for all. */
typedef struct table {
    const int32_t *ids; /* of the evaluation; borrowed */
    int64_t length;     /* ids of an n-gram */
    int64_t *places;    /* owned [mask + 1]; -1: free */
    bool *found;        /* owned [mask + 1] */
    uint64_t mask;
} table;

/* A hash that rolls: sum over the n-gram of mix(id) * BASE^(distance from its end), modulo 2^64. */
static const uint64_t k_base = 0x9e3779b97f4a7c15u;

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t mix_id(int32_t id) {
    return mix((uint64_t)(uint32_t)id + k_base);
}

/* The slot that holds the n-gram at IDS, or the free one where it belongs. */
static uint64_t find_slot(const table *t, uint64_t hash, const int32_t *ids) {
    uint64_t slot = mix(hash) & t->mask;
    while (t->places[slot] >= 0 &&
           memcmp(t->ids + t->places[slot], ids, (size_t)t->length * sizeof *ids) != 0)
        slot = (slot + 1) & t->mask;
    return slot;
}

/* Called with each n-gram of LENGTH ids: its place in the ids of SET, and the slot of TABLE it belongs to. */
typedef void each_slot(table *t, int64_t place, uint64_t slot, void *user);

static void each_ngram(const id_set *set, int64_t document, table *t, each_slot *visit, void *user) {
    const int64_t first = set->starts[document], end = set->starts[document + 1], n = t->length;
    const int32_t *ids = set->ids.ids;
    uint64_t hash = 0, drop = 1;
    for (int64_t i = 0; i < n; i++) drop *= k_base;
    for (int64_t i = first; i < end; i++) {
        hash = hash * k_base + mix_id(ids[i]);
        if (i - first >= n) hash -= drop * mix_id(ids[i - n]);
        const int64_t place = i - n + 1;
        if (place >= first) visit(t, place, find_slot(t, hash, ids + place), user);
    }
}

static void put(table *t, int64_t place, uint64_t slot, void *user) {
    (void)user;
    if (t->places[slot] < 0) t->places[slot] = place;
}

static void mark(table *t, int64_t place, uint64_t slot, void *user) {
    (void)place, (void)user;
    if (t->places[slot] >= 0) t->found[slot] = true;
}

/* found_at [ids of the evaluation]: whether the n-gram that begins there was found. */
static void read_back(table *t, int64_t place, uint64_t slot, void *user) {
    bool *found_at = user;
    found_at[place] = t->found[slot];
}

/* ---- one check ---- */

typedef struct leak_job {
    id_set calibration, evaluation;
    int64_t n;
    bool *found_at; /* owned [evaluation ids] */
    table table;
} leak_job;

/* The length of the n-grams that DOCUMENT is cut into; 0: it is too short. */
static int64_t length_of(const leak_job *job, int64_t document) {
    const int64_t ids = job->evaluation.starts[document + 1] - job->evaluation.starts[document];
    return ids >= job->n ? job->n : ids >= QN_LEAK_SHORTEST_DOCUMENT ? ids : 0;
}

static int64_t ngrams_of(const leak_job *job, int64_t document) {
    const int64_t ids = job->evaluation.starts[document + 1] - job->evaluation.starts[document];
    const int64_t length = length_of(job, document);
    return length > 0 ? ids - length + 1 : 0;
}

static int64_t count_ngrams(const leak_job *job, int64_t length) {
    int64_t count = 0;
    for (int64_t d = 0; d < job->evaluation.n; d++)
        if (length_of(job, d) == length) count += ngrams_of(job, d);
    return count;
}

/* A table for N n-grams, at most half full. */
static qn_status make_table(leak_job *job, int64_t length, int64_t n, qn_error *err) {
    uint64_t slots = 16;
    while (slots < 2 * (uint64_t)n) slots *= 2;
    job->table = (table){.ids = job->evaluation.ids.ids,
                         .length = length,
                         .places = qni_alloc_array((int64_t)slots, sizeof *job->table.places),
                         .found = qni_alloc_array((int64_t)slots, sizeof *job->table.found),
                         .mask = slots - 1};
    if (!job->table.places || !job->table.found) return qni_fail_nomem(err, "table of the leak check");
    memset(job->table.places, 0xff, slots * sizeof *job->table.places);
    return QN_OK;
}

static void release_table(table *t) {
    free(t->places);
    free(t->found);
    *t = (table){0};
}

static void each_document(leak_job *job, int64_t length, each_slot *visit, void *user) {
    for (int64_t d = 0; d < job->evaluation.n; d++)
        if (length_of(job, d) == length) each_ngram(&job->evaluation, d, &job->table, visit, user);
}

static qn_status check_length(leak_job *job, int64_t length, qn_error *err) {
    const int64_t n = count_ngrams(job, length);
    if (n == 0) return QN_OK;
    const qn_status status = make_table(job, length, n, err);
    if (status == QN_OK) {
        each_document(job, length, put, NULL);
        for (int64_t d = 0; d < job->calibration.n; d++)
            each_ngram(&job->calibration, d, &job->table, mark, NULL);
        each_document(job, length, read_back, job->found_at);
    }
    release_table(&job->table);
    return status;
}

/* ---- the report ---- */

static void count_document(const leak_job *job, int64_t document, qn_leak_report *report) {
    const int64_t n = ngrams_of(job, document), first = job->evaluation.starts[document];
    int64_t found = 0;
    if (n == 0) {
        report->n_documents_left++;
        return;
    }
    for (int64_t i = 0; i < n; i++) found += job->found_at[first + i];
    report->n_documents++;
    report->n_ngrams += n;
    report->n_found += found;
    report->n_documents_found += found > 0;
    report->n_documents_leaked += 2 * found >= n;
    if ((double)found / (double)n > report->worst_share) {
        report->worst_share = (double)found / (double)n;
        report->worst_document = document;
    }
}

/* Copies at most n_bytes - 1 bytes, whole characters, control characters as spaces. */
static void copy_text(const char *text, size_t length, char *out, size_t n_bytes) {
    size_t n = length < n_bytes ? length : n_bytes - 1;
    while (n < length && n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80) n--;
    for (size_t i = 0; i < n; i++) out[i] = (unsigned char)text[i] < 0x20 ? ' ' : text[i];
    out[n] = 0;
}

/* The text of the longest run of n-grams found in DOCUMENT. */
static qn_status write_example(const leak_job *job, int64_t document, const qn_tokenizer *tokenizer,
                               qn_leak_report *report, qn_error *err) {
    const int64_t n = ngrams_of(job, document), first = job->evaluation.starts[document];
    int64_t best = 0, best_run = 0, run = 0;
    for (int64_t i = 0; i < n; i++) {
        run = job->found_at[first + i] ? run + 1 : 0;
        if (run <= best_run) continue;
        best_run = run;
        best = i - run + 1;
    }
    char *text = NULL;
    size_t n_bytes = 0;
    QN_TRY(qn_tokenizer_decode(tokenizer, job->evaluation.ids.ids + first + best,
                               best_run + length_of(job, document) - 1, false, &text, &n_bytes, err));
    copy_text(text, n_bytes, report->example, sizeof report->example);
    free(text);
    return QN_OK;
}

static qn_status run(leak_job *job, const qn_tokenizer *tokenizer, qn_leak_report *report, qn_error *err) {
    job->found_at = qni_alloc_array(job->evaluation.ids.n, sizeof *job->found_at);
    if (!job->found_at) return qni_fail_nomem(err, "marks of the leak check");
    for (int64_t length = QN_LEAK_SHORTEST_DOCUMENT; length <= job->n; length++)
        QN_TRY(check_length(job, length, err));
    for (int64_t d = 0; d < job->evaluation.n; d++) count_document(job, d, report);
    if (report->n_ngrams > 0) report->share = (double)report->n_found / (double)report->n_ngrams;
    return report->worst_document < 0 ? QN_OK
                                      : write_example(job, report->worst_document, tokenizer, report, err);
}

qn_status qn_leak_check(const qn_documents *calibration, const qn_documents *evaluation,
                        const qn_tokenizer *tokenizer, int64_t n, qn_leak_report *out, qn_error *err) {
    leak_job job = {.n = n};
    qn_leak_report report = {.n = n, .worst_document = -1};
    if (n < QN_LEAK_SHORTEST_DOCUMENT) {
        return qn_fail(err, QN_E_ARGUMENT, "a leak check of %lld-grams: expected %d or more", (long long)n,
                       QN_LEAK_SHORTEST_DOCUMENT);
    }
    qn_status status = encode(calibration, tokenizer, &job.calibration, err);
    if (status == QN_OK) status = encode(evaluation, tokenizer, &job.evaluation, err);
    if (status == QN_OK) status = run(&job, tokenizer, &report, err);
    if (status == QN_OK) *out = report;
    id_set_release(&job.calibration);
    id_set_release(&job.evaluation);
    free(job.found_at);
    return status;
}

qn_status qn_leak_judge(const qn_leak_report *report, bool allow, const qn_context *ctx, qn_error *err) {
    const double leaked =
        report->n_documents > 0 ? (double)report->n_documents_leaked / (double)report->n_documents : 0.0;
    char found[512];
    if (report->share <= QN_LEAK_WARN && report->n_documents_leaked == 0) return QN_OK;
    snprintf(
        found, sizeof found,
        "%.2f %% of the %lld-grams of the evaluation documents stand in the calibration text; in %lld of "
        "%lld documents half or more; most in document %lld (%.1f %%): '%s'",
        100 * report->share, (long long)report->n, (long long)report->n_documents_leaked,
        (long long)report->n_documents, (long long)report->worst_document + 1, 100 * report->worst_share,
        report->example);
    if (allow || (report->share <= QN_LEAK_REFUSE && leaked <= QN_LEAK_REFUSE)) {
        qn_log(ctx, QN_LOG_WARNING, "%s", found);
        return QN_OK;
    }
    return qn_fail(err, QN_E_REJECTED, "%s; calibrate on other text (--allow-leak: accept it)", found);
}
