#include "help.h"

#include "commands.h"
#include "quern/base/version.h"

#include <string.h>

void cli_help_overview(FILE *out) {
    fprintf(out,
            "quern %s: compress Qwen language models to binary and ternary weights\n\n"
            "usage: quern <command> [options]\n\n",
            qn_version());
    for (size_t i = 0; cli_commands[i]; i++)
        fprintf(out, "  %-12s %s\n", cli_commands[i]->name, cli_commands[i]->summary);
    fprintf(out, "\n'quern help COMMAND' explains one. Data goes to stdout, talk to stderr.\n"
                 "Exit status: 0 done, 1 failed or rejected, 2 wrong usage.\n");
}

static void print_usage_line(const cli_command *command, FILE *out) {
    fprintf(out, "quern %s", command->name);
    for (size_t i = 0; i < CLI_MAX_POSITIONALS && command->positionals[i]; i++)
        fprintf(out, " %s", command->positionals[i]);
    for (size_t i = 0; command->options[i].name; i++) {
        const cli_option *o = &command->options[i];
        if (o->required) fprintf(out, " %s%s %s", o->name[1] ? "--" : "-", o->name, o->value);
    }
    fprintf(out, " [options]");
}

static void print_options(const cli_option *options, FILE *out) {
    for (size_t i = 0; options[i].name; i++) {
        char left[64];
        snprintf(left, sizeof left, "%s%s%s%s", options[i].name[1] ? "--" : "-", options[i].name,
                 options[i].value ? " " : "", options[i].value ? options[i].value : "");
        fprintf(out, "  %-26s %s\n", left, options[i].help);
    }
}

void cli_help_command(const cli_command *command, FILE *out) {
    fprintf(out, "usage: ");
    print_usage_line(command, out);
    fprintf(out, "\n\n%s.\n\n%s\n\noptions:\n", command->summary, command->description);
    print_options(command->options, out);
    fprintf(out, "\ncommon options:\n");
    print_options(cli_common_options, out);
}

/* Text with roff's two special characters made harmless. */
static void print_roff(const char *text, FILE *out) {
    for (const char *p = text; *p; p++) {
        if (*p == '\\' || *p == '-') fputc('\\', out);
        fputc(*p, out);
    }
}

static void print_roff_options(const cli_option *options, FILE *out) {
    for (size_t i = 0; options[i].name; i++) {
        fprintf(out, ".TP\n.B %s", options[i].name[1] ? "\\-\\-" : "\\-");
        print_roff(options[i].name, out);
        if (options[i].value) fprintf(out, " \\fI%s\\fR", options[i].value);
        fputc('\n', out);
        print_roff(options[i].help, out);
        fputc('\n', out);
    }
}

void cli_man_page(const cli_command *command, FILE *out) {
    fprintf(out, ".TH QUERN-%s 1 \"\" \"quern %s\"\n.SH NAME\nquern\\-%s \\- ", command->name, qn_version(),
            command->name);
    print_roff(command->summary, out);
    fprintf(out, "\n.SH SYNOPSIS\n.B ");
    print_usage_line(command, out);
    fprintf(out, "\n.SH DESCRIPTION\n");
    print_roff(command->description, out);
    fprintf(out, "\n.SH OPTIONS\n");
    print_roff_options(command->options, out);
    fprintf(out, ".SH COMMON OPTIONS\n");
    print_roff_options(cli_common_options, out);
    fprintf(out, ".SH EXIT STATUS\n0 done, 1 failed or rejected, 2 wrong usage.\n");
}
