/* Packed products against loops in double and against oneDNN's f32 products. Skipped where there is no matrix unit. */
#include "quern/base/rng.h"
#include "packed_plain.h"
#include "random_values.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* f32 sums against double sums, of the sum of magnitudes. */
#define SUM_TOLERANCE 1e-6

static const qni_packed_kernels *packed_kernels(void) {
    const qni_kernels *kernels = NULL;
    assert_int_equal(qni_kernels_get(&kernels, NULL), QN_OK);
    if (!kernels->packed) {
        printf("SKIPPED: needs a matrix unit (AMX)\n");
        skip();
    }
    return kernels->packed;
}

/* op(A) [m, k] and op(B) [k, n], each with a gap behind its rows. */
typedef struct product {
    int64_t m, n, k;
    bool trans_a, trans_b;
    float *a, *b;
    int64_t lda, ldb;
} product;

static product make_product(int64_t m, int64_t n, int64_t k, int flags) {
    product p = {.m = m, .n = n, .k = k, .trans_a = flags & 1, .trans_b = flags & 2};
    p.lda = (p.trans_a ? m : k) + 3;
    p.ldb = (p.trans_b ? k : n) + 5;
    p.a = random_values((p.trans_a ? k : m) * p.lda, 1);
    p.b = random_values((p.trans_b ? n : k) * p.ldb, 2);
    return p;
}

static void release_product(product *p) {
    free(p->a);
    free(p->b);
}

static double value_a(const product *p, int64_t i, int64_t l) {
    return (double)p->a[p->trans_a ? l * p->lda + i : i * p->lda + l];
}

static double value_b(const product *p, int64_t l, int64_t j) {
    return (double)p->b[p->trans_b ? j * p->ldb + l : l * p->ldb + j];
}

static uint16_t *pack(const qni_packed_kernels *kernels, const qni_packing *packing) {
    const int64_t rows = (packing->rows + QNI_PACKED_ROWS - 1) / QNI_PACKED_ROWS * QNI_PACKED_ROWS;
    uint16_t *out = malloc((size_t)(rows * qni_packed_row_bytes(packing->depth, packing->parts)));
    assert_non_null(out);
    for (int64_t t = qni_packing_tasks(packing); t-- > 0;) kernels->pack(packing, t, out); /* in any order */
    return out;
}

static void multiply(const qni_packed_kernels *kernels, const product *p, int parts, bool accumulate,
                     float *c, int64_t ldc) {
    const qni_packing right = {.values = p->b,
                               .ld = p->ldb,
                               .rows = p->n,
                               .depth = p->k,
                               .across = !p->trans_b,
                               .right = true,
                               .parts = parts};
    uint16_t *b = pack(kernels, &right);
    void *scratch = NULL;
    assert_int_equal(posix_memalign(&scratch, 64, QNI_PACKED_SCRATCH_BYTES), 0);
    const qni_packed_product packed = {
        .a =
            {.values = p->a, .ld = p->lda, .rows = p->m, .depth = p->k, .across = p->trans_a, .parts = parts},
        .b = b,
        .n = p->n,
        .accumulate = accumulate,
        .c = c,
        .ldc = ldc,
        .scratch = scratch};
    kernels->multiply(&packed);
    free(b);
    free(scratch);
}

static double kept(double value, int parts) {
    return parts == QNI_PARTS_BF16 ? (double)qn_bf16_to_f32(qn_f32_to_bf16((float)value)) : value;
}

static void check_product(const qni_packed_kernels *kernels, const product *p, int parts, bool accumulate) {
    const int64_t ldc = p->n + 2;
    float *start = random_values(p->m * ldc, 3), *c = malloc((size_t)(p->m * ldc) * sizeof *c);
    memcpy(c, start, (size_t)(p->m * ldc) * sizeof *c);
    multiply(kernels, p, parts, accumulate, c, ldc);
    for (int64_t i = 0; i < p->m; i++) {
        for (int64_t j = 0; j < ldc; j++) {
            const double before = (double)start[i * ldc + j], got = (double)c[i * ldc + j];
            double sum = accumulate || j >= p->n ? before : 0.0, magnitude = fabs(sum);
            for (int64_t l = 0; l < p->k && j < p->n; l++) {
                const double term = kept(value_a(p, i, l), parts) * kept(value_b(p, l, j), parts);
                sum += term;
                magnitude += fabs(term);
            }
            if (!(fabs(got - sum) <= (j < p->n ? SUM_TOLERANCE * magnitude : 0.0)))
                fail_msg("%lld x %lld x %lld, %d parts, at %lld, %lld: got %.9g, want %.9g", (long long)p->m,
                         (long long)p->n, (long long)p->k, parts, (long long)i, (long long)j, got, sum);
        }
    }
    free(start);
    free(c);
}

static void test_products_of_any_shape(void **state) {
    (void)state;
    static const int64_t shapes[][3] = {{1, 1, 1},    {32, 32, 32},  {33, 31, 65},  {64, 96, 15},
                                        {47, 80, 16}, {100, 17, 33}, {5, 70, 1100}, {40, 33, 2100}};
    const qni_packed_kernels *kernels = packed_kernels();
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (int flags = 0; flags < 8; flags++) {
            product p = make_product(shapes[s][0], shapes[s][1], shapes[s][2], flags);
            check_product(kernels, &p, QNI_PARTS_BF16, flags & 4);
            check_product(kernels, &p, QNI_PARTS_F32, flags & 4);
            release_product(&p);
        }
    }
}

/* More rows than a block of A has, so that B is read more than once, and more columns than stay beside it. */
static void test_more_rows_than_a_block(void **state) {
    (void)state;
    const qni_packed_kernels *kernels = packed_kernels();
    product p = make_product(qni_packed_block_rows(1024, QNI_PARTS_F32) + 40, 100, 1030, 2);
    check_product(kernels, &p, QNI_PARTS_F32, false);
    release_product(&p);
    p = make_product(qni_packed_block_rows(2100, QNI_PARTS_BF16) + 40, 40, 2100, 0);
    check_product(kernels, &p, QNI_PARTS_BF16, true);
    release_product(&p);
}

static void test_no_depth_clears_the_result(void **state) {
    (void)state;
    const qni_packed_kernels *kernels = packed_kernels();
    product p = make_product(33, 32, 0, 0);
    check_product(kernels, &p, QNI_PARTS_F32, false);
    check_product(kernels, &p, QNI_PARTS_BF16, true);
    release_product(&p);
}

/* The same bytes as in plain C: the layout is one, and so is the rounding. */
static void test_packing_is_that_of_plain_c(void **state) {
    (void)state;
    const qni_packed_kernels *kernels = packed_kernels();
    product p = make_product(75, 1, 90, 0);
    for (int flags = 0; flags < 8; flags++) {
        const qni_packing packing = {.values = p.a,
                                     .ld = p.lda,
                                     .rows = flags & 1 ? p.k : p.m,
                                     .depth = flags & 1 ? p.m : p.k,
                                     .across = flags & 1,
                                     .right = flags & 2,
                                     .parts = flags & 4 ? QNI_PARTS_F32 : QNI_PARTS_BF16};
        uint16_t *got = pack(kernels, &packing), *want = pack(&k_packed_plain, &packing);
        assert_memory_equal(got, want, (size_t)(96 * qni_packed_row_bytes(packing.depth, packing.parts)));
        free(got);
        free(want);
    }
    release_product(&p);
}

static double rms_error(const product *p, const float *c) {
    double squares = 0.0;
    for (int64_t i = 0; i < p->m; i++) {
        for (int64_t j = 0; j < p->n; j++) {
            double sum = 0.0;
            for (int64_t l = 0; l < p->k; l++) sum += value_a(p, i, l) * value_b(p, l, j);
            squares += (sum - (double)c[i * p->n + j]) * (sum - (double)c[i * p->n + j]);
        }
    }
    return sqrt(squares / (double)(p->m * p->n));
}

/* Three parts lose no more than f32 multiply-adds do. */
static void test_three_parts_are_as_good_as_f32(void **state) {
    (void)state;
    static const int64_t depths[] = {64, 512, 3000};
    const qni_packed_kernels *kernels = packed_kernels();
    for (size_t d = 0; d < sizeof depths / sizeof *depths; d++) {
        product p = make_product(96, 64, depths[d], 0);
        float *packed = malloc((size_t)(p.m * p.n) * sizeof *packed);
        float *plain = malloc((size_t)(p.m * p.n) * sizeof *plain);
        multiply(kernels, &p, QNI_PARTS_F32, false, packed, p.n);
        assert_int_equal(
            qni_gemm_f32_dnnl(false, false, p.m, p.n, p.k, p.a, p.lda, p.b, p.ldb, false, plain, p.n), 0);
        const double error = rms_error(&p, packed), f32_error = rms_error(&p, plain);
        if (!(error <= f32_error))
            fail_msg("depth %lld: error %g, of f32 %g", (long long)depths[d], error, f32_error);
        free(packed);
        free(plain);
        release_product(&p);
    }
}

/* Every bit of a value is in one of its parts, whatever its exponent. */
static void test_three_parts_keep_every_bit(void **state) {
    (void)state;
    enum { SIDE = 64 };
    const qni_packed_kernels *kernels = packed_kernels();
    product p = make_product(SIDE, SIDE, SIDE, 0);
    float *c = malloc(sizeof *c * SIDE * SIDE);
    for (int64_t i = 0; i < SIDE; i++) {
        for (int64_t j = 0; j < SIDE; j++) {
            p.a[i * p.lda + j] = ldexpf(p.a[i * p.lda + j], (int)(i * 3 - 96));
            p.b[i * p.ldb + j] = i == j;
        }
    }
    multiply(kernels, &p, QNI_PARTS_F32, false, c, SIDE);
    for (int64_t i = 0; i < SIDE; i++) assert_memory_equal(c + i * SIDE, p.a + i * p.lda, SIDE * sizeof *c);
    free(c);
    release_product(&p);
}

static float bits_as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* A value that is not finite makes its row so, and no other. */
static void test_values_that_are_not_finite_show(void **state) {
    (void)state;
    static const uint32_t bits[] = {0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001, 0x7fffffff, 0xffffffff};
    const qni_packed_kernels *kernels = packed_kernels();
    for (size_t v = 0; v < sizeof bits / sizeof *bits; v++) {
        for (int parts = QNI_PARTS_BF16; parts <= QNI_PARTS_F32; parts += QNI_PARTS_F32 - QNI_PARTS_BF16) {
            product p = make_product(40, 40, 40, 0);
            float *c = malloc((size_t)(p.m * p.n) * sizeof *c);
            p.a[7 * p.lda + 35] = bits_as_float(bits[v]);
            multiply(kernels, &p, parts, false, c, p.n);
            for (int64_t i = 0; i < p.m * p.n; i++) assert_true(isfinite(c[i]) == (i / p.n != 7));
            free(c);
            release_product(&p);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products_of_any_shape),
        cmocka_unit_test(test_more_rows_than_a_block),
        cmocka_unit_test(test_no_depth_clears_the_result),
        cmocka_unit_test(test_packing_is_that_of_plain_c),
        cmocka_unit_test(test_three_parts_are_as_good_as_f32),
        cmocka_unit_test(test_three_parts_keep_every_bit),
        cmocka_unit_test(test_values_that_are_not_finite_show),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
