/* A run small enough for tests: a toy model of random weights, byte tokens, a page of text. */
#ifndef QUERN_TESTS_TRAIN_SUPPORT_H
#define QUERN_TESTS_TRAIN_SUPPORT_H

#include "quern/fit/train.h"

#include "expect_error.h"
#include "tiny_model.h"

typedef struct toy {
    char *folder; /* everything below is in it */
    char *model, *text, *dev, *out;
    qn_train_options options; /* of those paths; change it as a test likes */
} toy;

/* Writes a toy model (F32, hidden 32, 2 layers, untied) and two texts. */
toy toy_make(void);
/* Removes the folder too. */
void toy_free(toy *t);

/* The paths and options of a toy that is in FOLDER already. Released with toy_forget, which leaves the folder. */
toy toy_at(const char *folder);
void toy_forget(toy *t);

/* Writes a model into T's folder, made where it is not. Owned path. */
char *toy_model(const toy *t, const char *name, const tiny_options *options);

/* Another folder for a run, owned by the caller. */
char *toy_path(const toy *t, const char *name);

/* Runs to the end, or fails the test. */
qn_train_result toy_train(const qn_train_options *options, int n_threads);

/* Fails the test unless both runs ended with the same model. */
void assert_same_model(const char *out_a, const char *out_b);

/* The number NAME of the last line of metrics.jsonl that has it. */
double last_metric(const char *out, const char *name);

#endif
