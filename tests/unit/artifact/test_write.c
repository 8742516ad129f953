/* The writer: exact sizes, accounting, the same bytes every time, and what it refuses. */
#include "artifact_support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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

/* tiny_model's values are exact in 16 bits, so vectors survive the F32 source too. */
static void test_size_is_exact(void **state) {
    (void)state;
    static const int64_t every[] = {0, 40, 11}, slack[] = {0, 1, 57, 900};
    static const char *const dtypes[] = {"BF16", "F32"};
    for (int d = 0; d < 2; d++) {
        fixture f;
        fixture_open(&f, &(tiny_options){.tied = d == 0, .dtype = dtypes[d], .vocab = 700, .hidden = 80});
        for (int archive = 0; archive < 2; archive++) {
            for (int e = 0; e < 3; e++) {
                for (int s = 0; s < 4; s++) {
                    if (every[e] == 11 && slack[s] > 57) continue; /* above what the fraction can cost */
                    char name[64];
                    snprintf(name, sizeof name, "out-%d-%d-%d", archive, e, s);
                    qn_artifact_options options = fixture_options(&f);
                    options.as_archive = archive;
                    const qn_artifact_result r = fixture_write(&f, name, &options, every[e], slack[s]);
                    char *path = fixture_path(&f, name);
                    assert_int_equal(tree_bytes(path), r.bytes);
                    assert_int_equal(r.parameters, qn_checkpoint_layout(f.source)->n_parameters);
                    check_roles(&r);
                    check_contents(&f, path);
                    free(path);
                }
            }
        }
        assert_int_equal(count_files(f.folder, ".tmp-"), 0);
        fixture_close(&f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_size_is_exact),
    };
    return cmocka_run_group_tests_name("artifact write", tests, NULL, NULL);
}
