#include "model/binding.h"

#include <math.h>

/* The dimension whose wavelength turns N times over the original context (YaRN, Peng et al. 2023,
 * section 3.2). */
static double yarn_dimension(const qn_rope *rope, double width, double n) {
    return width * log(rope->original_positions / (2.0 * 3.14159265358979323846 * n)) /
           (2.0 * log(rope->theta));
}

/* Slow wavelengths are interpolated by the factor, fast ones kept, with a linear ramp between. The reference
 * computes this in f32, so this does too. */
static void apply_yarn(const qn_rope *rope, int64_t half, float *inv_freq) {
    const double width = (double)(2 * half);
    double low = yarn_dimension(rope, width, rope->beta_fast);
    double high = yarn_dimension(rope, width, rope->beta_slow);
    if (rope->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0.0);
    high = fmin(high, width - 1.0);
    if (low == high) high += 0.001;
    for (int64_t i = 0; i < half; i++) {
        const float ramp = fminf(fmaxf(((float)i - (float)low) / (float)(high - low), 0.0f), 1.0f);
        const float keep = 1.0f - ramp;
        const float kept = inv_freq[i];
        const float slowed = 1.0f / ((float)rope->factor * (1.0f / kept));
        inv_freq[i] = slowed * (1.0f - keep) + kept * keep;
    }
}

void qni_rope_frequencies(const qn_config *config, float *inv_freq) {
    const int64_t half = config->head_dim / 2;
    for (int64_t i = 0; i < half; i++)
        inv_freq[i] = 1.0f / powf((float)config->rope.theta, (float)(2 * i) / (float)(2 * half));
    if (config->rope.kind == QN_ROPE_YARN) apply_yarn(&config->rope, half, inv_freq);
}
