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

json_t *cli_tuning_object(const qn_tuning_row *t) {
    return json_pack("{s:I, s:I, s:f, s:f, s:f, s:f, s:b, s:b}", "steps", (json_int_t)t->steps, "best_step",
                     (json_int_t)t->best_step, "first_loss", t->first_loss, "best_loss", t->best_loss,
                     "first_kl", t->first_kl, "best_kl", t->best_kl, "was_trap", t->was_trap, "diverged",
                     t->diverged);
}

void cli_add_tuning(json_t *object, const qn_compress_result *r) {
    json_t *blocks = json_array();
    for (int64_t i = 0; i < r->n_blocks; i++) json_array_append_new(blocks, cli_tuning_object(&r->blocks[i]));
    json_object_set_new(object, "distilled_blocks", blocks);
    json_object_set_new(object, "finetuned", cli_tuning_object(&r->tuning));
}

static const char *outcome(const qn_tuning_row *b) {
    if (b->steps == 0) return "done before";
    if (b->was_trap) return "a trap: back to its fit";
    if (b->diverged) return "diverged: best state kept";
    return "kept";
}

void cli_print_tuning(const qn_compress_result *r) {
    if (r->n_blocks > 0) printf("\nblock   error of its output      divergence at the head   \n");
    for (int64_t i = 0; i < r->n_blocks; i++) {
        const qn_tuning_row *b = &r->blocks[i];
        printf("%5lld   %10.4g -> %-10.4g  %.5f -> %.5f       %s\n", (long long)i, b->first_loss,
               b->best_loss, b->first_kl, b->best_kl, outcome(b));
    }
    if (r->tuning.steps > 0)
        printf("whole model   %.5f -> %.5f nats on held-back text, step %lld of %lld\n", r->tuning.first_loss,
               r->tuning.best_loss, (long long)r->tuning.best_step, (long long)r->tuning.steps);
}
