/* Matrices in the basis they are stored in: W S, with S the signed Hadamard transform of blocks of columns (quern/codec/codec.h). */
#ifndef QUERN_SRC_RECIPE_ROTATION_H
#define QUERN_SRC_RECIPE_ROTATION_H

#include <stdint.h>

/* The block size for a matrix of COLS columns where a recipe wants blocks of WANTED: 0, no rotation, where they do not divide it. */
int32_t qni_rotation_of(int64_t wanted, int64_t cols);

/* h [cols, cols] = S^T H S, the second moments of the rotated inputs. BLOCK 0: unchanged. */
void qni_rotate_metric(float *h, int64_t cols, int32_t block);

#endif
