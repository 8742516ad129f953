/* A forward pass written for reading, in double: the truth for models that tests make themselves. */
#ifndef QUERN_TESTS_NAIVE_FORWARD_H
#define QUERN_TESTS_NAIVE_FORWARD_H

#include "tiny_model.h"

/* logits [n, V] of one sequence, owned by the caller. The config's keys are read as the reference reads them.
 */
double *naive_logits(const tiny_model *model, const int32_t *ids, int64_t n);

#endif
