/* Poisons calls that have no place in this code. Include it last in a .c file.
 *
 * The string calls write without a bound, the number parsers hide errors, strtok keeps global state, and the
 * rest end or disturb the process of a library's caller. */
#ifndef QUERN_SRC_BASE_BANNED_H
#define QUERN_SRC_BASE_BANNED_H

#pragma GCC poison strcpy strcat stpcpy sprintf vsprintf gets strtok
#pragma GCC poison atoi atol atoll atof
#pragma GCC poison exit abort tmpnam mktemp tempnam umask

#endif
