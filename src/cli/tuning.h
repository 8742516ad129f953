/* What compress and distill say about training. */
#ifndef QUERN_SRC_CLI_TUNING_H
#define QUERN_SRC_CLI_TUNING_H

#include "args.h"
#include "quern/quern.h"

#include <jansson.h>

/* --effort fast|default|max, applied to the recipe. */
qn_status cli_effort(const cli_args *args, qn_recipe *recipe, qn_error *err);

json_t *cli_tuning_object(const qn_tuning_row *t);

/* `distilled_blocks`, an object a block, and `finetuned` of the whole model. */
void cli_add_tuning(json_t *object, const qn_compress_result *r);

/* Lines of text for what was trained. */
void cli_print_tuning(const qn_compress_result *r);

#endif
