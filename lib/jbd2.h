/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The format of a jbd2 journal: structures, tags and checksums.  No I/O.
 *
 * Everything on disk is big-endian.  Source: the kernel's ext4
 * documentation, "Journal (jbd2)".
 */

#ifndef EXT2SERVE_JBD2_H
#define EXT2SERVE_JBD2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ext2fs/ext2fs.h>

#define JBD2_MAGIC 0xc03b3998u

enum jbd2_block_type {
  JBD2_DESCRIPTOR = 1,
  JBD2_COMMIT = 2,
  JBD2_SUPER_V1 = 3,
  JBD2_SUPER_V2 = 4,
  JBD2_REVOKE = 5,
};

/* Features; v1 superblocks have none. */
#define JBD2_COMPAT_CHECKSUM     0x1u   /* v1: CRC-32 in the commit block */
#define JBD2_INCOMPAT_REVOKE     0x1u
#define JBD2_INCOMPAT_64BIT      0x2u
#define JBD2_INCOMPAT_ASYNC      0x4u
#define JBD2_INCOMPAT_CSUM_V2    0x8u
#define JBD2_INCOMPAT_CSUM_V3    0x10u
#define JBD2_INCOMPAT_FAST       0x20u
#define JBD2_INCOMPAT_KNOWN      0x3fu

#define JBD2_MIN_BLOCKS 1024u
#define JBD2_DEFAULT_FAST_BLOCKS 256u

/* Checksum algorithms, in the superblock and in v1 commit blocks. */
#define JBD2_CSUM_CRC32   1
#define JBD2_CSUM_CRC32C  4

struct jbd2_header {
  uint32_t magic, type, tid;
};

/* The first 1024 bytes of the journal. */
struct jbd2_super {
  struct jbd2_header h;
  uint32_t block_size;
  uint32_t max_len;             /* blocks in the journal */
  uint32_t first;               /* first block of the log */
  uint32_t sequence;            /* first tid to expect in the log */
  uint32_t start;               /* its block; 0: the log is empty */
  uint32_t error;               /* a negative errno, or 0 */
  uint32_t compat, incompat, ro_compat;
  uint8_t uuid[16];
  uint32_t users_count, dynsuper;
  uint32_t max_transaction, max_trans_data;
  uint8_t csum_type, pad[3];
  uint32_t fast_blocks;         /* at the journal's end */
  uint32_t head;
  uint32_t padding[40];
  uint32_t checksum;
  uint8_t users[16 * 48];
};

struct jbd2_commit {
  struct jbd2_header h;
  uint8_t csum_type, csum_size, pad[2];
  uint32_t checksum[8];
  uint64_t sec;
  uint32_t nsec;
};

struct jbd2_revoke {
  struct jbd2_header h;
  uint32_t used;                /* bytes, this header included */
};

_Static_assert (sizeof (struct jbd2_super) == 1024, "jbd2 superblock");
_Static_assert (offsetof (struct jbd2_super, checksum) == 0xfc,
                "jbd2 superblock checksum");
_Static_assert (offsetof (struct jbd2_commit, sec) == 0x30, "jbd2 commit");

/* What of the superblock decides how blocks look. */
struct jbd2_format {
  uint32_t block_size;          /* bytes */
  bool wide;                    /* 64-bit block numbers */
  bool csum_v2, csum_v3;
  uint32_t seed;                /* of v2 and v3 checksums */
};

extern void jbd2_format_of (const struct jbd2_super *js,
                            struct jbd2_format *f);

/* Is BLOCK a log block of transaction TID?  Its type, or 0. */
extern unsigned jbd2_type (const void *block, uint32_t tid);

/* A header for BLOCK; the rest of it becomes zeros. */
extern void jbd2_begin (const struct jbd2_format *f, void *block,
                        enum jbd2_block_type type, uint32_t tid);

/* Tags: which blocks of the filesystem follow a descriptor block. */
struct jbd2_tag {
  uint64_t blkno;
  bool escaped;                 /* its first 4 bytes were the magic */
  bool same_uuid;               /* no UUID follows the tag */
  bool last;                    /* of this descriptor */
  uint32_t checksum;            /* v3: 32 bits, v2: 16 */
};

/* Offset of the first tag in a descriptor block. */
#define JBD2_FIRST_TAG (sizeof (struct jbd2_header))

/* Reads the tag at *OFFSET of descriptor BLOCK and moves *OFFSET behind
 * it; false if there is none, or *OFFSET came from one marked last.
 */
extern bool jbd2_get_tag (const struct jbd2_format *f, const void *block,
                          size_t *offset, struct jbd2_tag *tag);

/* How many tags a descriptor block has room for. */
extern unsigned jbd2_tags_per_block (const struct jbd2_format *f);

/* Writes TAG at *OFFSET; UUID if it is the first one. */
extern void jbd2_put_tag (const struct jbd2_format *f, void *block,
                          size_t *offset, const struct jbd2_tag *tag,
                          const uint8_t uuid[16]);

/* Block numbers that a revoke block has room for, in bytes each. */
extern unsigned jbd2_revoke_size (const struct jbd2_format *f);
extern unsigned jbd2_revokes_per_block (const struct jbd2_format *f);

/* Checksum of a logged block as it is in the log (escaped), as a tag
 * has it: 0 without v2 or v3.
 */
extern uint32_t jbd2_data_checksum (const struct jbd2_format *f,
                                    uint32_t tid, const void *block);

/* The checksum at the end of descriptor and revoke blocks, and the one
 * in commit blocks (v2 and v3).  Without either, nothing is set and
 * everything is good.
 */
extern void jbd2_set_tail (const struct jbd2_format *f, void *block);
extern bool jbd2_tail_ok (const struct jbd2_format *f, const void *block);
extern void jbd2_set_commit (const struct jbd2_format *f, void *block);
extern bool jbd2_commit_ok (const struct jbd2_format *f, const void *block);

/* The superblock's own (v2 and v3). */
extern void jbd2_set_super (struct jbd2_super *js);
extern bool jbd2_super_ok (const struct jbd2_super *js);

/* Transaction numbers wrap: is A at or after B? */
static inline bool
jbd2_tid_geq (uint32_t a, uint32_t b)
{
  return (int32_t) (a - b) >= 0;
}

#endif /* EXT2SERVE_JBD2_H */
