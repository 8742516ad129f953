#include "fit/statistics_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { NUMBER_BYTES = 24 };

static qn_status write_header(qni_statistics_writer *writer, const qn_statistics_info *info, qn_error *err) {
    char n_tokens[NUMBER_BYTES], n_fisher_tokens[NUMBER_BYTES];
    uint8_t *header = NULL;
    size_t n_bytes = 0;
    snprintf(n_tokens, sizeof n_tokens, "%" PRId64, info->n_tokens);
    snprintf(n_fisher_tokens, sizeof n_fisher_tokens, "%" PRId64, info->n_fisher_tokens);
    const qn_safetensors_meta meta[] = {{"format", QNI_STATISTICS_FORMAT},
                                        {"version", QNI_STATISTICS_VERSION},
                                        {"model_sha256", info->model_sha256},
                                        {"text_sha256", info->text_sha256},
                                        {"n_tokens", n_tokens},
                                        {"n_fisher_tokens", n_fisher_tokens},
                                        {"context", info->context},
                                        {"seed", info->seed}};
    QN_TRY(qn_safetensors_header(writer->items, writer->n_items, meta, sizeof meta / sizeof *meta, 0, &header,
                                 &n_bytes, err));
    const qn_status status = qn_writer_write(writer->file, header, n_bytes, err);
    free(header);
    return status;
}

qn_status qni_statistics_writer_open(const char *path, const qn_safetensors_item *items, size_t n_items,
                                     const qn_statistics_info *info, qni_statistics_writer *out,
                                     qn_error *err) {
    qni_statistics_writer writer = {.items = items, .n_items = n_items};
    QN_TRY(qn_writer_open(path, &writer.file, err));
    const qn_status status = write_header(&writer, info, err);
    if (status == QN_OK)
        *out = writer;
    else
        qni_statistics_writer_abandon(&writer);
    return status;
}

qn_status qni_statistics_writer_put(qni_statistics_writer *writer, const char *tensor, const float *values,
                                    qn_error *err) {
    const qn_safetensors_item *item = &writer->items[writer->next];
    if (writer->next >= writer->n_items || strcmp(item->name, tensor) != 0)
        return qn_fail(err, QN_E_INTERNAL, "statistics are written out of order at %s", tensor);
    writer->next++;
    return qn_writer_write(writer->file, values, (size_t)qni_statistic_floats(&item->view) * sizeof *values,
                           err);
}

qn_status qni_statistics_writer_commit(qni_statistics_writer *writer, qn_error *err) {
    if (writer->next < writer->n_items) {
        const char *missing = writer->items[writer->next].name;
        qni_statistics_writer_abandon(writer);
        return qn_fail(err, QN_E_INTERNAL, "statistics end before %s", missing);
    }
    const qn_status status = qn_writer_commit(writer->file, NULL, err);
    *writer = (qni_statistics_writer){0};
    return status;
}

void qni_statistics_writer_abandon(qni_statistics_writer *writer) {
    qn_writer_abandon(writer->file);
    *writer = (qni_statistics_writer){0};
}
