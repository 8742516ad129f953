/* `quern bench`: timed cases, each with the least time the machine could need for it. */
#ifndef QUERN_SRC_CLI_BENCH_H
#define QUERN_SRC_CLI_BENCH_H

#include "console.h"

/* Ceilings that are measured on this machine when first asked for, in bytes or operations a second. "One" is one
 * thread, "all" as many as the command was given. A copied byte counts once. */
typedef enum bench_limit {
    BENCH_COPY_CACHE_ONE, /* within the level-2 cache */
    BENCH_COPY_ONE,       /* in memory */
    BENCH_COPY_ALL,
    BENCH_READ_ALL,      /* memory that is only read */
    BENCH_DURABLE_WRITE, /* a new file below $TMPDIR, fsync included */
    BENCH_SHA256,        /* libcrypto; a digest is serial, so one thread */
    BENCH_FMA_ALL,   /* f32 multiply-adds in registers, two operations each, with the instructions in use */
    BENCH_TILES_ALL, /* bf16 multiply-adds of a matrix unit, where there is one */
    BENCH_PARTS_ALL, /* f32 ones there, each made of six in bf16 */
    BENCH_LIMIT_COUNT,
    BENCH_NO_LIMIT = BENCH_LIMIT_COUNT
} bench_limit;

typedef struct bench_case {
    const char *suite, *name, *unit;
    double work; /* of one run: a rate is WORK per second, in UNIT */
    bench_limit limit;
    double limit_work; /* bytes or operations that a run cannot do without */
    qn_status (*run)(void *user, qn_error *err);
    /* Digest of what the last run made, not timed: every run must give the same. NULL: nothing to check. */
    qn_status (*digest)(void *user, char hex[QN_SHA256_HEX], qn_error *err);
    void *user;
} bench_case;

enum { BENCH_NAME_BYTES = 48 };
typedef struct bench_row {
    const char *suite, *unit;
    char name[BENCH_NAME_BYTES];
    double work;         /* of one run, in `unit` times seconds */
    double best, median; /* rates in `unit` */
    double cores;        /* processor time over time of the best sample; 0: not measured */
    bench_limit limit;
    double limit_rate; /* in `unit`; 0: none */
    int64_t peak_rss_bytes;
    char digest[QN_SHA256_HEX]; /* empty: nothing to check */
} bench_row;

enum { BENCH_MAX_ROWS = 64, BENCH_MAX_REPEATS = 1000 };

typedef struct bench {
    const cli_args *args;
    const qn_context *ctx;
    qn_isa isa;
    int n_repeats;
    double limits[BENCH_LIMIT_COUNT]; /* 0: not measured yet */
    bench_row rows[BENCH_MAX_ROWS];
    int n_rows;
} bench;

/* Seconds of a run at its best and in the middle of n_repeats samples, after one run that is not counted. Runs too
 * short for the clock are repeated within a sample. */
typedef struct bench_times {
    double best, median;
    double cores; /* processor seconds per second of the best sample */
    char digest[QN_SHA256_HEX];
} bench_times;
qn_status bench_time(const bench *b, const bench_case *c, bench_times *out, qn_error *err);

/* Adds a row of what was found but not timed. */
qn_status bench_add_fact(bench *b, const char *suite, const char *name, const char *unit, double value,
                         qn_error *err);

/* Measures C, and its limit if that is new, and adds a row. */
qn_status bench_measure(bench *b, const bench_case *c, qn_error *err);

const char *bench_limit_name(bench_limit limit);
bool bench_is_arithmetic(bench_limit limit); /* operations, else bytes */
qn_status bench_limit_rate(bench *b, bench_limit limit, double *out, qn_error *err);

/* f32 operations of n_rounds rounds of independent multiply-adds on the calling thread, with the instructions of ISA.
 * *sink keeps the compiler from leaving them out. */
double bench_fma(qn_isa isa, int64_t n_rounds, float *sink);

/* Whether products run on a matrix unit for bf16; and what bench_fma is to that unit. */
bool bench_has_tiles(const bench *b);
double bench_tiles(int64_t n_rounds, float *sink);

/* The table so far, in the format asked for. */
int bench_print(const bench *b);

/* $TMPDIR, else /tmp. */
const char *bench_scratch_place(void);

/* A folder there that the caller hands to qn_folder_abandon and free(). */
qn_status bench_scratch(char **out, qn_error *err);

/* A tied Qwen3 of random weights in bf16, as a checkpoint in FOLDER. */
typedef struct bench_dims {
    int hidden, layers, heads, kv_heads, head_dim, intermediate, vocab;
} bench_dims;
qn_status bench_synthetic(const char *folder, const bench_dims *dims, qn_error *err);

/* A model that steps of training are measured on, and what a step sees of it: BATCH sequences of CONTEXT ids. */
typedef struct bench_shape {
    const char *name, *label; /* as --shape and in the names of cases */
    bench_dims dims;
    int64_t batch, context;
} bench_shape;

/* The shape that --shape asks for. */
qn_status bench_find_shape(const cli_args *args, const bench_shape **out, qn_error *err);

/* Whether --compute asks for COMPUTE; it asks for both where it is not given. */
bool bench_computes(const cli_args *args, qn_compute compute);

/* One narrow layer and a head of 67 MB, whose product is measured. */
enum { BENCH_HIDDEN = 1024, BENCH_VOCAB = 32768 };
extern const bench_dims bench_head_dims;

/* Operations of a walk with N_PAIRS of a position and one it attends to; a multiply-add counts twice. Every id passes the
 * matrices of the blocks, and targets the head. */
double bench_operations(const qn_model *model, double n_ids, double n_pairs, double n_targets);

/* The limit of products in COMPUTE: multiply-adds of f32 for both where there is no matrix unit. */
bench_limit bench_product_limit(const bench *b, qn_compute compute);

/* A set of the blocks first_layer .. first_layer + n_layers - 1 of MODEL, ready for steps: latents of their matrices at the closed
 * form of CODEC, norms as they are. */
qn_status bench_trainable(const bench *b, const qn_model *model, int64_t first_layer, int64_t n_layers,
                          qn_codec codec, qn_trainable *out, qn_error *err);

/* SHA-256 of the gradients of the set's last step. */
qn_status bench_trainable_digest(const qn_trainable *t, char hex[QN_SHA256_HEX], qn_error *err);

/* FOLDER "/" NAME, owned by the caller. */
qn_status bench_path(const char *folder, const char *name, char **out, qn_error *err);

qn_status bench_suite_tokenizer(bench *b, qn_error *err);
qn_status bench_suite_score(bench *b, qn_error *err);
qn_status bench_suite_quantize(bench *b, qn_error *err);
qn_status bench_suite_train(bench *b, qn_error *err);
qn_status bench_suite_distill(bench *b, qn_error *err);
qn_status bench_suite_finetune(bench *b, qn_error *err);
qn_status bench_suite_fit(bench *b, qn_error *err);
qn_status bench_suite_pack(bench *b, qn_error *err);
qn_status bench_suite_kernels(bench *b, qn_error *err);

#endif
