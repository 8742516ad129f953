#include "quern/codec/codec.h"

#include "base/banned.h"

int64_t qn_weight_rows(const qn_weight *w) {
    switch (w->kind) {
    case QN_WEIGHT_DENSE:
        return w->dense.n_dims == 2 ? w->dense.shape[0] : 1;
    case QN_WEIGHT_ENCODED:
        return w->encoded.rows;
    case QN_WEIGHT_NONE:
        break;
    }
    return 0;
}

int64_t qn_weight_cols(const qn_weight *w) {
    switch (w->kind) {
    case QN_WEIGHT_DENSE:
        return w->dense.n_dims > 0 ? w->dense.shape[w->dense.n_dims - 1] : 1;
    case QN_WEIGHT_ENCODED:
        return w->encoded.cols;
    case QN_WEIGHT_NONE:
        break;
    }
    return 0;
}

void qn_weight_decode_rows(const qn_weight *w, int64_t row0, int64_t n_rows, float *out) {
    if (w->kind == QN_WEIGHT_ENCODED) {
        qn_encoded_decode_rows(&w->encoded, row0, n_rows, out);
        return;
    }
    int64_t cols = qn_weight_cols(w);
    qn_status status = qn_view_to_f32(&w->dense, row0 * cols, n_rows * cols, out, NULL);
    (void)status; /* the dtype was checked when the weight was made */
}
