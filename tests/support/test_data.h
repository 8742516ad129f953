/* Shared support of the unit tests: where test data lies, and honest skips. */
#ifndef QUERN_TESTS_TEST_DATA_H
#define QUERN_TESTS_TEST_DATA_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <jansson.h>

/* Path of NAME below the shared test data ($QUERN_TEST_DATA, else ../shared beside the source tree), or NULL
 * when absent. The string is owned by the caller. */
char *test_data_path(const char *name);

/* Path of NAME inside the source tree (owned by the caller). */
char *source_path(const char *name);

/* Skips the running cmocka test with "SKIPPED: <test>: <reason>" on stdout when shared data NAME is absent;
 * else returns its path (owned). With CI=true and QUERN_TEST_DATA or ../shared expected, absence is still
 * only a skip: CI prints the list. */
char *require_test_data(const char *name);

/* A fresh private folder (owned path), removed with everything in it by remove_tree. */
char *make_temporary_folder(void);
void remove_tree(const char *path);

/* FOLDER/NAME, owned by the caller. */
char *path_in(const char *folder, const char *name);

/* Writes a file FOLDER/NAME and the sub-folders NAME needs, or fails the test. */
void write_test_file(const char *folder, const char *name, const void *data, size_t n_bytes);

/* The number of files and folders directly in FOLDER. */
int count_entries(const char *folder);

/* Loads a JSON file or fails the test. */
json_t *load_json(const char *path);

/* Reads a whole file or fails the test; *n_bytes may be NULL; a NUL follows the data. */
char *load_file(const char *path, size_t *n_bytes);

#endif
