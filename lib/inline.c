/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Files whose data are in the inode itself. */

#include <config.h>

#include <errno.h>
#include <string.h>

#include <ext2fs/ext2fs.h>
#include <ext2fs/ext2_ext_attr.h>

#include "inline.h"

#define IN_I_BLOCK ((uint64_t) 60)

/* Attribute name "data" in the namespace "system". */
#define INDEX_SYSTEM 7

/* Finds system.data among the attributes in the inode's body.  The area
 * starts with a magic number behind the fixed fields; entries from its
 * start, values (offsets count from the first entry) from its end.
 */
static struct ext2_ext_attr_entry *
find_data (struct inode *inode, uint8_t **base, size_t *len)
{
  size_t size = EXT2_INODE_SIZE (inode->fs->e2->super), at;
  uint8_t *raw = (uint8_t *) inode->raw;
  uint32_t magic;

  if (size <= EXT2_GOOD_OLD_INODE_SIZE)
    return NULL;
  at = EXT2_GOOD_OLD_INODE_SIZE + inode->raw->i_extra_isize;
  if (at % 4 != 0 || at + 4 > size)
    return NULL;
  memcpy (&magic, raw + at, sizeof magic);
  if (magic != EXT2_EXT_ATTR_MAGIC)
    return NULL;
  *base = raw + at + 4;
  *len = size - at - 4;
  for (at = 0; at + sizeof (struct ext2_ext_attr_entry) <= *len; ) {
    struct ext2_ext_attr_entry *e = (void *) (*base + at);

    if (EXT2_EXT_IS_LAST_ENTRY (e))
      return NULL;
    if (at + EXT2_EXT_ATTR_LEN (e->e_name_len) > *len)
      return NULL;
    if (e->e_name_index == INDEX_SYSTEM && e->e_name_len == 4 &&
        memcmp (EXT2_EXT_ATTR_NAME (e), "data", 4) == 0)
      return e;
    at += EXT2_EXT_ATTR_LEN (e->e_name_len);
  }
  return NULL;
}

/* The attribute's value, NULL if it is not sound. */
static uint8_t *
find_value (struct inode *inode, struct ext2_ext_attr_entry **ep,
            size_t *len)
{
  uint8_t *base;
  size_t area;
  struct ext2_ext_attr_entry *e = find_data (inode, &base, &area);

  *ep = e;
  /* The hash goes over the value rounded up to 4 bytes. */
  if (e == NULL || e->e_value_inum != 0 || e->e_value_offs % 4 != 0 ||
      e->e_value_offs > area || e->e_value_size > area ||
      (e->e_value_size + 3u) / 4 * 4 > area - e->e_value_offs ||
      base + e->e_value_offs < (uint8_t *) e + EXT2_EXT_ATTR_LEN (4))
    return NULL;
  *len = e->e_value_size;
  return base + e->e_value_offs;
}

void
inline_measure (struct inode *inode)
{
  struct ext2_ext_attr_entry *e;
  size_t len = 0;

  if (find_value (inode, &e, &len) == NULL)
    len = 0;
  inode->inline_bytes = IN_I_BLOCK + len;
}

/* The bytes at OFFSET and how many follow in the same place. */
static uint8_t *
bytes_at (struct inode *inode, uint64_t offset, uint64_t *n)
{
  struct ext2_ext_attr_entry *e;
  uint8_t *value;
  size_t len;

  if (offset < IN_I_BLOCK) {
    *n = IN_I_BLOCK - offset;
    return (uint8_t *) inode->raw->i_block + offset;
  }
  value = find_value (inode, &e, &len);
  if (value == NULL || offset - IN_I_BLOCK >= len)
    return NULL;
  *n = len - (offset - IN_I_BLOCK);
  return value + (offset - IN_I_BLOCK);
}

errcode_t
inline_read (struct inode *inode, void *buf, uint64_t count, uint64_t offset)
{
  uint8_t *p = buf;

  while (count > 0) {
    uint64_t n;
    const uint8_t *from = bytes_at (inode, offset, &n);

    if (from == NULL || n > count)
      n = count;
    if (from)
      memcpy (p, from, n);
    else
      memset (p, 0, n);         /* past what is stored */
    p += n;
    offset += n;
    count -= n;
  }
  return 0;
}

/* Attributes in the inode normally carry no hash; keep one that does
 * right.
 */
static void
rehash (struct inode *inode)
{
  struct ext2_ext_attr_entry *e;
  uint8_t *value;
  size_t len;

  value = find_value (inode, &e, &len);
  if (value && e->e_hash != 0)
    e->e_hash = ext2fs_ext_attr_hash_entry (e, value);
}

errcode_t
inline_write (struct inode *inode, const void *buf, uint64_t count,
              uint64_t offset)
{
  const uint8_t *p = buf;

  lock_assert_held (LOCK_MAP);
  lock_assert_held (LOCK_FS);
  while (count > 0) {
    uint64_t n;
    uint8_t *to = bytes_at (inode, offset, &n);

    if (to == NULL)
      return EXT2_FILSYS_CORRUPTED;
    if (n > count)
      n = count;
    if (p) {
      memcpy (to, p, n);
      p += n;
    }
    else
      memset (to, 0, n);
    offset += n;
    count -= n;
  }
  rehash (inode);
  return 0;
}
