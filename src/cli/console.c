#include "console.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static const double k_first_line_s = 1.0; /* a quick stage shows nothing */
static const double k_redraw_s = 0.2;
static const double k_plain_line_s = 10.0; /* where stderr is no terminal */

static atomic_bool interrupted;

/* Ctrl-C and SIGTERM are waited for by a thread of their own. No handler may run on a thread that computes: the generated
 * matrix products of oneDNN 2.6 keep data below the stack's red zone, where the kernel puts a handler's frame. */
static void *wait_for_signals(void *user) {
    sigset_t *signals = user;
    int signal_number;
    while (sigwait(signals, &signal_number) == 0) {
        if (atomic_load(&interrupted)) _exit(130); /* the second Ctrl-C does not wait */
        atomic_store(&interrupted, true);
    }
    return NULL;
}

/* Before any other thread begins: they inherit the blocked signals. */
static void watch_signals(void) {
    static sigset_t signals;
    pthread_t thread;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    if (pthread_sigmask(SIG_BLOCK, &signals, NULL) != 0) return;
    if (pthread_create(&thread, NULL, wait_for_signals, &signals) != 0) {
        /* Then the signals end the program at once, as they do by default. */
        (void)pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
        return;
    }
    (void)pthread_detach(thread);
}

static bool is_interrupted(void *user) {
    (void)user;
    return atomic_load(&interrupted);
}

double cli_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int64_t cli_peak_rss(void) {
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (int64_t)usage.ru_maxrss * 1024 : 0;
}

void cli_clear_progress(cli_console *console) {
    if (console->width) fprintf(stderr, "\r%*s\r", console->width, "");
    console->width = 0;
}

void cli_format_duration(double seconds, char *buffer, size_t n_bytes) {
    int s = (int)(seconds + 0.5);
    if (s >= 3600)
        snprintf(buffer, n_bytes, "%d:%02d:%02d", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(buffer, n_bytes, "%d:%02d", s / 60, s % 60);
}

static void on_progress(void *user, const qn_progress *progress) {
    cli_console *c = user;
    double now = cli_seconds();
    if (!c->stage || strcmp(c->stage, progress->stage) != 0) {
        c->stage = progress->stage;
        c->began = c->shown = now;
    }
    double interval = c->live ? k_redraw_s : k_plain_line_s;
    if (progress->total == 0 || now - c->began < k_first_line_s || now - c->shown < interval) return;
    c->shown = now;
    double fraction = (double)progress->done / (double)progress->total;
    char eta[32] = "?";
    if (fraction > 0) cli_format_duration((now - c->began) * (1 - fraction) / fraction, eta, sizeof eta);
    if (!c->live) {
        fprintf(stderr, "%s: %.0f %%, %s left\n", progress->stage, 100 * fraction, eta);
        return;
    }
    int last = c->width;
    c->width = fprintf(stderr, "\r%s: %3.0f %%, %s left", progress->stage, 100 * fraction, eta) - 1;
    if (last > c->width) fprintf(stderr, "%*s", last - c->width, "");
    fflush(stderr);
}

static void on_log(void *user, qn_log_level level, const char *message) {
    cli_console *c = user;
    bool shown = level == QN_LOG_WARNING || (level == QN_LOG_INFO && !cli_flag(c->args, "quiet")) ||
                 cli_flag(c->args, "verbose");
    if (!shown) return;
    cli_clear_progress(c);
    fprintf(stderr, "%s%s\n", level == QN_LOG_WARNING ? "warning: " : "", message);
}

qn_context cli_context(const cli_args *args, cli_console *console) {
    const char *when = cli_text(args, "progress", "auto");
    bool terminal = isatty(STDERR_FILENO) != 0;
    *console = (cli_console){
        .args = args, .live = terminal, .silent = cli_flag(args, "quiet") || strcmp(when, "never") == 0};
    watch_signals();
    return (qn_context){.n_threads = (int)cli_integer(args, "threads", 0),
                        .on_progress = console->silent ? NULL : on_progress,
                        .on_log = on_log,
                        .is_cancelled = is_interrupted,
                        .user = console};
}

int cli_fail(const qn_error *err) {
    /* A rejection line is for scripts: it stands alone, as the scorer prints it. */
    bool rejection = err->code == QN_E_REJECTED && strncmp(err->message, "validator_rejection=", 20) == 0;
    fprintf(stderr, "%s%s\n", rejection ? "" : "quern: ", err->message);
    return err->code == QN_E_ARGUMENT ? CLI_USAGE : CLI_FAILED;
}

int cli_finish(void) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return CLI_OK;
    fprintf(stderr, "quern: cannot write to standard output: %s\n", strerror(errno));
    return CLI_FAILED;
}

int cli_print_json(json_t *object) {
    int status = object ? json_dumpf(object, stdout, JSON_COMPACT) : -1;
    json_decref(object);
    if (status == 0)
        putchar('\n');
    else
        fprintf(stderr,
                "quern: cannot print the JSON result (out of memory, a full disk or a closed pipe)\n");
    return status == 0 ? cli_finish() : CLI_FAILED;
}

const char *cli_thousands(int64_t value) {
    static char buffers[8][32];
    static unsigned turn;
    char digits[24];
    char *out = buffers[turn++ % 8];
    int n = snprintf(digits, sizeof digits, "%lld", (long long)value);
    int at = 0;
    for (int i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0 && digits[i - 1] != '-') out[at++] = ' ';
        out[at++] = digits[i];
    }
    out[at] = 0;
    return out;
}
