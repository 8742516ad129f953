/* Every command of the program, one file each. */
#ifndef QUERN_SRC_CLI_COMMANDS_H
#define QUERN_SRC_CLI_COMMANDS_H

#include "args.h"

extern const cli_command cli_cmd_bench;
extern const cli_command cli_cmd_calibrate;
extern const cli_command cli_cmd_compare;
extern const cli_command cli_cmd_compress;
extern const cli_command cli_cmd_distill;
extern const cli_command cli_cmd_export;
extern const cli_command cli_cmd_generate;
extern const cli_command cli_cmd_info;
extern const cli_command cli_cmd_logits;
extern const cli_command cli_cmd_pack;
extern const cli_command cli_cmd_plan;
extern const cli_command cli_cmd_score;
extern const cli_command cli_cmd_sensitivity;
extern const cli_command cli_cmd_tokenize;
extern const cli_command cli_cmd_train;
extern const cli_command cli_cmd_verify;

/* NULL-terminated, in the order of the help. */
extern const cli_command *const cli_commands[];

const cli_command *cli_find_command(const char *name);

#endif
