#include "gates.h"

#include <stdio.h>

json_t *cli_gates_object(const qn_verify_report *report) {
    json_t *gates = json_object();
    for (int i = 0; i < report->n_gates; i++) {
        const qn_gate *gate = &report->gates[i];
        json_t *value = gate->state == QN_GATE_PASSED   ? json_true()
                        : gate->state == QN_GATE_FAILED ? json_false()
                                                        : json_null();
        json_object_set_new(gates, gate->name, value);
    }
    return gates;
}

json_t *cli_roles_object(const int64_t role_bytes[QN_ROLE_COUNT]) {
    json_t *roles = json_object();
    for (int role = 0; role < QN_ROLE_COUNT; role++)
        json_object_set_new(roles, qn_role_name((qn_role)role), json_integer(role_bytes[role]));
    return roles;
}

void cli_print_gates(const qn_verify_report *report) {
    static const char *const words[] = {[QN_GATE_NOT_RUN] = "not run",
                                        [QN_GATE_PASSED] = "passed",
                                        [QN_GATE_FAILED] = "FAILED",
                                        [QN_GATE_SKIPPED] = "skipped"};
    for (int i = 0; i < report->n_gates; i++) {
        const qn_gate *gate = &report->gates[i];
        printf("gate          %-16s %s%s%s\n", gate->name, words[gate->state], gate->detail[0] ? ": " : "",
               gate->detail);
    }
}
