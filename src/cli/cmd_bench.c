#include "commands.h"
#include "console.h"

static const cli_option k_options[] = {{NULL, CLI_FLAG, NULL, NULL, false}};
static int run(const cli_args *args) {
    return cli_usage_error(args->command, "soon");
}
const cli_command cli_cmd_bench = {"bench", {NULL}, "kernels and whole stages", "", k_options, run};
