/* Command-line options from tables: one table per command gives parsing, help and man page. */
#ifndef QUERN_SRC_CLI_ARGS_H
#define QUERN_SRC_CLI_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_MAX_OPTIONS = 48, CLI_MAX_POSITIONALS = 16 };

typedef enum cli_kind { CLI_FLAG, CLI_TEXT, CLI_INTEGER, CLI_REAL } cli_kind;

typedef struct cli_option {
    const char *name; /* without the dashes; "o" is spelled -o as well */
    cli_kind kind;
    const char *value; /* placeholder in the help, for example "FILE"; NULL for flags */
    const char *help;
    bool required;
} cli_option;

struct cli_args;

typedef struct cli_command {
    const char *name;
    /* Placeholders, NULL-terminated; optional ones, [SO], last; [SO...] stands for as many as there is room for. */
    const char *positionals[CLI_MAX_POSITIONALS];
    const char *summary;       /* one line */
    const char *description;   /* a paragraph or two for help and man page */
    const cli_option *options; /* ended by a NULL name */
    int (*run)(const struct cli_args *args);
} cli_command;

typedef struct cli_args {
    const cli_command *command;
    const char *positionals[CLI_MAX_POSITIONALS];
    const char *values[CLI_MAX_OPTIONS]; /* by position in the command's table, then the common one; NULL: not
                                            given */
} cli_args;

/* The options every command has. */
extern const cli_option cli_common_options[];

/* Parses what follows the command's name. Complains on stderr and returns CLI_USAGE when it does not fit the
 * table. */
int cli_parse(const cli_command *command, int argc, char **argv, cli_args *out);

/* Values by option name; the names are checked against the tables. Numbers were checked while parsing. */
bool cli_flag(const cli_args *args, const char *name);
const char *cli_text(const cli_args *args, const char *name, const char *otherwise);
int64_t cli_integer(const cli_args *args, const char *name, int64_t otherwise);
double cli_real(const cli_args *args, const char *name, double otherwise);

/* Prints "quern CMD: MESSAGE" and a hint to --help; returns CLI_USAGE. */
int cli_usage_error(const cli_command *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
