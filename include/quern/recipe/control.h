/* The control of a fine-tuned artifact: the unquantised model, tuned on the same text with the same loss.
 *
 * A loss lower than the teacher's can come from training on more text alone. What compression really cost is the distance between the
 * artifact and this control, so report both. Latents give way to the weights themselves, whose rate is in mean magnitudes; everything
 * else is as in the recipe's stage `finetune`. */
#ifndef QUERN_RECIPE_CONTROL_H
#define QUERN_RECIPE_CONTROL_H

#include "quern/recipe/compress.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Tunes options->model, which is its own teacher, and writes it as an F32 checkpoint folder at options->output. Read are model, output,
 * recipe, text, documents (for the leak check), allow_leak, tokenizer, work (NULL: none is kept), and seed. Errors as qn_compress. Memory: 24 bytes a
 * parameter and what a step of training needs. */
QN_NODISCARD QN_API qn_status qn_tune_control(const qn_compress_options *options, const qn_context *ctx,
                                              qn_tuning_row *out, qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
