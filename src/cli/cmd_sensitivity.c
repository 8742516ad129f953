#include "commands.h"
#include "console.h"
#include "inputs.h"

#include <stdio.h>

static const cli_option k_options[] = {
    {"track", CLI_TEXT, "T", "binary or ternary", true},
    {"recipe", CLI_TEXT, "FILE.yaml|NAME",
     "whose group size and rule are measured (default: the track's best)", false},
    {"second-moments", CLI_TEXT, "FILE", "weigh errors by the inputs' second moments", false},
    {"csv", CLI_FLAG, NULL, "comma-separated values instead of a table", false},
    {"rows", CLI_FLAG, NULL, "every row, not only the sums of each tensor", false},
    {NULL, CLI_FLAG, NULL, NULL, false}};

typedef struct table_row {
    const char *name;
    int64_t row;                           /* -1: the whole tensor */
    double native, rescue, gain, relative; /* relative: native error / energy of the tensor */
    int64_t extra_bytes;
} table_row;

static table_row sum_tensor(const qn_sensitivity *s, int64_t t, const char *name) {
    const qn_sensitivity_tensor *tensor = &s->tensors[t];
    table_row sum = {.name = name, .row = -1, .extra_bytes = tensor->extra_bytes * tensor->rows};
    double plain = 0;
    for (int64_t r = 0; r < tensor->rows; r++) {
        const qn_row_errors *e = &tensor->errors[r];
        sum.native += (double)(s->weighted ? e->native_weighted : e->native);
        sum.rescue += (double)(s->weighted ? e->rescue_weighted : e->rescue);
        plain += (double)e->native;
    }
    sum.gain = sum.native - sum.rescue;
    sum.relative = tensor->energy > 0 ? plain / tensor->energy : 0;
    return sum;
}

static table_row one_row(const qn_sensitivity *s, int64_t t, int64_t r, const char *name) {
    const qn_row_errors *e = &s->tensors[t].errors[r];
    return (table_row){.name = name,
                       .row = r,
                       .native = (double)(s->weighted ? e->native_weighted : e->native),
                       .rescue = (double)(s->weighted ? e->rescue_weighted : e->rescue),
                       .gain = qn_sensitivity_gain(s, t, r),
                       .relative = s->tensors[t].energy > 0 ? (double)e->native / s->tensors[t].energy : 0,
                       .extra_bytes = s->tensors[t].extra_bytes};
}

static double gain_per_byte(const table_row *row) {
    return row->extra_bytes > 0 ? row->gain / (double)row->extra_bytes : 0;
}

static json_t *row_object(const table_row *row) {
    json_t *object =
        json_pack("{s:s, s:f, s:f, s:f, s:I, s:f, s:f}", "tensor", row->name, "native_error", row->native,
                  "rescue_error", row->rescue, "gain", row->gain, "extra_bytes", (json_int_t)row->extra_bytes,
                  "gain_per_byte", gain_per_byte(row), "relative_error", row->relative);
    if (object && row->row >= 0) json_object_set_new(object, "row", json_integer(row->row));
    return object;
}

static void print_row(const table_row *row, bool csv, bool with_rows) {
    if (csv) {
        printf("%s,", row->name);
        if (with_rows) printf("%lld,", (long long)row->row);
        printf("%.9g,%.9g,%.9g,%lld,%.9g,%.9g\n", row->native, row->rescue, row->gain,
               (long long)row->extra_bytes, gain_per_byte(row), row->relative);
        return;
    }
    printf("%-44s", row->name);
    if (with_rows) printf(" %7lld", (long long)row->row);
    printf(" %12.5g %12.5g %12.5g %10lld %12.5g %9.5f\n", row->native, row->rescue, row->gain,
           (long long)row->extra_bytes, gain_per_byte(row), row->relative);
}

static void print_head(bool csv, bool with_rows) {
    if (csv)
        printf("tensor,%snative_error,rescue_error,gain,extra_bytes,gain_per_byte,relative_error\n",
               with_rows ? "row," : "");
    else
        printf("%-44s%s %12s %12s %12s %10s %12s %9s\n", "tensor", with_rows ? "     row" : "", "native err",
               "q4 err", "gain", "bytes", "gain/byte", "relative");
}

static int print_table(const cli_args *args, const qn_sensitivity *s, const qn_layout *layout) {
    bool json = cli_flag(args, "json"), csv = cli_flag(args, "csv"), with_rows = cli_flag(args, "rows");
    json_t *list = json ? json_array() : NULL;
    if (!json) print_head(csv, with_rows);
    for (int64_t t = 0; t < s->n; t++) {
        const char *name = layout->entries[s->tensors[t].entry].name;
        for (int64_t r = 0; r < (with_rows ? s->tensors[t].rows : 1); r++) {
            table_row row = with_rows ? one_row(s, t, r, name) : sum_tensor(s, t, name);
            if (json)
                json_array_append_new(list, row_object(&row));
            else
                print_row(&row, csv, with_rows);
        }
    }
    if (!json) return cli_finish();
    return cli_print_json(
        json_pack("{s:b, s:o}", "weighted", s->weighted, with_rows ? "rows" : "tensors", list));
}

static int run(const cli_args *args) {
    qn_error err = {0};
    cli_console console;
    qn_context ctx = cli_context(args, &console);
    qn_recipe recipe;
    qn_checkpoint *checkpoint = NULL;
    qn_second_moments moments = {0};
    qn_sensitivity sensitivity = {0};
    const char *stats = cli_text(args, "second-moments", NULL);
    if (cli_flag(args, "csv") && cli_flag(args, "json"))
        return cli_usage_error(args->command, "--csv and --json exclude each other");
    qn_track track;
    qn_status st = qn_track_parse(cli_text(args, "track", NULL), &track, &err);
    if (st == QN_OK) st = cli_recipe(args, track, &recipe, &err);
    if (st == QN_OK) st = qn_checkpoint_open(args->positionals[0], &checkpoint, &err);
    if (st == QN_OK && stats) st = qn_second_moments_load(stats, checkpoint, &ctx, &moments, &err);
    if (st == QN_OK) {
        const qn_rowmix_options options = {
            .native = {.code = track == QN_TRACK_BINARY ? QN_CODE_SIGN : QN_CODE_TERNARY,
                       .group_size = (int32_t)recipe.group_size},
            .rescue = {.code = QN_CODE_Q4, .group_size = 128},
            .rule = recipe.rule,
            .moments = stats ? &moments : NULL};
        st = qn_sensitivity_measure(checkpoint, &options, &ctx, &sensitivity, &err);
    }
    cli_clear_progress(&console);
    int status =
        st == QN_OK ? print_table(args, &sensitivity, qn_checkpoint_layout(checkpoint)) : cli_fail(&err);
    qn_sensitivity_release(&sensitivity);
    qn_second_moments_release(&moments);
    qn_checkpoint_close(checkpoint);
    return status;
}

const cli_command cli_cmd_sensitivity = {
    "sensitivity",
    {"MODEL"},
    "per-row and per-tensor table: error in each code, and what rescue gains per byte",
    "Squared weight error of every row in the track's native code and in 4 bits, their difference, and the "
    "extra bytes "
    "4 bits would cost. Rows are ranked by this when `quern compress` chooses what to rescue. A proxy: "
    "compare "
    "perplexities before believing it.",
    k_options,
    run};
