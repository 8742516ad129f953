/* The block of an encoded matrix as a zlib stream. */
#define ZLIB_CONST /* next_in points to const */
#include "quern/codec/codec.h"

#include "base/alloc.h"

#include <limits.h>
#include <stdlib.h>
#include <zlib.h>

#include "base/banned.h"

/* Matches are rare in codes: Huffman codes alone come within 0.2 % of what any search for them gains, and are much faster.
 * The largest memory level: one table for 32768 bytes. */
enum { LEVEL = 9, WINDOW_BITS = 15, MEMORY_LEVEL = 9 };

/* zlib counts in 32 bits: input and output go through it in pieces. */
enum { MAX_PIECE = 1 << 30 };

static uInt piece_of(int64_t n) {
    return (uInt)(n < MAX_PIECE ? n : MAX_PIECE);
}

/* Output is one buffer of known size. */
typedef struct pump {
    z_stream z;
    int64_t in_left, out_left; /* beyond what Z has been handed */
} pump;

static void refill(pump *p) {
    if (p->z.avail_in == 0) {
        p->z.avail_in = piece_of(p->in_left);
        p->in_left -= p->z.avail_in;
    }
    if (p->z.avail_out == 0) {
        p->z.avail_out = piece_of(p->out_left);
        p->out_left -= p->z.avail_out;
    }
}

/* ------------------------------------------------------------------------------------------- deflate */

/* One part of the block, closed by FLUSH. False: the output is full. */
static bool deflate_part(pump *p, const uint8_t *data, int64_t n_bytes, int flush) {
    int status = Z_OK;
    p->z.next_in = data;
    p->in_left = n_bytes;
    do {
        refill(p);
        status = deflate(&p->z, p->in_left > 0 ? Z_NO_FLUSH : flush);
        if (p->z.avail_out == 0 && p->out_left == 0) return status == Z_STREAM_END;
    } while (p->z.avail_out == 0 || p->z.avail_in > 0 || p->in_left > 0);
    return true;
}

/* Bytes of the stream in OUT [capacity]; 0 where it does not fit. */
static int64_t deflate_block(pump *p, const qn_encoded *e, uint8_t *out, int64_t capacity) {
    qn_part parts[QN_MAX_PARTS];
    const int n = qn_encoded_parts(e, parts);
    p->z.next_out = out;
    p->out_left = capacity;
    for (int i = 0; i < n; i++)
        if (!deflate_part(p, e->data + parts[i].offset, parts[i].n_bytes, i < n - 1 ? Z_BLOCK : Z_FINISH))
            return 0;
    return p->z.next_out - out;
}

qn_status qn_encoded_deflate(const qn_encoded *e, uint8_t **stream, int64_t *n_bytes, qn_error *err) {
    const int64_t capacity = qn_encoded_bytes(e) - 1;
    pump p = {0};
    uint8_t *out = qni_alloc_array(capacity, 1);
    if (!out || deflateInit2(&p.z, LEVEL, Z_DEFLATED, WINDOW_BITS, MEMORY_LEVEL, Z_HUFFMAN_ONLY) != Z_OK) {
        free(out);
        return qni_fail_nomem(err, "a zlib stream");
    }
    *n_bytes = deflate_block(&p, e, out, capacity);
    (void)deflateEnd(&p.z);
    *stream = *n_bytes > 0 ? out : NULL;
    if (*n_bytes == 0) free(out);
    return QN_OK;
}

/* ------------------------------------------------------------------------------------------- inflate */

/* Until the end of the stream, of its bytes, or of the output. */
static int inflate_all(pump *p) {
    int status = Z_OK;
    while (status == Z_OK) {
        refill(p);
        status = inflate(&p->z, Z_NO_FLUSH);
    }
    return status;
}

static qn_status judge(const pump *p, int status, int64_t stream_bytes, int64_t n_bytes, const char *name,
                       qn_error *err) {
    const int64_t in_left = p->in_left + p->z.avail_in, out_left = p->out_left + p->z.avail_out;
    if (status == Z_MEM_ERROR) return qni_fail_nomem(err, "inflating a zlib stream");
    if (status == Z_STREAM_END && in_left == 0 && out_left == 0) return QN_OK;
    if (status == Z_STREAM_END)
        return qn_fail(err, QN_E_FORMAT,
                       "%s: its zlib stream ends after %lld of %lld bytes and holds %lld; expected %lld",
                       name, (long long)(stream_bytes - in_left), (long long)stream_bytes,
                       (long long)(n_bytes - out_left), (long long)n_bytes);
    if (status != Z_BUF_ERROR)
        return qn_fail(err, QN_E_FORMAT, "%s: its zlib stream is damaged: %s", name,
                       p->z.msg ? p->z.msg : "it asks for a dictionary");
    if (in_left == 0)
        return qn_fail(err, QN_E_FORMAT, "%s: its zlib stream of %lld bytes ends early", name,
                       (long long)stream_bytes);
    return qn_fail(err, QN_E_FORMAT, "%s: its zlib stream holds more than the %lld bytes of the matrix", name,
                   (long long)n_bytes);
}

qn_status qn_encoded_inflate(qn_encoded *e, const uint8_t *stream, const char *name, qn_error *err) {
    const int64_t n_bytes = qn_encoded_bytes(e);
    pump p = {.in_left = e->stream_bytes, .out_left = n_bytes};
    uint8_t *block = qni_alloc_array(n_bytes, 1);
    if (!block || inflateInit(&p.z) != Z_OK) {
        free(block);
        return qni_fail_nomem(err, "inflating a zlib stream");
    }
    p.z.next_in = stream;
    p.z.next_out = block;
    const qn_status status = judge(&p, inflate_all(&p), e->stream_bytes, n_bytes, name, err);
    (void)inflateEnd(&p.z);
    if (status != QN_OK) {
        free(block);
        return status;
    }
    qn_encoded_attach(e, block);
    e->owned = block;
    return QN_OK;
}
