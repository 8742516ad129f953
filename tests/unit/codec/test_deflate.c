/* Blocks as zlib streams: back and forth, what a stream saves, and every stream that is to be refused. */
#include "quern/codec/codec.h"

#include "expect_error.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { ROWS = 300, COLS = 1500 };

static uint32_t random_state = 1;

static uint32_t next_random(void) {
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

/* Trits of which PERCENT in a hundred are 0, in three bands of columns with log6 and fp16 scales. */
static qn_encoded make(unsigned percent) {
    qn_encoded e = {
        .rows = ROWS,
        .cols = COLS,
        .axis = QN_AXIS_COLUMNS,
        .n_bands = 3,
        .bands = {{.codec = {QN_CODE_TERNARY, 64, QN_SCALE_LOG6}, .n_planes = 1, .n_lines = COLS - 50},
                  {.codec = {QN_CODE_TERNARY, 0, QN_SCALE_F16}, .n_planes = 2, .n_lines = 40},
                  {.codec = {QN_CODE_Q4, 128, QN_SCALE_F16}, .n_planes = 1, .n_lines = 10}}};
    qn_encoded_arrays arrays;
    assert_ok(qn_encoded_alloc(&e, &arrays, err));
    for (int64_t c = 0; c < COLS; c++) qn_mask_set(arrays.mask, 3, c, c < 10 ? 2 : c < 50 ? 1 : 0);
    for (int b = 0; b < 3; b++) {
        const qn_codec codec = e.bands[b].codec;
        const int64_t rows = qn_band_rows(&e, b), cols = qn_band_cols(&e, b);
        const int64_t n_scales = rows * qn_codec_groups(codec, cols);
        for (int p = 0; p < e.bands[b].n_planes; p++) {
            const qn_plane_arrays *plane = &arrays.planes[b][p];
            uint16_t *scales = malloc((size_t)n_scales * sizeof *scales);
            int8_t q[COLS];
            assert_non_null(scales);
            for (int64_t i = 0; i < n_scales; i++)
                scales[i] = (uint16_t)(b ? 0x2000 + next_random() % 900 : i % 64);
            qn_scales_pack(codec.scale, scales, n_scales, plane->scales);
            if (codec.scale == QN_SCALE_LOG6) qn_log6_grid_pack(0.01f, 1.05f, plane->grid);
            free(scales);
            for (int64_t r = 0; r < rows; r++) {
                for (int64_t c = 0; c < cols; c++)
                    q[c] = next_random() % 100 < percent ? 0 : next_random() % 2 ? 1 : -1;
                qn_codec_pack_row(codec, q, cols, plane->codes + r * qn_codec_code_bytes(codec, cols));
            }
        }
    }
    return e;
}

static qn_encoded stripped(const qn_encoded *e) {
    qn_encoded shape = *e;
    shape.data = shape.mask = NULL;
    shape.owned = shape.index = NULL;
    return shape;
}

static void test_back_and_forth(void **state) {
    (void)state;
    qn_encoded e = make(60);
    uint8_t *stream = NULL, *again = NULL;
    int64_t n = 0, n_again = 0;
    assert_ok(qn_encoded_deflate(&e, &stream, &n, err));
    assert_ok(qn_encoded_deflate(&e, &again, &n_again, err));
    assert_int_equal(n, n_again);
    assert_memory_equal(stream, again, (size_t)n);
    e.stream_bytes = n;
    assert_int_equal(qn_encoded_stored_bytes(&e), n);

    qn_encoded back = stripped(&e);
    assert_ok(qn_encoded_inflate(&back, stream, "w", err));
    assert_ok(qn_encoded_bind(&back, "w", err));
    assert_memory_equal(back.data, e.data, (size_t)qn_encoded_bytes(&e));
    assert_ptr_equal(back.owned, back.data);

    /* Any reader of zlib takes the stream. */
    uLongf n_plain = (uLongf)qn_encoded_bytes(&e);
    uint8_t *plain = malloc(n_plain);
    assert_int_equal(uncompress(plain, &n_plain, stream, (uLong)n), Z_OK);
    assert_memory_equal(plain, e.data, n_plain);
    free(plain);
    free(stream);
    free(again);
    qn_encoded_release(&back);
    qn_encoded_release(&e);
}

/* Trits with 60 in a hundred of 0 carry 1.371 bits, of 8/5 that are stored; Huffman codes of five come within a hundredth. */
static void test_comes_close_to_the_entropy(void **state) {
    (void)state;
    static const double entropy = 1.3710, slack = 1.01;
    qn_encoded e = make(60);
    qn_part parts[QN_MAX_PARTS];
    uint8_t *stream = NULL;
    int64_t n_trits = 0, n_rest = 0;
    const int n = qn_encoded_parts(&e, parts);
    for (int i = 0; i < n; i++) {
        if (parts[i].kind == QN_PART_CODES && parts[i].band < 2)
            n_trits += qn_band_rows(&e, parts[i].band) * qn_band_cols(&e, parts[i].band);
        else
            n_rest += parts[i].n_bytes;
    }
    assert_ok(qn_encoded_deflate(&e, &stream, &e.stream_bytes, err));
    assert_true((double)e.stream_bytes < slack * (entropy / 8 * (double)n_trits + (double)n_rest));
    free(stream);
    qn_encoded_release(&e);
}

/* What a manifest declares of the parts is what the file holds, to the byte, and no part is larger than it was. */
static void test_parts_add_up(void **state) {
    (void)state;
    qn_encoded e = make(50);
    const int64_t n_block = qn_encoded_bytes(&e), sizes[] = {n_block / 1000, n_block / 3, n_block - 1};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        qn_part parts[QN_MAX_PARTS];
        int64_t sum = 0;
        e.stream_bytes = sizes[k];
        const int n = qn_encoded_parts(&e, parts);
        for (int i = 0; i < n; i++) {
            assert_in_range(parts[i].stored_bytes, 0, parts[i].n_bytes);
            sum += parts[i].stored_bytes;
        }
        assert_int_equal(sum, e.stream_bytes);
    }
    qn_encoded_release(&e);
    const qn_encoded huge = {
        .rows = INT64_C(1) << 28,
        .cols = INT64_C(1) << 28,
        .n_bands = 1,
        .bands = {{.codec = {QN_CODE_TERNARY, 64, QN_SCALE_F16}, .n_planes = 2, .n_lines = INT64_C(1) << 28}},
        .stream_bytes = INT64_C(1) << 54};
    qn_part parts[QN_MAX_PARTS];
    int64_t sum = 0;
    const int n = qn_encoded_parts(&huge, parts);
    for (int i = 0; i < n; i++) sum += parts[i].stored_bytes;
    assert_int_equal(sum, INT64_C(1) << 54);
}

static void test_nothing_to_gain(void **state) {
    (void)state;
    qn_encoded e = {.rows = 64,
                    .cols = 512,
                    .n_bands = 1,
                    .bands = {{.codec = {QN_CODE_SIGN, 0, QN_SCALE_F16}, .n_planes = 1, .n_lines = 64}}};
    qn_encoded_arrays arrays;
    uint8_t *stream = &(uint8_t){0};
    int64_t n_bytes = 1;
    assert_ok(qn_encoded_alloc(&e, &arrays, err));
    for (int64_t i = 0; i < qn_encoded_bytes(&e); i++) ((uint8_t *)e.owned)[i] = (uint8_t)next_random();
    assert_ok(qn_encoded_deflate(&e, &stream, &n_bytes, err));
    assert_null(stream);
    assert_int_equal(n_bytes, 0);
    qn_encoded_release(&e);
}

/* ------------------------------------------------------------------------------------------- damage */

static void refuse(const qn_encoded *shape, const uint8_t *stream, int64_t n, const char *words) {
    qn_encoded e = stripped(shape);
    e.stream_bytes = n;
    assert_error(qn_encoded_inflate(&e, stream, "w", err), QN_E_FORMAT, words);
    assert_null(e.data);
    assert_null(e.owned);
}

/* A stream of N bytes, as zlib itself makes it. */
static int64_t pack(const uint8_t *data, int64_t n, uint8_t *out, int64_t capacity) {
    uLongf made = (uLongf)capacity;
    assert_int_equal(compress2(out, &made, data, (uLong)n, 9), Z_OK);
    return (int64_t)made;
}

static void test_damage_is_named(void **state) {
    (void)state;
    qn_encoded e = make(50);
    const int64_t n_block = qn_encoded_bytes(&e), capacity = 2 * n_block + 64;
    uint8_t *stream = NULL, *made = malloc((size_t)capacity), *block = calloc(1, 64 * (size_t)n_block);
    int64_t n = 0;
    assert_true(made && block);
    assert_ok(qn_encoded_deflate(&e, &stream, &n, err));
    memcpy(made, stream, (size_t)n);

    refuse(&e, stream, n - 1, "w: |ends early");
    refuse(&e, stream, 1, "ends early");
    made[n] = 0;
    refuse(&e, made, n + 1, "ends after");
    made[0] ^= 1;
    refuse(&e, made, n, "damaged: incorrect header check");
    made[0] ^= 1;
    made[n - 1] ^= 1;
    refuse(&e, made, n, "damaged: incorrect data check");
    for (int64_t at = 2; at < n; at += n / 50) { /* anywhere: an error, or never the end that is asked for */
        memcpy(made, stream, (size_t)n);
        made[at] ^= 0x10;
        refuse(&e, made, n, "zlib stream");
    }
    memcpy(block, e.data, (size_t)n_block);
    refuse(&e, made, pack(block, n_block + 1, made, capacity), "holds more than");
    refuse(&e, made, pack(block, 64 * n_block, made, capacity), "holds more than");
    refuse(&e, made, pack(block, n_block - 1, made, capacity), "expected");
    static const uint8_t dictionary[] = {0x78, 0xbb, 0, 0, 0, 1, 3, 0, 0, 0, 0, 1};
    refuse(&e, dictionary, sizeof dictionary, "dictionary");
    free(block);
    free(made);
    free(stream);
    qn_encoded_release(&e);
}

static void test_shapes_of_streams(void **state) {
    (void)state;
    qn_encoded e = make(50);
    const int64_t n_block = qn_encoded_bytes(&e);
    const int64_t bad[] = {-1, n_block / 1032, n_block, n_block + 1, INT64_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        e.stream_bytes = bad[i];
        assert_error(qn_encoded_check_shape(&e, "w", err), QN_E_FORMAT, "w: |zlib stream");
    }
    e.stream_bytes = n_block / 1032 + 1;
    assert_ok(qn_encoded_check_shape(&e, "w", err));
    qn_encoded_release(&e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_back_and_forth),  cmocka_unit_test(test_comes_close_to_the_entropy),
        cmocka_unit_test(test_parts_add_up),    cmocka_unit_test(test_nothing_to_gain),
        cmocka_unit_test(test_damage_is_named), cmocka_unit_test(test_shapes_of_streams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
