/* Files and folders made aside, under a unique name beside their final place. */
#ifndef QUERN_SRC_BASE_ASIDE_H
#define QUERN_SRC_BASE_ASIDE_H

#include "quern/base/status.h"

/* Creates PATH.tmp-XXXXXXXX and opens it for writing; the kernel applies the umask to 0666. *name is owned.
 */
QN_NODISCARD qn_status qni_aside_file(const char *path, char **name, int *fd, qn_error *err);

/* Creates the folder PATH.tmp-XXXXXXXX, likewise with 0777. *name is owned. */
QN_NODISCARD qn_status qni_aside_folder(const char *path, char **name, qn_error *err);

/* Makes a folder's entries durable. */
QN_NODISCARD qn_status qni_sync_folder(const char *folder, qn_error *err);

/* Makes an entry of PATH's folder (a rename) durable. */
QN_NODISCARD qn_status qni_aside_sync_parent(const char *path, qn_error *err);

#endif
