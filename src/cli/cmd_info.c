#include "commands.h"
#include "console.h"

#include <stdio.h>
#include <string.h>

static const cli_option k_options[] = {{"tensors", CLI_FLAG, NULL, "list every tensor", false},
                                       {NULL, CLI_FLAG, NULL, NULL, false}};

typedef struct info_totals {
    int64_t role_bytes[QN_ROLE_COUNT]; /* artifacts: of the packed arrays */
    int64_t weight_bytes;              /* all tensors */
    int64_t rescued_parameters;
} info_totals;

static int64_t add_encoded(const qn_encoded *e, info_totals *totals) {
    qn_part parts[QN_MAX_PARTS];
    const int n = qn_encoded_parts(e, parts);
    for (int i = 0; i < n; i++) {
        totals->role_bytes[parts[i].role] += parts[i].stored_bytes;
        if (parts[i].role == QN_ROLE_RESCUE) totals->rescued_parameters += parts[i].n_weights;
    }
    return qn_encoded_stored_bytes(e);
}

static int64_t add_weight(const qn_weight *w, info_totals *totals) {
    int64_t bytes = 0;
    if (w->kind == QN_WEIGHT_ENCODED) {
        bytes = add_encoded(&w->encoded, totals);
    } else {
        bytes = qn_view_elements(&w->dense) * (int64_t)qn_dtype_bytes(w->dense.dtype);
        totals->role_bytes[QN_ROLE_SIDE] += bytes;
    }
    totals->weight_bytes += bytes;
    return bytes;
}

/* How a tensor is stored, as docs/format.md spells it without the shape: "BF16", "rows 3072 ternary/64/f16". */
static const char *describe(const qn_weight *w, char spec[QN_PACKED_SPEC_BYTES]) {
    if (w->kind != QN_WEIGHT_ENCODED) return qn_dtype_name(w->dense.dtype);
    qn_packed_spec_format(&w->encoded, spec);
    return strchr(spec, ' ') + 1;
}

static json_t *tensor_list(const qn_checkpoint *checkpoint, info_totals *totals) {
    const qn_layout *layout = qn_checkpoint_layout(checkpoint);
    json_t *list = json_array();
    for (int64_t i = 0; i < layout->n; i++) {
        const qn_weight *w = qn_checkpoint_weight(checkpoint, i);
        char spec[QN_PACKED_SPEC_BYTES];
        json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:s, s:I}", "name", layout->entries[i].name,
                                              "rows", (json_int_t)layout->entries[i].rows, "cols",
                                              (json_int_t)layout->entries[i].cols, "stored",
                                              describe(w, spec), "bytes", (json_int_t)add_weight(w, totals)));
    }
    return list;
}

static json_t *architecture_object(const qn_config *c) {
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "vocab_size", (json_int_t)c->vocab_size,
                     "hidden_size", (json_int_t)c->hidden_size, "intermediate_size",
                     (json_int_t)c->intermediate_size, "layers", (json_int_t)c->n_layers, "heads",
                     (json_int_t)c->n_heads, "kv_heads", (json_int_t)c->n_kv_heads, "head_dim",
                     (json_int_t)c->head_dim, "tied", c->tied);
}

/* Bytes and bits per parameter of each role that stores something; what is no tensor is metadata. */
static json_t *role_objects(const info_totals *totals, int64_t parameters) {
    json_t *roles = json_object();
    for (int role = 0; role < QN_ROLE_COUNT; role++) {
        int64_t bytes = totals->role_bytes[role];
        if (bytes == 0) continue;
        json_object_set_new(roles, qn_role_name((qn_role)role),
                            json_pack("{s:I, s:f}", "bytes", (json_int_t)bytes, "bits_per_parameter",
                                      8.0 * (double)bytes / (double)parameters));
    }
    return roles;
}

static void print_text(const json_t *info, bool with_tensors) {
    printf("%s  (%s)\n", json_string_value(json_object_get(info, "path")),
           json_string_value(json_object_get(info, "kind")));
    printf("architecture    %s\n", json_string_value(json_object_get(info, "architecture")));
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(info, "shape"), key, value) {
        if (json_is_integer(value))
            printf("  %-18s %lld\n", key, (long long)json_integer_value(value));
        else
            printf("  %-18s %s\n", key, json_is_true(value) ? "yes" : "no");
    }
    printf("parameters      %s\n", cli_thousands(json_integer_value(json_object_get(info, "parameters"))));
    printf("bytes           %s  (%.4f bits per parameter)\n",
           cli_thousands(json_integer_value(json_object_get(info, "bytes"))),
           json_real_value(json_object_get(info, "bits_per_parameter")));
    json_object_foreach(json_object_get(info, "roles"), key, value)
        printf("  %-18s %14s bytes  %.4f bits per parameter\n", key,
               cli_thousands(json_integer_value(json_object_get(value, "bytes"))),
               json_real_value(json_object_get(value, "bits_per_parameter")));
    printf("kernels         %s\n", json_string_value(json_object_get(info, "isa")));
    size_t i;
    if (with_tensors)
        json_array_foreach(json_object_get(info, "tensors"), i, value) printf(
            "%-48s %7lld x %-7lld %-32s %12lld bytes\n", json_string_value(json_object_get(value, "name")),
            (long long)json_integer_value(json_object_get(value, "rows")),
            (long long)json_integer_value(json_object_get(value, "cols")),
            json_string_value(json_object_get(value, "stored")),
            (long long)json_integer_value(json_object_get(value, "bytes")));
}

static int run(const cli_args *args) {
    qn_error err = {0};
    qn_checkpoint *checkpoint = NULL;
    qn_isa isa;
    if (qn_isa_select(&isa, &err) != QN_OK ||
        qn_checkpoint_open(args->positionals[0], &checkpoint, &err) != QN_OK)
        return cli_fail(&err);
    const qn_layout *layout = qn_checkpoint_layout(checkpoint);
    const qn_config *config = qn_checkpoint_config(checkpoint);
    int64_t bytes = (int64_t)qn_store_total_bytes(qn_checkpoint_store(checkpoint));
    info_totals totals = {0};
    json_t *tensors = tensor_list(checkpoint, &totals);
    totals.role_bytes[QN_ROLE_METADATA] = bytes > totals.weight_bytes ? bytes - totals.weight_bytes : 0;
    json_t *info = json_pack(
        "{s:s, s:s, s:s, s:o, s:I, s:I, s:I, s:f, s:f, s:o, s:s, s:s, s:o}", "path", args->positionals[0],
        "kind", qn_checkpoint_is_artifact(checkpoint) ? "artifact" : "checkpoint", "architecture",
        qn_architecture_name(config->architecture), "shape", architecture_object(config), "n_tensors",
        (json_int_t)layout->n, "parameters", (json_int_t)layout->n_parameters, "bytes", (json_int_t)bytes,
        "bits_per_parameter", 8.0 * (double)bytes / (double)layout->n_parameters, "rescue_fraction",
        (double)totals.rescued_parameters / (double)layout->n_parameters, "roles",
        role_objects(&totals, layout->n_parameters), "isa", qn_isa_name(isa), "version", qn_version(),
        "tensors", tensors);
    qn_checkpoint_close(checkpoint);
    if (!info || cli_flag(args, "json")) return cli_print_json(info);
    print_text(info, cli_flag(args, "tensors"));
    json_decref(info);
    return cli_finish();
}

const cli_command cli_cmd_info = {"info",
                                  {"PATH"},
                                  "what a checkpoint or artifact is",
                                  "Architecture, tensors, parameters, exact bytes and bits per parameter by "
                                  "role, and the kernels this machine uses. "
                                  "Opening a model checks every name, shape and offset against its config.",
                                  k_options,
                                  run};
