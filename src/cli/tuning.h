/* What compress and distill say about training. */
#ifndef QUERN_SRC_CLI_TUNING_H
#define QUERN_SRC_CLI_TUNING_H

#include "args.h"
#include "quern/quern.h"

#include <jansson.h>

/* --effort fast|default|max, applied to the recipe. */
qn_status cli_effort(const cli_args *args, qn_recipe *recipe, qn_error *err);

json_t *cli_tuning_object(const qn_tuning_row *t);

/* --dev-every N, 1 where it is not given. */
#define CLI_DEV_EVERY_OPTION                                                                                 \
    {                                                                                                        \
        "dev-every", CLI_INTEGER, "N",                                                                       \
            "with --docs: perplexity on the first 8192 tokens of them after every N blocks (default 1; 0: "  \
            "never)",                                                                                        \
            false                                                                                            \
    }
qn_status cli_dev_every(const cli_args *args, int64_t *out, qn_error *err);

/* `distilled_blocks`, an object a block, `finetuned` of the whole model, and `dev`, what was seen on the documents on the way. */
void cli_add_tuning(json_t *object, const qn_compress_result *r);

/* `ppl_teacher`, `ppl` and `nats_lost`: null without documents. */
void cli_add_perplexities(json_t *object, const qn_compress_result *r);

/* Lines of text for what was trained. */
void cli_print_tuning(const qn_compress_result *r);

#endif
