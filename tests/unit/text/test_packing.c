/* Packing: every document whole and followed by its separator, each token once an epoch, one order per seed
 * and epoch. */
#include "quern/text/packing.h"

#include "expect_error.h"

#include <stdlib.h>
#include <string.h>

enum { SEPARATOR = 0, CONTEXT = 5 }; /* the byte tokenizer never gives 0 */

static const char *const k_texts[] = {"abc", "", "defghij", "k", "lmnopqrstuvwx", "yz"};
enum { N_TEXTS = sizeof k_texts / sizeof *k_texts, N_IDS = 26 + N_TEXTS };

static qn_status pack_texts(int64_t n_texts, int64_t context, qn_packing *out, qn_error *err) {
    qn_document items[N_TEXTS];
    const qn_documents documents = {.documents = items, .n = n_texts};
    qn_tokenizer *tokenizer = NULL;
    for (int64_t i = 0; i < n_texts; i++) items[i] = (qn_document){k_texts[i], strlen(k_texts[i])};
    assert_int_equal(qn_tokenizer_open("byte", &tokenizer, NULL), QN_OK);
    const qn_status status = qn_packing_make(&documents, tokenizer, SEPARATOR, context, out, err);
    qn_tokenizer_free(tokenizer);
    return status;
}

static qn_packing pack(int64_t context) {
    qn_packing packing = {0};
    assert_ok(pack_texts(N_TEXTS, context, &packing, err));
    return packing;
}

static void test_documents_are_joined_with_separators(void **state) {
    qn_packing p = pack(CONTEXT);
    int64_t at = 0;
    (void)state;
    assert_int_equal(p.n_ids, N_IDS);
    assert_int_equal(p.n_contexts, N_IDS / CONTEXT);
    assert_int_equal(p.largest_id, 'z' + 1);
    for (int d = 0; d < N_TEXTS; d++) {
        assert_int_equal(p.starts[d], at);
        for (const char *c = k_texts[d]; *c; c++) assert_int_equal(p.ids[at++], *c + 1);
        assert_int_equal(p.ids[at++], SEPARATOR);
    }
    assert_int_equal(p.starts[N_TEXTS], at);
    qn_packing_release(&p);
    qn_packing_release(&p);
}

/* The epoch's stream, put together from the contexts in stream order. */
static void stream_of(const qn_packing *p, const qn_packing_order *order, int32_t *stream) {
    for (int64_t turn = 0; turn < p->n_contexts; turn++)
        qn_packing_draw(p, order, turn, stream + order->contexts[turn] * p->context);
}

static void test_an_epoch_draws_each_document_once_and_whole(void **state) {
    qn_packing p = pack(1 << 4);
    qn_packing_order order = {0};
    int32_t stream[N_IDS];
    (void)state;
    assert_int_equal(p.n_contexts, 2); /* 32 ids: nothing is dropped */
    for (int64_t epoch = 0; epoch < 20; epoch++) {
        int64_t at = 0;
        assert_ok(qn_packing_shuffle(&p, 7, epoch, &order, err));
        stream_of(&p, &order, stream);
        for (int64_t i = 0; i < p.n_documents; i++) {
            const int64_t d = order.documents[i], n = p.starts[d + 1] - p.starts[d];
            assert_memory_equal(stream + at, p.ids + p.starts[d], (size_t)n * sizeof *stream);
            at += n;
        }
        assert_int_equal(at, N_IDS);
    }
    qn_packing_order_release(&order);
    qn_packing_order_release(&order);
    qn_packing_release(&p);
}

static void test_the_order_is_a_function_of_seed_and_epoch(void **state) {
    qn_packing p = pack(CONTEXT);
    qn_packing_order a = {0}, b = {0};
    int n_different_epochs = 0, n_different_seeds = 0;
    (void)state;
    for (int64_t epoch = 0; epoch < 10; epoch++) {
        assert_ok(qn_packing_shuffle(&p, 3, epoch, &a, err));
        assert_ok(qn_packing_shuffle(&p, 3, 9 - epoch, &b, err));
        n_different_epochs += memcmp(a.documents, b.documents, N_TEXTS * sizeof *a.documents) != 0;
        assert_ok(qn_packing_shuffle(&p, 4, epoch, &b, err));
        n_different_seeds += memcmp(a.documents, b.documents, N_TEXTS * sizeof *a.documents) != 0;
        assert_ok(qn_packing_shuffle(&p, 3, epoch, &b, err));
        assert_memory_equal(a.documents, b.documents, N_TEXTS * sizeof *a.documents);
        assert_memory_equal(a.offsets, b.offsets, (N_TEXTS + 1) * sizeof *a.offsets);
        assert_memory_equal(a.contexts, b.contexts, (size_t)p.n_contexts * sizeof *a.contexts);
    }
    assert_true(n_different_epochs >= 8 && n_different_seeds >= 8); /* 1 of 720 orders each */
    qn_packing_order_release(&a);
    qn_packing_order_release(&b);
    qn_packing_release(&p);
}

static void test_short_or_impossible_input_is_refused(void **state) {
    qn_packing p = {0};
    qn_packing_order order = {0};
    (void)state;
    assert_error(pack_texts(1, 5, &p, err), QN_E_VALUE, "4 tokens|context of 5");
    assert_error(pack_texts(0, 5, &p, err), QN_E_VALUE, "0 tokens");
    assert_error(pack_texts(2, 1, &p, err), QN_E_ARGUMENT, "contexts of 1");
    assert_null(p.ids);
    assert_ok(pack_texts(1, 4, &p, err));
    assert_int_equal(p.n_contexts, 1);
    assert_error(qn_packing_shuffle(&p, 0, -1, &order, err), QN_E_ARGUMENT, "epoch -1");
    assert_error(qn_packing_shuffle(&p, 0, INT64_C(1) << 32, &order, err), QN_E_ARGUMENT, "epoch 4294967296");
    assert_null(order.documents);
    qn_packing_release(&p);
}

static void test_spread_contexts_cover_the_text_evenly(void **state) {
    qn_packing p = pack(4); /* 8 contexts */
    int32_t all[N_IDS], some[N_IDS];
    (void)state;
    assert_int_equal(p.n_contexts, 8);
    qn_packing_spread(&p, 8, all);
    assert_memory_equal(all, p.ids, sizeof all);
    qn_packing_spread(&p, 3, some);
    static const int numbers[] = {0, 2, 5};
    for (int i = 0; i < 3; i++) assert_memory_equal(some + 4 * i, p.ids + 4 * numbers[i], 4 * sizeof *some);
    qn_packing_release(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_documents_are_joined_with_separators),
        cmocka_unit_test(test_an_epoch_draws_each_document_once_and_whole),
        cmocka_unit_test(test_the_order_is_a_function_of_seed_and_epoch),
        cmocka_unit_test(test_short_or_impossible_input_is_refused),
        cmocka_unit_test(test_spread_contexts_cover_the_text_evenly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
