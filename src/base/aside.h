/* Files and folders made aside, under a unique name beside their final place. */
#ifndef QUERN_SRC_BASE_ASIDE_H
#define QUERN_SRC_BASE_ASIDE_H

#include "quern/base/status.h"

/* Creates PATH.tmp-XXXXXXXX and opens it for writing; the kernel applies the umask to 0666. *name is owned.
 */
QN_NODISCARD qn_status qni_aside_file(const char *path, char **name, int *fd, qn_error *err);

/* Creates the folder PATH.tmp-XXXXXXXX, likewise with 0777. *name is owned. */
QN_NODISCARD qn_status qni_aside_folder(const char *path, char **name, qn_error *err);

/* Removes from FOLDER what killed processes left half made: NAME.tmp-XXXXXXXX, of any NAME where it is NULL. For a folder
 * of the caller's own. What cannot be removed stays, and does no harm. */
void qni_aside_sweep(const char *folder, const char *name);

/* Makes a folder's entries durable. */
QN_NODISCARD qn_status qni_sync_folder(const char *folder, qn_error *err);

/* Makes an entry of PATH's folder (a rename) durable. */
QN_NODISCARD qn_status qni_aside_sync_parent(const char *path, qn_error *err);

#endif
