/* The shared reference checkpoints open, with the parameter counts that the reference stack gives. */
#include "quern/checkpoint/checkpoint.h"

#include "expect_error.h"

#include <stdlib.h>

static void test_parameter_counts(void **state) {
    (void)state;
    static const struct {
        const char *name;
        qn_architecture architecture;
        int64_t n_parameters;
        qn_rope_kind rope;
    } models[] = {
        {"golden/models/qwen3-tied", QN_ARCH_QWEN3, 301696, QN_ROPE_DEFAULT},
        {"golden/models/qwen3-untied-sharded", QN_ARCH_QWEN3, 608800, QN_ROPE_DEFAULT},
        {"golden/models/qwen3-attention-bias", QN_ARCH_QWEN3, 149584, QN_ROPE_DEFAULT},
        {"golden/models/qwen2-bias", QN_ARCH_QWEN2, 274240, QN_ROPE_DEFAULT},
        {"golden/models/qwen3-f32", QN_ARCH_QWEN3, 301696, QN_ROPE_DEFAULT},
        {"golden/models/qwen3-f16", QN_ARCH_QWEN3, 301696, QN_ROPE_DEFAULT},
        {"golden/models/qwen3-yarn", QN_ARCH_QWEN3, 301696, QN_ROPE_YARN},
        {"golden/models/qwen3-byte", QN_ARCH_QWEN3, 95648, QN_ROPE_DEFAULT},
    };
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        char *path = require_test_data(models[i].name);
        qn_checkpoint *c = NULL;
        assert_ok(qn_checkpoint_open(path, &c, err));
        assert_int_equal(qn_checkpoint_config(c)->architecture, models[i].architecture);
        assert_int_equal(qn_checkpoint_config(c)->rope.kind, models[i].rope);
        assert_int_equal(qn_checkpoint_layout(c)->n_parameters, models[i].n_parameters);
        assert_ok(qn_checkpoint_check_finite(c, NULL, err));
        qn_checkpoint_close(c);
        free(path);
    }
}

static void test_other_architectures_are_refused(void **state) {
    (void)state;
    static const char *const names[] = {"golden/models/qwen3_5-text", "golden/models/qwen3_5-wrapped"};
    for (size_t i = 0; i < 2; i++) {
        char *path = require_test_data(names[i]);
        qn_checkpoint *c = NULL;
        assert_error(qn_checkpoint_open(path, &c, err), QN_E_UNSUPPORTED, "qwen3_5|'qwen2' and 'qwen3'");
        free(path);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parameter_counts),
        cmocka_unit_test(test_other_architectures_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
