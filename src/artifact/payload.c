/* How tensors fall into payload files, and how many bytes each file takes: from the layout alone. */
#include "artifact/plan.h"

#include "base/alloc.h"
#include "quern/checkpoint/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static const int64_t DEFAULT_SHARD_BYTES = INT64_C(2) << 30;
static const char PADDING_NAME[] = "quern.padding";

static int64_t mask_bytes(const qn_layout_entry *entry) {
    return entry->is_matrix ? (entry->rows + 7) / 8 : 0;
}

qn_encoded qni_plan_encoded(const qn_artifact_plan *plan, int64_t entry, int64_t n_rescued) {
    const qn_layout_entry *t = &qn_checkpoint_layout(plan->source)->entries[entry];
    return (qn_encoded){.rows = t->rows,
                        .cols = t->cols,
                        .native = plan->native,
                        .rescue = n_rescued ? plan->rescue : (qn_codec){0},
                        .n_rescue_rows = n_rescued};
}

qn_dtype qni_plan_vector_dtype(const qn_artifact_plan *plan, int64_t entry) {
    const qn_dtype dtype = qn_checkpoint_weight(plan->source, entry)->dense.dtype;
    return dtype == QN_DTYPE_BF16 ? QN_DTYPE_BF16 : QN_DTYPE_F16;
}

static int64_t entry_bytes(const qn_artifact_plan *plan, int64_t entry, int64_t n_rescued) {
    const qn_layout_entry *t = &qn_checkpoint_layout(plan->source)->entries[entry];
    if (!t->is_matrix) return 2 * t->cols;
    const qn_encoded e = qni_plan_encoded(plan, entry, n_rescued);
    return qn_encoded_bytes(&e);
}

int64_t qni_shard_data_bytes(const qn_artifact_plan *plan, const qni_shard *shard,
                             const int64_t *n_rescued_rows) {
    int64_t bytes = 0;
    for (int64_t i = shard->first; i < shard->first + shard->n; i++) {
        bytes += entry_bytes(plan, i, n_rescued_rows ? n_rescued_rows[i] : 0);
    }
    return bytes;
}

/* Greedy in layout order by native size, so that the cut does not depend on which rows are rescued. */
qn_status qni_plan_shards(qn_artifact_plan *plan, int64_t max_shard_bytes, qn_error *err) {
    const qn_layout *layout = qn_checkpoint_layout(plan->source);
    const int64_t limit = max_shard_bytes > 0 ? max_shard_bytes : DEFAULT_SHARD_BYTES;
    int64_t n = 0;

    plan->shards = qni_alloc_array(layout->n, sizeof *plan->shards);
    if (!plan->shards) return qni_fail_nomem(err, "payload shards");
    for (int64_t i = 0; i < layout->n; i++) {
        const int64_t bytes = entry_bytes(plan, i, 0);
        if (n == 0 || bytes > limit - plan->shards[n - 1].native_bytes) plan->shards[n++].first = i;
        qni_shard *shard = &plan->shards[n - 1];
        shard->n++;
        shard->native_bytes += bytes;
        shard->mask_bytes += mask_bytes(&layout->entries[i]);
    }
    plan->n_shards = n;
    for (int64_t k = 0; k < n; k++) {
        snprintf(plan->shards[k].name, sizeof plan->shards[k].name, "payload-%05lld-of-%05lld.safetensors",
                 (long long)k + 1, (long long)n);
    }
    return QN_OK;
}

/* The items and metadata of one header under construction. */
typedef struct header_list {
    qn_safetensors_item *items;
    qn_safetensors_meta *meta;
    char **strings; /* names and values made here */
    size_t n_items, n_meta, n_strings;
} header_list;

static void list_release(header_list *list) {
    for (size_t i = 0; i < list->n_strings; i++) free(list->strings[i]);
    free(list->strings);
    free(list->items);
    free(list->meta);
}

static qn_status list_init(header_list *list, int64_t n_entries, qn_error *err) {
    list->items = qni_alloc_array(n_entries * QN_MAX_PARTS + 1, sizeof *list->items);
    list->meta = qni_alloc_array(n_entries + 2, sizeof *list->meta);
    list->strings = qni_alloc_array(n_entries * (QN_MAX_PARTS + 1), sizeof *list->strings);
    if (!list->items || !list->meta || !list->strings) return qni_fail_nomem(err, "a payload header");
    list->meta[list->n_meta++] = (qn_safetensors_meta){"format", "quern"};
    list->meta[list->n_meta++] = (qn_safetensors_meta){"version", "1"};
    return QN_OK;
}

static void list_add_bytes(header_list *list, int64_t n_bytes) {
    const qn_view view = {.dtype = QN_DTYPE_U8, .n_dims = 1, .shape = {n_bytes}};
    list->items[list->n_items++] = (qn_safetensors_item){PADDING_NAME, view};
}

static qn_status list_add_matrix(header_list *list, const char *name, const qn_encoded *e, qn_error *err) {
    qn_part parts[QN_MAX_PARTS];
    const int n = qn_encoded_parts(e, parts);
    char *spec = qni_alloc_array(QN_PACKED_SPEC_BYTES, 1);

    if (!spec) return qni_fail_nomem(err, "a payload header");
    list->strings[list->n_strings++] = spec;
    qn_packed_spec_format(e, spec, QN_PACKED_SPEC_BYTES);
    list->meta[list->n_meta++] = (qn_safetensors_meta){name, spec};
    for (int p = 0; p < n; p++) {
        char *tensor = NULL;
        if (asprintf(&tensor, "%s%s", name, parts[p].suffix) < 0) return qni_fail_nomem(err, "a tensor name");
        list->strings[list->n_strings++] = tensor;
        parts[p].view.data = NULL;
        list->items[list->n_items++] = (qn_safetensors_item){tensor, parts[p].view};
    }
    return QN_OK;
}

static void list_add_vector(header_list *list, const qn_artifact_plan *plan, int64_t entry) {
    const qn_layout_entry *t = &qn_checkpoint_layout(plan->source)->entries[entry];
    const qn_view view = {.dtype = qni_plan_vector_dtype(plan, entry), .n_dims = 1, .shape = {t->cols}};
    list->items[list->n_items++] = (qn_safetensors_item){t->name, view};
}

/* The smallest number with as many digits as n: a rescued row count that is as long in print as any. */
static int64_t same_digits(int64_t n) {
    int64_t power = 1;
    while (power <= n / 10) power *= 10;
    return power;
}

/* n_rescued_rows NULL: the widest header of the form. It holds every tensor; its numbers have at least as
 * many digits as those of any real header, because each shape is at least as long in print, and because each
 * offset is at least the real one: `padding` bytes, all that rescued rows can add, stand before the first
 * tensor. */
static qn_status list_fill(header_list *list, const qn_artifact_plan *plan, const qni_shard *shard,
                           qni_form form, const int64_t *n_rescued_rows, int64_t padding, qn_error *err) {
    const qn_layout *layout = qn_checkpoint_layout(plan->source);
    const bool widest = !n_rescued_rows;

    if (widest && padding >= 0) list_add_bytes(list, padding);
    for (int64_t i = shard->first; i < shard->first + shard->n; i++) {
        const qn_layout_entry *t = &layout->entries[i];
        if (!t->is_matrix) {
            list_add_vector(list, plan, i);
            continue;
        }
        const int64_t most = form == QNI_RESCUED ? same_digits(t->rows) : 0;
        qn_encoded e = qni_plan_encoded(plan, i, widest ? most : n_rescued_rows[i]);
        if (widest) e.rows += most; /* all rows native, and rescued ones besides */
        QN_TRY(list_add_matrix(list, t->name, &e, err));
    }
    if (!widest && padding >= 0) list_add_bytes(list, padding);
    return QN_OK;
}

static qn_status build_header(const qn_artifact_plan *plan, const qni_shard *shard, qni_form form,
                              const int64_t *n_rescued_rows, int64_t padding, size_t min_bytes,
                              uint8_t **header, size_t *n_bytes, qn_error *err) {
    header_list list = {0};
    qn_status status = list_init(&list, shard->n, err);

    if (status == QN_OK) status = list_fill(&list, plan, shard, form, n_rescued_rows, padding, err);
    if (status == QN_OK) {
        status = qn_safetensors_header(list.items, list.n_items, list.meta, list.n_meta, min_bytes, header,
                                       n_bytes, err);
    }
    list_release(&list);
    return status;
}

qn_status qni_shard_header(const qn_artifact_plan *plan, const qni_shard *shard, qni_form form,
                           const int64_t *n_rescued_rows, int64_t padding, uint8_t **header, size_t *n_bytes,
                           qn_error *err) {
    const size_t planned = (size_t)shard->header_bytes[form];
    uint8_t *made = NULL;
    size_t size = 0;

    QN_TRY(build_header(plan, shard, form, n_rescued_rows, padding, planned, &made, &size, err));
    if (size != planned) {
        free(made);
        return qn_fail(err, QN_E_INTERNAL, "%s: the header takes %zu bytes, planned %zu", shard->name, size,
                       planned);
    }
    *header = made;
    *n_bytes = size;
    return QN_OK;
}

qn_status qni_plan_headers(qn_artifact_plan *plan, qn_error *err) {
    for (int64_t k = 0; k < plan->n_shards; k++) {
        qni_shard *shard = &plan->shards[k];
        for (int form = QNI_PLAIN; form <= (int)qni_plan_last_form(plan); form++) {
            const int64_t padding = form == QNI_RESCUED ? plan->max_extra + shard->mask_bytes : -1;
            uint8_t *header = NULL;
            size_t size = 0;
            QN_TRY(build_header(plan, shard, (qni_form)form, NULL, padding, 0, &header, &size, err));
            free(header);
            shard->header_bytes[form] = (int64_t)size;
        }
    }
    return QN_OK;
}
