#include "fit/systematic.h"

#include "base/banned.h"

void qni_sample_systematic(const float *weights, int64_t n, double sum, int64_t m, double u, int32_t *ids) {
    const double spacing = sum / (double)m;
    double passed = 0.0;
    int64_t drawn = 0;
    int32_t last = 0; /* with any weight: a point that rounding puts behind all of them draws it */
    for (int64_t i = 0; i < n && drawn < m; i++) {
        if (!(weights[i] > 0.0f)) continue;
        passed += (double)weights[i];
        last = (int32_t)i;
        while (drawn < m && (u + (double)drawn) * spacing < passed) ids[drawn++] = last;
    }
    while (drawn < m) ids[drawn++] = last;
}
