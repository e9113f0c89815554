/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Multiple mount protection.
 *
 * U is s_mmp_update_interval (0 means 5), C the check interval: at least
 * U and 5, more if the last holder has said in the block that it needs
 * more.  All in seconds.  A sequence that has not changed for
 * W = min (2C + 1, C + 60) belongs to a holder who has died.
 *
 * Taking the filesystem:
 *
 *   1. The sequence is CLEAN: go on.  FSCK: refuse.  Else wait W; if it
 *      has changed, or is FSCK, refuse.
 *   2. Write a random sequence of our own.  Wait W.
 *   3. The sequence is still ours: the filesystem is.  Write the next one
 *      at once, W is nearly over.
 *
 * So it takes 11 seconds with the usual settings, and W more after a
 * crash.  Linux does not wait in step 2 if the sequence was CLEAN;
 * libext2fs does, and so do we: two who start in the same moment both
 * find CLEAN, and the first to write would never notice the second.
 * Against Linux it is enough that one side waits: it goes on writing
 * sequences of its own, which step 3 sees.
 *
 * Keeping it: every U seconds the next sequence is written, without
 * looking whether the last is still there.  That is right as long as we
 * are in time, because others then see the sequence change and give way;
 * giving way ourselves to one who is still in step 2 would leave the
 * filesystem to nobody.  Only when more than C seconds have passed since
 * the last successful write is the block read first: a foreign sequence
 * means that the filesystem is lost.  It also counts as lost when W
 * seconds are nearly over without a successful write, because then
 * somebody may rightly take it.
 *
 * Losing it revokes the device (device_revoke), so that not even a
 * commit under way writes any more, and nothing is put on record in the
 * superblock, which is somebody else's now.  What is not covered: the
 * time between a whole machine's (or process's) awakening after more
 * than W seconds and the thread's look at the block.  Linux has the same
 * gap.
 *
 * Every write is durable at once, since the others may look through
 * another path to the storage.  It bypasses cache and journal.
 */

#include <config.h>

#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include <ext2fs/ext2fs.h>

#include "errors.h"
#include "fs.h"
#include "mmp.h"
#include "thread.h"

#define MMP_SIZE 1024           /* of the structure; the rest is unused */

#define CHECK_MULTIPLE 2        /* of U, what the holder claims to need */
#define MAX_CHECK_INTERVAL 300
#define RETRY 5                 /* after a failed write.  Seconds */

struct mmp {
  struct device *dev;           /* [constant] */
  uint64_t offset;              /* [constant] of the block.  Bytes */
  bool checksums;               /* [constant] */
  uint32_t seed;                /* [constant] of checksums */
  unsigned interval;            /* [constant] U.  Seconds */
  unsigned second_ms;           /* [constant] how long one lasts */

  /* As last read or written; little-endian.  [the thread's once it runs] */
  struct mmp_struct block;
  uint64_t written;             /* [likewise] when.  now_ms () */

  /* Held shortly, and to wait; taken by nobody who holds or takes another
   * lock meanwhile, so it has no rank.
   */
  pthread_mutex_t mutex;
  pthread_cond_t wake;
  bool stop;                    /* [mutex] */
  bool lost;                    /* [mutex] */
  struct filesystem *fs;        /* [mutex] NULL: not attached yet */
  pthread_t thread;             /* [constant once started] */
};

static uint64_t
now_ms (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC, &ts);
  return (uint64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* The block. */

static uint32_t
checksum (const struct mmp *m)
{
  return ext2fs_crc32c_le (m->seed, (const unsigned char *) &m->block,
                           offsetof (struct mmp_struct, mmp_checksum));
}

static uint32_t
sequence (const struct mmp *m)
{
  return ext2fs_le32_to_cpu (m->block.mmp_seq);
}

static unsigned
largest (unsigned a, unsigned b)
{
  return a > b ? a : b;
}

/* W for a check interval of C. */
static unsigned
time_to_wait (unsigned c)
{
  return 2 * c + 1 < c + 60 ? 2 * c + 1 : c + 60;
}

static errcode_t
read_block (struct mmp *m)
{
  errcode_t err;

  err = device_pread (m->dev, &m->block, MMP_SIZE, m->offset);
  if (err)
    return err;
  if (ext2fs_le32_to_cpu (m->block.mmp_magic) != EXT4_MMP_MAGIC)
    return EXT2_ET_MMP_MAGIC_INVALID;
  if (m->checksums &&
      ext2fs_le32_to_cpu (m->block.mmp_checksum) != checksum (m))
    return EXT2_ET_MMP_CSUM_INVALID;
  return 0;
}

static void
lose (struct mmp *m)
{
  pthread_mutex_lock (&m->mutex);
  m->lost = true;
  device_revoke (m->dev);
  if (m->fs)
    atomic_store (&m->fs->aborted, true);
  pthread_mutex_unlock (&m->mutex);
}

static errcode_t
write_block (struct mmp *m, uint32_t seq)
{
  const uint64_t now = now_ms ();
  errcode_t err;

  m->block.mmp_seq = ext2fs_cpu_to_le32 (seq);
  m->block.mmp_time = ext2fs_cpu_to_le64 ((uint64_t) time (NULL));
  if (m->checksums)
    m->block.mmp_checksum = ext2fs_cpu_to_le32 (checksum (m));
  err = device_pwrite (m->dev, &m->block, MMP_SIZE, m->offset, 0);
  /* Not by FUA, of which a failure is not always the write's own
   * (device.h).
   */
  if (!err)
    err = device_flush (m->dev);
  if (!err)
    m->written = now;
  return err;
}

/* Who we are, for the messages of others. */
static void
sign (struct mmp *m, unsigned check)
{
  char name[sizeof m->block.mmp_bdevname];

  memset (m->block.mmp_nodename, 0, sizeof m->block.mmp_nodename);
  gethostname ((char *) m->block.mmp_nodename,
               sizeof m->block.mmp_nodename - 1);
  memset (m->block.mmp_bdevname, 0, sizeof m->block.mmp_bdevname);
  snprintf (name, sizeof name, "nbdkit-ext2, pid %ld", (long) getpid ());
  memcpy (m->block.mmp_bdevname, name, strlen (name));
  m->block.mmp_check_interval = ext2fs_cpu_to_le16 (check);
}

/* A name from the disk, fit for a log line. */
static const char *
printable (char *buf, const uint8_t *name, size_t len)
{
  size_t i;

  for (i = 0; i < len && name[i]; i++)
    buf[i] = isprint (name[i]) ? (char) name[i] : '?';
  buf[i] = '\0';
  return *buf ? buf : "unknown";
}

/* Names the holder: WHAT somebody does, and what to do about it. */
static errcode_t
refuse (const struct mmp *m, const char *what, const char *remedy)
{
  const struct mmp_struct *b = &m->block;
  char node[sizeof b->mmp_nodename + 1], dev[sizeof b->mmp_bdevname + 1];
  char when[32] = "an unknown time";
  time_t t = (time_t) ext2fs_le64_to_cpu (b->mmp_time);
  struct tm tm;

  if (gmtime_r (&t, &tm))
    strftime (when, sizeof when, "%Y-%m-%d %H:%M:%S UTC", &tm);
  log_error ("%s (multiple mount protection): node \"%s\", device \"%s\", "
             "last at %s: %s", what,
             printable (node, b->mmp_nodename, sizeof b->mmp_nodename),
             printable (dev, b->mmp_bdevname, sizeof b->mmp_bdevname), when,
             remedy);
  return EBUSY;
}

static errcode_t
refuse_active (const struct mmp *m)
{
  return refuse (m, "the filesystem is in use by somebody else",
                 "stop that one first, or serve it read-only with -r");
}

static errcode_t
refuse_fsck (const struct mmp *m)
{
  return refuse (m, "e2fsck or a tool like it is at work on the filesystem",
                 "wait for it to end; if it died, run "
                 "tune2fs -f -E clear_mmp, then e2fsck");
}

static errcode_t
refuse_unusable (const struct mmp *m, errcode_t err)
{
  char why[128];

  log_error ("the block for multiple mount protection at offset %llu cannot "
             "be used: %s: if nobody else has the filesystem, run e2fsck -f",
             (unsigned long long) m->offset,
             errcode_text (err, why, sizeof why));
  return err;
}

/* Taking it. */

static uint32_t
random_sequence (void)
{
  struct timespec ts;
  uint32_t seq;

  do {
    if (getrandom (&seq, sizeof seq, GRND_NONBLOCK) != sizeof seq) {
      clock_gettime (CLOCK_REALTIME, &ts);
      seq = (uint32_t) ts.tv_nsec * 2654435761u ^ (uint32_t) getpid ();
    }
  } while (seq == 0 || seq > EXT4_MMP_SEQ_MAX);
  return seq;
}

static uint32_t
next_sequence (uint32_t seq)
{
  return seq < EXT4_MMP_SEQ_MAX ? seq + 1 : 1;
}

static bool
sleep_ms (unsigned ms)
{
  struct timespec ts = { ms / 1000, ms % 1000 * 1000000L };

  while (nanosleep (&ts, &ts) == -1 && errno == EINTR)
    ;
  return true;
}

static errcode_t
wait_seconds (struct mmp *m, const struct filesystem_options *opts,
              unsigned seconds)
{
  bool (*wait) (unsigned) = opts->wait ? opts->wait : sleep_ms;

  if (seconds > 4 * EXT4_MMP_MIN_CHECK_INTERVAL)
    log_warning ("opening takes %u s more, because of multiple mount "
                 "protection", seconds);
  if (wait (seconds * m->second_ms))
    return 0;
  log_error ("opening was given up while waiting for multiple mount "
             "protection");
  return ECANCELED;
}

/* Step 1.  *WAIT is W. */
static errcode_t
wait_for_others (struct mmp *m, const struct filesystem_options *opts,
                 unsigned *wait)
{
  unsigned check = largest (m->interval, EXT4_MMP_MIN_CHECK_INTERVAL);
  uint32_t seq;
  errcode_t err;

  *wait = time_to_wait (check);
  err = read_block (m);
  if (err)
    return refuse_unusable (m, err);
  seq = sequence (m);
  if (seq == EXT4_MMP_SEQ_CLEAN)
    return 0;
  if (seq == EXT4_MMP_SEQ_FSCK)
    return refuse_fsck (m);
  if (seq > EXT4_MMP_SEQ_MAX)
    return refuse_unusable (m, EXT2_ET_MMP_UNKNOWN_SEQ);
  check = largest (check, ext2fs_le16_to_cpu (m->block.mmp_check_interval));
  if (check > MAX_CHECK_INTERVAL)
    check = MAX_CHECK_INTERVAL;
  *wait = time_to_wait (check);
  if ((err = wait_seconds (m, opts, *wait)))
    return err;
  if ((err = read_block (m)))
    return refuse_unusable (m, err);
  return sequence (m) == seq ? 0 : refuse_active (m);
}

/* Steps 2 and 3. */
static errcode_t
claim (struct mmp *m, const struct filesystem_options *opts, unsigned wait)
{
  const uint32_t seq = random_sequence ();
  unsigned check = CHECK_MULTIPLE * m->interval;
  errcode_t err, given_up;

  check = largest (check, EXT4_MMP_MIN_CHECK_INTERVAL);
  sign (m, check < MAX_CHECK_INTERVAL ? check : MAX_CHECK_INTERVAL);
  if ((err = write_block (m, seq)))
    return refuse_unusable (m, err);
  given_up = wait_seconds (m, opts, wait);
  err = read_block (m);
  if (!err && sequence (m) != seq)
    err = refuse_active (m);
  else if (err)
    refuse_unusable (m, err);
  else if (given_up)
    write_block (m, EXT4_MMP_SEQ_CLEAN);
  else if ((err = write_block (m, next_sequence (seq))))
    refuse_unusable (m, err);
  return err ? err : given_up;
}

/* What of the superblock matters; super_check has looked at the rest. */
static errcode_t
use_super (struct mmp *m, struct ext2_super_block *sb)
{
  if (sb->s_mmp_block <= sb->s_first_data_block ||
      sb->s_mmp_block >= ext2fs_blocks_count (sb)) {
    log_error ("the superblock's block for multiple mount protection (%llu) "
               "is impossible: run e2fsck",
               (unsigned long long) sb->s_mmp_block);
    return EXT2_ET_MMP_BAD_BLOCK;
  }
  m->offset = sb->s_mmp_block * EXT2_BLOCK_SIZE (sb);
  m->checksums = ext2fs_has_feature_metadata_csum (sb);
  m->seed = ext2fs_has_feature_csum_seed (sb) ? sb->s_checksum_seed
    : ext2fs_crc32c_le (~0u, sb->s_uuid, sizeof sb->s_uuid);
  m->interval = sb->s_mmp_update_interval;
  if (m->interval == 0)
    m->interval = EXT4_MMP_UPDATE_INTERVAL;
  if (m->interval > EXT4_MMP_MAX_UPDATE_INTERVAL)
    m->interval = EXT4_MMP_MAX_UPDATE_INTERVAL;
  return 0;
}

errcode_t
mmp_look (struct device *dev, struct ext2_super_block *sb)
{
  struct mmp m = { .dev = dev };
  errcode_t err = use_super (&m, sb);

  if (err)
    return err;
  err = read_block (&m);
  if (!err && sequence (&m) == EXT4_MMP_SEQ_FSCK)
    return refuse_fsck (&m);
  return err ? refuse_unusable (&m, err) : 0;
}

/* Keeping it. */

/* Is the block as we left it?  A write that failed may have got there or
 * not, so the next sequence is ours as well.
 */
static bool
is_ours (const struct mmp_struct *found, const struct mmp_struct *ours)
{
  const uint32_t seq = ext2fs_le32_to_cpu (ours->mmp_seq);

  return (found->mmp_seq == ours->mmp_seq ||
          ext2fs_le32_to_cpu (found->mmp_seq) == next_sequence (seq)) &&
    memcmp (found->mmp_nodename, ours->mmp_nodename,
            sizeof ours->mmp_nodename) == 0 &&
    memcmp (found->mmp_bdevname, ours->mmp_bdevname,
            sizeof ours->mmp_bdevname) == 0;
}

/* Too much time has passed: look before writing. */
static bool
check_block (struct mmp *m)
{
  const struct mmp_struct ours = m->block;
  char why[128];
  errcode_t err = read_block (m);

  if (!err && is_ours (&m->block, &ours))
    return true;
  if (err)
    log_error ("multiple mount protection: the block cannot be read: %s: no "
               "more changes are accepted; end the server, run e2fsck -f, and "
               "start it again", errcode_text (err, why, sizeof why));
  else
    refuse (m, "the filesystem has been taken over by somebody else, because "
            "this server was too slow to say that it is alive",
            "no more changes are accepted; stop both, then run e2fsck -f");
  lose (m);
  return false;
}

/* One round.  Returns how many seconds to wait for the next one, 0 if
 * there is none because the filesystem is lost.
 */
static unsigned
update (struct mmp *m)
{
  const unsigned check = ext2fs_le16_to_cpu (m->block.mmp_check_interval);
  const unsigned retry = m->interval < RETRY ? m->interval : RETRY;
  uint64_t late = now_ms () - m->written;
  struct mmp_struct last;
  char why[128];
  errcode_t err;

  if (late > (uint64_t) check * m->second_ms && !check_block (m))
    return 0;
  last = m->block;
  err = write_block (m, next_sequence (sequence (m)));
  if (!err)
    return m->interval;
  m->block = last;
  late = now_ms () - m->written;
  if (late + (uint64_t) retry * m->second_ms
      < (uint64_t) time_to_wait (check) * m->second_ms)
    return retry;
  log_error ("multiple mount protection: the block could not be written for "
             "%llu s: %s: somebody else may have taken the filesystem; no "
             "more changes are accepted; end the server, run e2fsck -f, and "
             "start it again", (unsigned long long) late / m->second_ms,
             errcode_text (err, why, sizeof why));
  lose (m);
  return 0;
}

/* Waits; false if the thread is to end. */
static bool
pause_or_stop (struct mmp *m, unsigned seconds)
{
  const uint64_t until = now_ms () + (uint64_t) seconds * m->second_ms;
  const struct timespec ts = { until / 1000, until % 1000 * 1000000L };
  bool stop;

  pthread_mutex_lock (&m->mutex);
  while (!m->stop &&
         pthread_cond_timedwait (&m->wake, &m->mutex, &ts) != ETIMEDOUT)
    ;
  stop = m->stop;
  pthread_mutex_unlock (&m->mutex);
  return !stop;
}

static void *
mmp_thread (void *arg)
{
  struct mmp *m = arg;
  unsigned seconds = m->interval;

  while (seconds > 0 && pause_or_stop (m, seconds))
    seconds = update (m);
  return NULL;
}

static struct mmp *
mmp_new (struct device *dev, const struct filesystem_options *opts)
{
  struct mmp *m = calloc (1, sizeof *m);
  pthread_condattr_t attr;

  _Static_assert (sizeof m->block == MMP_SIZE, "mmp_struct is 1024 bytes");
  if (m == NULL)
    return NULL;
  m->dev = dev;
  m->second_ms = opts->mmp_second_ms ? opts->mmp_second_ms : 1000;
  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (&m->wake, &attr);
  pthread_condattr_destroy (&attr);
  pthread_mutex_init (&m->mutex, NULL);
  return m;
}

static void
mmp_free (struct mmp *m)
{
  pthread_mutex_destroy (&m->mutex);
  pthread_cond_destroy (&m->wake);
  free (m);
}

errcode_t
mmp_start (struct device *dev, struct ext2_super_block *sb,
           const struct filesystem_options *opts, struct mmp **mp)
{
  struct mmp *m = mmp_new (dev, opts);
  unsigned wait;
  errcode_t err;

  if (m == NULL)
    return ENOMEM;
  if ((err = use_super (m, sb)) || (err = wait_for_others (m, opts, &wait)) ||
      (err = claim (m, opts, wait)))
    goto fail;
  err = thread_start (&m->thread, mmp_thread, m);
  if (err) {
    log_error ("cannot start a thread for multiple mount protection: try "
               "again");
    write_block (m, EXT4_MMP_SEQ_CLEAN);
    goto fail;
  }
  *mp = m;
  return 0;

 fail:
  mmp_free (m);
  return err;
}

void
mmp_attach (struct mmp *m, struct filesystem *fs)
{
  if (m == NULL)
    return;
  pthread_mutex_lock (&m->mutex);
  m->fs = fs;
  if (m->lost)
    atomic_store (&fs->aborted, true);
  pthread_mutex_unlock (&m->mutex);
}

void
mmp_stop (struct mmp *m, bool clean)
{
  char why[128];
  errcode_t err;

  if (m == NULL)
    return;
  pthread_mutex_lock (&m->mutex);
  m->stop = true;
  pthread_cond_signal (&m->wake);
  pthread_mutex_unlock (&m->mutex);
  pthread_join (m->thread, NULL);
  /* It may be long since the thread has written. */
  if (clean && !m->lost && now_ms () - m->written > (uint64_t)
      ext2fs_le16_to_cpu (m->block.mmp_check_interval) * m->second_ms)
    check_block (m);
  if (clean && !m->lost && (err = write_block (m, EXT4_MMP_SEQ_CLEAN)))
    log_warning ("multiple mount protection: the block could not be "
                 "cleared: %s: opening will take longer next time",
                 errcode_text (err, why, sizeof why));
  mmp_free (m);
}

errcode_t
mmp_protect_block (struct filesystem *fs)
{
  struct ext2_super_block *sb = fs->e2->super;
  errcode_t err;

  if (!ext2fs_has_feature_mmp (sb) || sb->s_mmp_block < fs->first_block ||
      sb->s_mmp_block >= fs->blocks)
    return 0;
  err = syszone_add (&fs->zones, sb->s_mmp_block, 1);
  if (!err && !syszone_finish (&fs->zones)) {
    log_error ("the block for multiple mount protection (%llu) lies in the "
               "filesystem's metadata: run e2fsck",
               (unsigned long long) sb->s_mmp_block);
    err = EXT2_ET_MMP_BAD_BLOCK;
  }
  return err;
}
