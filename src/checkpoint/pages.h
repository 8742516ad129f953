/* Which pages of a checkpoint's mapped files stay in memory: each layer's weights are read, and left behind. */
#ifndef QUERN_SRC_CHECKPOINT_PAGES_H
#define QUERN_SRC_CHECKPOINT_PAGES_H

#include "quern/checkpoint/checkpoint.h"

/* The pages of one weight, or of all weights of a layer, may go (qni_mapping_forget). Never changes what is read; any thread, at any
 * time. */
void qni_checkpoint_forget(const qn_checkpoint *checkpoint, int64_t entry);
void qni_checkpoint_forget_layer(const qn_checkpoint *checkpoint, int64_t layer);

#endif
