#include "model/walk_plan.h"

#include "base/alloc.h"

#include <stdlib.h>

#include "base/banned.h"

static qn_status check_sequences(const qn_sequences *sequences, qn_error *err) {
    if (sequences->n < 0 || sequences->starts[0] != 0)
        return qn_fail(err, QN_E_ARGUMENT, "sequences must start at 0");
    for (int64_t i = 0; i < sequences->n; i++) {
        if (sequences->starts[i + 1] < sequences->starts[i])
            return qn_fail(err, QN_E_ARGUMENT, "sequence %lld ends before it starts", (long long)i);
    }
    return QN_OK;
}

static void group(const qn_sequences *sequences, int64_t chunk_tokens, qni_walk_plan *plan) {
    const int64_t *starts = sequences->starts;
    qni_chunk *chunk = NULL;
    for (int64_t i = 0; i < sequences->n; i++) {
        const int64_t n = starts[i + 1] - starts[i];
        if (!chunk || chunk->n_tokens + n > chunk_tokens) {
            chunk = &plan->chunks[plan->n_chunks++];
            *chunk = (qni_chunk){
                .first_token = starts[i], .spans = plan->spans + i, .positions = plan->positions + starts[i]};
        }
        const int64_t first = chunk->n_tokens;
        plan->spans[i] = (qni_span){.first_query = first, .n_queries = n, .first_key = first, .n_keys = n};
        for (int64_t p = 0; p < n; p++) plan->positions[starts[i] + p] = p;
        chunk->n_tokens += n;
        chunk->n_spans++;
        if (n > plan->longest_sequence) plan->longest_sequence = n;
        if (chunk->n_tokens > plan->longest_chunk) plan->longest_chunk = chunk->n_tokens;
    }
}

qn_status qni_walk_plan_make(const qn_sequences *sequences, int64_t chunk_tokens, qni_walk_plan *out,
                             qn_error *err) {
    QN_TRY(check_sequences(sequences, err));
    qni_walk_plan plan = {.n_tokens = sequences->starts[sequences->n]};
    plan.chunks = qni_alloc_array(sequences->n, sizeof *plan.chunks);
    plan.spans = qni_alloc_array(sequences->n, sizeof *plan.spans);
    plan.positions = qni_alloc_array(plan.n_tokens, sizeof *plan.positions);
    if (!plan.chunks || !plan.spans || !plan.positions) {
        qni_walk_plan_release(&plan);
        return qni_fail_nomem(err, "plan of the walk");
    }
    group(sequences, chunk_tokens, &plan);
    *out = plan;
    return QN_OK;
}

void qni_walk_plan_release(qni_walk_plan *plan) {
    free(plan->chunks);
    free(plan->spans);
    free(plan->positions);
    *plan = (qni_walk_plan){0};
}
