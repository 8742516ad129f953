/* What reader and writer of payload files share (docs/format.md). */
#ifndef QUERN_SRC_CHECKPOINT_FORMAT_H
#define QUERN_SRC_CHECKPOINT_FORMAT_H

#define QNI_FORMAT       2
#define QNI_FORMAT_TEXT  "2"
#define QNI_PADDING_NAME "quern.padding"

#endif
