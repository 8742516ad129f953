/* How gates and accounting look in text and JSON. */
#ifndef QUERN_SRC_CLI_GATES_H
#define QUERN_SRC_CLI_GATES_H

#include "quern/artifact/verify.h"

#include <jansson.h>

json_t *cli_gates_object(
    const qn_verify_report *report); /* name -> true, false, or null where it was not run */
json_t *cli_roles_object(const int64_t role_bytes[QN_ROLE_COUNT]);
void cli_print_gates(const qn_verify_report *report);

#endif
