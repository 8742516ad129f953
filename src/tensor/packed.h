/* Products of operands that were packed for a matrix unit, bf16 by bf16 with f32 sums.
 *
 * An operand is cut into panels of 32 rows of A or columns of B, a panel into steps of 32 along the depth K, a step into two
 * halves of 16. One such half is a tile register: of A a row of values, of B a row of pairs, as TDPBF16PS wants them. Panels and
 * steps at the edge are filled with zeros. Pairs are of places 16 apart; a product does not mind, as both operands
 * have the same order. B is packed as a whole before a product, which reads it once for every block of A's rows; such a block is
 * packed when its turn comes, and stays in a level-2 cache meanwhile.
 *
 * With one part a value is rounded to bf16. With three parts it is kept whole: x = x1 + x2 + x3, each the nearest bf16 of what the
 * ones before left, which is exact for f32 (24 = 8 + 8 + 8 bits). The product is then the sum of the six part products
 * that reach f32's last place, x1 y1 + x1 y2 + x2 y1 + x1 y3 + x2 y2 + x3 y1; what is left out is at most 2^-24 of |x y|. Its error is
 * no larger than that of oneDNN's f32 products (test_packed.c), its rate higher than that of f32 multiply-adds. Infinite values become
 * NaN, subnormal parts count as zero. (Henry, Tang and Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For
 * Higher-Precision Computations", ARITH 2019.)
 *
 * A sum runs over blocks of the depth, in order, so that a result depends on its shape alone. Blocks begin at zero and are short in f32,
 * where that keeps the error of long sums down. */
#ifndef QUERN_SRC_TENSOR_PACKED_H
#define QUERN_SRC_TENSOR_PACKED_H

#include <stdbool.h>
#include <stdint.h>

enum { QNI_PACKED_ROWS = 32, QNI_PACKED_STEP = 32 };
enum {
    QNI_PACKED_SCRATCH_BYTES = 1 << 20
}; /* a block of A: half a level-2 cache of processors with a matrix unit */
enum { QNI_PARTS_BF16 = 1, QNI_PARTS_F32 = 3 };

/* What is packed, as stored: op(A) [rows, depth] for the left side, op(B) [depth, rows] for the right. */
typedef struct qni_packing {
    const float *values;
    int64_t ld; /* between stored rows */
    int64_t rows, depth;
    bool across; /* the depth runs from stored row to stored row, not along one */
    bool right;  /* side */
    int parts;   /* QNI_PARTS_... */
} qni_packing;

/* C [m, n] = A B (+ C). */
typedef struct qni_packed_product {
    qni_packing a;     /* as stored, [m, depth] */
    const uint16_t *b; /* packed panels of n columns */
    int64_t n;
    bool accumulate;
    float *c;
    int64_t ldc;
    void *scratch; /* QNI_PACKED_SCRATCH_BYTES, aligned to 64 bytes; the thread's own */
} qni_packed_product;

typedef struct qni_packed_kernels {
    /* Task TASK of qni_packing_tasks, which may run in any order and on any thread. */
    void (*pack)(const qni_packing *packing, int64_t task, uint16_t *out);
    void (*multiply)(const qni_packed_product *product);
} qni_packed_kernels;

/* Packed bytes a row; a panel takes that of QNI_PACKED_ROWS. */
int64_t qni_packed_row_bytes(int64_t depth, int parts);

int64_t qni_packing_tasks(const qni_packing *packing);

/* The depth of a block of sums; a multiple of QNI_PACKED_STEP. */
int64_t qni_packed_depth(int parts);

/* Rows of A that are packed at once; a multiple of QNI_PACKED_ROWS. */
int64_t qni_packed_block_rows(int64_t depth, int parts);

#endif
