/* Models with f32 weights for the tests of gradients. */
#ifndef QUERN_TESTS_GRADIENT_SUPPORT_H
#define QUERN_TESTS_GRADIENT_SUPPORT_H

#include "expect_error.h"
#include "quern/model/gradient.h"

/* A model whose every weight is an f32 copy that the test may change. */
typedef struct float_model {
    qn_model *model;
    const qn_layout *layout;
    qn_weight *weights; /* [layout->n] */
    float **values;     /* [layout->n] */
} float_model;

float_model float_model_open(const char *path);
void float_model_close(float_model *m);

/* Number of values of layout entry INDEX. */
int64_t entry_size(const qn_layout *layout, int64_t index);

/* |got - want| / |want| over n values; where want is all zero, |got|. */
double relative_distance(const float *got, const float *want, int64_t n);

#endif
