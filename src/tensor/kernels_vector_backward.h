/* The backward half of kernels_vector.h, which includes it after its own definitions. */

/* sum_i a[i] b[i] c[i]. */
static float dot_three(const float *a, const float *b, const float *c, int64_t n) {
    vec s = {0}, t = {0};
    int64_t i = 0;
    for (; i + 2 * QNI_LANES <= n; i += 2 * QNI_LANES) {
        s += load(a + i) * load(b + i) * load(c + i);
        t += load(a + i + QNI_LANES) * load(b + i + QNI_LANES) * load(c + i + QNI_LANES);
    }
    for (; i + QNI_LANES <= n; i += QNI_LANES) s += load(a + i) * load(b + i) * load(c + i);
    if (i < n)
        t += load_tail(a + i, n - i, 0.0f) * load_tail(b + i, n - i, 0.0f) * load_tail(c + i, n - i, 0.0f);
    return (float)sum_lanes(s + t);
}

static void rms_norm_backward(const float *x, const float *w, double eps, int64_t n, const float *dy,
                              bool add, float *dx, float *dw) {
    const double root = 1.0 / sqrt((double)dot_f32(x, x, n) / (double)n + eps);
    const float r = (float)root;
    const float shrink = (float)(root * root * root * (double)dot_three(w, dy, x, n) / (double)n);
    int64_t i = 0;
    for (; i + QNI_LANES <= n; i += QNI_LANES) {
        const vec vx = load(x + i), vdy = load(dy + i);
        const vec d = load(w + i) * vdy * r - vx * shrink;
        store(dw + i, load(dw + i) + vdy * (vx * r));
        store(dx + i, add ? load(dx + i) + d : d);
    }
    for (; i < n; i++) {
        const float d = w[i] * dy[i] * r - x[i] * shrink;
        dw[i] += dy[i] * (x[i] * r);
        dx[i] = add ? dx[i] + d : d;
    }
}

KERNEL void swiglu_backward_vec(vec *gate, vec *up, vec *dy) {
    const vec logistic = 1.0f / (1.0f + exp_vec(-*gate));
    const vec silu = *gate * logistic, d = *dy;
    *dy = silu * *up;
    *gate = d * *up * (logistic + silu * (1.0f - logistic));
    *up = d * silu;
}

static void swiglu_backward(float *gate, float *up, float *dy, int64_t n) {
    int64_t i = 0;
    for (; i + QNI_LANES <= n; i += QNI_LANES) {
        vec g = load(gate + i), u = load(up + i), d = load(dy + i);
        swiglu_backward_vec(&g, &u, &d);
        store(gate + i, g);
        store(up + i, u);
        store(dy + i, d);
    }
    if (i < n) {
        vec g = load_tail(gate + i, n - i, 0.0f), u = load_tail(up + i, n - i, 0.0f);
        vec d = load_tail(dy + i, n - i, 0.0f);
        swiglu_backward_vec(&g, &u, &d);
        store_tail(gate + i, n - i, g);
        store_tail(up + i, n - i, u);
        store_tail(dy + i, n - i, d);
    }
}

static void softmax_backward(float *e, float *dp, int64_t n, float inverse_sum, float factor) {
    const float mean = dot_f32(e, dp, n) * inverse_sum;
    int64_t i = 0;
    for (; i + QNI_LANES <= n; i += QNI_LANES) {
        const vec p = load(e + i) * inverse_sum;
        store(e + i, p);
        store(dp + i, p * (load(dp + i) - mean) * factor);
    }
    for (; i < n; i++) {
        e[i] *= inverse_sum;
        dp[i] = e[i] * (dp[i] - mean) * factor;
    }
}

/* One register's worth of divergence. log p and log q are formed by the caller's sums in two steps, the
 * largest value first, which is exact near it. */
typedef struct divergence_sums {
    float shift_s, rest_s, shift_t, rest_t, p_factor, q_factor;
} divergence_sums;

KERNEL vec divergence_vec(const divergence_sums *k, vec *s, vec t) {
    const vec log_p = (*s - k->shift_s) - k->rest_s, log_q = (t - k->shift_t) - k->rest_t;
    const vec q = exp_vec(log_q);
    *s = exp_vec(log_p) * k->p_factor - q * k->q_factor;
    return q * (log_q - log_p);
}

static double divergence(float *s, const float *t, int64_t n, double log_sum_s, double log_sum_t,
                         float p_factor, float q_factor) {
    enum { BLOCK = 64 }; /* registers summed in f32 before they join the double sum */
    divergence_sums k = {
        .shift_s = (float)log_sum_s, .shift_t = (float)log_sum_t, .p_factor = p_factor, .q_factor = q_factor};
    k.rest_s = (float)(log_sum_s - (double)k.shift_s);
    k.rest_t = (float)(log_sum_t - (double)k.shift_t);
    double total = 0.0;
    int64_t i = 0;
    while (i + QNI_LANES <= n) {
        vec sum = {0};
        for (int b = 0; b < BLOCK && i + QNI_LANES <= n; b++, i += QNI_LANES) {
            vec v = load(s + i);
            sum += divergence_vec(&k, &v, load(t + i));
            store(s + i, v);
        }
        total += sum_lanes(sum);
    }
    if (i < n) {
        float lane[QNI_LANES];
        vec v = load_tail(s + i, n - i, 0.0f);
        store(lane, divergence_vec(&k, &v, load_tail(t + i, n - i, 0.0f)));
        store_tail(s + i, n - i, v);
        for (int64_t l = 0; l < n - i; l++) total += (double)lane[l];
    }
    return total;
}
