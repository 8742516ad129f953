#include "commands.h"
#include "console.h"

#include <stdio.h>

static const cli_option k_options[] = {{"o", CLI_TEXT, "FILE.zip", "the archive to write", true},
                                       {NULL, CLI_FLAG, NULL, NULL, false}};

static int run(const cli_args *args) {
    qn_error err = {0};
    cli_console console;
    qn_context ctx = cli_context(args, &console);
    const char *out = cli_text(args, "o", NULL);
    char sha256[QN_SHA256_HEX];
    int64_t n_bytes = 0;
    qn_status st = qn_pack(args->positionals[0], out, &ctx, sha256, &n_bytes, &err);
    cli_clear_progress(&console);
    if (st != QN_OK) return cli_fail(&err);
    if (cli_flag(args, "json"))
        return cli_print_json(
            json_pack("{s:s, s:s, s:I}", "artifact", out, "sha256", sha256, "bytes", (json_int_t)n_bytes));
    printf("%s  %s  %lld bytes\n", sha256, out, (long long)n_bytes);
    return cli_finish();
}

const cli_command cli_cmd_pack = {
    "pack",
    {"DIR"},
    "a deterministic archive of a model folder, with its SHA-256 and exact bytes",
    "The same folder gives the same bytes whatever the time, umask, working directory or file order. Files "
    "that a "
    "published artifact must not hold (notebooks, caches, secrets, paths of somebody's machine) are refused "
    "by name.",
    k_options,
    run};
