/* Every gate of the contract, in the scorer's order and with its names.
 *
 * A folder, a zip, an artifact or a dense checkpoint. The names, reasons and numbers of a rejection are those
 * of the public scorer where the case is the same. As there, an archive's members are judged (under
 * `artifact`) only after its size, and a model's manifest is any JSON file with a list of entries that have
 * roles. Tar archives, which the scorer would take, are refused with advice. Beyond the scorer: payload
 * digests, declarations against what is stored, and lint. */
#ifndef QUERN_ARTIFACT_VERIFY_H
#define QUERN_ARTIFACT_VERIFY_H

#include "quern/artifact/artifact.h"
#include "quern/model/score.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Gates, in order: artifact, artifact_size, model_dir, load, parameter_count, quantized_size, manifest,
 * logits, heldout_ppl. `sha256`, `size` and `url` come first when asked for. */
enum { QN_MAX_GATES = 16 };
typedef enum qn_gate_state { QN_GATE_NOT_RUN, QN_GATE_PASSED, QN_GATE_FAILED, QN_GATE_SKIPPED } qn_gate_state;
typedef struct qn_gate {
    const char *name; /* static string */
    qn_gate_state state;
    char detail[512]; /* "key=value key=value" of a rejection; the reason of a skip */
} qn_gate;

typedef struct qn_verify_options {
    const qn_profile *profile;
    int64_t reference_parameters; /* 0: the profile's */
    const char *expected_sha256;  /* or NULL */
    int64_t expected_bytes;       /* or 0 */
    const char *url;       /* streamed and hashed; compared with the file; or NULL. https; file:// and http on
                              localhost too, for trying it out */
    const char *documents; /* scored for the last two gates; NULL: they run on a built-in sentence, and
                              heldout_ppl is skipped */
    const char *tokenizer; /* overrides the artifact's own; or NULL */
    int64_t max_tokens;    /* 0: 512 */
} qn_verify_options;

typedef struct qn_verify_report {
    qn_gate gates[QN_MAX_GATES];
    int n_gates;
    char sha256[QN_SHA256_HEX]; /* of the archive, or of a folder's payload digests (docs/format.md) */
    int64_t bytes, parameters, rescued_parameters;
    double bits_per_parameter, rescue_fraction;
    int64_t role_bytes[QN_ROLE_COUNT];
    bool scored;
    qn_score_result score;
    char *
        *lint; /* owned: warnings about what should not be in a published artifact, or would fail elsewhere */
    int64_t n_lint;
} qn_verify_report;

/* Runs the gates; the first failure ends the run with QN_E_REJECTED and err->message
 * `validator_rejection=<gate> key=value ...`. Faults of the caller's own documents or tokenizer are returned
 * as they are. *out is filled as far as it got, in either case; release it. Cost: one pass over the file for
 * its digest, one over the payload for its digests and codes, one walk. */
QN_NODISCARD QN_API qn_status qn_verify(const char *path, const qn_verify_options *options,
                                        const qn_context *ctx, qn_verify_report *out, qn_error *err);
QN_API void qn_verify_report_release(qn_verify_report *report);

#ifdef __cplusplus
}
#endif
#endif
