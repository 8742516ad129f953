#include "tensor/tile_gemm.h"

#include "tensor/ops_cpu.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/banned.h"

void qni_one_thread_each(void) {
    omp_set_num_threads(
        1); /* of this implicit task only: the caller's own setting returns with the region's end */
}

int qni_gemm_f32_dnnl(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const float *a,
                      int64_t lda, const float *b, int64_t ldb, bool accumulate, float *c, int64_t ldc) {
    return (int)dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', m, n, k, 1.0f, a, lda, b, ldb,
                           accumulate ? 1.0f : 0.0f, c, ldc);
}

qn_status qni_fail_dnnl(qn_error *err, int error, const char *what) {
    return qn_fail(err, error == dnnl_out_of_memory ? QN_E_NOMEM : QN_E_INTERNAL,
                   "oneDNN failed in %s (error %d)", what, error);
}

/* What oneDNN does not pack it reads where it lies: at two fifths of the rate where A is transposed and its rows are long
 * (BENCHMARKS.md). It packs tiles whose 1/m + 1/n is below a threshold of the instruction set, 0.0038 with AVX2 and 0.00196 with
 * AVX-512, if n is at least 378 (gemm_driver.cpp, version 2.6). */
static const double k_packed_below = 0.0038;
enum { LARGEST_SIDE = 1024, SMALLEST_SIDE = 256, PACKED_WIDTH = 384, MARGIN = 16, ALIGNED = 16 };
/* Of tiles in bf16. Lower ones pack their operands too often (half the rate at 32 rows); wider rows would take much memory for a
 * panel of weights; what is staged is to stay in a cache. */
enum { LOWEST_ROWS = 128, WIDEST_ROW = 4096, STAGED_ROWS = 256 };

/* The lowest tile of that width that is packed, and a little more; INT64_MAX: none is. */
static int64_t packed_height(int64_t width) {
    if (width < PACKED_WIDTH) return INT64_MAX;
    return (int64_t)ceil(1.0 / (k_packed_below - 1.0 / (double)width)) + MARGIN;
}

/* oneDNN's faster products in bf16 (`brg`) write dense results alone. So tiles are whole rows where those give tiles enough, else
 * staged. */
static void cut_for_bf16(qni_tile_shape *s) {
    const int64_t even = qni_ceil_div(s->m, QNI_TILES_WANTED),
                  height = even < LOWEST_ROWS ? LOWEST_ROWS : even;
    const int64_t wanted = qni_ceil_div(QNI_TILES_WANTED, qni_ceil_div(s->m, height));
    const int64_t widest = s->ldc == s->n && s->n <= WIDEST_ROW ? WIDEST_ROW : LARGEST_SIDE;
    const int64_t least = qni_ceil_div(s->n, widest), most = qni_ceil_div(s->n, SMALLEST_SIDE);
    const int64_t across = wanted > least ? qni_min(wanted, most) : least;
    s->tile_n = qni_min(s->n, qni_ceil_div(qni_ceil_div(s->n, across), ALIGNED) * ALIGNED);
    s->tile_m = s->tile_n == s->ldc ? height : qni_min(height, STAGED_ROWS);
}

void qni_tile_shape_cut(qni_tile_shape *s) {
    const int64_t down = qni_ceil_div(s->m, LARGEST_SIDE), across = qni_ceil_div(s->n, LARGEST_SIDE);
    s->tile_m = s->tile_n = SMALLEST_SIDE; /* of an empty result as well */
    if (s->m == 0 || s->n == 0) return;
    if (s->bf16) {
        cut_for_bf16(s);
        return;
    }
    const int64_t width = qni_min(s->n, qni_ceil_div(qni_ceil_div(s->n, across), ALIGNED) * ALIGNED);
    const int64_t height = packed_height(s->n - (across - 1) * width);
    if (down * across >= QNI_TILES_WANTED) {
        s->tile_m = qni_ceil_div(s->m, down);
        s->tile_n = width;
    } else if (s->m >= height) {
        s->tile_m = qni_ceil_div(s->m, qni_min(s->m / height, qni_ceil_div(QNI_TILES_WANTED, across)));
        s->tile_n = width;
    }
}

int64_t qni_tile_count(const qni_tile_shape *s) {
    return qni_ceil_div(s->m, s->tile_m) * qni_ceil_div(s->n, s->tile_n);
}

/* Sizes of a full and of the last tile along one side. */
static void tile_sizes(int64_t total, int64_t tile, int64_t size[2]) {
    size[0] = qni_min(total, tile);
    size[1] = total % tile ? total % tile : size[0];
}

/* A [rows, cols] matrix that is read as its transpose when TRANS: the strides say so, nothing is moved. */
static dnnl_status_t describe(dnnl_memory_desc_t *out, int64_t rows, int64_t cols, bool trans, int64_t ld,
                              dnnl_data_type_t type) {
    const dnnl_dims_t dims = {rows, cols};
    const dnnl_dims_t strides = {trans ? 1 : ld, trans ? ld : 1};
    return dnnl_memory_desc_init_by_strides(out, 2, dims, type, strides);
}

static dnnl_status_t make_attributes(bool accumulate, dnnl_primitive_attr_t *out) {
    dnnl_post_ops_t post_ops = NULL;
    dnnl_status_t status = dnnl_primitive_attr_create(out);
    if (status == dnnl_success)
        status = dnnl_primitive_attr_set_scratchpad_mode(*out, dnnl_scratchpad_mode_user);
    if (status != dnnl_success || !accumulate) return status;
    status = dnnl_post_ops_create(&post_ops);
    if (status == dnnl_success) status = dnnl_post_ops_append_sum(post_ops, 1.0f);
    if (status == dnnl_success) status = dnnl_primitive_attr_set_post_ops(*out, post_ops);
    dnnl_post_ops_destroy(post_ops);
    return status;
}

/* Whether a tile of N columns leaves gaps in C. */
static bool is_staged(const qni_tile_shape *shape, int64_t n) {
    return n != shape->ldc;
}

static dnnl_status_t make_primitive(qni_tile_gemm *g, int i, int j, bool accumulate) {
    dnnl_matmul_desc_t desc;
    dnnl_primitive_attr_t attributes = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t status = make_attributes(accumulate, &attributes);
    if (status == dnnl_success) status = dnnl_matmul_desc_init(&desc, &g->a[i], &g->b[j], NULL, &g->c[i][j]);
    if (status == dnnl_success) status = dnnl_primitive_desc_create(&pd, &desc, attributes, g->engine, NULL);
    if (status == dnnl_success) {
        g->scratch[i][j] = *dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
        const size_t bytes = g->staged_bytes + dnnl_memory_desc_get_size(&g->scratch[i][j]);
        if (bytes > g->scratch_bytes) g->scratch_bytes = bytes;
        status = dnnl_primitive_create(&g->primitives[i][j], pd);
    }
    dnnl_primitive_desc_destroy(pd);
    dnnl_primitive_attr_destroy(attributes);
    return status;
}

static dnnl_status_t make_primitives(qni_tile_gemm *g) {
    const qni_tile_shape *s = &g->shape;
    dnnl_status_t status = dnnl_engine_create(&g->engine, dnnl_cpu, 0);
    int64_t m[2], n[2];
    tile_sizes(s->m, s->tile_m, m);
    tile_sizes(s->n, s->tile_n, n);
    if (is_staged(s, n[0]) || is_staged(s, n[1])) /* the first is the largest */
        g->staged_bytes = qni_aligned_bytes(m[0] * n[0], sizeof(float));
    for (int i = 0; i < 2 && status == dnnl_success; i++) {
        status = describe(&g->a[i], m[i], s->k, s->trans_a, s->lda, dnnl_bf16);
        if (status == dnnl_success) status = describe(&g->b[i], s->k, n[i], s->trans_b, s->ldb, dnnl_bf16);
    }
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < 2 && status == dnnl_success; j++) {
            if ((i && m[1] == m[0]) || (j && n[1] == n[0])) continue;
            status = describe(&g->c[i][j], m[i], n[j], false, n[j], dnnl_f32);
            if (status == dnnl_success)
                status = make_primitive(g, i, j, s->accumulate && !is_staged(s, n[j]));
        }
    }
    return status;
}

qn_status qni_tile_gemm_init(qni_tile_gemm *out, const qni_kernels *kernels, const qni_tile_shape *shape,
                             qn_error *err) {
    qni_tile_gemm g = {.kernels = kernels, .shape = *shape};
    if (shape->bf16) {
        /* A primitive remembers how many threads it was made for. */
        const int n_threads = omp_get_max_threads();
        omp_set_num_threads(1);
        const dnnl_status_t status = make_primitives(&g);
        omp_set_num_threads(n_threads);
        if (status != dnnl_success) {
            qni_tile_gemm_release(&g);
            return qn_fail(err, QN_E_INTERNAL,
                           "oneDNN cannot prepare a bf16 product of %lldx%lldx%lld (error %d)",
                           (long long)shape->m, (long long)shape->n, (long long)shape->k, (int)status);
        }
    }
    *out = g;
    return QN_OK;
}

void qni_tile_gemm_release(qni_tile_gemm *gemm) {
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++)
            if (gemm->primitives[i][j]) dnnl_primitive_destroy(gemm->primitives[i][j]);
    if (gemm->engine) dnnl_engine_destroy(gemm->engine);
    *gemm = (qni_tile_gemm){0};
}

static int run_primitive(const qni_tile_gemm *g, int i, int j, const void *a, const void *b, float *c,
                         void *scratch) {
    /* oneDNN's C interface takes writable handles for inputs too. */
    union {
        const void *in;
        void *handle;
    } a_handle = {.in = a}, b_handle = {.in = b};
    const struct {
        int argument;
        const dnnl_memory_desc_t *md;
        void *handle;
    } items[4] = {{DNNL_ARG_SRC, &g->a[i], a_handle.handle},
                  {DNNL_ARG_WEIGHTS, &g->b[j], b_handle.handle},
                  {DNNL_ARG_DST, &g->c[i][j], c},
                  {DNNL_ARG_SCRATCHPAD, &g->scratch[i][j], scratch}};
    dnnl_exec_arg_t args[4] = {0};
    dnnl_stream_t stream = NULL;
    dnnl_status_t status = dnnl_stream_create(&stream, g->engine, dnnl_stream_default_flags);
    for (int l = 0; l < 4 && status == dnnl_success; l++) {
        args[l].arg = items[l].argument;
        status = dnnl_memory_create(&args[l].memory, items[l].md, g->engine, items[l].handle);
    }
    if (status == dnnl_success) status = dnnl_primitive_execute(g->primitives[i][j], stream, 4, args);
    if (status == dnnl_success) status = dnnl_stream_wait(stream);
    for (int l = 0; l < 4; l++)
        if (args[l].memory) dnnl_memory_destroy(args[l].memory);
    if (stream) dnnl_stream_destroy(stream);
    return (int)status;
}

/* A staged tile into C. */
static void place_tile(const qni_tile_gemm *g, int64_t m, int64_t n, const float *staged, float *c) {
    for (int64_t i = 0; i < m; i++) {
        float *row = c + i * g->shape.ldc;
        if (g->shape.accumulate) {
            (void)g->kernels->add(row, staged + i * n, n);
        } else {
            memcpy(row, staged + i * n, (size_t)n * sizeof *row);
        }
    }
}

static int run_bf16(const qni_tile_gemm *g, int64_t m, int64_t n, const void *a, const void *b, float *c,
                    char *scratch) {
    const int i = m != qni_min(g->shape.m, g->shape.tile_m), j = n != qni_min(g->shape.n, g->shape.tile_n);
    float *staged = is_staged(&g->shape, n) ? (float *)(void *)scratch : NULL;
    const int error = run_primitive(g, i, j, a, b, staged ? staged : c, scratch + g->staged_bytes);
    if (staged && !error) place_tile(g, m, n, staged, c);
    return error;
}

int qni_tile_gemm_run(const qni_tile_gemm *gemm, int64_t m, int64_t n, const void *a, const void *b, float *c,
                      void *scratch) {
    const qni_tile_shape *s = &gemm->shape;
    if (!s->bf16) {
        return gemm->kernels->gemm_f32(s->trans_a, s->trans_b, m, n, s->k, a, s->lda, b, s->ldb,
                                       s->accumulate, c, s->ldc);
    }
    return run_bf16(gemm, m, n, a, b, c, scratch);
}

int qni_tile_gemm_task(const qni_tile_gemm *gemm, int64_t task, const void *a, const void *b, float *c,
                       void *scratch) {
    const qni_tile_shape *s = &gemm->shape;
    const int64_t value_bytes = s->bf16 ? (int64_t)sizeof(uint16_t) : (int64_t)sizeof(float);
    const int64_t across = qni_ceil_div(s->n, s->tile_n);
    const int64_t i = task / across * s->tile_m, j = task % across * s->tile_n;
    return qni_tile_gemm_run(gemm, qni_min(s->tile_m, s->m - i), qni_min(s->tile_n, s->n - j),
                             (const char *)a + i * (s->trans_a ? 1 : s->lda) * value_bytes,
                             (const char *)b + j * (s->trans_b ? s->ldb : 1) * value_bytes,
                             c + i * s->ldc + j, scratch);
}
