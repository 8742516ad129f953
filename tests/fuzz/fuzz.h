/* What the fuzz targets share. A target is one LLVMFuzzerTestOneInput; it is linked with libFuzzer
 * (fuzz_NAME) or with replay.c, which runs the files of the corpus through it (a ctest test in every build).
 */
#ifndef QUERN_TESTS_FUZZ_H
#define QUERN_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

/* A private folder, in memory where the machine has such a place; removed when the process ends. */
const char *fuzz_folder(void);

/* Writes FOLDER/NAME. The path lives until the next call. */
const char *fuzz_write(const char *name, const void *data, size_t n_bytes);

/* Calls BODY with each file of FOLDER in memory; returns their number, at least 1. */
int fuzz_each_file(const char *folder, void (*body)(const char *path, uint8_t *data, size_t n_bytes));

/* Stops the process when a property does not hold. */
void fuzz_require(int holds, const char *what);

/* A target calls this when it meets input that the library accepts; replay.c checks that every seed is. */
void fuzz_accept(void);
long fuzz_n_accepted(void);

/* Reads all of a block, so that a sanitizer sees bytes that do not belong to it. */
void fuzz_touch(const void *data, size_t n_bytes);

#endif
