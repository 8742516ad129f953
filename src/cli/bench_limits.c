/* What the machine can do at most, measured where the benchmarks run. */
#include "bench.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    CACHE_BYTES = 256 << 10,
    MEMORY_BYTES = 256 << 20,
    SHA256_BYTES = 16 << 20,
    FILE_BYTES = 64 << 20,
    CACHE_COPIES = 4096,
    PRESENT = 1,
    ABSENT = 2
};
static const int64_t k_fma_rounds = 4 << 20, k_tile_rounds = 1 << 18;

typedef struct probe {
    const bench *b;
    bench_limit limit;
    int n_threads;
    size_t n_bytes; /* of each buffer */
    uint8_t *from, *to;
    float sink;
} probe;

static const char *const k_names[BENCH_LIMIT_COUNT] = {[BENCH_COPY_CACHE_ONE] = "copy in cache, 1 thread",
                                                       [BENCH_COPY_ONE] = "memory copy, 1 thread",
                                                       [BENCH_COPY_ALL] = "memory copy",
                                                       [BENCH_READ_ALL] = "memory read",
                                                       [BENCH_DURABLE_WRITE] = "durable write",
                                                       [BENCH_SHA256] = "sha256, 1 thread",
                                                       [BENCH_FMA_ALL] = "f32 multiply-add",
                                                       [BENCH_TILES_ALL] = "bf16 multiply-add",
                                                       [BENCH_PARTS_ALL] = "f32 in bf16 parts"};

enum { PART_PRODUCTS = 6 }; /* of a product in f32 on a matrix unit for bf16 (src/tensor/packed.h) */

const char *bench_limit_name(bench_limit limit) {
    return limit == BENCH_NO_LIMIT ? "" : k_names[limit];
}

bool bench_is_arithmetic(bench_limit limit) {
    return limit == BENCH_FMA_ALL || limit == BENCH_TILES_ALL || limit == BENCH_PARTS_ALL;
}

bench_limit bench_product_limit(const bench *b, qn_compute compute) {
    if (!bench_has_tiles(b)) return BENCH_FMA_ALL;
    return compute == QN_COMPUTE_F32 ? BENCH_PARTS_ALL : BENCH_TILES_ALL;
}

/* Part PART of n_threads of the buffers. */
static size_t part_begin(const probe *p, int part) {
    return p->n_bytes / 64 * (size_t)part / (size_t)p->n_threads * 64;
}

static qn_status run_copy_cache(void *user, qn_error *err) {
    probe *p = user;
    (void)err;
    for (int i = 0; i < CACHE_COPIES; i++) {
        memcpy(p->to, p->from, p->n_bytes);
        __asm__ volatile("" : : "r"(p->to) : "memory"); /* each copy counts as used */
    }
    return QN_OK;
}

static qn_status run_copy(void *user, qn_error *err) {
    probe *p = user;
    (void)err;
#pragma omp parallel for num_threads(p->n_threads) schedule(static, 1)
    for (int i = 0; i < p->n_threads; i++) {
        const size_t begin = part_begin(p, i);
        memcpy(p->to + begin, p->from + begin, part_begin(p, i + 1) - begin);
    }
    return QN_OK;
}

/* The C library looks for a byte that is not there with the widest loads the processor has. */
static qn_status run_read(void *user, qn_error *err) {
    probe *p = user;
    (void)err;
#pragma omp parallel for num_threads(p->n_threads) schedule(static, 1)
    for (int i = 0; i < p->n_threads; i++) {
        const size_t begin = part_begin(p, i);
        const void *found = memchr(p->from + begin, ABSENT, part_begin(p, i + 1) - begin);
        __asm__ volatile("" : : "r"(found) : "memory");
    }
    return QN_OK;
}

static qn_status write_durably(int fd, const uint8_t *data, size_t n_bytes, qn_error *err) {
    for (size_t done = 0; done < n_bytes;) {
        const ssize_t n = write(fd, data + done, n_bytes - done);
        if (n < 0) return qn_fail_errno(err, "bench: cannot write to the scratch folder");
        done += (size_t)n;
    }
    return fsync(fd) == 0 ? QN_OK : qn_fail_errno(err, "bench: cannot make a scratch file durable");
}

static qn_status run_durable_write(void *user, qn_error *err) {
    const probe *p = user;
    char *path = NULL;
    QN_TRY(bench_path(bench_scratch_place(), "quern-bench.XXXXXX", &path, err));
    const int fd = mkstemp(path);
    qn_status st = fd >= 0 ? QN_OK : qn_fail_errno(err, "%s: cannot create a file", path);
    if (st == QN_OK) {
        (void)unlink(path);
        st = write_durably(fd, p->from, p->n_bytes, err);
        (void)close(fd);
    }
    free(path);
    return st;
}

static qn_status run_sha256(void *user, qn_error *err) {
    const probe *p = user;
    char hex[QN_SHA256_HEX];
    return qn_sha256_of_memory(p->from, p->n_bytes, hex, err);
}

static double multiply_add(const probe *p, float *sink) {
    if (p->limit == BENCH_TILES_ALL) return bench_tiles(k_tile_rounds, sink);
    if (p->limit == BENCH_PARTS_ALL) return bench_tiles(k_tile_rounds, sink) / PART_PRODUCTS;
    return bench_fma(p->b->isa, k_fma_rounds, sink);
}

static qn_status run_arithmetic(void *user, qn_error *err) {
    probe *p = user;
    float sum = 0;
    (void)err;
#pragma omp parallel num_threads(p->n_threads) reduction(+ : sum)
    {
        float sink;
        (void)multiply_add(p, &sink);
        sum += sink;
    }
    p->sink = sum;
    return QN_OK;
}

typedef struct recipe {
    qn_status (*run)(void *user, qn_error *err);
    size_t n_bytes;
    bool all_threads;
    double work_factor; /* work of a run over its bytes */
} recipe;

static const recipe k_recipes[BENCH_LIMIT_COUNT] = {
    [BENCH_COPY_CACHE_ONE] = {run_copy_cache, CACHE_BYTES, false, CACHE_COPIES},
    [BENCH_COPY_ONE] = {run_copy, MEMORY_BYTES, false, 1},
    [BENCH_COPY_ALL] = {run_copy, MEMORY_BYTES, true, 1},
    [BENCH_READ_ALL] = {run_read, MEMORY_BYTES, true, 1},
    [BENCH_DURABLE_WRITE] = {run_durable_write, FILE_BYTES, false, 1},
    [BENCH_SHA256] = {run_sha256, SHA256_BYTES, false, 1},
    [BENCH_FMA_ALL] = {run_arithmetic, 64, true, 0},
    [BENCH_TILES_ALL] = {run_arithmetic, 64, true, 0},
    [BENCH_PARTS_ALL] = {run_arithmetic, 64, true, 0},
};

/* Arithmetic is timed by the processor's clock: what else the machine does takes nothing from that limit. */
static double seconds_of(const bench_times *times, bench_limit limit, int n_threads) {
    return bench_is_arithmetic(limit) ? times->best * times->cores / n_threads : times->best;
}

qn_status bench_limit_rate(bench *b, bench_limit limit, double *out, qn_error *err) {
    if (b->limits[limit] > 0) {
        *out = b->limits[limit];
        return QN_OK;
    }
    const recipe *r = &k_recipes[limit];
    probe p = {.b = b,
               .limit = limit,
               .n_threads = r->all_threads ? qn_context_threads(b->ctx) : 1,
               .n_bytes = r->n_bytes};
    double work = r->work_factor * (double)r->n_bytes;
    if (bench_is_arithmetic(limit)) work = p.n_threads * multiply_add(&p, &p.sink);
    p.from = aligned_alloc(64, p.n_bytes);
    p.to = aligned_alloc(64, p.n_bytes);
    qn_status st = p.from && p.to
                       ? QN_OK
                       : qn_fail(err, QN_E_NOMEM, "bench: no memory for two buffers of %zu bytes", p.n_bytes);
    if (st == QN_OK) {
        memset(p.from, PRESENT, p.n_bytes); /* pages exist before anything is timed */
        memset(p.to, PRESENT, p.n_bytes);
        bench_times times;
        st = bench_time(b, &(bench_case){.name = k_names[limit], .run = r->run, .user = &p}, &times, err);
        if (st == QN_OK) *out = b->limits[limit] = work / seconds_of(&times, limit, p.n_threads);
    }
    free(p.from);
    free(p.to);
    return st;
}
