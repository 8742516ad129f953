/* Files that stand beside a model's weights and go along when it is written anew. */
#ifndef QUERN_SRC_CHECKPOINT_COMPANIONS_H
#define QUERN_SRC_CHECKPOINT_COMPANIONS_H

typedef enum qni_companion_kind {
    QNI_COMPANION_GENERATION,
    QNI_COMPANION_TOKENIZER,
    QNI_COMPANION_VOCABULARY, /* says what tokenizer.json says, in two files */
} qni_companion_kind;

typedef struct qni_companion {
    const char *name;
    qni_companion_kind kind;
} qni_companion;

enum { QNI_N_COMPANIONS = 8 };
extern const qni_companion qni_companions[QNI_N_COMPANIONS];

#endif
