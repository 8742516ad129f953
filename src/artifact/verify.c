/* Runs the gates in the scorer's order and stops at the first rejection. */
#include "artifact/gates.h"

#include "base/alloc.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* A gate may take two steps: the scorer judges an archive's members only after its size, under the first
 * gate's name. */
typedef struct step {
    const char *gate;
    qni_gate_run run;
} step;

static const step steps[] = {
    {"artifact", qni_gate_present},
    {"sha256", qni_gate_sha256},
    {"size", qni_gate_size},
    {"url", qni_gate_url},
    {"artifact_size", qni_gate_artifact_size},
    {"artifact", qni_gate_contents},
    {"model_dir", qni_gate_model_dir},
    {"load", qni_gate_load},
    {"parameter_count", qni_gate_parameter_count},
    {"quantized_size", qni_gate_quantized_size},
    {"manifest", qni_gate_manifest},
    {"logits", qni_gate_logits},
    {"heldout_ppl", qni_gate_heldout},
};
enum { N_STEPS = sizeof steps / sizeof steps[0] };

void qni_real_text(double value, char text[QNI_REAL_BYTES]) {
    if (fabs(value) < 1e15 && value == floor(value)) {
        snprintf(text, QNI_REAL_BYTES, "%.0f", value);
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, QNI_REAL_BYTES, "%.*g", digits, value);
        if (strtod(text, NULL) == value) return;
    }
}

qn_status qni_reject(qni_verification *v, qn_error *err, const char *format, ...) {
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(v->gate->detail, sizeof v->gate->detail, format, arguments);
    va_end(arguments);
    for (char *c = v->gate->detail; *c; c++) {
        if (*c == '\n' || *c == '\r') *c = ' ';
    }
    v->gate->state = QN_GATE_FAILED;
    return qn_fail(err, QN_E_REJECTED, "validator_rejection=%s %s", v->gate->name, v->gate->detail);
}

qn_status qni_skip(qni_verification *v, const char *reason) {
    snprintf(v->gate->detail, sizeof v->gate->detail, "%s", reason);
    v->gate->state = QN_GATE_SKIPPED;
    return QN_OK;
}

static bool is_asked(const qn_verify_options *o, const char *gate) {
    if (strcmp(gate, "sha256") == 0) return o->expected_sha256 != NULL;
    if (strcmp(gate, "size") == 0) return o->expected_bytes > 0;
    if (strcmp(gate, "url") == 0) return o->url != NULL;
    return true;
}

static qn_gate *find_gate(qn_verify_report *report, const char *name) {
    for (int i = 0; i < report->n_gates; i++) {
        if (strcmp(report->gates[i].name, name) == 0) return &report->gates[i];
    }
    return NULL;
}

/* What the caller asked for comes first in the list, as documented. */
static void list_gates(qn_verify_report *report, const qn_verify_options *options) {
    static const char *const optional[] = {"sha256", "size", "url"};
    for (int i = 0; i < 3; i++) {
        if (is_asked(options, optional[i])) report->gates[report->n_gates++].name = optional[i];
    }
    for (int i = 0; i < N_STEPS; i++) {
        if (!is_asked(options, steps[i].gate) || find_gate(report, steps[i].gate)) continue;
        report->gates[report->n_gates++].name = steps[i].gate;
    }
}

static qn_status run_steps(qni_verification *v, qn_error *err) {
    for (int i = 0; i < N_STEPS; i++) {
        v->gate = find_gate(v->report, steps[i].gate);
        if (!v->gate) continue;
        QN_TRY(qn_check_cancelled(v->ctx, err));
        const qn_status status = steps[i].run(v, err);
        if (status == QN_OK && v->gate->state == QN_GATE_NOT_RUN) v->gate->state = QN_GATE_PASSED;
        QN_TRY(status);
    }
    return QN_OK;
}

qn_status qn_verify(const char *path, const qn_verify_options *options, const qn_context *ctx,
                    qn_verify_report *out, qn_error *err) {
    *out = (qn_verify_report){0};
    if (!options->profile) return qn_fail(err, QN_E_ARGUMENT, "verification needs a profile");
    qn_verify_report report = {0};
    qni_verification v = {.path = path,
                          .options = options,
                          .ctx = ctx,
                          .reference_parameters = options->reference_parameters > 0
                                                      ? options->reference_parameters
                                                      : options->profile->reference_parameters,
                          .report = &report};
    list_gates(&report, options);
    const qn_status status = run_steps(&v, err);
    qn_model_close(v.model);
    qn_store_close(v.store);
    report.lint = v.lint.items;
    report.n_lint = v.lint.n;
    *out = report;
    return status;
}

void qn_verify_report_release(qn_verify_report *report) {
    qni_findings lint = {report->lint, report->n_lint};
    qni_findings_release(&lint);
    *report = (qn_verify_report){0};
}
