/* Status codes and error messages: the one way libquern reports failure.
 *
 * Every fallible function returns a qn_status (QN_OK is 0) and takes an optional `qn_error *err`, owned by
 * the caller and written only on failure. A message is complete enough to print alone: it names the file, the
 * tensor, what was expected, what was found, and what to do. The library never prints, exits or aborts on
 * input. */
#ifndef QUERN_BASE_STATUS_H
#define QUERN_BASE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define QN_API          __attribute__((visibility("default")))
#define QN_NODISCARD    __attribute__((warn_unused_result))
#define QN_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define QN_API
#define QN_NODISCARD
#define QN_PRINTF(f, a)
#endif

/* Values are never reused once released. */
#define QN_STATUS_MAP(X)                                                                                     \
    X(QN_OK, 0, "success")                                                                                   \
    X(QN_E_IO, -1, "operating-system I/O failure")                                                           \
    X(QN_E_FORMAT, -2, "input breaks its format")                                                            \
    X(QN_E_SHAPE, -3, "tensor shape or dtype mismatch")                                                      \
    X(QN_E_VALUE, -4, "non-finite or out-of-range value")                                                    \
    X(QN_E_NOMEM, -5, "allocation failed")                                                                   \
    X(QN_E_UNSUPPORTED, -6, "valid input that this version does not support")                                \
    X(QN_E_ARGUMENT, -7, "the caller's arguments do not fit together")                                       \
    X(QN_E_BUDGET, -8, "the byte budget cannot be met")                                                      \
    X(QN_E_REJECTED, -9, "an artifact fails a gate")                                                         \
    X(QN_E_CANCELLED, -10, "cancelled by the caller")                                                        \
    X(QN_E_INTERNAL, -11, "a broken invariant of libquern itself")

#define QN_STATUS_ENUM_(id, value, text) id = (value),
typedef enum qn_status { QN_STATUS_MAP(QN_STATUS_ENUM_) QN_STATUS_END_ = 1 } qn_status;
#undef QN_STATUS_ENUM_

typedef struct qn_error {
    qn_status code;
    int sys_errno; /* errno of a failed system call, else 0 */
    char message[1024];
} qn_error;

/* Writes CODE and the formatted message to *err (err may be NULL) and returns CODE. Long messages are cut. */
QN_API qn_status qn_fail(qn_error *err, qn_status code, const char *format, ...) QN_PRINTF(3, 4);

/* As qn_fail with QN_E_IO; appends strerror(errno) and stores errno. */
QN_API qn_status qn_fail_errno(qn_error *err, const char *format, ...) QN_PRINTF(2, 3);

/* Tells clang's analyzer that a failure never returns QN_OK, which the signatures cannot say. */
#ifdef __clang_analyzer__
#define qn_fail(...)       (qn_fail(__VA_ARGS__), QN_E_INTERNAL)
#define qn_fail_errno(...) (qn_fail_errno(__VA_ARGS__), QN_E_IO)
#endif

/* "QN_E_IO" and "operating-system I/O failure" for a code; "unknown status" for any other number. */
QN_API const char *qn_status_name(qn_status code);
QN_API const char *qn_status_text(qn_status code);

/* Propagates a failure. Use only where there is nothing to clean up. */
#define QN_TRY(call)                                                                                         \
    do {                                                                                                     \
        qn_status qn_try_status_ = (call);                                                                   \
        if (qn_try_status_ != QN_OK) return qn_try_status_;                                                  \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
