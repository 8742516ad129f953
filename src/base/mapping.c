#include "base/mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

qn_status qni_mapping_from_fd(int fd, const char *name, qni_mapping *out, qn_error *err) {
    struct stat info;
    if (fstat(fd, &info) != 0) return qn_fail_errno(err, "%s: cannot be examined", name);
    if (!S_ISREG(info.st_mode)) {
        return qn_fail(err, QN_E_IO, "%s: is %s, expected a regular file", name,
                       S_ISDIR(info.st_mode) ? "a folder" : "a special file");
    }
    qni_mapping mapping = {.n_bytes = (size_t)info.st_size};
    if (mapping.n_bytes > 0) {
        void *data = mmap(NULL, mapping.n_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) return qn_fail_errno(err, "%s: cannot be mapped", name);
        mapping.data = data;
    }
    *out = mapping;
    return QN_OK;
}

qn_status qni_mapping_open(const char *path, qni_mapping *out, qn_error *err) {
    /* O_NONBLOCK: opening a fifo must not wait for a writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return qn_fail_errno(err, "%s: cannot be opened", path);
    qn_status status = qni_mapping_from_fd(fd, path, out, err);
    (void)close(fd);
    return status;
}

void qni_mapping_forget(const uint8_t *data, size_t n_bytes) {
    if (n_bytes == 0) return;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)data / page * page;
    (void)madvise((void *)first, (uintptr_t)data + n_bytes - first,
                  MADV_DONTNEED); /* rounds up to whole pages */
}

void qni_mapping_release(qni_mapping *mapping) {
    if (mapping->data) (void)munmap((void *)(uintptr_t)mapping->data, mapping->n_bytes);
    *mapping = (qni_mapping){0};
}
