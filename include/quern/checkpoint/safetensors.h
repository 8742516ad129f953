/* The safetensors container: 8 bytes header length (little endian), a JSON header, then the tensors' bytes.
 *
 * Reading is strict, the file is hostile: header at most 100 MB and inside the file, valid JSON without duplicate keys,
 * known dtypes, shape product times element size equal to the byte range, ranges inside the file, no overlap and no
 * hole, nothing after the last tensor. Each error names the file and the tensor. */
#ifndef QUERN_CHECKPOINT_SAFETENSORS_H
#define QUERN_CHECKPOINT_SAFETENSORS_H

#include "quern/base/writer.h"
#include "quern/tensor/dtype.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qn_safetensors qn_safetensors;

/* Parses a file that lies in memory (usually mapped) and must outlive *out. NAME is for messages. */
QN_NODISCARD QN_API qn_status qn_safetensors_parse(const uint8_t *data, size_t n_bytes, const char *name,
                                                   qn_safetensors **out, qn_error *err);
QN_API void qn_safetensors_free(qn_safetensors *file);

/* Entries in the order of their bytes in the file. */
QN_API size_t qn_safetensors_count(const qn_safetensors *file);
QN_API const char *qn_safetensors_tensor_name(const qn_safetensors *file, size_t index);
QN_API const qn_view *qn_safetensors_view(const qn_safetensors *file, size_t index);
QN_API bool qn_safetensors_find(const qn_safetensors *file, const char *tensor, size_t *index);

/* A string of the header's __metadata__ object, or NULL. */
QN_API const char *qn_safetensors_metadata(const qn_safetensors *file, const char *key);

/* What to write: names and views; with data NULL only the header is laid out. */
typedef struct qn_safetensors_item {
    const char *name;
    qn_view view;
} qn_safetensors_item;
typedef struct qn_safetensors_meta {
    const char *key, *value;
} qn_safetensors_meta;

/* Builds length prefix and header for ITEMS in the given order (data offsets follow that order, without gaps); the header is
 * padded with spaces to a multiple of 8 bytes, and further to exactly `min_header_bytes` (8-byte prefix included) when
 * that is larger. Keys of `meta` are written in the given order. *header is owned (free()). Same input, same bytes. */
QN_NODISCARD QN_API qn_status qn_safetensors_header(const qn_safetensors_item *items, size_t n_items,
                                                    const qn_safetensors_meta *meta, size_t n_meta,
                                                    size_t min_header_bytes, uint8_t **header,
                                                    size_t *n_bytes, qn_error *err);

/* Writes a whole file durably. hex (may be NULL) receives its SHA-256. */
QN_NODISCARD QN_API qn_status qn_safetensors_save(const char *path, const qn_safetensors_item *items,
                                                  size_t n_items, const qn_safetensors_meta *meta,
                                                  size_t n_meta, char hex[QN_SHA256_HEX], qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
