#include "checkpoint/companions.h"

const qni_companion qni_companions[QNI_N_COMPANIONS] = {
    {"added_tokens.json", QNI_COMPANION_TOKENIZER},       {"chat_template.jinja", QNI_COMPANION_TOKENIZER},
    {"generation_config.json", QNI_COMPANION_GENERATION}, {"merges.txt", QNI_COMPANION_VOCABULARY},
    {"special_tokens_map.json", QNI_COMPANION_TOKENIZER}, {"tokenizer.json", QNI_COMPANION_TOKENIZER},
    {"tokenizer_config.json", QNI_COMPANION_TOKENIZER},   {"vocab.json", QNI_COMPANION_VOCABULARY},
};
