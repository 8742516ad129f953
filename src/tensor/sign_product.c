#include "tensor/sign_product.h"

#include <string.h>

#include "base/banned.h"

/* A thread's slice: the tile that goes in, the one that comes out, and tables. */
typedef struct slice {
    float *in, *out, *tables;
    int64_t in_rows, out_rows;
} slice;

/* The columns' side of a tile has one row more: what fills groups up reads zeros there, and writes what nobody reads. */
static slice slice_of(const qni_sign_product *p, void *base) {
    const qni_signs *s = p->signs;
    slice out = {.in_rows = p->backward ? s->padded_rows : s->cols + 1,
                 .out_rows = p->backward ? s->cols + 1 : s->padded_rows};
    const int64_t width = p->kernels->n_tokens;
    out.in = base;
    out.out = out.in ? out.in + out.in_rows * width : NULL;
    out.tables = out.out ? out.out + out.out_rows * width : NULL;
    return out;
}

size_t qni_sign_slice_bytes(const qni_sign_product *p) {
    const slice rows = slice_of(p, NULL);
    const int64_t table_rows = QNI_SIGN_QUADS * QNI_SIGN_SUMS;
    return qni_aligned_bytes((rows.in_rows + rows.out_rows + table_rows) * p->kernels->n_tokens,
                             sizeof(float));
}

bool qni_sign_product_pays(const qni_kernels *kernels, const qni_signs *signs, bool bf16, int64_t m) {
    return signs && kernels->signs && !bf16 && m >= kernels->signs->n_tokens;
}

int64_t qni_sign_tiles(const qni_sign_product *p) {
    return qni_ceil_div(p->m, p->kernels->n_tokens);
}

/* Tables of a block of columns serve all rows and planes. */
static void add_group_forward(const qni_sign_product *p, const qni_sign_group *g, const slice *t) {
    const qni_signs *s = p->signs;
    for (int64_t b = 0; b < g->n / QNI_SIGN_BLOCK; b++) {
        p->kernels->tabulate(t->in, s->places + g->first + b * QNI_SIGN_BLOCK, NULL, t->tables);
        for (int i = 0; i < g->n_planes; i++) {
            const qni_sign_plane *plane = &g->planes[i];
            p->kernels->add_sums(t->tables, s->along + plane->words + b * g->n_layers * s->padded_rows,
                                 g->n_layers, s->padded_rows, s->scales + plane->scales, NULL, s->rows,
                                 t->out);
        }
    }
}

/* Tables of a block of rows times the scales of a plane serve the group's columns. */
static void add_group_backward(const qni_sign_product *p, const qni_sign_group *g, const slice *t) {
    const qni_signs *s = p->signs;
    for (int i = 0; i < g->n_planes; i++) {
        const qni_sign_plane *plane = &g->planes[i];
        for (int64_t b = 0; b < s->padded_rows / QNI_SIGN_BLOCK; b++) {
            const int64_t row = b * QNI_SIGN_BLOCK;
            p->kernels->tabulate(t->in + row * p->kernels->n_tokens, NULL, s->scales + plane->scales + row,
                                 t->tables);
            p->kernels->add_sums(t->tables, s->across + plane->words + b * g->n_layers * g->n, g->n_layers,
                                 g->n, NULL, s->places + g->first, g->n, t->out);
        }
    }
}

static void add_rest(const qni_sign_product *p, const slice *t) {
    const qni_signs *s = p->signs;
    if (s->n_rest == 0) return;
    if (p->backward)
        p->kernels->add_dense(s->transposed, s->padded_rows, t->in, NULL, s->rows, s->rest, s->n_rest,
                              t->out);
    else
        p->kernels->add_dense(s->dense, s->n_rest, t->in, s->rest, s->n_rest, NULL, s->rows, t->out);
}

static void clear_rows(float *rows, int64_t first, int64_t end, int64_t width) {
    memset(rows + first * width, 0, (size_t)((end - first) * width) * sizeof *rows);
}

void qni_sign_tile(const qni_sign_product *p, int64_t tile, void *base) {
    const qni_signs *s = p->signs;
    const slice t = slice_of(p, base);
    const int64_t width = p->kernels->n_tokens, first = tile * width, n = qni_min(width, p->m - first);
    const int64_t n_in = p->backward ? s->rows : s->cols, n_out = p->backward ? s->cols : s->rows;
    p->kernels->gather(p->x + first * n_in, n_in, n, n_in, t.in);
    clear_rows(t.in, n_in, t.in_rows, width);
    clear_rows(t.out, 0, t.out_rows, width);
    for (int64_t g = 0; g < s->n_groups; g++) {
        if (p->backward)
            add_group_backward(p, &s->groups[g], &t);
        else
            add_group_forward(p, &s->groups[g], &t);
    }
    add_rest(p, &t);
    p->kernels->scatter(t.out, n_out, n, p->add, p->y + first * n_out, n_out);
}
