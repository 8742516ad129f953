/* The writer: exact sizes, accounting, the same bytes every time, and what it refuses. */
#include "artifact_support.h"

#include "artifact/plan.h"
#include "quern/base/rng.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int64_t tree_bytes(const char *path) {
    qn_store *store;
    qn_error err;
    expect_ok(qn_store_open(path, &store, &err), &err);
    const int64_t bytes = (int64_t)qn_store_total_bytes(store);
    qn_store_close(store);
    return bytes;
}

static void check_roles(const qn_artifact_result *r) {
    int64_t sum = 0;
    for (int i = 0; i < QN_ROLE_COUNT; i++) {
        assert_true(r->role_bytes[i] >= 0);
        sum += r->role_bytes[i];
    }
    assert_int_equal(sum, r->bytes);
}

/* Every matrix read back equals what the provider gives. */
static void check_contents(fixture *f, const char *path) {
    qn_checkpoint *artifact;
    qn_error err;
    expect_ok(qn_checkpoint_open(path, &artifact, &err), &err);
    const qn_layout *layout = qn_checkpoint_layout(f->source);
    assert_int_equal(qn_checkpoint_layout(artifact)->n, layout->n);
    for (int64_t i = 0; i < layout->n; i++) {
        const qn_layout_entry *t = &layout->entries[i];
        const qn_weight *got = qn_checkpoint_weight(artifact, i);
        float *a = calloc((size_t)(t->rows * t->cols), sizeof *a),
              *b = calloc((size_t)(t->rows * t->cols), sizeof *b);
        qn_encoded e = {0};
        assert_true(a && b);
        if (t->is_matrix) {
            expect_ok(fixture_encode(f, i, &e, &err), &err);
            expect_ok(qn_encoded_bind(&e, t->name, &err), &err);
            qn_encoded_decode_rows(&e, 0, t->rows, a);
        } else {
            qn_weight_decode_rows(qn_checkpoint_weight(f->source, i), 0, t->rows, a);
        }
        qn_weight_decode_rows(got, 0, t->rows, b);
        assert_memory_equal(a, b, (size_t)(t->rows * t->cols) * sizeof *a);
        qn_encoded_release(&e);
        free(a);
        free(b);
    }
    qn_checkpoint_close(artifact);
}

static void check_size(fixture *f, const char *name, bool archive, int64_t every, int64_t slack) {
    qn_artifact_options options = fixture_options(f);
    options.as_archive = archive;
    fixture_rescue(f, every);
    qn_artifact_plan *plan = NULL;
    qn_encoded *shapes = fixture_shapes(f);
    qn_error err;
    int64_t need = 0;
    expect_ok(qn_artifact_plan_new(f->source, &options, &plan, &err), &err);
    expect_ok(qn_artifact_plan_need(plan, shapes, &need, &err), &err);
    qn_artifact_plan_free(plan);
    free(shapes);

    const qn_artifact_result r = fixture_write(f, name, &options, every, slack);
    char *path = fixture_path(f, name);
    assert_int_equal(r.bytes, need + slack);
    assert_int_equal(tree_bytes(path), r.bytes);
    assert_int_equal(r.parameters, qn_checkpoint_layout(f->source)->n_parameters);
    check_roles(&r);
    check_contents(f, path);
    free(path);
}

/* tiny_model's values are exact in 16 bits, so vectors survive the F32 source too. The slack is one of each kind: none,
 * behind the manifest or in the comment, the last such size, the first with a padding tensor, and much. */
static void test_size_is_exact(void **state) {
    (void)state;
    static const int64_t every[] = {0, 40, 11}, slack[] = {0, 1, 57, 4095, 4096, 40000};
    static const char *const dtypes[] = {"BF16", "F32"};
    for (int d = 0; d < 2; d++) {
        fixture f;
        fixture_open(&f, &(tiny_options){.tied = d == 0, .dtype = dtypes[d], .vocab = 700, .hidden = 80});
        for (int archive = 0; archive < 2; archive++) {
            for (int e = 0; e < 5; e++) {
                for (int s = 0; s < 6; s++) {
                    char name[64];
                    snprintf(name, sizeof name, "out-%d-%d-%d", archive, e, s);
                    f.banded = e >= 3;
                    f.deflated = e == 4;
                    check_size(&f, name, archive, f.banded ? 0 : every[e], slack[s]);
                }
            }
        }
        assert_int_equal(count_files(f.folder, ".tmp-"), 0);
        fixture_close(&f);
    }
}

/* A plan without streams is a bound from above; with them it is the file. The manifest declares what is stored. */
static void test_streams_make_it_smaller(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, &(tiny_options){.tied = true, .vocab = 700, .hidden = 80});
    f.banded = true;
    const qn_artifact_options options = fixture_options(&f);
    const qn_artifact_result plain = fixture_write(&f, "plain.zip", &options, 0, 0);
    f.deflated = true;
    const qn_artifact_result packed = fixture_write(&f, "packed.zip", &options, 0, 0);
    assert_true(packed.bytes < plain.bytes);
    check_roles(&packed);
    for (int r = 0; r < QN_ROLE_SIDE; r++) assert_true(packed.role_bytes[r] <= plain.role_bytes[r]);
    assert_true(packed.role_bytes[QN_ROLE_TERNARY] < plain.role_bytes[QN_ROLE_TERNARY]);
    assert_int_equal(packed.parameters, plain.parameters);
    fixture_close(&f);
}

/* ------------------------------------------------------------------------------------------- determinism */

static void expect_same_sha(const char *first, const qn_artifact_result *r) {
    if (strcmp(first, r->sha256) != 0) fail_msg("sha256 %s, first run %s", r->sha256, first);
}

static void test_same_bytes_whatever_the_surroundings(void **state) {
    (void)state;
    static const char *const zones[] = {"UTC", "Asia/Kathmandu", "America/Los_Angeles"};
    static const mode_t masks[] = {022, 077, 0};
    char first[2][QN_SHA256_HEX], cwd[4096];
    fixture f;

    fixture_open(&f, &(tiny_options){.vocab = 300});
    assert_non_null(getcwd(cwd, sizeof cwd));
    for (int run = 0; run < 3; run++) {
        for (int archive = 0; archive < 2; archive++) {
            qn_artifact_options options = fixture_options(&f);
            options.as_archive = archive;
            char name[16];
            snprintf(name, sizeof name, "out-%d-%d", run, archive);
            setenv("TZ", zones[run], 1);
            tzset();
            if (run == 2) assert_int_equal(chdir("/"), 0);
            const mode_t old = umask(masks[run]);
            const qn_artifact_result r = fixture_write(&f, name, &options, 30, 5000);
            umask(old);
            assert_int_equal(chdir(cwd), 0);
            if (run == 0) memcpy(first[archive], r.sha256, sizeof r.sha256);
            expect_same_sha(first[archive], &r);
        }
    }
    unsetenv("TZ");
    tzset();
    fixture_close(&f);
}

/* The same source in other files, other shards and another dtype of equal values gives the same payload. */
static void test_same_payload_from_other_files(void **state) {
    (void)state;
    char first[QN_SHA256_HEX] = "";
    for (int shards = 1; shards <= 3; shards += 2) {
        fixture f;
        fixture_open(&f, &(tiny_options){.vocab = 300, .n_shards = shards});
        qn_artifact_options options = fixture_options(&f);
        options.as_archive = false;
        const qn_artifact_result r = fixture_write(&f, "out", &options, 30, 5000);
        if (shards == 1) memcpy(first, r.sha256, sizeof first);
        expect_same_sha(first, &r);
        fixture_close(&f);
    }
}

/* ------------------------------------------------------------------------------------------- shards */

static void test_many_shards(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, &(tiny_options){.tied = true});
    for (int archive = 0; archive < 2; archive++) {
        qn_artifact_options options = fixture_options(&f);
        const char *name = archive ? "out.zip" : "out";
        options.max_shard_bytes = 1500;
        options.as_archive = archive;
        const qn_artifact_result r = fixture_write(&f, name, &options, 30, 11);
        char *path = fixture_path(&f, name);
        qn_store *store;
        qn_error err;
        size_t n = 0;
        expect_ok(qn_store_open(path, &store, &err), &err);
        for (size_t i = 0; i < qn_store_count(store); i++) {
            n += strstr(qn_store_name(store, i), ".safetensors") != NULL;
        }
        qn_store_close(store);
        assert_true(n >= 4);
        assert_int_equal(tree_bytes(path), r.bytes);
        check_roles(&r);
        check_contents(&f, path);
        free(path);
    }
    fixture_close(&f);
}

/* ------------------------------------------------------------------------------------------- manifest */

static json_int_t sum_of_parameters(const char *text, size_t n_bytes) {
    json_t *manifest = json_loadb(text, n_bytes, 0, NULL);
    const json_t *entries = json_object_get(manifest, "entries");
    json_int_t sum = 0;
    for (size_t i = 0; i < json_array_size(entries); i++)
        sum += json_integer_value(json_object_get(json_array_get(entries, i), "parameters"));
    json_decref(manifest);
    return sum;
}

/* The reserve is found from random digests; here they are others, many of them, and none needs the short form. */
static void test_manifest_fits_its_reserve(void **state) {
    (void)state;
    fixture f;
    qn_error err;
    fixture_open(&f, &(tiny_options){.layers = 4, .vocab = 2000});
    f.banded = true;
    const qn_artifact_options options = fixture_options(&f);
    qn_artifact_plan *plan = fixture_plan(&f, &options, 0);
    const int64_t n_parameters = qn_checkpoint_layout(f.source)->n_parameters;
    const int64_t reserve = plan->fixed.manifest_bytes;
    char sha[1][QN_SHA256_HEX], source_sha[QN_SHA256_HEX], longest_name[QN_MAX_RECIPE_NAME + 1];
    for (int draw = 0; draw < 50; draw++) {
        expect_ok(qn_sha256_of_memory(&draw, sizeof draw, sha[0], &err), &err);
        expect_ok(qn_sha256_of_memory(sha, sizeof sha, source_sha, &err), &err);
        snprintf(longest_name, sizeof longest_name, "%.*s", QN_MAX_RECIPE_NAME, source_sha);
        qni_manifest_facts facts = {.sizing = &plan->fixed,
                                    .payload_sha256 = (const char(*)[QN_SHA256_HEX])sha,
                                    .source_sha256 = source_sha,
                                    .recipe_name = longest_name,
                                    .recipe_sha256 = source_sha,
                                    .total_bytes = plan->fixed.total_bytes};
        char *text = NULL;
        size_t n_bytes;
        int64_t stored;
        expect_ok(qni_manifest_fit(plan, &facts, reserve, &text, &n_bytes, &stored, &err), &err);
        assert_true(stored <= reserve);
        assert_false(facts.summed);
        assert_int_equal(sum_of_parameters(text, n_bytes), n_parameters);
        free(text);
        /* A reserve that is too small brings the short form; none at all is an error of ours. */
        expect_ok(qni_manifest_fit(plan, &facts, stored - 1, &text, &n_bytes, &stored, &err), &err);
        assert_true(facts.summed);
        assert_int_equal(sum_of_parameters(text, n_bytes), n_parameters);
        free(text);
        expect_error(qni_manifest_fit(plan, &facts, 10, &text, &n_bytes, &stored, &err), QN_E_INTERNAL, &err,
                     "quern.json");
    }
    qn_artifact_plan_free(plan);
    fixture_close(&f);
}

/* ------------------------------------------------------------------------------------------- planning */

/* The bytes that the present choice needs where the recipe is called NAME. */
static int64_t need_of(const fixture *f, const char *name, bool as_archive) {
    qn_artifact_options options = fixture_options(f);
    qn_artifact_plan *plan = NULL;
    qn_encoded *shapes = fixture_shapes(f);
    int64_t n_bytes = 0;
    qn_error err;

    options.recipe_name = name;
    options.as_archive = as_archive;
    expect_ok(qn_artifact_plan_new(f->source, &options, &plan, &err), &err);
    expect_ok(qn_artifact_plan_need(plan, shapes, &n_bytes, &err), &err);
    qn_artifact_plan_free(plan);
    free(shapes);
    return n_bytes;
}

/* What a recipe is called moves no byte of the plan, and the longest name fits. */
static void test_names_move_nothing(void **state) {
    static const char longest[] = "0123456789-abcdefghijklmnopqrstuvwxyz.ABCDEFGHIJKLMNOPQRSTUVWXY";
    (void)state;
    fixture f;
    fixture_open(&f, &(tiny_options){.vocab = 400});
    fixture_rescue(&f, 20);
    assert_int_equal(sizeof longest - 1, QN_MAX_RECIPE_NAME);
    for (int as_archive = 0; as_archive < 2; as_archive++) {
        const int64_t n_bytes = need_of(&f, NULL, as_archive);
        assert_int_equal(need_of(&f, "binary", as_archive), n_bytes);
        assert_int_equal(need_of(&f, longest, as_archive), n_bytes);
    }
    qn_artifact_options options = fixture_options(&f);
    options.recipe_name = longest;
    const qn_artifact_result made = fixture_write(&f, "long.zip", &options, 20, 0);
    assert_int_equal(made.bytes, need_of(&f, "a", true));
    fixture_close(&f);
}

static void test_refuses_a_bad_name(void **state) {
    static const char *const names[] = {
        "a\nb", "a\x7f", "say \"so\"",
        "a\\b", "\xC3(", "0123456789-abcdefghijklmnopqrstuvwxyz.ABCDEFGHIJKLMNOPQRSTUVWXYZ"};
    (void)state;
    fixture f;
    fixture_open(&f, &(tiny_options){0});
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        qn_artifact_options options = fixture_options(&f);
        qn_artifact_plan *plan = NULL;
        qn_error err;
        options.recipe_name = names[i];
        expect_error(qn_artifact_plan_new(f.source, &options, &plan, &err), QN_E_ARGUMENT, &err,
                     "recipe's name");
        assert_null(plan);
    }
    fixture_close(&f);
}

/* Shapes can be asked for again and again, and the last ones that were fixed count. */
static void test_shapes_can_be_changed(void **state) {
    (void)state;
    fixture f;
    qn_error err;
    qn_artifact_result result;
    fixture_open(&f, &(tiny_options){.vocab = 400});
    const qn_artifact_options options = fixture_options(&f);
    qn_artifact_plan *plan = fixture_plan(&f, &options, 0);
    qn_encoded *plain = fixture_shapes(&f);
    fixture_rescue(&f, 20);
    qn_encoded *rescued = fixture_shapes(&f);
    int64_t small = 0, large = 0, again = 0;
    expect_ok(qn_artifact_plan_need(plan, plain, &small, &err), &err);
    expect_ok(qn_artifact_plan_need(plan, rescued, &large, &err), &err);
    expect_ok(qn_artifact_plan_need(plan, plain, &again, &err), &err);
    assert_true(large > small);
    assert_int_equal(small, again);

    expect_error(qn_artifact_plan_fix(plan, rescued, large - 1, &err), QN_E_BUDGET, &err, "at least");
    expect_ok(qn_artifact_plan_fix(plan, rescued, large + 9, &err), &err);
    expect_error(qn_artifact_plan_fix(plan, rescued, small, &err), QN_E_BUDGET, &err, "at least");
    char *path = fixture_path(&f, "out.zip");
    expect_ok(qn_artifact_write(plan, path, fixture_encode, &f, NULL, &result, &err), &err);
    assert_int_equal(result.bytes, large + 9);
    assert_true(result.rescued_parameters > 0);
    free(path);
    free(plain);
    free(rescued);
    qn_artifact_plan_free(plan);
    fixture_close(&f);
}

static void expect_refused(const fixture *f, const qn_encoded *shapes, qn_status code, const char *text) {
    const qn_artifact_options options = fixture_options(f);
    qn_artifact_plan *plan = NULL;
    qn_error err;
    expect_ok(qn_artifact_plan_new(f->source, &options, &plan, &err), &err);
    expect_error(qn_artifact_plan_fix(plan, shapes, 1 << 30, &err), code, &err, text);
    qn_artifact_plan_free(plan);
}

static void test_refuses_impossible_shapes(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, &(tiny_options){0});
    const int64_t up = qn_layout_find(qn_checkpoint_layout(f.source), QN_TENSOR_UP, 0);
    qn_encoded *shapes = fixture_shapes(&f);
    const qn_encoded good = shapes[up];
    shapes[up].rows++;
    shapes[up].bands[0].n_lines++;
    expect_refused(&f, shapes, QN_E_ARGUMENT, "a shape of 81x48 for a matrix of 80x48");
    shapes[up] = good;
    shapes[up].bands[0].n_lines--;
    expect_refused(&f, shapes, QN_E_SHAPE, "lie in no band");
    shapes[up] = good;
    free(shapes);

    fixture_rescue(&f, 9); /* 11 % of the rows */
    shapes = fixture_shapes(&f);
    expect_refused(&f, shapes, QN_E_REJECTED, "parameters in q4; profile ternary allows");
    free(shapes);
    f.banded = true;
    f.profile = qn_profile_strict(QN_TRACK_TERNARY);
    shapes = fixture_shapes(&f);
    expect_refused(&f, shapes, QN_E_REJECTED,
                   "model.embed_tokens.weight: profile ternary-strict forbids column bands");
    free(shapes);
    fixture_close(&f);
}

static void test_nothing_fixed(void **state) {
    (void)state;
    fixture f;
    qn_error err;
    qn_artifact_plan *plan = NULL;
    qn_artifact_result result;
    fixture_open(&f, &(tiny_options){0});
    const qn_artifact_options options = fixture_options(&f);
    expect_ok(qn_artifact_plan_new(f.source, &options, &plan, &err), &err);
    expect_error(qn_artifact_write(plan, "out.zip", fixture_encode, &f, NULL, &result, &err), QN_E_ARGUMENT,
                 &err, "no shapes were fixed");
    qn_artifact_plan_free(plan);
    fixture_close(&f);
}

/* ------------------------------------------------------------------------------------------- refusals */

typedef struct spoiled {
    fixture *f;
    int how;
} spoiled;

enum { WRONG_SHAPE, ILLEGAL_CODE, INFINITE_SCALE, FAILS };

static qn_status spoil(void *user, int64_t entry, qn_encoded *out, qn_error *err) {
    const spoiled *s = user;
    if (s->how == FAILS) return qn_fail(err, QN_E_VALUE, "the provider gave up");
    QN_TRY(fixture_encode(s->f, entry, out, err));
    const qn_plane *plane = &out->bands[0].planes[0];
    if (s->how == WRONG_SHAPE) out->bands[0].codec.group_size = 16;
    if (s->how == ILLEGAL_CODE) ((uint8_t *)(uintptr_t)plane->codes)[3] = 243;
    if (s->how == INFINITE_SCALE) memcpy((uint8_t *)(uintptr_t)plane->scales, "\x00\x7c", 2);
    return QN_OK;
}

static void expect_nothing_left(const fixture *f) {
    assert_int_equal(count_files(f->folder, "out"), 0);
    assert_int_equal(count_files(f->folder, ".tmp-"), 0);
    assert_int_equal(count_files(f->folder, ".parts"), 0);
}

static void test_refuses_a_bad_provider(void **state) {
    (void)state;
    static const char *const messages[] = {"planned as", "243", "scale", "gave up"};
    static const qn_status codes[] = {QN_E_ARGUMENT, QN_E_VALUE, QN_E_VALUE, QN_E_VALUE};
    fixture f;
    qn_error err;
    qn_artifact_result result;
    fixture_open(&f, &(tiny_options){0});
    for (int archive = 0; archive < 2; archive++) {
        qn_artifact_options options = fixture_options(&f);
        char *path = fixture_path(&f, "out");
        options.as_archive = archive;
        qn_artifact_plan *plan = fixture_plan(&f, &options, 0);
        for (int how = 0; how <= FAILS; how++) {
            spoiled s = {&f, how};
            const qn_status status = qn_artifact_write(plan, path, spoil, &s, NULL, &result, &err);
            expect_error(status, codes[how], &err,
                         how == ILLEGAL_CODE ? "illegal ternary code" : messages[how]);
            if (how != FAILS) expect_error(status, codes[how], &err, "model.embed_tokens.weight");
            expect_nothing_left(&f);
        }
        qn_artifact_plan_free(plan);
        free(path);
    }
    fixture_close(&f);
}

static void test_unwritable_places(void **state) {
    (void)state;
    fixture f;
    qn_error err;
    qn_artifact_result result;
    fixture_open(&f, &(tiny_options){0});
    for (int archive = 0; archive < 2; archive++) {
        qn_artifact_options options = fixture_options(&f);
        options.as_archive = archive;
        qn_artifact_plan *plan = fixture_plan(&f, &options, 0);
        char *absent = fixture_path(&f, "no/such/out"), *model = fixture_path(&f, "model");
        expect_error(qn_artifact_write(plan, absent, fixture_encode, &f, NULL, &result, &err), QN_E_IO, &err,
                     "no/such/out");
        /* A folder that holds something is never replaced. */
        assert_int_not_equal(qn_artifact_write(plan, model, fixture_encode, &f, NULL, &result, &err), QN_OK);
        assert_int_equal(count_files(model, "config.json"), 1);
        qn_artifact_plan_free(plan);
        free(absent);
        free(model);
    }
    expect_nothing_left(&f);
    fixture_close(&f);
}

/* A limit on file size stands for the full disk; it binds in the payload (first) or in the archive (second).
 */
static void test_full_disk_leaves_nothing(void **state) {
    (void)state;
    fixture f;
    qn_error err;
    qn_artifact_result result;
    struct rlimit before;
    fixture_open(&f, &(tiny_options){.vocab = 3000});
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    for (int archive = 0; archive < 2; archive++) {
        qn_artifact_options options = fixture_options(&f);
        char *path = fixture_path(&f, "out");
        options.as_archive = archive;
        options.max_shard_bytes = 20000;
        qn_artifact_plan *plan = fixture_plan(&f, &options, 0);
        const rlim_t limits[] = {9000, archive ? 60000 : 9000};
        for (int i = 0; i < 2; i++) {
            const struct rlimit tight = {limits[i], before.rlim_max};
            assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
            const qn_status status = qn_artifact_write(plan, path, fixture_encode, &f, NULL, &result, &err);
            assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
            expect_error(status, QN_E_IO, &err, "File too large");
            expect_nothing_left(&f);
        }
        qn_artifact_plan_free(plan);
        free(path);
    }
    signal(SIGXFSZ, SIG_DFL);
    fixture_close(&f);
}

/* A failed run leaves the older file as it was. */
static void test_replaces_only_when_complete(void **state) {
    (void)state;
    fixture f;
    qn_error err;
    qn_artifact_result result;
    fixture_open(&f, &(tiny_options){0});
    const qn_artifact_options options = fixture_options(&f);
    const qn_artifact_result first = fixture_write(&f, "old.zip", &options, 0, 0);
    char *path = fixture_path(&f, "old.zip"), sha[QN_SHA256_HEX];
    spoiled s = {&f, FAILS};
    qn_artifact_plan *plan = fixture_plan(&f, &options, 0);
    expect_error(qn_artifact_write(plan, path, spoil, &s, NULL, &result, &err), QN_E_VALUE, &err, "gave");
    expect_ok(qn_sha256_of_file(path, sha, NULL, &err), &err);
    assert_string_equal(sha, first.sha256);
    const qn_artifact_result second = fixture_write(&f, "old.zip", &options, 20, 0);
    expect_ok(qn_sha256_of_file(path, sha, NULL, &err), &err);
    assert_string_equal(sha, second.sha256);
    qn_artifact_plan_free(plan);
    free(path);
    fixture_close(&f);
}

/* F32 vectors become fp16; one that does not fit is named. */
static void test_vector_out_of_range(void **state) {
    (void)state;
    fixture f = {.folder = make_temporary_folder(), .profile = qn_profile_builtin(QN_TRACK_TERNARY)};
    qn_error err;
    qn_artifact_result result;
    char *model = fixture_path(&f, "model"), *path = fixture_path(&f, "out.zip");
    tiny_model *tiny = tiny_model_make(&(tiny_options){.dtype = "F32"});
    tiny_model_find(tiny, "model.norm.weight")->values[5] = 65536.0F;
    assert_int_equal(mkdir(model, 0777), 0);
    tiny_model_write(tiny, model, "F32", 1);
    tiny_model_free(tiny);
    expect_ok(qn_checkpoint_open(model, &f.source, &err), &err);
    f.n_rescued = calloc((size_t)qn_checkpoint_layout(f.source)->n, sizeof *f.n_rescued);
    const qn_artifact_options options = fixture_options(&f);
    qn_artifact_plan *plan = fixture_plan(&f, &options, 0);
    expect_error(qn_artifact_write(plan, path, fixture_encode, &f, NULL, &result, &err), QN_E_VALUE, &err,
                 "model.norm.weight: 65536 at 5");
    expect_nothing_left(&f);
    qn_artifact_plan_free(plan);
    free(model);
    free(path);
    fixture_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_size_is_exact),
        cmocka_unit_test(test_streams_make_it_smaller),
        cmocka_unit_test(test_same_bytes_whatever_the_surroundings),
        cmocka_unit_test(test_same_payload_from_other_files),
        cmocka_unit_test(test_many_shards),
        cmocka_unit_test(test_manifest_fits_its_reserve),
        cmocka_unit_test(test_names_move_nothing),
        cmocka_unit_test(test_refuses_a_bad_name),
        cmocka_unit_test(test_shapes_can_be_changed),
        cmocka_unit_test(test_refuses_impossible_shapes),
        cmocka_unit_test(test_nothing_fixed),
        cmocka_unit_test(test_refuses_a_bad_provider),
        cmocka_unit_test(test_unwritable_places),
        cmocka_unit_test(test_full_disk_leaves_nothing),
        cmocka_unit_test(test_replaces_only_when_complete),
        cmocka_unit_test(test_vector_out_of_range),
    };
    return cmocka_run_group_tests_name("artifact write", tests, NULL, NULL);
}
