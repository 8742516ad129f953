/* A published artifact, hashed while it streams by: nothing is kept. */
#include "artifact/gates.h"

#include <curl/curl.h>
#include <string.h>

#include "base/banned.h"

enum { CONNECT_SECONDS = 30, STALL_SECONDS = 60, MAX_REDIRECTS = 5 };

typedef struct stream {
    qn_sha256 *hash;
    const qn_context *ctx;
    int64_t n_bytes, max_bytes;
} stream;

static size_t on_data(char *data, size_t size, size_t n, void *user) {
    stream *s = user;
    s->n_bytes += (int64_t)(size * n);
    qn_sha256_update(s->hash, data, size * n);
    return s->n_bytes > s->max_bytes ? 0 : size * n; /* 0 ends the transfer */
}

static int on_progress(void *user, curl_off_t total, curl_off_t done, curl_off_t up_total,
                       curl_off_t up_done) {
    const stream *s = user;
    (void)up_total, (void)up_done;
    qn_report_progress(s->ctx, "download", (uint64_t)done, (uint64_t)total);
    return qn_check_cancelled(s->ctx, NULL) != QN_OK;
}

/* HTTPS alone, but for a server on this machine and files, which tests use. */
static const char *allowed_protocols(const char *url) {
    static const char *const local[] = {"http://localhost:", "http://localhost/",
                                        "http://127.0.0.1:", "http://127.0.0.1/"};
    if (strncmp(url, "file://", 7) == 0) return "file";
    for (size_t i = 0; i < sizeof local / sizeof local[0]; i++) {
        if (strncmp(url, local[i], strlen(local[i])) == 0) return "http";
    }
    return "https";
}

static CURLcode transfer(CURL *curl, const char *url, stream *s, char *message) {
    const char *protocols = allowed_protocols(url);

    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, message);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, protocols);
    curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, "https");
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(curl, CURLOPT_MAXREDIRS, (long)MAX_REDIRECTS);
    curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)STALL_SECONDS);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, s);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, s);
    return curl_easy_perform(curl);
}

qn_status qni_url_sha256(const char *url, int64_t max_bytes, const qn_context *ctx, char hex[QN_SHA256_HEX],
                         int64_t *n_bytes, qn_error *err) {
    char message[CURL_ERROR_SIZE] = "";
    stream s = {.ctx = ctx, .max_bytes = max_bytes};
    qn_status status;
    CURL *curl = curl_easy_init();

    if (!curl) return qn_fail(err, QN_E_NOMEM, "out of memory: a download");
    status = qn_sha256_new(&s.hash, err);
    if (status == QN_OK) {
        const CURLcode code = transfer(curl, url, &s, message);
        *n_bytes = s.n_bytes;
        if (code == CURLE_ABORTED_BY_CALLBACK)
            status = qn_check_cancelled(ctx, err);
        else if (code != CURLE_OK && s.n_bytes <= max_bytes) {
            status = qn_fail(err, QN_E_IO, "%s: %s", url, *message ? message : curl_easy_strerror(code));
        }
        if (status == QN_OK) qn_sha256_hex(s.hash, hex);
    }
    qn_sha256_free(s.hash);
    curl_easy_cleanup(curl);
    return status;
}
