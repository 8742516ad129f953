#include "tuning.h"

#include <stdio.h>
#include <string.h>

qn_status cli_effort(const cli_args *args, qn_recipe *recipe, qn_error *err) {
    const char *word = cli_text(args, "effort", qn_effort_name(QN_EFFORT_DEFAULT));
    for (int e = QN_EFFORT_FAST; e <= QN_EFFORT_MAX; e++)
        if (strcmp(word, qn_effort_name((qn_effort)e)) == 0)
            return qn_recipe_set_effort(recipe, (qn_effort)e, err);
    return qn_fail(err, QN_E_ARGUMENT, "--effort is '%s'; expected fast, default or max", word);
}

qn_status cli_dev_every(const cli_args *args, int64_t *out, qn_error *err) {
    *out = cli_integer(args, "dev-every", 1);
    return *out >= 0 ? QN_OK : qn_fail(err, QN_E_ARGUMENT, "--dev-every must not be negative");
}

json_t *cli_tuning_object(const qn_tuning_row *t) {
    return json_pack("{s:I, s:I, s:f, s:f, s:f, s:f, s:b, s:b}", "steps", (json_int_t)t->steps, "best_step",
                     (json_int_t)t->best_step, "first_loss", t->first_loss, "best_loss", t->best_loss,
                     "first_kl", t->first_kl, "best_kl", t->best_kl, "was_trap", t->was_trap, "diverged",
                     t->diverged);
}

static json_t *measured(double perplexity) {
    return perplexity > 0 ? json_real(perplexity) : json_null();
}

static double dev_of_block(const qn_compress_result *r, int64_t i) {
    return i < r->dev.n_blocks ? r->dev.blocks[i] : 0.0;
}

static json_t *dev_object(const qn_compress_result *r) {
    const qn_dev_report *d = &r->dev;
    if (d->n_targets == 0) return json_null();
    json_t *blocks = json_array();
    for (int64_t i = 0; i < d->n_blocks; i++) json_array_append_new(blocks, measured(d->blocks[i]));
    return json_pack("{s:I, s:I, s:o, s:o, s:o, s:o}", "tokens", (json_int_t)d->n_tokens, "targets",
                     (json_int_t)d->n_targets, "ppl_teacher", measured(d->teacher), "ppl_blocks", blocks,
                     "ppl_compressed", measured(d->compressed), "ppl_finetuned", measured(d->tuned));
}

void cli_add_tuning(json_t *object, const qn_compress_result *r) {
    json_t *blocks = json_array();
    for (int64_t i = 0; i < r->n_blocks; i++) {
        json_t *block = cli_tuning_object(&r->blocks[i]);
        json_object_set_new(block, "dev_perplexity", measured(dev_of_block(r, i)));
        json_array_append_new(blocks, block);
    }
    json_object_set_new(object, "distilled_blocks", blocks);
    json_object_set_new(object, "finetuned", cli_tuning_object(&r->tuning));
    json_object_set_new(object, "dev", dev_object(r));
}

static const char *outcome(const qn_tuning_row *b) {
    if (b->was_trap) return "a trap: back to its fit";
    if (b->diverged) return "diverged: best state kept";
    return "kept";
}

static void print_blocks(const qn_compress_result *r) {
    const bool is_watched = r->dev.n_targets > 0;
    printf("\nblock   error of its output      divergence at the head   %s\n",
           is_watched ? "perplexity on dev" : "");
    for (int64_t i = 0; i < r->n_blocks; i++) {
        const qn_tuning_row *b = &r->blocks[i];
        const double perplexity = dev_of_block(r, i);
        char dev[32] = "";
        if (perplexity > 0) snprintf(dev, sizeof dev, "%.6g", perplexity);
        printf("%5lld   %10.4g -> %-10.4g  %.5f -> %.5f       %-*s%s\n", (long long)i, b->first_loss,
               b->best_loss, b->first_kl, b->best_kl, is_watched ? 20 : 0, dev, outcome(b));
    }
}

void cli_add_perplexities(json_t *object, const qn_compress_result *r) {
    json_object_set_new(object, "ppl_teacher", r->scored ? json_real(r->teacher.perplexity) : json_null());
    json_object_set_new(object, "ppl", r->scored ? json_real(r->student.perplexity) : json_null());
    json_object_set_new(object, "nats_lost",
                        r->scored ? json_real(r->student.nats - r->teacher.nats) : json_null());
}

void cli_print_tuning(const qn_compress_result *r) {
    if (r->n_blocks > 0) print_blocks(r);
    if (r->tuning.steps > 0)
        printf("whole model   %.5f -> %.5f nats on held-back text, step %lld of %lld\n", r->tuning.first_loss,
               r->tuning.best_loss, (long long)r->tuning.best_step, (long long)r->tuning.steps);
    if (r->dev.tuned > 0)
        printf("              %.4f -> %.4f perplexity on dev, the teacher's %.4f\n", r->dev.compressed,
               r->dev.tuned, r->dev.teacher);
}
