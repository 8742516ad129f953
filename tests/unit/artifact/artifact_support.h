/* A source checkpoint, a simple encoder and a finished artifact for the tests of the artifact floor. */
#ifndef QUERN_TESTS_ARTIFACT_SUPPORT_H
#define QUERN_TESTS_ARTIFACT_SUPPORT_H

#include "test_data.h"
#include "tiny_model.h"

#include "quern/artifact/artifact.h"

#include <stdbool.h>

/* A tiny model in a private folder, opened, with a choice of rescued rows. */
typedef struct fixture {
    char *folder; /* private; holds "model" and whatever the test writes */
    qn_checkpoint *source;
    qn_profile profile;
    int64_t *n_rescued; /* [layout.n] */
    bool banded;        /* instead of rescued rows: three bands of columns, log6 scales, some of it rotated */
    bool deflated;      /* stored as zlib streams where these are smaller */
} fixture;

void fixture_open(fixture *f, const tiny_options *options);
void fixture_close(fixture *f);

/* folder/NAME, owned. */
char *fixture_path(const fixture *f, const char *name);

/* Rescues every k-th row of every matrix (0: none). */
void fixture_rescue(fixture *f, int64_t every);

/* The shapes of the present choice, [layout.n], owned by the caller. */
qn_encoded *fixture_shapes(const fixture *f);

/* Plans with OPTIONS and fixes the present choice with SLACK bytes beyond what it needs; the plan is the caller's. */
qn_artifact_plan *fixture_plan(const fixture *f, const qn_artifact_options *options, int64_t slack);

/* Options of a zip without tokenizer; the caller may edit it. */
qn_artifact_options fixture_options(const fixture *f);

/* A qn_artifact_provider: user is the fixture. Rows: scale mean|w|, q by sign, or rounded and clamped; bands of columns:
 * arbitrary codes. */
qn_status fixture_encode(void *user, int64_t entry, qn_encoded *out, qn_error *err);

/* Plans and writes folder/NAME with every k-th row rescued and SLACK bytes beside; fails the test on an
 * error. */
qn_artifact_result fixture_write(fixture *f, const char *name, const qn_artifact_options *options,
                                 int64_t every, int64_t slack);

/* Fails the test with the error's message unless STATUS is QN_OK. */
void expect_ok(qn_status status, const qn_error *err);

/* Fails the test unless STATUS is CODE and the message has TEXT in it. */
void expect_error(qn_status status, qn_status code, const qn_error *err, const char *text);

/* Writes TEXT as FOLDER/NAME. */
void write_text(const char *folder, const char *name, const char *text);

/* Number of entries below FOLDER whose name has TEXT in it. */
int count_files(const char *folder, const char *text);

#endif
