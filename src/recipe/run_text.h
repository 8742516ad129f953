/* The texts of a run: what it calibrates on and what it is judged by. */
#ifndef QUERN_SRC_RECIPE_RUN_TEXT_H
#define QUERN_SRC_RECIPE_RUN_TEXT_H

#include "quern/fit/calibrate.h"
#include "quern/recipe/compress.h"
#include "quern/text/windows.h"

/* N_TOKENS of the run's text; refuses text that holds the evaluation documents. */
QN_NODISCARD qn_status qni_run_text(const qn_compress_options *options, const qn_config *config,
                                    int64_t n_tokens, const qn_context *ctx, qn_calibration_text *out,
                                    qn_error *err);

/* The evaluation documents, cut as for the score before and after. */
QN_NODISCARD qn_status qni_run_windows(const qn_compress_options *options, qn_windows *out, qn_error *err);

#endif
