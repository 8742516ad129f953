/* Help texts and man pages, from the same tables that parse. */
#ifndef QUERN_SRC_CLI_HELP_H
#define QUERN_SRC_CLI_HELP_H

#include "args.h"

#include <stdio.h>

void cli_help_overview(FILE *out);
void cli_help_command(const cli_command *command, FILE *out);

/* roff for man(1): quern-CMD.1 */
void cli_man_page(const cli_command *command, FILE *out);

#endif
