/* Calibration: a model walks over text and leaves a file of statistics (statistics.h).
 *
 * One walk, layer by layer: while a layer's tokens pass, the second moments of its inputs add up (moments.h); when the next
 * layer begins they are written and forgotten. A part of the same text gives the Fisher diagonals (fisher.h).
 * Memory: the hidden states of all tokens ([T, h] f32), the moments of one layer and one matrix [C, C], whatever the number
 * of layers; afterwards, for the Fisher diagonals, (L + 2) [2048, h] f32 (gradient.h). Deterministic: the same bytes for any number of threads, given one ISA. */
#ifndef QUERN_FIT_CALIBRATE_H
#define QUERN_FIT_CALIBRATE_H

#include "quern/model/walk.h"
#include "quern/text/packing.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Text to calibrate on: contexts of equal length, joined as the trainer joins them (packing.h), in the order of the documents.
 * Where there is more text than wanted, the contexts are spread evenly over all of it. */
typedef struct qn_calibration_text {
    int32_t *ids;    /* [n * context] owned */
    int64_t *starts; /* [n + 1] owned */
    int64_t n, context;
    char sha256[QN_SHA256_HEX]; /* of the documents */
} qn_calibration_text;

/* As many whole contexts of DOCUMENTS as N_TOKENS hold; with less text all of it, which is warned of. NAME is for
 * messages. The separator is the config's eos_token_id. QN_E_ARGUMENT when N_TOKENS are less than one context; QN_E_VALUE when
 * the text is. */
QN_NODISCARD QN_API qn_status qn_calibration_text_make(const qn_documents *documents, const char *name,
                                                       const qn_tokenizer *tokenizer, const qn_config *config,
                                                       int64_t context, int64_t n_tokens,
                                                       const qn_context *ctx, qn_calibration_text *out,
                                                       qn_error *err);
QN_API void qn_calibration_text_release(qn_calibration_text *text);

/* The contexts as sequences; borrowed. */
QN_API qn_sequences qn_calibration_sequences(const qn_calibration_text *text);

/* n_tokens' worth of the contexts of TEXT (at least one, at most all), spread evenly over them. */
QN_NODISCARD QN_API qn_status qn_calibration_text_part(const qn_calibration_text *text, int64_t n_tokens,
                                                       qn_calibration_text *out, qn_error *err);

typedef struct qn_calibrate_options {
    qn_compute compute;
    int64_t n_fisher_tokens; /* of the text; 0: no Fisher diagonals */
    uint64_t seed;           /* of the labels */
    bool diagonal;           /* second moments only, no Hessians */
} qn_calibrate_options;

/* f32, 16384 tokens, seed 0, Hessians. */
QN_API qn_calibrate_options qn_calibrate_options_default(void);

typedef struct qn_calibrate_result {
    int64_t n_tokens, n_fisher_tokens;
    int64_t n_inputs, n_dead_inputs; /* of all distinct inputs; dead: never anything but 0 */
    int64_t widest_input;            /* C of the widest input */
    int64_t
        rank_bound; /* min(n_tokens, widest_input): no Hessian has a higher rank. Below the width is warned of */
    char model_sha256[QN_SHA256_HEX];
} qn_calibrate_result;

/* Writes the statistics of MODEL on TEXT to PATH, where they appear when whole. Non-finite activations are QN_E_VALUE naming
 * the place. Weights of any kind. */
QN_NODISCARD QN_API qn_status qn_calibrate(const qn_model *model, const qn_calibration_text *text,
                                           const qn_calibrate_options *options, const char *path,
                                           const qn_context *ctx, qn_calibrate_result *out, qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
