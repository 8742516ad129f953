#include "base/alloc.h"

#include "test_data.h"

#include <stdlib.h>
#include <string.h>

static void test_arrays_are_zeroed_and_aligned(void **state) {
    (void)state;
    int32_t *zeroed = qni_alloc_array(1000, sizeof *zeroed);
    float *aligned = qni_alloc_aligned(17, sizeof *aligned);
    assert_non_null(zeroed);
    assert_non_null(aligned);
    for (int i = 0; i < 1000; i++) assert_int_equal(zeroed[i], 0);
    assert_int_equal((uintptr_t)aligned % 64, 0);
    free(zeroed);
    free(aligned);
}

static void test_large_arrays_begin_a_large_page(void **state) {
    (void)state;
    uint8_t *large = qni_alloc_aligned((INT64_C(5) << 20) + 1, 1);
    assert_non_null(large);
    assert_int_equal((uintptr_t)large % (2 << 20), 0);
    large[0] = large[5 << 20] = 1;
    free(large);
}

static void test_empty_arrays_are_valid(void **state) {
    (void)state;
    void *a = qni_alloc_array(0, 8), *b = qni_alloc_aligned(0, 8);
    assert_non_null(a);
    assert_non_null(b);
    free(a);
    free(b);
}

static void test_impossible_sizes_are_refused(void **state) {
    (void)state;
    assert_null(qni_alloc_array(-1, 4));
    assert_null(qni_alloc_array(INT64_MAX, 4));
    assert_null(qni_alloc_array(INT64_MAX / 4, 8));
    assert_null(qni_alloc_aligned(INT64_MAX, 1));
    assert_null(qni_alloc_aligned(INT64_MIN, 1));
}

static void test_grow_keeps_the_content_and_survives_failure(void **state) {
    (void)state;
    qn_error err = {0};
    void *array = NULL;
    assert_int_equal(qni_grow_array(&array, 4, 1, &err), QN_OK);
    memcpy(array, "abc", 4);
    assert_int_equal(qni_grow_array(&array, 4000, 1, &err), QN_OK);
    assert_string_equal(array, "abc");
    void *before = array;
    assert_int_equal(qni_grow_array(&array, INT64_MAX, 16, &err), QN_E_NOMEM);
    assert_ptr_equal(array, before);
    free(array);
}

static void test_checked_multiplication(void **state) {
    (void)state;
    int64_t product = 7;
    assert_true(qni_multiply_i64(3, 5, &product));
    assert_int_equal(product, 15);
    assert_false(qni_multiply_i64(-3, 5, &product));
    assert_false(qni_multiply_i64(3, -5, &product));
    assert_false(qni_multiply_i64(INT64_C(1) << 32, INT64_C(1) << 31, &product));
    assert_int_equal(product, 15);
    assert_true(qni_multiply_i64(INT64_C(1) << 32, INT64_C(1) << 30, &product));
    assert_int_equal(product, INT64_C(1) << 62);
}

static void test_alloc_macro_names_what_failed(void **state) {
    (void)state;
    qn_error err = {0};
    double *buffer;
    assert_int_equal(QNI_ALLOC(buffer, -1, "the moments", &err), QN_E_NOMEM);
    assert_string_equal(err.message, "out of memory: the moments");
    assert_int_equal(QNI_ALLOC(buffer, 3, "the moments", &err), QN_OK);
    free(buffer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arrays_are_zeroed_and_aligned),
        cmocka_unit_test(test_large_arrays_begin_a_large_page),
        cmocka_unit_test(test_empty_arrays_are_valid),
        cmocka_unit_test(test_impossible_sizes_are_refused),
        cmocka_unit_test(test_grow_keeps_the_content_and_survives_failure),
        cmocka_unit_test(test_checked_multiplication),
        cmocka_unit_test(test_alloc_macro_names_what_failed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
