/* What codes lose of a matrix: normal weights with independent inputs lose what the planner's constants say, heavy tails more until
 * they are rotated away, and correlated inputs less by what descent finds. */
#include "recipe/code_errors.h"

#include "expect_error.h"
#include "test_data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 256, COLS = 256, GROUP_SIZE = 64 };
/* A sample of some rows: 3 %. Scales that follow groups of 64 weights, twice with two planes: 2 to 10 % better than the constants,
 * which are for whole rows. */
static const double k_tolerance = 0.12;

typedef struct matrix {
    float *w, *h; /* owned */
    double *d;    /* owned */
    qn_weight weight;
    qni_band_codecs codecs;
    qn_hessian_fit_options fit;
} matrix;

static uint64_t random_state;

static double random_uniform(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) * 0x1p-53;
}

static double random_normal(void) {
    const double radius = sqrt(-2.0 * log(1.0 - random_uniform()));
    return radius * cos(6.283185307179586 * random_uniform());
}

/* Weights |n|^TAIL of normal n; inputs with E[x_i x_j] = CORRELATION^|i - j|. */
static void open_matrix(matrix *m, qn_code code, double tail, double correlation) {
    const qn_codec native = {code, GROUP_SIZE, QN_SCALE_F16}, q4 = {QN_CODE_Q4, 128, QN_SCALE_F16};
    *m = (matrix){.w = malloc(sizeof(float) * ROWS * COLS),
                  .h = malloc(sizeof(float) * COLS * COLS),
                  .d = malloc(sizeof(double) * COLS),
                  .codecs = {{native, native, q4}},
                  .fit = qn_hessian_fit_defaults()};
    assert_true(m->w && m->h && m->d);
    random_state = 11;
    for (int k = 0; k < ROWS * COLS; k++) {
        const double n = random_normal();
        m->w[k] = (float)(copysign(pow(fabs(n), tail), n) / 16);
    }
    for (int i = 0; i < COLS; i++)
        for (int j = 0; j < COLS; j++) m->h[i * COLS + j] = (float)pow(correlation, abs(i - j));
    m->weight =
        (qn_weight){.kind = QN_WEIGHT_DENSE,
                    .dense = {.data = m->w, .dtype = QN_DTYPE_F32, .n_dims = 2, .shape = {ROWS, COLS}}};
    assert_ok(qn_feedback_diagonal(m->h, COLS, m->fit.damping, m->fit.activation_order, NULL, m->d, err));
}

static void close_matrix(matrix *m) {
    free(m->w);
    free(m->h);
    free(m->d);
}

static void measure(const matrix *m, int32_t hadamard, int n_threads, double errors[QNI_BAND_KIND_COUNT]) {
    const qn_context ctx = {.n_threads = n_threads};
    const qni_code_errors_job job = {.weight = &m->weight,
                                     .name = "m",
                                     .hadamard = hadamard,
                                     .axis = QN_AXIS_COLUMNS,
                                     .hessian = m->h,
                                     .d = m->d,
                                     .codecs = &m->codecs,
                                     .fit = &m->fit};
    assert_ok(qni_code_errors_measure(&job, &ctx, errors, err));
}

static void test_normal_weights(void **state) {
    (void)state;
    for (int code = QN_CODE_SIGN; code <= QN_CODE_TERNARY; code++) {
        matrix m;
        double normal[QNI_BAND_KIND_COUNT], measured[QNI_BAND_KIND_COUNT];
        open_matrix(&m, (qn_code)code, 1.0, 0.0);
        qni_code_errors_normal(&m.codecs, normal);
        measure(&m, 0, 2, measured);
        for (int k = 0; k < QNI_BAND_KIND_COUNT; k++) {
            print_message("%s, kind %d: %.4f, normal %.4f\n", qn_code_name((qn_code)code), k, measured[k],
                          normal[k]);
            assert_true(fabs(measured[k] / normal[k] - 1.0) <= k_tolerance);
        }
        close_matrix(&m);
    }
}

/* Inputs are independent, so that H is the same in both bases. */
static void test_heavy_tails(void **state) {
    (void)state;
    matrix m;
    double normal[QNI_BAND_KIND_COUNT], plain[QNI_BAND_KIND_COUNT], rotated[QNI_BAND_KIND_COUNT];
    open_matrix(&m, QN_CODE_SIGN, 1.5, 0.0);
    qni_code_errors_normal(&m.codecs, normal);
    measure(&m, 0, 1, plain);
    measure(&m, 64, 1, rotated);
    assert_true(plain[QNI_BAND_SINGLE] > 1.4 * normal[QNI_BAND_SINGLE]);
    assert_true(fabs(rotated[QNI_BAND_SINGLE] / normal[QNI_BAND_SINGLE] - 1.0) <= k_tolerance);
    assert_true(rotated[QNI_BAND_Q4] < plain[QNI_BAND_Q4]);
    close_matrix(&m);
}

/* The sum of D_j w_ij^2 is what feedback pays; descent pays less, and the fit that a recipe asks for is the one that is measured. */
static void test_correlated_inputs(void **state) {
    (void)state;
    matrix m;
    double feedback[QNI_BAND_KIND_COUNT], descent[QNI_BAND_KIND_COUNT], again[QNI_BAND_KIND_COUNT];
    open_matrix(&m, QN_CODE_TERNARY, 1.0, 0.9);
    measure(&m, 0, 1, descent);
    measure(&m, 0, 3, again);
    assert_memory_equal(descent, again, sizeof descent);
    m.fit.method = QN_HESSIAN_FEEDBACK;
    measure(&m, 0, 1, feedback);
    for (int k = 0; k < QNI_BAND_KIND_COUNT; k++) assert_true(descent[k] < feedback[k]);
    close_matrix(&m);
}

/* A kind that may not be used, and a matrix of zeros, keep the constants. */
static void test_nothing_to_measure(void **state) {
    (void)state;
    matrix m;
    double normal[QNI_BAND_KIND_COUNT], measured[QNI_BAND_KIND_COUNT];
    open_matrix(&m, QN_CODE_TERNARY, 1.0, 0.5);
    qni_code_errors_normal(&m.codecs, normal);
    m.codecs.of[QNI_BAND_DOUBLE] = m.codecs.of[QNI_BAND_Q4] = (qn_codec){0};
    measure(&m, 0, 1, measured);
    assert_true(measured[QNI_BAND_SINGLE] != normal[QNI_BAND_SINGLE]);
    assert_true(measured[QNI_BAND_DOUBLE] == normal[QNI_BAND_DOUBLE]);
    assert_true(measured[QNI_BAND_Q4] == normal[QNI_BAND_Q4]);
    memset(m.w, 0, sizeof(float) * ROWS * COLS);
    measure(&m, 0, 1, measured);
    assert_memory_equal(measured, normal, sizeof normal);
    close_matrix(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_normal_weights),
        cmocka_unit_test(test_heavy_tails),
        cmocka_unit_test(test_correlated_inputs),
        cmocka_unit_test(test_nothing_to_measure),
    };
    return cmocka_run_group_tests_name("recipe code_errors", tests, NULL, NULL);
}
