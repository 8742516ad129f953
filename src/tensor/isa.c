#include "quern/tensor/isa.h"

#include "tensor/kernels.h"

#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "base/banned.h"

#if defined(__x86_64__)
static bool usable_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool usable_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

/* Linux lets a process use the tile registers once it has asked, threads that it starts later included
 * (Documentation/x86/xstate.rst). */
static bool may_use_tiles(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

/* The processor has AMX-TILE and AMX-BF16, and the operating system saves the tile registers (XCR0 bits 17
 * and 18). */
static bool usable_amx(void) {
    unsigned a, b, c, d;
    if (!usable_avx512() || !__builtin_cpu_supports("avx512bf16")) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    if (!(d & (1u << 24)) || !(d & (1u << 22))) return false;
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & 0x60000u) == 0x60000u && may_use_tiles();
}
#endif

static bool usable_ref(void) {
    return true;
}

typedef struct isa_path {
    const qni_kernels *kernels;
    bool (*usable)(void);
    int dnnl_isa; /* what oneDNN may use at most; -1: everything it finds */
} isa_path;

static const isa_path k_paths[] = {
    /* slowest first */
    {&qni_kernels_ref, usable_ref, -1},
#if defined(__x86_64__)
    {&qni_kernels_avx2, usable_avx2, dnnl_cpu_isa_avx2},
    {&qni_kernels_avx512, usable_avx512, dnnl_cpu_isa_avx512_core_bf16},
    {&qni_kernels_amx, usable_amx, -1},
#elif defined(__aarch64__)
    {&qni_kernels_neon, usable_ref, -1},
#endif
};
enum { N_PATHS = sizeof k_paths / sizeof k_paths[0] };

/* The only global state of the library: written once, under s_once. */
static pthread_once_t s_once = PTHREAD_ONCE_INIT;
static const qni_kernels *s_kernels;
static qn_error s_error;

const char *qn_isa_name(qn_isa isa) {
    switch (isa) {
    case QN_ISA_REF:
        return "ref";
    case QN_ISA_NEON:
        return "neon";
    case QN_ISA_AVX2:
        return "avx2";
    case QN_ISA_AVX512:
        return "avx512";
    case QN_ISA_AMX:
        return "amx";
    }
    return "?";
}

static void usable_names(char *buffer, size_t n_bytes) {
    buffer[0] = 0;
    for (int i = 0; i < N_PATHS; i++) {
        if (!k_paths[i].usable()) continue;
        if (buffer[0]) strncat(buffer, ", ", n_bytes - strlen(buffer) - 1);
        strncat(buffer, qn_isa_name(k_paths[i].kernels->isa), n_bytes - strlen(buffer) - 1);
    }
}

static void choose(void) {
    const char *forced = getenv("QN_ISA");
    const isa_path *chosen = NULL;
    for (int i = N_PATHS - 1; i >= 0 && !chosen; i--) {
        if (forced && strcmp(forced, qn_isa_name(k_paths[i].kernels->isa)) != 0) continue;
        if (k_paths[i].usable()) chosen = &k_paths[i];
    }
    if (!chosen) {
        char names[64];
        usable_names(names, sizeof names);
        qn_fail(&s_error, QN_E_ARGUMENT, "QN_ISA=%s is unknown or unusable on this machine; usable here: %s",
                forced, names);
        return;
    }
    if (forced && chosen->dnnl_isa >= 0 &&
        dnnl_set_max_cpu_isa((dnnl_cpu_isa_t)chosen->dnnl_isa) != dnnl_success) {
        qn_fail(&s_error, QN_E_ARGUMENT,
                "QN_ISA=%s cannot be honoured: oneDNN was used by this process before", forced);
        return;
    }
    s_kernels = chosen->kernels;
}

qn_status qni_kernels_get(const qni_kernels **out, qn_error *err) {
    pthread_once(&s_once, choose);
    if (!s_kernels) return qn_fail(err, s_error.code, "%s", s_error.message);
    *out = s_kernels;
    return QN_OK;
}

qn_status qn_isa_select(qn_isa *out, qn_error *err) {
    const qni_kernels *kernels = NULL;
    QN_TRY(qni_kernels_get(&kernels, err));
    *out = kernels->isa;
    return QN_OK;
}
