/* A teacher's predictions on a text, walked once and kept: what whole-model distillation learns from.
 *
 * At each position the k largest probabilities stay, the mass of all other ids together, and m of these ids (qn_teacher_top in
 * quern/model/gradient.h), drawn by systematic sampling: on the line of the others' probabilities in the order of their ids, m points
 * at equal distances, the first of them u distances from the beginning, each draw the id they fall on, a heavy one more than once. u
 * is uniform, a function of the number of the sequence and the position in it. A probability is one byte c that stands for exp(-24 (c/255)^2): steps of 0.04 nats at p = 1/e,
 * 0.1 at p = 1e-3, nothing below 4e-11; 255 as the mass of all others is none. What is read is divided by its sum, so that it is a
 * distribution. Of the samples' probabilities the mean logarithm stays, relative to the mass of all others, two bytes linear
 * to 24 nats. Ids are gaps in ascending order. A sequence's bytes are deflated together, each kind of byte by itself.
 *
 * The file, little endian:
 *   one line of JSON   format, version, teacher_sha256, text_sha256, vocab_size, k, samples, compute, grid, sequences, tokens
 *   a chunk for each sequence, in order: its tokens and payload bytes (int64 each), the payload's SHA-256, its link (64 hex
 *   digits each), the payload, a zlib stream of:  gaps' low bytes [n, k], (second, third bytes,) codes [n, k], codes of the
 *   others' mass [n]; with samples, their gaps' low bytes [n, m], (second, third bytes,) and their means' low and high bytes [n]
 *   each. A gap is the id less the one before, of the largest less 1 as well; it has as many bytes as vocab_size - 1
 *   A link is SHA-256 of the link before (of the line, for the first) and the chunk's first 80 bytes.
 *
 * So a cut, a chunk out of place and damage are found: all but damage inside a payload when the file is opened, that when it
 * is read. Memory: a batch of sequences in the walk, some 128 MiB of logits, one sequence's payload. Deterministic: the
 * same bytes for any number of threads, given one ISA and one zlib.
 *
 * Size, and what the two roundings leave of the loss: docs/quality.md. */
#ifndef QUERN_FIT_TEACHER_CACHE_H
#define QUERN_FIT_TEACHER_CACHE_H

#include "quern/base/sha256.h"
#include "quern/model/gradient.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qn_teacher_cache_options {
    int64_t k;         /* 1 .. vocab_size */
    int64_t n_samples; /* 0 .. vocab_size - k */
    qn_compute compute;
} qn_teacher_cache_options;

/* k 128, 32 samples, f32. A vocabulary of fewer ids needs smaller ones. */
QN_API qn_teacher_cache_options qn_teacher_cache_options_default(void);

typedef struct qn_teacher_cache_info {
    char teacher_sha256[QN_SHA256_HEX]; /* qn_checkpoint_sha256 */
    char text_sha256[QN_SHA256_HEX];    /* qn_teacher_cache_text_sha256 */
    char last_link[QN_SHA256_HEX];      /* stands for all that is in the file */
    int64_t vocab_size, k, n_samples, n_sequences, n_tokens;
    qn_compute compute;
    uint64_t n_bytes; /* of the file */
} qn_teacher_cache_info;

/* SHA-256 over all sequences: of each the number of ids (int64), then the ids (int32), little endian. */
QN_NODISCARD QN_API qn_status qn_teacher_cache_text_sha256(const qn_sequences *sequences,
                                                           char hex[QN_SHA256_HEX], qn_error *err);

/* Walks TEACHER, with the weights of its checkpoint, over SEQUENCES and writes the cache at PATH. out may be NULL.
 *
 * Until it is finished it stands at PATH.unfinished, one whole chunk after another. A call that was stopped or killed is taken up by
 * the next one behind the last whole chunk and gives the same bytes. A cache of the same teacher, text and options that stands at PATH
 * is left as it is, which costs no walk.
 * Errors: QN_E_ARGUMENT for options or sequences that make no sense and for a cache of something else at either place (naming
 * both hashes; nothing is overwritten), QN_E_VALUE as qn_walk, QN_E_IO, QN_E_CANCELLED. Cost: the teacher's forward pass. */
QN_NODISCARD QN_API qn_status qn_teacher_cache_make(const qn_model *teacher, const qn_sequences *sequences,
                                                    const qn_teacher_cache_options *options, const char *path,
                                                    const qn_context *ctx, qn_teacher_cache_info *out,
                                                    qn_error *err);

typedef struct qn_teacher_cache qn_teacher_cache;

/* Opens the cache at PATH and checks its chain. teacher_sha256 and text_sha256: what it must be a cache of, NULL for any.
 * QN_E_ARGUMENT, naming both hashes, when it is one of another teacher or text; QN_E_FORMAT for a damaged file. */
QN_NODISCARD QN_API qn_status qn_teacher_cache_open(const char *path, const char *teacher_sha256,
                                                    const char *text_sha256, qn_teacher_cache **out,
                                                    qn_error *err);
QN_API void qn_teacher_cache_close(qn_teacher_cache *cache);

QN_API qn_teacher_cache_info qn_teacher_cache_info_of(const qn_teacher_cache *cache);

/* Tokens of a sequence. */
QN_API int64_t qn_teacher_cache_tokens(const qn_teacher_cache *cache, int64_t sequence);

/* Positions of N_SEQUENCES sequences from FIRST_SEQUENCE on to ROWS, made for the cache's k and samples, from row FIRST_ROW on. By
 * several threads at once, if they like. Cost: SHA-256 and zlib of these sequences alone. QN_E_ARGUMENT for sequences that
 * are not there and rows that do not fit, QN_E_FORMAT for damage, naming the sequence. */
QN_NODISCARD QN_API qn_status qn_teacher_cache_read(const qn_teacher_cache *cache, int64_t first_sequence,
                                                    int64_t n_sequences, const qn_teacher_rows *rows,
                                                    int64_t first_row, qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
