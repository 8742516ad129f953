/* Talking to a person: progress and notes on stderr, data on stdout, Ctrl-C, and the exit status of an error.
 */
#ifndef QUERN_SRC_CLI_CONSOLE_H
#define QUERN_SRC_CLI_CONSOLE_H

#include "args.h"
#include "quern/quern.h"

#include <jansson.h>

typedef struct cli_console {
    const cli_args *args;
    bool live;    /* redraw one line; else plain lines now and then */
    bool silent;  /* no progress at all */
    double began; /* of the present stage */
    double shown; /* last time something was drawn */
    const char *stage;
    int width; /* characters of the line on screen */
} cli_console;

/* A context that reports to CONSOLE and stops at Ctrl-C; both live as long as the command. */
qn_context cli_context(const cli_args *args, cli_console *console);

/* Takes the progress line off the screen before anything else is printed. */
void cli_clear_progress(cli_console *console);

/* "quern: MESSAGE" on stderr; the exit status that goes with the code: 2 for wrong arguments, else 1. */
int cli_fail(const qn_error *err);

/* Prints a JSON object on one line and drops the reference. CLI_FAILED when stdout cannot take it. */
int cli_print_json(json_t *object);

/* Flushes stdout; a full disk or a closed pipe is a failure, said on stderr. */
int cli_finish(void);

double cli_seconds(void);   /* monotonic */
int64_t cli_peak_rss(void); /* bytes */

/* "1 234 567" for people; each thread of callers gets the same static buffers in turn. */
const char *cli_thousands(int64_t value);
/* "h:mm:ss" or "m:ss" */
void cli_format_duration(double seconds, char *buffer, size_t n_bytes);

#endif
