#include "quern/fit/schedule.h"

#include <math.h>
#include <string.h>

#include "base/banned.h"

static const char *const k_names[] = {[QN_SCHEDULE_CONSTANT] = "constant", [QN_SCHEDULE_COSINE] = "cosine"};
enum { N_KINDS = sizeof k_names / sizeof *k_names };

const char *qn_schedule_name(qn_schedule_kind kind) {
    return (unsigned)kind < N_KINDS ? k_names[kind] : "?";
}

qn_status qn_schedule_from_name(const char *name, qn_schedule_kind *out, qn_error *err) {
    for (int i = 0; i < N_KINDS; i++) {
        if (strcmp(name, k_names[i]) != 0) continue;
        *out = (qn_schedule_kind)i;
        return QN_OK;
    }
    return qn_fail(err, QN_E_ARGUMENT, "schedule '%.50s' is unknown: expected constant or cosine", name);
}

qn_status qn_schedule_check(const qn_schedule *s, qn_error *err) {
    if ((unsigned)s->kind >= N_KINDS)
        return qn_fail(err, QN_E_ARGUMENT, "schedule kind %d is unknown", (int)s->kind);
    if (!(s->peak > 0) || !isfinite(s->peak))
        return qn_fail(err, QN_E_ARGUMENT, "learning rate %g: expected a positive number", s->peak);
    if (!(s->min_ratio >= 0) || s->min_ratio > 1)
        return qn_fail(err, QN_E_ARGUMENT, "last learning rate of %g of the peak: expected 0 to 1",
                       s->min_ratio);
    if (s->total_steps < 1 || s->warmup_steps < 0 || s->warmup_steps > s->total_steps)
        return qn_fail(err, QN_E_ARGUMENT,
                       "%lld steps of warm-up out of %lld: expected at least one step, and no longer a "
                       "warm-up than that",
                       (long long)s->warmup_steps, (long long)s->total_steps);
    return QN_OK;
}

double qn_schedule_rate(const qn_schedule *s, int64_t step) {
    const double pi = 3.141592653589793238462643383279503;
    if (step < s->warmup_steps) return s->peak * (double)(step + 1) / (double)s->warmup_steps;
    if (s->kind == QN_SCHEDULE_CONSTANT) return s->peak;
    const int64_t span = s->total_steps - 1 - s->warmup_steps;
    const double x = span > 0 ? (double)(step - s->warmup_steps) / (double)span : 1.0;
    return s->peak * (s->min_ratio + (1.0 - s->min_ratio) * 0.5 * (1.0 + cos(pi * x)));
}
