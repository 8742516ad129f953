/* Tiny random Qwen checkpoints for tests, made without libquern: plain C, jansson and fwrite.
 *
 * Every value is a small multiple of a power of two and exact in F32, F16 and BF16 alike, so that one model
 * gives the same numbers whatever dtype it is stored in. Same options, same bytes. */
#ifndef QUERN_TESTS_TINY_MODEL_H
#define QUERN_TESTS_TINY_MODEL_H

#include "test_data.h"

#include <stdbool.h>

/* Zero or NULL fields stand for the default in brackets. */
typedef struct tiny_options {
    const char *model_type; /* ["qwen3"] or "qwen2" */
    bool tied;              /* no lm_head.weight */
    bool attention_bias;    /* qwen3: biases on q, k, v and o; qwen2 always has q, k, v */
    const char *dtype;      /* ["BF16"], "F16" or "F32" */
    int n_shards;           /* [1] above 1: shards and model.safetensors.index.json */
    int64_t vocab;          /* [257] the byte tokenizer's */
    int64_t hidden;         /* [48] */
    int64_t intermediate;   /* [80] */
    int64_t layers;         /* [2] */
    int64_t heads;          /* [4] */
    int64_t kv_heads;       /* [2] */
    int64_t head_dim;       /* [16]; qwen2: hidden / heads */
    uint64_t seed;          /* [0] */
} tiny_options;

typedef struct tiny_tensor {
    char *name;
    int n_dims; /* 1 or 2 */
    int64_t shape[2];
    float *values; /* owned */
} tiny_tensor;

typedef struct tiny_model {
    json_t *config;
    tiny_tensor
        *tensors; /* owned; embedding, layers, final norm, head: edit before writing to make a bad file */
    size_t n_tensors;
} tiny_model;

tiny_model *tiny_model_make(const tiny_options *options);
void tiny_model_free(tiny_model *model);
tiny_tensor *tiny_model_find(const tiny_model *model, const char *name); /* fails the test when absent */
void tiny_model_drop(tiny_model *model, const char *name);
int64_t tiny_model_parameters(const tiny_model *model); /* of the stored tensors */

/* Writes config.json and the weights into FOLDER. Values that DTYPE cannot hold are cut towards zero. */
void tiny_model_write(const tiny_model *model, const char *folder, const char *dtype, int n_shards);

/* Make, write and free in one call. */
void write_tiny_model(const char *folder, const tiny_options *options);

/* Writes N tensors as one safetensors file. */
void write_tiny_safetensors(const char *path, const tiny_tensor *tensors, size_t n_tensors,
                            const char *dtype);

#endif
