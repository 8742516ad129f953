/* Runs every file of the given folder through a fuzz target while one allocation of libquern fails: the
 * first, the second, and so on until none is left to fail. Nothing may crash or leak (a sanitizer build sees
 * that), and a failure must be reported as one. The linker sends libquern's calls here (--wrap). */
#include "fuzz.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

void *__real_malloc(size_t n_bytes);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *block, size_t n_bytes);
void *__real_aligned_alloc(size_t alignment, size_t n_bytes);
char *__real_strdup(const char *text);

void *__wrap_malloc(size_t n_bytes);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *block, size_t n_bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t n_bytes);
char *__wrap_strdup(const char *text);
int __wrap_asprintf(char **out, const char *format, ...) __attribute__((format(printf, 2, 3)));

static atomic_long until_failure; /* 0 or less: none fails; threads allocate, too */

static bool fails(void) {
    return atomic_load(&until_failure) > 0 && atomic_fetch_sub(&until_failure, 1) == 1;
}

void *__wrap_malloc(size_t n_bytes) {
    return fails() ? NULL : __real_malloc(n_bytes);
}

void *__wrap_calloc(size_t n, size_t size) {
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *block, size_t n_bytes) {
    return fails() ? NULL : __real_realloc(block, n_bytes);
}

void *__wrap_aligned_alloc(size_t alignment, size_t n_bytes) {
    return fails() ? NULL : __real_aligned_alloc(alignment, n_bytes);
}

char *__wrap_strdup(const char *text) {
    return fails() ? NULL : __real_strdup(text);
}

int __wrap_asprintf(char **out, const char *format, ...) {
    va_list args;
    if (fails()) return -1; /* *out is then undefined */
    va_start(args, format);
    int n = vasprintf(out, format, args);
    va_end(args);
    return n;
}

/* Every one of the first hundred, then ever fewer: long inputs allocate thousands of times. */
static void starve(const char *path, uint8_t *data, size_t n_bytes) {
    long n_failures = 0;
    for (long k = 1;; k += 1 + k / 100 * 2) {
        const long n_accepted = fuzz_n_accepted();
        until_failure = k;
        (void)LLVMFuzzerTestOneInput(data, n_bytes);
        const bool failed = until_failure <= 0;
        until_failure = 0;
        if (!failed) {
            fuzz_require(fuzz_n_accepted() > n_accepted, path);
            break;
        }
        n_failures++;
    }
    printf("%s: %ld failures survived\n", path, n_failures);
    fuzz_require(n_failures > 0, path);
}

int main(int argc, char **argv) {
    fuzz_require(argc == 2, "usage: starve_NAME CORPUS");
    (void)fuzz_folder(); /* made while there is memory */
    (void)fuzz_each_file(argv[1], starve);
    return 0;
}
