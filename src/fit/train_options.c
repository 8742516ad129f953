#include "fit/train_run.h"

#include "base/alloc.h"
#include "quern/base/version.h"
#include "quern/tensor/isa.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

#define MAX_COUNT (INT64_C(1) << 40)

static const char *const k_role_names[QN_TRAIN_ROLE_COUNT] = {
    [QN_TRAIN_MATRICES] = "matrices", [QN_TRAIN_EMBEDDING] = "embedding", [QN_TRAIN_VECTORS] = "vectors"};

qn_train_options qn_train_options_default(void) {
    return (qn_train_options){
        .context = 512,
        .batch = 8,
        .accumulate = 1,
        .schedule = {QN_SCHEDULE_COSINE, .peak = 1e-3, .min_ratio = 0.1, .warmup_steps = 50,
                     .total_steps = 1000},
        .adamw = qn_adamw_options_default(),
        .roles = {[QN_TRAIN_MATRICES] = {1.0, 0.1},
                  [QN_TRAIN_EMBEDDING] = {1.0, 0.1},
                  [QN_TRAIN_VECTORS] = {1.0, 0.0}},
        .compute = QN_COMPUTE_F32,
        .dtype = QN_DTYPE_BF16,
        .save_every = 200,
        .keep_bytes = -1,
    };
}

static qn_status check_paths(const qn_train_options *o, qn_error *err) {
    if (!o->text || !o->out) return qn_fail(err, QN_E_ARGUMENT, "training needs a text and an output folder");
    if (o->config || o->init_from) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT, "training needs a config, or a checkpoint to start from");
}

/* Products of these stay far inside 64 bits: a step's tokens, and the contexts of a run. */
static qn_status check_counts(const qn_train_options *o, qn_error *err) {
    int64_t tokens = 0, contexts = 0;
    const bool positive = o->context >= 2 && o->batch >= 1 && o->accumulate >= 1;
    if (!positive || !qni_multiply_i64(o->context, o->batch, &tokens) ||
        !qni_multiply_i64(tokens, o->accumulate, &tokens) || tokens > MAX_COUNT)
        return qn_fail(
            err, QN_E_ARGUMENT,
            "steps of %lld x %lld contexts of %lld tokens: expected contexts of at least 2, and at "
            "least one a step",
            (long long)o->accumulate, (long long)o->batch, (long long)o->context);
    if (!qni_multiply_i64(o->batch * o->accumulate, o->schedule.total_steps, &contexts) ||
        contexts > MAX_COUNT)
        return qn_fail(err, QN_E_ARGUMENT, "%lld steps are too many", (long long)o->schedule.total_steps);
    if (o->keep_bytes < -1)
        return qn_fail(err, QN_E_ARGUMENT, "%lld bytes of activations to keep: expected 0 or more, or -1",
                       (long long)o->keep_bytes);
    if (o->save_every >= 0 && o->eval_every >= 0) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT, "saving each %lld steps, measuring each %lld: expected 0 or more",
                   (long long)o->save_every, (long long)o->eval_every);
}

static qn_status check_roles(const qn_train_options *o, qn_error *err) {
    for (int i = 0; i < QN_TRAIN_ROLE_COUNT; i++) {
        const qn_train_role_options *role = &o->roles[i];
        if (role->lr_scale >= 0 && isfinite(role->lr_scale) && role->weight_decay >= 0 &&
            isfinite(role->weight_decay))
            continue;
        return qn_fail(err, QN_E_ARGUMENT, "%s: rate scale %g and weight decay %g: expected 0 or more",
                       k_role_names[i], role->lr_scale, role->weight_decay);
    }
    return QN_OK;
}

qn_status qni_train_check(const qn_train_options *o, qn_error *err) {
    QN_TRY(check_paths(o, err));
    QN_TRY(qn_schedule_check(&o->schedule, err));
    QN_TRY(check_counts(o, err));
    QN_TRY(qn_adamw_check(&o->adamw, err));
    QN_TRY(check_roles(o, err));
    if (o->compute != QN_COMPUTE_F32 && o->compute != QN_COMPUTE_BF16)
        return qn_fail(err, QN_E_ARGUMENT, "compute type %d is unknown", (int)o->compute);
    if (o->dtype == QN_DTYPE_F32 || o->dtype == QN_DTYPE_F16 || o->dtype == QN_DTYPE_BF16) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT, "weights in %s: expected F32, F16 or BF16", qn_dtype_name(o->dtype));
}

/* ---- what decides the result ---- */

static json_t *pack_roles(const qn_train_options *o) {
    json_t *roles = json_object();
    for (int i = 0; i < QN_TRAIN_ROLE_COUNT; i++) {
        json_t *role = json_pack("{s:f, s:f}", "lr_scale", o->roles[i].lr_scale, "weight_decay",
                                 o->roles[i].weight_decay);
        if (json_object_set_new(roles, k_role_names[i], role) == 0) continue;
        json_decref(roles);
        return NULL;
    }
    return roles;
}

static json_t *pack_options(const qn_train_options *o) {
    char seed[24];
    (void)snprintf(seed, sizeof seed, "%llu", (unsigned long long)o->seed);
    const qn_schedule *s = &o->schedule;
    return json_pack("{s:I, s:I, s:I, s:I, s:s, s:f, s:f, s:I, s:f, s:f, s:f, s:f, s:s, s:s, s:s, s:o}",
                     "steps", (json_int_t)s->total_steps, "context", (json_int_t)o->context, "batch",
                     (json_int_t)o->batch, "accumulate", (json_int_t)o->accumulate, "schedule",
                     qn_schedule_name(s->kind), "lr", s->peak, "min_lr_ratio", s->min_ratio, "warmup",
                     (json_int_t)s->warmup_steps, "beta1", o->adamw.beta1, "beta2", o->adamw.beta2, "eps",
                     o->adamw.eps, "clip", o->adamw.clip, "seed", seed, "compute",
                     o->compute == QN_COMPUTE_BF16 ? "bf16" : "f32", "dtype", qn_dtype_name(o->dtype),
                     "roles", pack_roles(o));
}

static int add_string(json_t *object, const char *key, const char *value) {
    return json_object_set_new(object, key, json_string(value));
}

qn_status qni_train_identity(const qn_train_options *options, const qni_train_inputs *in,
                             const qn_context *ctx, json_t **out, qn_error *err) {
    char config[QN_SHA256_HEX], start[QN_SHA256_HEX] = "random";
    qn_isa isa = QN_ISA_REF;
    QN_TRY(qn_isa_select(&isa, err));
    QN_TRY(qn_sha256_of_memory(in->config.json, strlen(in->config.json), config, err));
    if (in->start) QN_TRY(qn_checkpoint_sha256(in->start, ctx, start, err));
    json_t *identity = pack_options(options);
    int failed = add_string(identity, "config_sha256", config);
    failed |= add_string(identity, "start_sha256", start);
    failed |= add_string(identity, "text_sha256", in->text_sha256);
    failed |= add_string(identity, "tokenizer", qn_tokenizer_name(in->tokenizer));
    failed |= json_object_set_new(identity, "separator", json_integer(in->separator));
    failed |= json_object_set_new(identity, "made_with",
                                  json_pack("{s:s, s:s}", "version", qn_version(), "isa", qn_isa_name(isa)));
    if (failed) {
        json_decref(identity);
        return qni_fail_nomem(err, "train.json");
    }
    *out = identity;
    return QN_OK;
}

/* Appends "KEY was A, is now B" to LIST, cut where it is full. */
static void note_difference(char *list, size_t n_bytes, const char *key, const json_t *was,
                            const json_t *is) {
    char *before = was ? json_dumps(was, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9)) : NULL;
    char *now = json_dumps(is, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
    const size_t at = strlen(list);
    (void)snprintf(list + at, n_bytes - at, "%s%s was %s, is now %s", at ? "; " : "", key,
                   before ? before : "absent", now ? now : "?");
    free(before);
    free(now);
}

qn_status qni_train_compare(const json_t *saved, const json_t *identity, const char *path,
                            const qn_context *ctx, qn_error *err) {
    char list[600] = "";
    const char *key;
    /* json_object_foreach wants an object it may change. */
    for (void *at = json_object_iter((json_t *)(uintptr_t)identity); at;
         at = json_object_iter_next((json_t *)(uintptr_t)identity, at)) {
        key = json_object_iter_key(at);
        const json_t *was = json_object_get(saved, key), *is = json_object_iter_value(at);
        if (json_equal(was, is)) continue;
        if (strcmp(key, "made_with") == 0)
            qn_log(
                ctx, QN_LOG_WARNING,
                "%s: the run was begun by another version or instruction set: the result may differ in bits",
                path);
        else
            note_difference(list, sizeof list, key, was, is);
    }
    if (!list[0]) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT, "%s: this is another run: %s; resume with what it was begun with",
                   path, list);
}
