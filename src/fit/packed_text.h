/* Documents packed for a model: which token separates them, and whether all ids are the model's. */
#ifndef QUERN_SRC_FIT_PACKED_TEXT_H
#define QUERN_SRC_FIT_PACKED_TEXT_H

#include "quern/checkpoint/config.h"
#include "quern/text/packing.h"

/* The id of token SEPARATOR; of the config's eos_token_id where it is NULL. QN_E_VALUE when that is no id of the model. */
QN_NODISCARD qn_status qni_find_separator(const char *separator, const qn_tokenizer *tokenizer,
                                          const qn_config *config, int32_t *out, qn_error *err);

/* qn_packing_make, with NAME (of the documents) in front of its messages; ids outside the vocabulary are QN_E_VALUE. *out is
 * the caller's to release, also after a failure. */
QN_NODISCARD qn_status qni_pack_documents(const qn_documents *documents, const char *name,
                                          const qn_tokenizer *tokenizer, const qn_config *config,
                                          int32_t separator, int64_t context, qn_packing *out, qn_error *err);

#endif
