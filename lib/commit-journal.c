/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A commit with a journal.  The invariants (J1 ...) are in log.h.
 *
 *   1. Before the first transaction ever: storage for all of the journal
 *      (fs->reserve); superblock with needs_recovery, flush (J1); then the
 *      journal's superblock, durably.
 *   2. If the log has not the room: checkpoint.
 *   3. Revoke records, descriptors and blocks into the log.
 *   4. Flush.  That covers 3, and also all file data written before the
 *      set was frozen (J2).  A crash up to here: the transaction has not
 *      happened.
 *   5. The commit block, durably.  The transaction has happened.
 *   6. Its blocks join those that wait for a checkpoint (J3).
 *
 * After an error in 1 to 5 all of it can be done again: the head of the log
 * moves only with 6.
 */

#include <config.h>

#include <assert.h>
#include <errno.h>

#include "commit.h"
#include "errors.h"
#include "log.h"

/* An image may be sparse, on a host that is nearly full.  A commit needs
 * no room there once the journal has its own, so that trims, which give some
 * back, can be committed whatever happens.
 */
static void
reserve_journal (struct filesystem *fs)
{
  char why[128];
  errcode_t err = log_reserve (fs, fs->log);

  if (err)
    log_warning ("the host of the image has no storage for all of the "
                 "journal: %s: flushes may fail later for want of it; make "
                 "room where the image is stored",
                 errcode_text (err, why, sizeof why));
}

static errcode_t
begin (struct filesystem *fs, struct commit *c)
{
  struct log *log = fs->log;
  errcode_t err;

  if (!c->first)
    return 0;
  if (fs->reserve)
    reserve_journal (fs);
  err = commit_super (fs, &c->super);
  if (!err)
    err = device_flush (fs->dev);
  return err ? err : log_set_tail (fs, log, log->head, log->tid);
}

errcode_t
commit_journal (struct filesystem *fs, struct commit *c)
{
  const struct log_content content = {
    .set = &c->set, .revoked = c->revoked, .nrevoked = c->nrevoked,
  };
  const uint32_t space = log_space (fs->log, c->set.count, c->nrevoked);
  struct log *log = fs->log;
  errcode_t err;

  if ((err = begin (fs, c)) ||
      (!log_has_room (log, space) && (err = checkpoint_all (fs, log))))
    return err;
  LOCK_DEBUG (assert (log_has_room (log, space)));     /* J7 */
  if (!log_has_room (log, space))
    return EFBIG;
  if ((err = log_write (fs, log, &content)) ||
      (err = device_flush (fs->dev)) || (err = log_commit (fs, log)))
    return err;
  checkpoint_add (fs, log, &c->set, c->revoked, c->nrevoked);
  return 0;
}
