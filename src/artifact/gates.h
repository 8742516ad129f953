/* The gates of qn_verify: one function each, over one shared state. */
#ifndef QUERN_SRC_ARTIFACT_GATES_H
#define QUERN_SRC_ARTIFACT_GATES_H

#include "quern/artifact/verify.h"

#include "artifact/lint.h"

typedef struct qni_verification {
    const char *path;
    const qn_verify_options *options; /* borrowed */
    const qn_context *ctx;
    int64_t reference_parameters;
    bool is_folder;
    int64_t file_bytes;
    qn_store *store; /* owned until the model is open, then still open beside it */
    qn_model *model; /* owned */
    qni_findings lint;
    qn_verify_report *report;
    qn_gate *gate; /* the one that runs */
} qni_verification;

/* Fails the running gate with `key=value ...`; newlines become spaces. Returns QN_E_REJECTED. */
qn_status qni_reject(qni_verification *v, qn_error *err, const char *format, ...) QN_PRINTF(3, 4);

/* Marks the running gate as skipped, with a reason. */
qn_status qni_skip(qni_verification *v, const char *reason);

/* The shortest decimal text that reads back as VALUE. */
enum { QNI_REAL_BYTES = 32 };
void qni_real_text(double value, char text[QNI_REAL_BYTES]);

typedef qn_status (*qni_gate_run)(qni_verification *v, qn_error *err);

/* gates_file.c */
qn_status qni_gate_present(qni_verification *v, qn_error *err);
qn_status qni_gate_sha256(qni_verification *v, qn_error *err);
qn_status qni_gate_size(qni_verification *v, qn_error *err);
qn_status qni_gate_url(qni_verification *v, qn_error *err);
qn_status qni_gate_artifact_size(qni_verification *v, qn_error *err);
qn_status qni_gate_contents(qni_verification *v, qn_error *err);
qn_status qni_gate_model_dir(qni_verification *v, qn_error *err);

/* gates_model.c */
qn_status qni_gate_load(qni_verification *v, qn_error *err);
qn_status qni_gate_parameter_count(qni_verification *v, qn_error *err);
qn_status qni_gate_quantized_size(qni_verification *v, qn_error *err);
qn_status qni_gate_logits(qni_verification *v, qn_error *err);
qn_status qni_gate_heldout(qni_verification *v, qn_error *err);

/* gate_manifest.c */
qn_status qni_gate_manifest(qni_verification *v, qn_error *err);

/* Streams URL into SHA-256 and stops above max_bytes (url.c). *n_bytes: bytes received. */
QN_NODISCARD qn_status qni_url_sha256(const char *url, int64_t max_bytes, const qn_context *ctx,
                                      char hex[QN_SHA256_HEX], int64_t *n_bytes, qn_error *err);

#endif
