#include "train_support.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char k_text[] =
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of "
    "foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of "
    "Light, it was the season of Darkness, it was the spring of hope, it was the winter of despair.\n"
    "<|endoftext|>\n"
    "In the beginning God created the heaven and the earth. And the earth was without form, and void; "
    "and darkness was upon the face of the deep.\n"
    "<|endoftext|>\n"
    "Call me Ishmael.\n";
static const char k_dev[] =
    "It was the age of hope, it was the season of wisdom, it was the winter of Light.\n";

char *toy_path(const toy *t, const char *name) {
    return path_in(t->folder, name);
}

char *toy_model(const toy *t, const char *name, const tiny_options *options) {
    char *path = toy_path(t, name);
    if (mkdir(path, 0777) != 0 && errno != EEXIST) fail_msg("cannot make %s", path);
    write_tiny_model(path, options);
    return path;
}

toy toy_at(const char *folder) {
    toy t = {.folder = strdup(folder)};
    t.model = toy_path(&t, "model");
    t.text = toy_path(&t, "text.txt");
    t.dev = toy_path(&t, "dev.txt");
    t.out = toy_path(&t, "out");
    t.options = qn_train_options_default();
    t.options.config = t.model;
    t.options.text = t.text;
    t.options.tokenizer = "byte";
    t.options.out = t.out;
    t.options.context = 24;
    t.options.batch = 3;
    t.options.schedule.total_steps = 12;
    t.options.schedule.warmup_steps = 2;
    t.options.schedule.peak = 3e-3;
    t.options.dtype = QN_DTYPE_F32;
    t.options.save_every = 4;
    return t;
}

toy toy_make(void) {
    const tiny_options model = {
        .dtype = "F32", .hidden = 32, .intermediate = 64, .heads = 2, .kv_heads = 1, .seed = 5};
    char *folder = make_temporary_folder();
    toy t = toy_at(folder);
    free(folder);
    write_test_file(t.folder, "text.txt", k_text, strlen(k_text));
    write_test_file(t.folder, "dev.txt", k_dev, strlen(k_dev));
    free(toy_model(&t, "model", &model));
    return t;
}

void toy_forget(toy *t) {
    free(t->folder);
    free(t->model);
    free(t->text);
    free(t->dev);
    free(t->out);
}

void toy_free(toy *t) {
    remove_tree(t->folder);
    toy_forget(t);
}

qn_train_result toy_train(const qn_train_options *options, int n_threads) {
    const qn_context ctx = {.n_threads = n_threads};
    qn_train_result result = {0};
    assert_ok(qn_train(options, &ctx, &result, err));
    return result;
}

void assert_same_model(const char *out_a, const char *out_b) {
    static const char *const files[] = {"model.safetensors", "config.json", "train.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char *path_a = path_in(out_a, files[i]), *path_b = path_in(out_b, files[i]);
        size_t n_a = 0, n_b = 0;
        char *a = load_file(path_a, &n_a), *b = load_file(path_b, &n_b);
        assert_int_equal(n_a, n_b);
        assert_memory_equal(a, b, n_a);
        free(path_a);
        free(path_b);
        free(a);
        free(b);
    }
}

double last_metric(const char *out, const char *name) {
    char *path = path_in(out, "metrics.jsonl"), *text = load_file(path, NULL), *rest = text, *line;
    double value = 0;
    bool found = false;
    while ((line = strsep(&rest, "\n")) != NULL) {
        json_t *object = json_loads(line, 0, NULL);
        const json_t *number = json_object_get(object, name);
        if (number) value = json_number_value(number);
        found |= number != NULL;
        json_decref(object);
    }
    if (!found) fail_msg("%s has no %s", path, name);
    free(text);
    free(path);
    return value;
}
