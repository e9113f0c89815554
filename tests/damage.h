/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Damaged images, and the judge of what serving them does to them.
 *
 *   damage-image.c   small images of each kind, and where each kind of their
 *                    metadata lies
 *   damage-seal.c    how a checksum is put right
 *   damage-cases.c   the ways to damage one, each with a number
 *   damage-census.c  who owns which block, read from the bytes alone
 *   damage-fsck.c    what e2fsck says, in a form that can be compared
 *   damage-judge.c   serves an image and judges what has become of it
 *   test-damage.c    puts them together; test-damage --help
 *
 * What is promised of every damaged image.  Read-only, its bytes stay as
 * they are and the device is asked for no change.  Writable, either the
 * opening fails, and nothing has been written but what the replay of a
 * journal may write; or requests are answered, and afterwards e2fsck -fn
 * finds no more problems of any kind than it did before, and the bytes of
 * every other file are what they were (census_protected says which).  And
 * the time, the memory and the calls of the device that it takes have a
 * bound.
 *
 * Two things are not held against the server.  Blocks that are freed in a
 * group whose bitmap is damaged leak, if the superblock then says that
 * there are errors.  And where blocks were claimed twice before, or the
 * like (census_contended), no more is asked than that no other block is.
 */

#ifndef DAMAGE_H
#define DAMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "image.h"

/* damage-image.c */

/* The files of every image, by path.  The first TARGETS are written to;
 * the others must not change.
 */
#define TARGETS 5
#define FILES 8
extern const char *const damage_files[FILES];

struct damage_config {
  const char *name;
  const char *args;             /* of mke2fs */
  unsigned kib;                 /* size of the image */
  bool dirty;                   /* the journal holds transactions */
  bool readonly;                /* its features forbid writing */
};

/* All of them, ended by a NULL name. */
extern const struct damage_config damage_configs[];

enum region_kind {
  R_SUPER, R_DESC, R_BLOCK_BITMAP, R_INODE_BITMAP, R_INODE, R_EXTENTS,
  R_INDIRECT, R_DIRECTORY, R_LINK, R_ATTRIBUTES, R_MMP, R_ORPHANS, R_BACKUP,
  R_JOURNAL_SUPER, R_JOURNAL,
  REGION_KINDS
};
extern const char *const region_names[REGION_KINDS];

/* A piece of metadata that has one checksum, or none. */
struct region {
  enum region_kind kind;
  uint64_t offset;              /* bytes into the image */
  uint32_t len;                 /* bytes */
  uint32_t number;              /* its inode, or group */
  uint64_t tag;                 /* of a logged block: offset of its tag */
};

struct victim {
  const struct damage_config *config;
  struct memdev *md;            /* the healthy image; not to be changed */
  struct memdev *scratch;       /* for a damaged one; see damage_make */
  ext2_filsys e2;               /* of it, for checksums */
  struct region *regions;
  size_t region_count, region_size;
  uint32_t special[64];         /* numbers of blocks of all kinds */
  unsigned special_count;
};

extern void victim_init (struct victim *v, const struct damage_config *c);
extern void victim_free (struct victim *v);

/* Where block AT of the journal lies in the image.  Bytes. */
extern uint64_t victim_journal_offset (struct victim *v, uint32_t at);

/* damage-seal.c */

/* After a change to region R of IMAGE, a copy of the victim's: makes its
 * checksum right again.  False if it has none.
 */
extern bool victim_seal (struct victim *v, uint8_t *image,
                         const struct region *r);

/* damage-cases.c */

enum family { FLIP, WORD, SUPER, CROSS, CUT, LOOP, MIX, FAMILIES };
extern const char *const family_names[FAMILIES];

/* How many cases of FAMILY there are. */
extern uint64_t damage_count (struct victim *v, enum family family);

/* The victim's image damaged by case N; damage_done when it is done with; SEED chooses where the case does
 * not.  WHAT gets what was done to it.  NULL: nothing, or what another case
 * does too.
 */
extern struct memdev *damage_make (struct victim *v, enum family family,
                                   uint64_t n, uint64_t seed, char *what,
                                   size_t len);

extern void damage_done (struct victim *v, struct memdev *md);

/* damage-census.c */

struct census;

/* Of IMAGE, which must stay.  Never fails: what makes no sense is not in
 * it.
 */
extern struct census *census_new (const uint8_t *image, uint64_t size);
extern void census_free (struct census *c);

/* Is block BLK the contents or the map of a file that only it has, that
 * is marked as used, and that is neither in TARGETS (ended by 0), which
 * may be written to, nor the journal?
 */
extern bool census_protected (const struct census *c, uint64_t blk,
                              const ext2_ino_t *targets);

/* What is in AFTER, which has been served, of what is protected: false if
 * it has changed, then WHY says what.
 */
extern bool census_same (const struct census *c, const uint8_t *after,
                         const ext2_ino_t *targets, char *why, size_t len);

/* Are there blocks that are claimed twice, or that are in use although they
 * are marked as free, or a tree that goes on in the bitmaps and the like?
 * What is written to one file can be read as another's map or directory
 * then, with new problems for e2fsck.
 */
extern bool census_contended (const struct census *c);

/* Is what is protected still one file's alone and marked as used in AFTER?
 * If not, WHY says which block is not.
 */
extern bool census_kept (const struct census *c, const uint8_t *after,
                         const ext2_ino_t *targets, char *why, size_t len);

/* Are the inodes of directories and all that they claim the same in AFTER? */
extern bool census_same_directories (const struct census *c,
                                     const uint8_t *after);

/* Are all bytes in which AFTER differs such as the replay of the journal
 * may write: the superblock, the journal, and blocks that a descriptor
 * block somewhere in the journal names?
 */
extern bool census_replay_only (const struct census *c, const uint8_t *after,
                                char *why, size_t len);

/* damage-fsck.c */

#define FSCK_KINDS 160

struct fsck_report {
  int code;                     /* its exit code; 255: it was killed */
  unsigned kinds;
  struct {
    char text[120];             /* with N for every number */
    unsigned count;
    int pass;                   /* of e2fsck, or 0 */
  } kind[FSCK_KINDS];
  int pass;                     /* the last one */
  char *output;
};

/* What e2fsck -fn says of MD; or e2fsck with OPTION, which may change it. */
extern void fsck_run (struct memdev *md, const char *option,
                      struct fsck_report *r);
extern void fsck_free (struct fsck_report *r);

/* What does not count when one is compared with another. */
struct fsck_ignore {
  bool leaks;                   /* blocks marked as used that are not */
  bool names;                   /* problems with directories */
};

/* Is AFTER worse than BEFORE?  WHY says in which way. */
extern bool fsck_worse (const struct fsck_report *before,
                        const struct fsck_report *after,
                        const struct fsck_ignore *ignore, char *why,
                        size_t len);

/* damage-judge.c */

struct damage_stats {
  uint64_t cases, refused_readonly, refused, served, unchanged, judged;
  uint64_t most_calls, most_memory;     /* of one case; memory in KiB */
};

/* Serves MD read-only, then writable, and judges.  On failure false, and
 * WHY says what is wrong.  SEED is that of the requests.  With SCAN it is
 * an image from elsewhere: whatever files it has are used, and what that
 * may cost is not limited.
 */
extern bool judge_image (struct memdev *md, uint64_t seed, bool scan,
                         struct damage_stats *stats, char *why, size_t len);

/* The same of an image that somebody else has served writable. */
extern bool judge_served (const uint8_t *before, struct memdev *after,
                          const ext2_ino_t *targets, char *why, size_t len);

#endif /* DAMAGE_H */
