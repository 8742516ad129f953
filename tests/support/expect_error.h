/* Failures in tests: the code and the words that a message must hold. */
#ifndef QUERN_TESTS_EXPECT_ERROR_H
#define QUERN_TESTS_EXPECT_ERROR_H

#include "test_data.h"

#include "quern/base/status.h"

#include <string.h>

/* Fails the test unless STATUS is CODE and the message holds every one of WORDS, separated by '|'. */
static inline void check_error(qn_status status, const qn_error *err, qn_status code, const char *words,
                               const char *file, int line) {
    char copy[512], *rest = copy, *word;
    snprintf(copy, sizeof copy, "%s", words);
    if (status != code) _fail(file, line); /* names the place of the caller */
    while ((word = strsep(&rest, "|")) != NULL) {
        if (strstr(err->message, word)) continue;
        print_error("message '%s' lacks '%s'\n", err->message, word);
        _fail(file, line);
    }
}

#define assert_error(call, code, words)                                                                      \
    do {                                                                                                     \
        qn_error error_ = {0};                                                                               \
        qn_error *err = &error_;                                                                             \
        const qn_status status_ = (call);                                                                    \
        if (status_ != (code)) print_error("status %d, message '%s'\n", (int)status_, error_.message);       \
        check_error(status_, err, (code), (words), __FILE__, __LINE__);                                      \
    } while (0)

#define assert_ok(call)                                                                                      \
    do {                                                                                                     \
        qn_error error_ = {0};                                                                               \
        qn_error *err = &error_;                                                                             \
        const qn_status status_ = (call);                                                                    \
        (void)err;                                                                                           \
        if (status_ != QN_OK) fail_msg("status %d: %s", (int)status_, error_.message);                       \
    } while (0)

#endif
