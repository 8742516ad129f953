#include "args.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const cli_option cli_common_options[] = {
    {"json", CLI_FLAG, NULL, "print one JSON object instead of text", false},
    {"threads", CLI_INTEGER, "N", "threads to use (default: all); results do not depend on it", false},
    {"seed", CLI_INTEGER, "N", "seed of everything random (default 0)", false},
    {"progress", CLI_TEXT, "WHEN", "auto (on a terminal), always or never", false},
    {"quiet", CLI_FLAG, NULL, "no progress and no notes on stderr", false},
    {"verbose", CLI_FLAG, NULL, "more notes on stderr", false},
    {"help", CLI_FLAG, NULL, "this text", false},
    {NULL, CLI_FLAG, NULL, NULL, false}};

int cli_usage_error(const cli_command *command, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "quern %s: ", command->name);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\nTry 'quern help %s'.\n", command->name);
    va_end(arguments);
    return CLI_USAGE;
}

/* The option at slot INDEX of both tables taken together, or NULL past their end. */
static const cli_option *option_at(const cli_command *command, size_t index) {
    size_t own = 0;
    while (command->options[own].name) own++;
    if (index < own) return &command->options[index];
    index -= own;
    for (size_t i = 0; cli_common_options[i].name; i++)
        if (i == index) return &cli_common_options[i];
    return NULL;
}

static const cli_option *find_option(const cli_command *command, const char *name, size_t n, size_t *slot) {
    const cli_option *option;
    for (size_t i = 0; (option = option_at(command, i)); i++) {
        if (strlen(option->name) != n || memcmp(option->name, name, n) != 0) continue;
        *slot = i;
        return option;
    }
    return NULL;
}

static bool is_number(const cli_option *option, const char *text) {
    char *end = NULL;
    errno = 0;
    if (option->kind == CLI_INTEGER)
        (void)strtoll(text, &end, 10);
    else if (!isfinite(strtod(text, &end)))
        return false;
    return errno == 0 && end != text && *end == 0;
}

static int take_value(const cli_command *command, const cli_option *option, const char *text, cli_args *args,
                      size_t slot) {
    if (args->values[slot]) return cli_usage_error(command, "option '--%s' is given twice", option->name);
    if ((option->kind == CLI_INTEGER || option->kind == CLI_REAL) && !is_number(option, text))
        return cli_usage_error(command, "option '--%s' needs %s, got '%s'", option->name,
                               option->kind == CLI_INTEGER ? "an integer" : "a finite number", text);
    args->values[slot] = text;
    return CLI_OK;
}

/* Parses one option at argv[*i], moving past its value. */
static int parse_option(const cli_command *command, int argc, char **argv, int *i, cli_args *args) {
    const char *word = argv[*i];
    const char *name = word + (word[1] == '-' ? 2 : 1);
    const char *equals = strchr(name, '=');
    size_t n = equals ? (size_t)(equals - name) : strlen(name);
    size_t slot = 0;
    const cli_option *option = find_option(command, name, n, &slot);
    if (!option || (word[1] != '-' && n != 1)) return cli_usage_error(command, "unknown option '%s'", word);
    if (option->kind == CLI_FLAG) {
        if (equals) return cli_usage_error(command, "option '--%s' takes no value", option->name);
        args->values[slot] = "";
        return CLI_OK;
    }
    if (equals) return take_value(command, option, equals + 1, args, slot);
    if (*i + 1 >= argc)
        return cli_usage_error(command, "option '%s' needs a value (%s)", word, option->value);
    return take_value(command, option, argv[++*i], args, slot);
}

static int check_complete(const cli_args *args, int n_positionals) {
    const cli_command *command = args->command;
    if (cli_flag(args, "help")) return CLI_OK;
    if (n_positionals < CLI_MAX_POSITIONALS && command->positionals[n_positionals] &&
        command->positionals[n_positionals][0] != '[')
        return cli_usage_error(command, "%s is missing", command->positionals[n_positionals]);
    const cli_option *option;
    for (size_t i = 0; (option = option_at(command, i)); i++)
        if (option->required && !args->values[i])
            return cli_usage_error(command, "option '%s%s %s' is missing", option->name[1] ? "--" : "-",
                                   option->name, option->value);
    const char *progress = cli_text(args, "progress", "auto");
    if (strcmp(progress, "auto") != 0 && strcmp(progress, "always") != 0 && strcmp(progress, "never") != 0)
        return cli_usage_error(command, "--progress is auto, always or never, not '%s'", progress);
    if (cli_integer(args, "threads", 1) < 1 || cli_integer(args, "threads", 1) > 4096)
        return cli_usage_error(command, "--threads must be 1 to 4096");
    if (cli_integer(args, "seed", 0) < 0) return cli_usage_error(command, "--seed must not be negative");
    return CLI_OK;
}

/* The placeholder of positional INDEX, or NULL where none is expected. */
static const char *positional_at(const cli_command *command, int index) {
    const char *last = NULL;
    if (index >= CLI_MAX_POSITIONALS) return NULL;
    for (int i = 0; i <= index; i++) {
        if (!command->positionals[i]) return last && strstr(last, "...") ? last : NULL;
        last = command->positionals[i];
    }
    return last;
}

int cli_parse(const cli_command *command, int argc, char **argv, cli_args *out) {
    cli_args args = {.command = command};
    int n_positionals = 0;
    bool only_positionals = false;
    for (int i = 0; i < argc; i++) {
        if (!only_positionals && strcmp(argv[i], "--") == 0) {
            only_positionals = true;
        } else if (!only_positionals && argv[i][0] == '-' && argv[i][1]) {
            int status = parse_option(command, argc, argv, &i, &args);
            if (status != CLI_OK) return status;
        } else {
            if (!positional_at(command, n_positionals))
                return cli_usage_error(command, "unexpected argument '%s'", argv[i]);
            args.positionals[n_positionals++] = argv[i];
        }
    }
    int status = check_complete(&args, n_positionals);
    if (status == CLI_OK) *out = args;
    return status;
}

static const char *value_of(const cli_args *args, const char *name) {
    size_t slot = 0;
    const cli_option *option = find_option(args->command, name, strlen(name), &slot);
    assert(option);
    return option ? args->values[slot] : NULL;
}

bool cli_flag(const cli_args *args, const char *name) {
    return value_of(args, name) != NULL;
}

const char *cli_text(const cli_args *args, const char *name, const char *otherwise) {
    const char *value = value_of(args, name);
    return value ? value : otherwise;
}

int64_t cli_integer(const cli_args *args, const char *name, int64_t otherwise) {
    const char *value = value_of(args, name);
    return value ? strtoll(value, NULL, 10) : otherwise;
}

double cli_real(const cli_args *args, const char *name, double otherwise) {
    const char *value = value_of(args, name);
    return value ? strtod(value, NULL) : otherwise;
}
