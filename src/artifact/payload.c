/* How tensors fall into payload files, and how many bytes each file takes: from the shapes alone. */
#include "artifact/plan.h"

#include "base/alloc.h"
#include "checkpoint/format.h"
#include "quern/checkpoint/safetensors.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/banned.h"

static const int64_t DEFAULT_SHARD_BYTES = INT64_C(2) << 30;

qn_dtype qni_plan_vector_dtype(const qn_artifact_plan *plan, int64_t entry) {
    const qn_dtype dtype = qn_checkpoint_weight(plan->source, entry)->dense.dtype;
    return dtype == QN_DTYPE_BF16 && !plan->f16_vectors ? QN_DTYPE_BF16 : QN_DTYPE_F16;
}

static const qn_layout_entry *entry_of(const qn_artifact_plan *plan, int64_t entry) {
    return &qn_checkpoint_layout(plan->source)->entries[entry];
}

static qn_view entry_view(const qn_artifact_plan *plan, const qn_encoded *shapes, int64_t entry) {
    const qn_layout_entry *t = entry_of(plan, entry);
    if (t->is_matrix)
        return (qn_view){
            .dtype = QN_DTYPE_U8, .n_dims = 1, .shape = {qn_encoded_stored_bytes(&shapes[entry])}};
    return (qn_view){.dtype = qni_plan_vector_dtype(plan, entry), .n_dims = 1, .shape = {t->cols}};
}

int64_t qni_shard_padding(const qni_sizing *sizing, int64_t k) {
    return k == sizing->n_shards - 1 && sizing->padding > 0 ? sizing->padding : 0;
}

int64_t qni_shard_bytes(const qni_sizing *sizing, int64_t k) {
    return sizing->shards[k].header_bytes + sizing->shards[k].data_bytes + qni_shard_padding(sizing, k);
}

/* Greedy in layout order. */
qn_status qni_size_shards(const qn_artifact_plan *plan, qni_sizing *sizing, qn_error *err) {
    const qn_layout *layout = qn_checkpoint_layout(plan->source);
    const int64_t limit = plan->max_shard_bytes > 0 ? plan->max_shard_bytes : DEFAULT_SHARD_BYTES;
    int64_t n = 0;

    sizing->shards = qni_alloc_array(layout->n, sizeof *sizing->shards);
    if (!sizing->shards) return qni_fail_nomem(err, "payload shards");
    for (int64_t i = 0; i < layout->n; i++) {
        const qn_view view = entry_view(plan, sizing->shapes, i);
        const int64_t bytes = view.shape[0] * (int64_t)qn_dtype_bytes(view.dtype);
        if (n == 0 || bytes > limit - sizing->shards[n - 1].data_bytes) sizing->shards[n++].first = i;
        sizing->shards[n - 1].n++;
        sizing->shards[n - 1].data_bytes += bytes;
    }
    sizing->n_shards = n;
    for (int64_t k = 0; k < n; k++) {
        snprintf(sizing->shards[k].name, sizeof sizing->shards[k].name,
                 "payload-%05lld-of-%05lld.safetensors", (long long)k + 1, (long long)n);
    }
    return QN_OK;
}

/* ------------------------------------------------------------------------------------------- headers */

/* The items and metadata of one header under construction. */
typedef struct header_list {
    qn_safetensors_item *items;
    qn_safetensors_meta *meta;
    char (*specs)[QN_PACKED_SPEC_BYTES]; /* values of the metadata */
    size_t n_items, n_meta;
} header_list;

static void list_release(header_list *list) {
    free(list->specs);
    free(list->items);
    free(list->meta);
}

static qn_status list_init(header_list *list, int64_t n_entries, qn_error *err) {
    list->items = qni_alloc_array(n_entries + 1, sizeof *list->items);
    list->meta = qni_alloc_array(n_entries + 2, sizeof *list->meta);
    list->specs = qni_alloc_array(n_entries + 2, sizeof *list->specs);
    if (!list->items || !list->meta || !list->specs) return qni_fail_nomem(err, "a payload header");
    list->meta[list->n_meta++] = (qn_safetensors_meta){"format", "quern"};
    list->meta[list->n_meta++] = (qn_safetensors_meta){"version", QNI_FORMAT_TEXT};
    return QN_OK;
}

static void list_fill(header_list *list, const qn_artifact_plan *plan, const qni_sizing *sizing, int64_t k) {
    const qni_shard *shard = &sizing->shards[k];
    for (int64_t i = shard->first; i < shard->first + shard->n; i++) {
        const qn_layout_entry *t = entry_of(plan, i);
        list->items[list->n_items++] = (qn_safetensors_item){t->name, entry_view(plan, sizing->shapes, i)};
        if (!t->is_matrix) continue;
        char *spec = list->specs[list->n_meta];
        qn_packed_spec_format(&sizing->shapes[i], spec);
        list->meta[list->n_meta++] = (qn_safetensors_meta){t->name, spec};
    }
    if (k < sizing->n_shards - 1 || sizing->padding < 0) return;
    const qn_view padding = {.dtype = QN_DTYPE_U8, .n_dims = 1, .shape = {sizing->padding}};
    list->items[list->n_items++] = (qn_safetensors_item){QNI_PADDING_NAME, padding};
}

qn_status qni_shard_header(const qn_artifact_plan *plan, const qni_sizing *sizing, int64_t k,
                           uint8_t **header, size_t *n_bytes, qn_error *err) {
    header_list list = {0};
    qn_status status = list_init(&list, sizing->shards[k].n, err);

    if (status == QN_OK) {
        list_fill(&list, plan, sizing, k);
        status =
            qn_safetensors_header(list.items, list.n_items, list.meta, list.n_meta, 0, header, n_bytes, err);
    }
    list_release(&list);
    return status;
}

qn_status qni_size_headers(const qn_artifact_plan *plan, qni_sizing *sizing, qn_error *err) {
    for (int64_t k = 0; k < sizing->n_shards; k++) {
        uint8_t *header = NULL;
        size_t size = 0;
        QN_TRY(qni_shard_header(plan, sizing, k, &header, &size, err));
        free(header);
        sizing->shards[k].header_bytes = (int64_t)size;
    }
    return QN_OK;
}
