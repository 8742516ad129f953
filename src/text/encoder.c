#include "text/tokenizer_private.h"

#include "text/nfc.h"
#include "text/utf8.h"

#include "base/banned.h"

enum { CACHE_WORTH_BYTES = 4096 }; /* from here on remembering pieces pays for clearing the cache */

void qni_encoder_release(qni_encoder *encoder) {
    qni_bpe_scratch_release(&encoder->bpe);
    qni_split_release(&encoder->split);
    qni_buffer_release(&encoder->repaired);
    qni_buffer_release(&encoder->normalized);
    *encoder = (qni_encoder){0};
}

/* Text between two added tokens: normalise, split, merge. */
static qn_status encode_stretch(qni_encoder *encoder, const uint8_t *text, size_t n_bytes, qn_ids *out,
                                qn_error *err) {
    const qn_tokenizer *t = encoder->tokenizer;
    if (t->normalizes) QN_TRY(qni_nfc(t->classes, text, n_bytes, &encoder->normalized, &text, &n_bytes, err));
    QN_TRY(qni_split_start(&encoder->split, &t->splitter, text, n_bytes, err));
    for (size_t first = 0, end = 0; first < n_bytes; first = end) {
        QN_TRY(qni_split_next(&encoder->split, first, &end, err));
        QN_TRY(qni_bpe_encode(&t->bpe, &encoder->bpe, text + first, end - first, out, err));
    }
    return QN_OK;
}

static qn_status append_id(qn_ids *out, int32_t id, qn_error *err) {
    QN_TRY(qni_ids_reserve(out, 1, err));
    out->ids[out->n++] = id;
    return QN_OK;
}

static qn_status encode_bpe(qni_encoder *encoder, const uint8_t *text, size_t n_bytes, qn_ids *out,
                            qn_error *err) {
    for (size_t done = 0; done < n_bytes;) {
        size_t first = done, end = n_bytes;
        int32_t id = qni_added_tokens_search(&encoder->tokenizer->added, text, n_bytes, &first, &end);
        size_t n_before = (id < 0 ? n_bytes : first) - done;
        if (n_before > 0) QN_TRY(encode_stretch(encoder, text + done, n_before, out, err));
        if (id >= 0) QN_TRY(append_id(out, id, err));
        done = end;
    }
    return QN_OK;
}

static qn_status encode_bytes(const uint8_t *text, size_t n_bytes, qn_ids *out, qn_error *err) {
    QN_TRY(qni_ids_reserve(out, n_bytes, err));
    for (size_t i = 0; i < n_bytes; i++) out->ids[out->n++] = text[i] + 1;
    return QN_OK;
}

static qn_status encode(qni_encoder *encoder, const uint8_t *text, size_t n_bytes, qn_ids *out,
                        qn_error *err) {
    if (qni_utf8_valid_prefix(text, n_bytes) < n_bytes) {
        encoder->repaired.n = 0;
        QN_TRY(qni_utf8_append_repaired(&encoder->repaired, text, n_bytes, err));
        text = encoder->repaired.data;
        n_bytes = encoder->repaired.n;
    }
    if (encoder->tokenizer->is_byte) return encode_bytes(text, n_bytes, out, err);
    encoder->n_bytes_seen += n_bytes;
    if (encoder->n_bytes_seen >= CACHE_WORTH_BYTES) QN_TRY(qni_bpe_scratch_enable_cache(&encoder->bpe, err));
    return encode_bpe(encoder, text, n_bytes, out, err);
}

qn_status qni_encoder_encode(qni_encoder *encoder, const char *text, size_t n_bytes, qn_ids *out,
                             qn_error *err) {
    int64_t n_before = out->n;
    qn_status status = encode(encoder, (const uint8_t *)text, n_bytes, out, err);
    if (status != QN_OK) out->n = n_before;
    return status;
}
