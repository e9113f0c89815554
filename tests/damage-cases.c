/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The ways to damage an image, each with a number: see damage.h.
 *
 *   flip    a byte of some metadata, in any way
 *   word    32 bits of some metadata: absurd values, neighbours of the
 *           right one, block and inode numbers of something else
 *   super   all such values in every field of the superblock
 *   cross   a pointer to what belongs to somebody else
 *   cut     the end of the image is missing
 *   loop    directory entries and symbolic links that lead back
 *   mix     several of the first two at once
 *
 * Where the metadata has a checksum there are two cases, with it put right
 * and not.
 */

#include <config.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "damage.h"

const char *const family_names[FAMILIES] = {
  "flip", "word", "super", "cross", "cut", "loop", "mix",
};

#define WORD_CASES 2            /* for each word, of the values below */
#define MIX_CASES 20000

/* One change to one region. */
struct change {
  const struct region *r;
  uint32_t at, len;             /* bytes into it */
  uint32_t value;
};

static uint32_t
get_le (const uint8_t *p, unsigned len)
{
  uint32_t v = 0;
  unsigned i;

  for (i = 0; i < len; i++)
    v |= (uint32_t) p[i] << 8 * i;
  return v;
}

static void
put_le (uint8_t *p, unsigned len, uint32_t v)
{
  unsigned i;

  for (i = 0; i < len; i++)
    p[i] = v >> 8 * i;
}

/* Values. */

#define EDGES 16

/* The I-th value that a word of LEN bytes that is OLD is to get. */
static uint32_t
edge (const struct victim *v, unsigned i, uint32_t old, unsigned len)
{
  const uint32_t top = len == 4 ? 0x80000000 : 0x8000;
  const uint32_t values[EDGES] = {
    0, 1, 2, 7, 8, 12, 13, top, top - 1, 2 * top - 1, 2 * top - 2, old + 1,
    old - 1, old * 2, old ^ top, v->e2->super->s_inodes_count,
  };

  return i < EDGES ? values[i] : v->special[i - EDGES];
}

static unsigned
edges (const struct victim *v, unsigned len)
{
  return len == 4 ? EDGES + v->special_count : EDGES;
}

/* A copy of the victim's image. */
static struct memdev *
copy_of (struct victim *v)
{
  struct memdev *md = v->scratch;

  memcpy (md->mem, v->md->mem, v->md->dev.size);
  md->dev.revoked = false;
  return md;
}

void
damage_done (struct victim *v, struct memdev *md)
{
  if (md != v->scratch)
    memdev_free (md);
}

/* A change carried out on MD; sealed if SEAL, which may be impossible. */
static bool
change (struct victim *v, struct memdev *md, const struct change *c,
        bool seal)
{
  uint8_t *p = md->mem + c->r->offset;
  const uint32_t old = get_le (p + c->at, c->len);

  put_le (p + c->at, c->len, c->value);
  if (get_le (p + c->at, c->len) == old)
    return false;
  /* A change of the checksum is undone by sealing. */
  return !seal || (victim_seal (v, md->mem, c->r) &&
                   get_le (p + c->at, c->len) != old);
}

static void
describe (const struct change *c, bool seal, char *what, size_t len)
{
  snprintf (what, len, "%s %u: 0x%x (%u bytes) at byte %u%s",
            region_names[c->r->kind], c->r->number, c->value, c->len, c->at,
            seal ? ", checksum right" : "");
}

static struct rng
rng_of (enum family family, uint64_t n, uint64_t seed)
{
  struct rng rng = { seed };

  rng.state = rng_next (&rng) + family;
  rng.state = rng_next (&rng) + n;
  return rng;
}

/* Flip and word: the N-th unit of UNIT bytes of all regions. */

static uint64_t
units (const struct victim *v, unsigned unit)
{
  uint64_t n = 0;
  size_t i;

  for (i = 0; i < v->region_count; i++)
    n += v->regions[i].len / unit;
  return n;
}

static void
choose_unit (const struct victim *v, uint64_t n, unsigned unit,
             struct change *c)
{
  const struct region *r = v->regions;

  for (; n >= r->len / unit; r++)
    n -= r->len / unit;
  c->r = r;
  c->at = n * unit;
  c->len = unit;
}

static void
choose_flip (const struct victim *v, uint64_t n, struct rng *rng,
             struct change *c)
{
  uint8_t old;

  choose_unit (v, n, 1, c);
  old = v->md->mem[c->r->offset + c->at];
  switch (rng_below (rng, 4)) {
  case 0: case 1:
    c->value = old ^ 1u << rng_below (rng, 8);
    break;
  case 2:
    c->value = rng_below (rng, 256);
    break;
  case 3:
    c->value = rng_below (rng, 2) ? 0xff : 0;
    break;
  }
}

static void
choose_word (const struct victim *v, uint64_t n, struct rng *rng,
             struct change *c)
{
  uint32_t old;

  choose_unit (v, n, 4, c);
  /* One in three is half a word. */
  if (rng_below (rng, 3) == 0) {
    c->len = 2;
    c->at += 2 * rng_below (rng, 2);
  }
  old = get_le (v->md->mem + c->r->offset + c->at, c->len);
  c->value = edge (v, rng_below (rng, edges (v, c->len)), old, c->len);
}

/* Super. */

static uint64_t
super_cases (const struct victim *v)
{
  return 256 * edges (v, 4) + 512 * edges (v, 2);
}

static void
choose_super (const struct victim *v, uint64_t n, struct change *c)
{
  const unsigned words = 256 * edges (v, 4);

  c->r = &v->regions[0];
  c->len = n < words ? 4 : 2;
  if (n >= words)
    n -= words;
  c->at = n / edges (v, c->len) * c->len;
  c->value = edge (v, n % edges (v, c->len),
                   get_le (v->md->mem + c->r->offset + c->at, c->len),
                   c->len);
}

/* Cross: fields that are block numbers. */

#define SLOTS 4000

struct slots {
  const struct region *r[SLOTS];
  uint16_t at[SLOTS];
  unsigned count;
};

static void
add_slot (struct slots *s, const struct region *r, unsigned at)
{
  if (s->count == SLOTS)
    return;
  s->r[s->count] = r;
  s->at[s->count++] = at;
}

/* The first entries of an extent node at AT. */
static void
add_node (const struct victim *v, struct slots *s, const struct region *r,
          unsigned at)
{
  const uint8_t *p = v->md->mem + r->offset + at;
  const unsigned entries = get_le (p + 2, 2), leaf = get_le (p + 6, 2) == 0;
  unsigned i;

  for (i = 0; i < entries && i < 3; i++)
    add_slot (s, r, at + 12 + 12 * i + (leaf ? 8 : 4));
}

static void
find_slots (const struct victim *v, struct slots *s)
{
  const uint8_t *p;
  unsigned i, k;

  s->count = 0;
  for (i = 0; i < v->region_count; i++) {
    const struct region *r = &v->regions[i];

    p = v->md->mem + r->offset;
    switch (r->kind) {
    case R_DESC:
      for (k = 0; k < 3 && r->number < 3; k++)
        add_slot (s, r, 4 * k);
      break;
    case R_INODE:
      add_slot (s, r, 104);     /* i_file_acl */
      if (get_le (p + 32, 4) & EXT4_INLINE_DATA_FL)
        break;
      if (get_le (p + 32, 4) & EXT4_EXTENTS_FL)
        add_node (v, s, r, 40);
      else
        for (k = 0; k < 15; k += k == 1 ? 11 : 1)
          add_slot (s, r, 40 + 4 * k);
      break;
    case R_EXTENTS:
      add_node (v, s, r, 0);
      break;
    case R_INDIRECT:
      add_slot (s, r, 0);
      add_slot (s, r, 5 * 4);
      break;
    default:
      break;
    }
  }
}

static uint64_t
cross_cases (const struct victim *v)
{
  struct slots s;

  find_slots (v, &s);
  return (uint64_t) s.count * v->special_count;
}

static void
choose_cross (const struct victim *v, uint64_t n, struct change *c)
{
  struct slots s;

  find_slots (v, &s);
  c->r = s.r[n / v->special_count];
  c->at = s.at[n / v->special_count];
  c->len = 4;
  c->value = v->special[n % v->special_count];
}

/* Cut: where metadata begins, is, or ends; and at the end. */

#define CUTS 3

static uint64_t
cut_at (const struct victim *v, uint64_t n)
{
  static const uint64_t fixed[] = { 1, 512, 1023, 1024, 1100, 2047, 2048 };
  const uint64_t size = v->md->dev.size;
  const struct region *r;

  if (n < 7)
    return fixed[n];
  n -= 7;
  if (n < 4)
    return size - (n == 0 ? 1 : n == 1 ? 512 : n == 2 ? 1024 : 65536);
  n -= 4;
  r = &v->regions[n / CUTS];
  return r->offset + (n % CUTS == 0 ? 0 : n % CUTS == 1 ? r->len / 2
                      : r->len);
}

static struct memdev *
make_cut (const struct victim *v, uint64_t n, char *what, size_t len)
{
  const uint64_t size = cut_at (v, n);
  struct memdev *md = memdev_new (size);

  memcpy (md->mem, v->md->mem, size);
  snprintf (what, len, "cut off at byte %llu", (unsigned long long) size);
  return md;
}

/* Loop: the inode number of every directory entry; and texts of links. */

#define LOOP_ENTRIES 400

static unsigned
find_entries (const struct victim *v, struct change *list)
{
  unsigned n = 0, i;

  for (i = 0; i < v->region_count; i++) {
    const struct region *r = &v->regions[i];
    uint32_t at = 0, step;

    if (r->kind != R_DIRECTORY)
      continue;
    for (; at + 8 <= r->len && n < LOOP_ENTRIES; at += step) {
      step = get_le (v->md->mem + r->offset + at + 4, 2);
      if (step < 8)
        break;
      list[n++] = (struct change) { .r = r, .at = at, .len = 4 };
    }
  }
  return n;
}

static const char *const texts[] = {
  "slow", "/dir/slow", "/dir/slow/slow", "../dir/../dir/slow", ".", "/", "..",
  "sub/../sub/../slow", "/tiny/x", "/dir/sub/small",
};
#define TEXTS (sizeof texts / sizeof texts[0])

#define NUMBERS 16

static uint32_t
entry_number (const struct victim *v, const struct region *r, unsigned i)
{
  static const uint32_t numbers[] = { 0, 1, 2, 7, 8, 11, 12, 13, 14, 15, 16,
    17 };

  switch (i) {
  case 12: return r->number;    /* the directory itself */
  case 13: return v->e2->super->s_inodes_count;
  case 14: return v->e2->super->s_inodes_count + 1;
  case 15: return UINT32_MAX;
  default: return numbers[i];
  }
}

static uint64_t
loop_cases (const struct victim *v)
{
  struct change list[LOOP_ENTRIES];

  return TEXTS + (uint64_t) find_entries (v, list) * NUMBERS;
}

static void
choose_loop (const struct victim *v, uint64_t n, struct change *c)
{
  struct change list[LOOP_ENTRIES];

  find_entries (v, list);
  *c = list[(n - TEXTS) / NUMBERS];
  c->value = entry_number (v, c->r, (n - TEXTS) % NUMBERS);
}

/* The text of the one link that has a block; its length is made to fit. */
static struct memdev *
make_link (struct victim *v, const char *text, char *what, size_t len)
{
  const struct region *r, *inode = NULL, *link = NULL;
  struct memdev *md;
  size_t i;

  for (i = 0; i < v->region_count; i++) {
    r = &v->regions[i];
    if (r->kind == R_LINK)
      link = r;
  }
  for (i = 0; i < v->region_count && link; i++)
    if (v->regions[i].kind == R_INODE &&
        v->regions[i].number == link->number)
      inode = &v->regions[i];
  if (inode == NULL)
    return NULL;
  md = copy_of (v);
  memset (md->mem + link->offset, 0, link->len);
  memcpy (md->mem + link->offset, text, strlen (text));
  put_le (md->mem + inode->offset + 4, 4, strlen (text));
  victim_seal (v, md->mem, inode);
  snprintf (what, len, "a link to %s", text);
  return md;
}

/* Mix. */

static struct memdev *
make_mix (struct victim *v, uint64_t n, uint64_t seed, char *what,
          size_t len)
{
  struct memdev *md = copy_of (v);
  struct rng rng = rng_of (MIX, n, seed);
  unsigned left = 2 + rng_below (&rng, 5);
  size_t used = 0;
  struct change c;
  bool seal;

  while (left-- > 0 && used + 100 < len) {
    if (rng_below (&rng, 2))
      choose_flip (v, rng_below (&rng, units (v, 1)), &rng, &c);
    else
      choose_word (v, rng_below (&rng, units (v, 4)), &rng, &c);
    seal = rng_below (&rng, 4) > 0;
    change (v, md, &c, seal);
    describe (&c, seal, what + used, len - used);
    used += strlen (what + used);
    used += snprintf (what + used, len - used, "; ");
  }
  return md;
}

/* All of them. */

uint64_t
damage_count (struct victim *v, enum family family)
{
  switch (family) {
  case FLIP: return 2 * units (v, 1);
  case WORD: return 2 * WORD_CASES * units (v, 4);
  case SUPER: return 2 * super_cases (v);
  case CROSS: return 2 * cross_cases (v);
  case CUT: return 7 + 4 + CUTS * v->region_count;
  case LOOP: return 2 * loop_cases (v);
  case MIX: return MIX_CASES;
  default: return 0;
  }
}

struct memdev *
damage_make (struct victim *v, enum family family, uint64_t n, uint64_t seed,
             char *what, size_t len)
{
  struct rng rng = rng_of (family, n, seed);
  const bool seal = n % 2 == 0;
  struct memdev *md;
  struct change c;

  switch (family) {
  case FLIP:
    choose_flip (v, n / 2, &rng, &c);
    break;
  case WORD:
    choose_word (v, n / 2 / WORD_CASES, &rng, &c);
    break;
  case SUPER:
    choose_super (v, n / 2, &c);
    break;
  case CROSS:
    choose_cross (v, n / 2, &c);
    break;
  case LOOP:
    if (n / 2 < TEXTS)
      return seal ? make_link (v, texts[n / 2], what, len) : NULL;
    choose_loop (v, n / 2, &c);
    break;
  case CUT:
    return make_cut (v, n, what, len);
  case MIX:
    return make_mix (v, n, seed, what, len);
  default:
    return NULL;
  }
  md = copy_of (v);
  describe (&c, seal, what, len);
  return change (v, md, &c, seal) ? md : NULL;
}
