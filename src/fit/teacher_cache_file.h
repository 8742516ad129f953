/* What writer and reader of a teacher cache share: the line in front, and the chain of chunks. */
#ifndef QUERN_SRC_FIT_TEACHER_CACHE_FILE_H
#define QUERN_SRC_FIT_TEACHER_CACHE_FILE_H

#include "quern/fit/teacher_cache.h"

/* ---- the line in front ---- */

/* Owned by the caller, with its newline. */
QN_NODISCARD qn_status qni_cache_header_format(const qn_teacher_cache_info *info, char **out, qn_error *err);

/* Reads the line at the start of DATA, the file PATH; *n_header receives its bytes with the newline. last_link and n_bytes are not
 * in it. */
QN_NODISCARD qn_status qni_cache_header_parse(const uint8_t *data, size_t n_bytes, const char *path,
                                              qn_teacher_cache_info *out, size_t *n_header, qn_error *err);

/* QN_E_ARGUMENT, naming both, unless FOUND at PATH is a cache of this teacher and text; either may be NULL. */
QN_NODISCARD qn_status qni_cache_check_origin(const qn_teacher_cache_info *found, const char *teacher_sha256,
                                              const char *text_sha256, const char *path, qn_error *err);

/* As well, unless it was made with the options of WANTED. */
QN_NODISCARD qn_status qni_cache_check_same(const qn_teacher_cache_info *found,
                                            const qn_teacher_cache_info *wanted, const char *path,
                                            qn_error *err);

/* ---- chunks ---- */

enum { QNI_CACHE_HEX = QN_SHA256_HEX - 1, QNI_CACHE_RECORD_BYTES = 2 * 8 + 2 * QNI_CACHE_HEX };

typedef struct qni_cache_chunk {
    int64_t n_tokens;
    uint64_t n_bytes;           /* of the payload */
    char sha256[QN_SHA256_HEX]; /* of the payload */
    uint64_t offset;            /* of the payload in the file */
} qni_cache_chunk;

/* Writes what stands in front of a payload; LINK is that of the chunk before, and becomes this one's. */
QN_NODISCARD qn_status qni_cache_record_make(const qni_cache_chunk *chunk, char link[QN_SHA256_HEX],
                                             uint8_t record[QNI_CACHE_RECORD_BYTES], qn_error *err);

typedef enum qni_cache_found {
    QNI_CACHE_WHOLE,
    QNI_CACHE_CUT,   /* the file ends before the chunk does */
    QNI_CACHE_BROKEN /* its link does not continue the chain */
} qni_cache_found;

/* The chunk at *offset of a file of N_BYTES; when it is whole, offset and link move behind it. Payloads are not looked at. */
QN_NODISCARD qn_status qni_cache_next(const uint8_t *data, uint64_t n_bytes, uint64_t *offset,
                                      char link[QN_SHA256_HEX], qni_cache_chunk *chunk,
                                      qni_cache_found *found, qn_error *err);

/* Whether the payload has the hash of its chunk. */
QN_NODISCARD qn_status qni_cache_payload_fits(const uint8_t *data, const qni_cache_chunk *chunk, bool *fits,
                                              qn_error *err);

/* ---- teacher_cache_write.c: a cache that grows ---- */

typedef struct qni_cache_writer {
    char *path, *unfinished; /* owned */
    int fd;
    bool is_begun; /* the file is this writer's: with nothing in it, it goes when the writer does */
    char link[QN_SHA256_HEX];
    int64_t n_sequences; /* whole chunks in the file */
    uint64_t n_bytes;
} qni_cache_writer;

/* Takes up the unfinished cache of PATH behind its last whole chunk, or begins one. INFO says what it is of. On success the caller
 * closes the writer. */
QN_NODISCARD qn_status qni_cache_writer_open(const char *path, const qn_teacher_cache_info *info,
                                             const qn_sequences *sequences, qni_cache_writer *out,
                                             qn_error *err);

QN_NODISCARD qn_status qni_cache_writer_append(qni_cache_writer *writer, int64_t n_tokens,
                                               const uint8_t *payload, uint64_t n_bytes, qn_error *err);

/* Makes what was appended survive a loss of power. */
QN_NODISCARD qn_status qni_cache_writer_sync(const qni_cache_writer *writer, qn_error *err);

/* Puts the file in place, durably. */
QN_NODISCARD qn_status qni_cache_writer_publish(qni_cache_writer *writer, qn_error *err);

/* Leaves an unfinished file where it is, unless it holds nothing. A zeroed writer with fd -1 is closed. */
void qni_cache_writer_close(qni_cache_writer *writer);

#endif
