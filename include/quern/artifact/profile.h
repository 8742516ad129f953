/* The rules of a track as data: budgets, rescue limits, reference count. Built in for today's two tracks; a
 * JSON file replaces them when the rules change. Source: the public scorer's arithmetic. */
#ifndef QUERN_ARTIFACT_PROFILE_H
#define QUERN_ARTIFACT_PROFILE_H

#include "quern/codec/codec.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qn_track { QN_TRACK_BINARY, QN_TRACK_TERNARY } qn_track;
QN_API const char *qn_track_name(qn_track track);
QN_NODISCARD QN_API qn_status qn_track_parse(const char *text, qn_track *out, qn_error *err);

typedef struct qn_profile {
    char name[64];
    qn_track track;
    int64_t reference_parameters; /* 27e9 */
    double native_bits;           /* 1 or 2 */
    double rescue_fraction;       /* 0.10 */
    double rescue_bits;           /* 4.125 */
    double budget_bits;           /* per parameter; 0 in a file: (1-f)*native + f*rescue */
    int64_t max_parameter_factor; /* 16 */
    /* What encoded matrices may use; The public rules allow all of it. */
    bool two_planes, log6_scales, column_bands, rotation, entropy_coding, column_scales;
} qn_profile;

QN_API qn_profile qn_profile_builtin(qn_track track);

/* The built-in track without second planes, log6 scales, column bands, rotation, entropy coding and column scales: rows in the native code, rescued rows in
 * q4, fp16 scales. For a reading of the rules that accepts nothing else. Named "binary-strict", "ternary-strict". */
QN_API qn_profile qn_profile_strict(qn_track track);

/* What a shape uses that the profile forbids ("two planes", ...; static), or NULL. */
QN_API const char *qn_profile_forbids(const qn_profile *profile, const qn_encoded *shape);

/* A JSON object with any of the fields above (unknown keys refused); what it leaves out comes from the
 * built-in track. */
QN_NODISCARD QN_API qn_status qn_profile_load(const char *path, qn_track track, qn_profile *out,
                                              qn_error *err);

/* Largest file, in bytes, that passes `8 * bytes <= ceil(parameters * budget_bits)`. */
QN_API int64_t qn_profile_budget_bytes(const qn_profile *profile, int64_t parameters);

/* Largest number of rescued parameters among `parameters`. */
QN_API int64_t qn_profile_max_rescued(const qn_profile *profile, int64_t parameters);

#ifdef __cplusplus
}
#endif
#endif
