/* Perplexity of a checkpoint or artifact on a file of documents: score MODEL DOCS */
#include <quern/quern.h>

#include <stdio.h>

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: score MODEL DOCS\n");
        return 2;
    }
    qn_error err = {0};
    qn_model *model = NULL;
    qn_tokenizer *tokenizer = NULL;
    qn_documents documents = {0};
    qn_windows windows = {0};
    qn_protocol protocol = qn_protocol_default();
    qn_score_result result;
    bool ok = qn_model_open(argv[1], &model, &err) == QN_OK &&
              qn_tokenizer_open(argv[1], &tokenizer, &err) == QN_OK &&
              qn_documents_open(argv[2], &documents, &err) == QN_OK &&
              qn_windows_make(&documents, tokenizer, &protocol, &windows, &err) == QN_OK &&
              qn_score(model, &windows, QN_COMPUTE_F32, NULL, NULL, &result, &err) == QN_OK;
    if (ok)
        printf("perplexity %.6f over %lld tokens\n", result.perplexity, (long long)result.n_targets);
    else
        fprintf(stderr, "%s\n", err.message);
    qn_windows_release(&windows);
    qn_documents_release(&documents);
    qn_tokenizer_free(tokenizer);
    qn_model_close(model);
    return ok ? 0 : 1;
}
