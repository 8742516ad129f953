/* A tokenizer small enough to write down in a test. */
#ifndef QUERN_TESTS_SMALL_TOKENIZER_H
#define QUERN_TESTS_SMALL_TOKENIZER_H

#include "quern/text/tokenizer.h"

#include "test_data.h"

#include <stdio.h>

/* A new tokenizer.json: the 256 bytes (id = byte) and the merges l+o, lo+w, Ġ+low, e+r, low+er, n+e (ids 256
 * .. 261), then
 * <|end|> 262 (special) and <tool> 263 (not), NFC, the expression of Qwen2. The caller may change it. */
json_t *small_tokenizer_json(void);

enum {
    SMALL_LO = 256,
    SMALL_LOW,
    SMALL_SPACE_LOW,
    SMALL_ER,
    SMALL_LOWER,
    SMALL_NE,
    SMALL_END,
    SMALL_TOOL,
    SMALL_N
};

/* Writes VALUE to FOLDER/NAME. */
void write_json(const char *folder, const char *name, const json_t *value);
void write_text(const char *folder, const char *name, const void *text, size_t n_bytes);

/* Opens a tokenizer made of this JSON alone; takes the reference to ROOT. *out stays NULL on failure. */
qn_status open_json(json_t *root, qn_tokenizer **out, qn_error *err);

qn_tokenizer *open_small_tokenizer(void);

/* The spelling of one byte in the byte-level alphabet. */
void spell_byte(int byte, char out[5]);

#endif
