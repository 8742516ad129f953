#include "quern/base/status.h"
#include "quern/base/version.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/banned.h"

/* The message is composed beside *err: its arguments may point into err->message itself. */
static QN_PRINTF(4, 0) qn_status
    store_error(qn_error *err, qn_status code, int sys_errno, const char *format, va_list args) {
    if (!err) return code;
    char text[sizeof err->message];
    char reason[128];
    size_t used;
    int n = vsnprintf(text, sizeof text, format, args);

    used = n < 0 ? 0 : (size_t)n;
    if (used >= sizeof text) used = sizeof text - 1;
    text[used] = 0;
    if (sys_errno) {
        (void)snprintf(text + used, sizeof text - used, ": %s", strerror_r(sys_errno, reason, sizeof reason));
    }
    memcpy(err->message, text, sizeof text);
    err->code = code;
    err->sys_errno = sys_errno;
    return code;
}

qn_status(qn_fail)(qn_error *err, qn_status code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    qn_status status = store_error(err, code, 0, format, args);
    va_end(args);
    return status;
}

qn_status(qn_fail_errno)(qn_error *err, const char *format, ...) {
    int sys_errno = errno;
    va_list args;
    va_start(args, format);
    qn_status status = store_error(err, QN_E_IO, sys_errno, format, args);
    va_end(args);
    errno = sys_errno;
    return status;
}

const char *qn_status_name(qn_status code) {
    switch (code) {
#define QN_STATUS_NAME_(id, value, text)                                                                     \
    case id:                                                                                                 \
        return #id;
        QN_STATUS_MAP(QN_STATUS_NAME_)
#undef QN_STATUS_NAME_
    default:
        return "unknown status";
    }
}

const char *qn_status_text(qn_status code) {
    switch (code) {
#define QN_STATUS_TEXT_(id, value, text)                                                                     \
    case id:                                                                                                 \
        return text;
        QN_STATUS_MAP(QN_STATUS_TEXT_)
#undef QN_STATUS_TEXT_
    default:
        return "unknown status";
    }
}

const char *qn_version(void) {
    return QN_VERSION;
}
