/* Systematic sampling in proportion to weights: one uniform number places a comb of equally spaced points on the line of
 * cumulative weights, and each point draws the item it falls on. An item's expected number of draws is m w / sum w exactly, its
 * actual one that number rounded down or up: less variance than independent draws, at the cost of one. Over u in [0, 1), means
 * of anything linear in the draws are without bias. Source: Madow, "On the theory of systematic sampling", 1949. */
#ifndef QUERN_SRC_FIT_SYSTEMATIC_H
#define QUERN_SRC_FIT_SYSTEMATIC_H

#include <stdint.h>

/* ids [m] receives the items that M points draw, ascending, some perhaps more than once. SUM is that of weights [n], which are not
 * negative, added in order in double, and more than 0. O(n + m). */
void qni_sample_systematic(const float *weights, int64_t n, double sum, int64_t m, double u, int32_t *ids);

#endif
