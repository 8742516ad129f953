#include "commands.h"
#include "console.h"
#include "help.h"

#include <stdio.h>
#include <string.h>

const cli_command *const cli_commands[] = {&cli_cmd_info,
                                           &cli_cmd_tokenize,
                                           &cli_cmd_logits,
                                           &cli_cmd_score,
                                           &cli_cmd_compare,
                                           &cli_cmd_generate,
                                           &cli_cmd_calibrate,
                                           &cli_cmd_sensitivity,
                                           &cli_cmd_compress,
                                           &cli_cmd_plan,
                                           &cli_cmd_distill,
                                           &cli_cmd_pack,
                                           &cli_cmd_verify,
                                           &cli_cmd_export,
                                           &cli_cmd_train,
                                           &cli_cmd_bench,
                                           NULL};

const cli_command *cli_find_command(const char *name) {
    for (size_t i = 0; cli_commands[i]; i++)
        if (strcmp(cli_commands[i]->name, name) == 0) return cli_commands[i];
    return NULL;
}

static int unknown_command(const char *name) {
    fprintf(stderr, "quern: no command '%s'; 'quern help' lists them\n", name);
    return CLI_USAGE;
}

/* `quern help [CMD]`, `quern help --man CMD` */
static int run_help(int argc, char **argv) {
    bool man = argc > 0 && strcmp(argv[0], "--man") == 0;
    if (man) argc--, argv++;
    if (argc == 0) {
        cli_help_overview(stdout);
        return cli_finish();
    }
    const cli_command *command = cli_find_command(argv[0]);
    if (!command) return unknown_command(argv[0]);
    if (argc > 1) {
        fprintf(stderr, "quern: 'help' explains one command at a time, not '%s' too\n", argv[1]);
        return CLI_USAGE;
    }
    if (man)
        cli_man_page(command, stdout);
    else
        cli_help_command(command, stdout);
    return cli_finish();
}

int main(int argc, char **argv) {
    if (argc < 2) {
        cli_help_overview(stderr);
        return CLI_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        return run_help(argc - 2, argv + 2);
    if (strcmp(name, "--version") == 0 || strcmp(name, "version") == 0) {
        printf("quern %s\n", qn_version());
        return cli_finish();
    }
    const cli_command *command = cli_find_command(name);
    if (!command) return unknown_command(name);
    cli_args args;
    int status = cli_parse(command, argc - 2, argv + 2, &args);
    if (status != CLI_OK) return status;
    if (cli_flag(&args, "help")) {
        cli_help_command(command, stdout);
        return cli_finish();
    }
    return command->run(&args);
}
