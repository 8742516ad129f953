/* The arithmetic ceiling of bf16 on a matrix unit (AMX): products of tiles that stay in registers. */
#include "bench.h"

bool bench_has_tiles(const bench *b) {
    return b->isa == QN_ISA_AMX;
}

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

/* A tile has sixteen rows of 64 bytes: as operands 32 bf16 each, as sums 16 f32 (Intel SDM, volume 1, chapter 18). */
enum { ROWS = 16, ROW_BYTES = 64, N_SUMS = 4 };

typedef struct tile_shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_shapes;
_Static_assert(sizeof(tile_shapes) == 64, "as LDTILECFG reads it");

#define EIGHT(n)                                                                                             \
    { n, n, n, n, n, n, n, n }
/* Constant, because gcc 12 believes that only the first bytes of it are read. */
static const tile_shapes k_shapes = {.palette = 1, .row_bytes = EIGHT(ROW_BYTES), .rows = EIGHT(ROWS)};

/* Four sums of two operands each way: enough to hide the latency of one product. */
__attribute__((target("amx-tile,amx-bf16"))) double bench_tiles(int64_t n_rounds, float *sink) {
    float sums[ROWS * ROW_BYTES / sizeof(float)];
    _tile_loadconfig(&k_shapes);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    for (int64_t i = 0; i < n_rounds; i++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, ROW_BYTES);
    _tile_release();
    memcpy(sink, sums, sizeof *sink);
    const double multiply_adds = (double)ROWS * (ROW_BYTES / 4) * (ROW_BYTES / 2);
    return 2.0 * N_SUMS * multiply_adds * (double)n_rounds;
}
#else
double bench_tiles(int64_t n_rounds, float *sink) {
    (void)n_rounds;
    *sink = 0;
    return 0;
}
#endif
