/* libquern: compress Qwen language models to binary and ternary weights. This header includes all public ones.
 *
 * Score a checkpoint on a set of documents (examples/score.c is this, compiled):
 *
 *     qn_error err;
 *     qn_model *model = NULL;
 *     qn_tokenizer *tokenizer = NULL;
 *     qn_documents documents = {0};
 *     qn_windows windows = {0};
 *     qn_protocol protocol = qn_protocol_default();
 *     qn_score_result result;
 *
 *     if (qn_model_open("my-qwen", &model, &err) || qn_tokenizer_open("my-qwen", &tokenizer, &err) ||
 *         qn_documents_open("dev.txt", &documents, &err) ||
 *         qn_windows_make(&documents, tokenizer, &protocol, &windows, &err) ||
 *         qn_score(model, &windows, QN_COMPUTE_F32, NULL, NULL, &result, &err))
 *         fprintf(stderr, "%s\n", err.message);
 *     else
 *         printf("perplexity %.6f over %lld tokens\n", result.perplexity, (long long)result.n_targets);
 *
 *     qn_windows_release(&windows);
 *     qn_documents_release(&documents);
 *     qn_tokenizer_free(tokenizer);
 *     qn_model_close(model);
 */
#ifndef QUERN_QUERN_H
#define QUERN_QUERN_H

#include "quern/artifact/artifact.h"
#include "quern/artifact/profile.h"
#include "quern/artifact/verify.h"
#include "quern/base/context.h"
#include "quern/base/rng.h"
#include "quern/base/sha256.h"
#include "quern/base/status.h"
#include "quern/base/store.h"
#include "quern/base/version.h"
#include "quern/base/writer.h"
#include "quern/checkpoint/checkpoint.h"
#include "quern/checkpoint/config.h"
#include "quern/checkpoint/layout.h"
#include "quern/checkpoint/safetensors.h"
#include "quern/codec/codec.h"
#include "quern/fit/adamw.h"
#include "quern/fit/bands.h"
#include "quern/fit/calibrate.h"
#include "quern/fit/closed_form.h"
#include "quern/fit/distill.h"
#include "quern/fit/fisher.h"
#include "quern/fit/hessian_fit.h"
#include "quern/fit/latents.h"
#include "quern/fit/moments.h"
#include "quern/fit/rowmix.h"
#include "quern/fit/schedule.h"
#include "quern/fit/second_moments.h"
#include "quern/fit/statistics.h"
#include "quern/fit/train.h"
#include "quern/fit/trainable.h"
#include "quern/model/compare.h"
#include "quern/model/generate.h"
#include "quern/model/gradient.h"
#include "quern/model/model.h"
#include "quern/model/score.h"
#include "quern/model/walk.h"
#include "quern/model/window_gradient.h"
#include "quern/recipe/compress.h"
#include "quern/recipe/control.h"
#include "quern/recipe/recipe.h"
#include "quern/tensor/dtype.h"
#include "quern/tensor/isa.h"
#include "quern/text/documents.h"
#include "quern/text/leak_check.h"
#include "quern/text/packing.h"
#include "quern/text/tokenizer.h"
#include "quern/text/windows.h"

#endif
