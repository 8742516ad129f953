#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

/* The number behind PREFIX on the first line of FILE that begins with it, or -1. */
static int64_t read_number(const char *path, const char *prefix) {
    char line[256];
    const size_t n = strlen(prefix);
    FILE *file = fopen(path, "r");
    long long value = -1;
    while (file && value < 0 && fgets(line, sizeof line, file)) {
        char *end = line + n;
        if (strncmp(line, prefix, n) != 0) continue;
        value = strtoll(line + n, &end, 10);
        if (end == line + n) value = -1; /* "max": no limit */
    }
    if (file) (void)fclose(file);
    return value;
}

int64_t qni_available_bytes(void) {
    const int64_t kib = read_number("/proc/meminfo", "MemAvailable:");
    const int64_t group = read_number("/sys/fs/cgroup/memory.max", "");
    int64_t bytes = kib >= 0 && kib < INT64_MAX / 1024 ? kib * 1024 : -1;
#ifdef _SC_AVPHYS_PAGES
    if (bytes < 0) bytes = (int64_t)sysconf(_SC_AVPHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE);
#endif
    if (group >= 0 && group < bytes) bytes = group;
    return bytes > 0 ? bytes : 0;
}
