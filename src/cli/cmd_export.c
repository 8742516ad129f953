#include "commands.h"
#include "console.h"

#include <stdio.h>

static const cli_option k_options[] = {
    {"dense", CLI_FLAG, NULL, "write dequantised weights (the only form there is)", false},
    {"o", CLI_TEXT, "DIR", "the new folder", true},
    {"dtype", CLI_TEXT, "TYPE", "F32 (default, exact), F16 or BF16", false},
    {NULL, CLI_FLAG, NULL, NULL, false}};

static int run(const cli_args *args) {
    qn_error err = {0};
    cli_console console;
    qn_context ctx = cli_context(args, &console);
    const char *out = cli_text(args, "o", NULL);
    qn_dtype dtype = qn_dtype_from_name(cli_text(args, "dtype", "F32"));
    if (!cli_flag(args, "dense")) return cli_usage_error(args->command, "say --dense");
    if (dtype != QN_DTYPE_F32 && dtype != QN_DTYPE_F16 && dtype != QN_DTYPE_BF16)
        return cli_usage_error(args->command, "--dtype is F32, F16 or BF16, not '%s'",
                               cli_text(args, "dtype", ""));
    qn_checkpoint *checkpoint = NULL;
    qn_status st = qn_checkpoint_open(args->positionals[0], &checkpoint, &err);
    if (st == QN_OK) st = qn_export_dense(checkpoint, dtype, 0, out, &ctx, &err);
    cli_clear_progress(&console);
    int64_t parameters = st == QN_OK ? qn_checkpoint_layout(checkpoint)->n_parameters : 0;
    qn_checkpoint_close(checkpoint);
    if (st != QN_OK) return cli_fail(&err);
    if (cli_flag(args, "json"))
        return cli_print_json(json_pack("{s:s, s:s, s:I}", "checkpoint", out, "dtype", qn_dtype_name(dtype),
                                        "parameters", (json_int_t)parameters));
    printf("%s: %s parameters as %s\n", out, cli_thousands(parameters), qn_dtype_name(dtype));
    return cli_finish();
}

const cli_command cli_cmd_export = {"export",
                                    {"ARTIFACT"},
                                    "an ordinary Hugging Face checkpoint with the dequantised weights",
                                    "Unpacks an artifact (or copies a checkpoint) into a plain safetensors "
                                    "checkpoint that any tool loads without "
                                    "Quern. In F32 every weight is the exact product of its scale and its "
                                    "code, so the exported model scores the same.",
                                    k_options,
                                    run};
