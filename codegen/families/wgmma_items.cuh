// What the warps of a wgmma_sm90 CTA share: the layout of its tiles, its barriers, items as they are handed over, and the
// tiles of an item. It may not know what a warp does with them; families/wgmma_sm90.cuh has the protocol.
#pragma once
#include "device/fragment.cuh"
#include "device/joint.cuh"
#include "device/pairs.cuh"
#include "device/tiles.cuh"
#include "device/wgmma.cuh"

#ifdef ATTNCC_KERNELS
#include "device/mbarrier.cuh"
#include "device/reduction.cuh"
#endif

namespace attncc {
namespace wgmma_sm90 {

template <class Config, int Cols = Config::block_n>
using Fragment = MmaFragment<Config::block_m, 4 * Config::consumers, Cols>;

// Dynamic shared memory, in bytes from its start; codegen/families/wgmma_sm90.py computes the same.
template <class Config>
struct SharedLayout {
  using QTile = SwizzledTile<Config::block_m, Config::head_dim>;
  using KTile = SwizzledTile<Config::block_n, Config::head_dim>;
  using VTile = SwizzledTile<Config::block_n, Config::head_dim_v>;
  // Where products add a bias by key: the columns that they have more, of Q for all of its rows, and of K.
  using OnesTile = PlainTile<64>;
  using BiasTile = PlainTile<Config::block_n>;
  static constexpr int q = 0, k = q + Config::q_stages * QTile::bytes, v = k + Config::stages * KTile::bytes;
  static constexpr int ones = v + Config::stages * VTile::bytes, biases = ones + (Config::adds ? OnesTile::bytes : 0);
  static constexpr int bytes = biases + (Config::adds ? Config::stages * BiasTile::bytes : 0);
};

#ifdef ATTNCC_KERNELS

// How a variant's softmax runs.
template <class Config, class Variant>
struct Softmaxes {
  static constexpr Facts facts = Variant::facts;
  // Against a fixed reference of 0.
  static constexpr bool bounded =
      facts.logit_bound > 0.0f && facts.logit_bound <= FixedReference<typename Config::Element>::most;
  // The hook that makes logits takes a row's reference from them.
  static constexpr bool relative = Config::steady && facts.has_logits && !facts.has_weight && !bounded;
  // What is added to scores is added beside the exponentials, where a tile needs neither mask nor maximum. Where a special
  // function comes before the exponential, it takes as long anyhow.
  static constexpr bool late = relative && !facts.has_special;
  // Products add a bias by key: see Added.
  static constexpr bool added = Config::adds && facts.key_adds;
  // An item's tiles come from the last to the first. Penalties of distance make the last keys of a causal row weigh most:
  // their tile then gives the reference for all others.
  static constexpr bool descends = (relative || added) && !facts.has_screen;
};

__device__ __forceinline__ constexpr Facts without_bias(Facts facts) {
  facts.has_logits = false;
  facts.has_key = facts.key_in_mask_only = facts.key_in_mask;
  return facts;
}

// What is left of a Variant to its pairs where products add its bias by key: scores that are scaled. Beside every tile of K lies
// a tile of 16 columns more, of which three hold the bias divided by the scale, in pieces, as device/biases.cuh has them; Q has
// ones there.
template <class Variant>
struct Added : Variant {
  static constexpr Facts facts = without_bias(Variant::facts);

  __device__ __forceinline__ static float logits(float score, const typename Variant::Item& item, const typename Variant::Row&,
                                                 const typename Variant::Tile&, const typename Variant::Key&, int, int) {
    return Variant::scaled(score, item);
  }
};

// A Variant as this family runs it.
template <class Config, class Variant, bool Adds = Config::adds && Variant::facts.key_adds>
struct Served {
  using Type = Variant;
};
template <class Config, class Variant>
struct Served<Config, Variant, true> {
  using Type = Added<Variant>;
};

constexpr int kLoaders = 128, kHelpers = 96;  // threads of the loading warpgroup; of its warps 1 - 3

// What a K stage holds, in one word: the columns from col on, below 2^28, and flags.
struct StageSpan {
  int word;
  __device__ __forceinline__ int col() const { return (word & 0x7fffffff) >> 3; }
};
constexpr int kPartial = 1, kLast = 2, kTail = 4;  // kTail: rows of V past the columns' end may hold anything
constexpr int kSettled = -0x7fffffff - 1;  // a head's values of row - col are one; the stagers say so beside them

// An item, as its loaders left it for the consumers. Raw bytes: an Item or Row may have constructors.
template <class Config, class Variant>
struct ItemSlot {
  alignas(16) char item[sizeof(typename Variant::Item)];
  alignas(16) char rows[Config::block_m * sizeof(typename Variant::Row)];
  RowAt row_at[Config::block_m];
  Range ranges[Variant::facts.num_ranges];
  Work work;
  int row_lo, row_hi, col_end;
  int reach;  // about where its tiles end: the end of its last range, or the begin of its first one
  int stop;   // it is no item but the end
  int unfinished;  // outputs are states, whose splits are yet to be merged
  // Where the output of the request's row 0 of head 0 goes, and how many bytes rows and heads are apart.
  char* target;
  i64 target_row, target_head;
  // Of plain scores: the magnitude of what logits are scores times, where that is 0 a 1, and how far weights against an old
  // maximum may rise: to 2^8.
  float scale, slack;
};

// One object of a whole number of 1024 bytes: dynamic shared memory begins where it ends, and tiles want that alignment.
template <class Config, class Variant>
struct alignas(1024) Shared {
  static_assert(Config::stages >= 2, "a tile that may be done again keeps its K until the next one's is there");
  static_assert(Config::slots >= 2, "an item's output is stored while the next one is under way");
  static constexpr bool added = Softmaxes<Config, Variant>::added;
  static constexpr bool staged = Variant::facts.has_key || Variant::facts.has_diagonal;
  // Of the threads of warps 1 - 3, who stages values, and who prepares items: the next one while this one's last tiles are
  // still staged. One warp is enough for keys that partial tiles alone read.
  static constexpr bool seldom = Variant::facts.key_in_mask_only && !Variant::facts.has_diagonal;
  static constexpr int stagers = seldom ? 32 : staged ? kHelpers - 32 : 0, preparers = kHelpers - stagers;
  using Diagonal = typename Diagonals<Config, Variant>::Value;
  static constexpr int diagonal_capacity = Diagonals<Config, Variant>::capacity;
  static constexpr int value_stages = Config::stages + 1;  // of what hooks stage: made before its K has a place

  unsigned long long slot_full[Config::slots], slot_empty[Config::slots];
  unsigned long long q_full[Config::q_stages][Config::consumers], q_empty[Config::q_stages][Config::consumers];
  unsigned long long k_full[Config::stages], k_empty[Config::stages], v_full[Config::stages];
  unsigned long long v_empty[Config::stages + 1];  // and one for what is before the first tile
  unsigned long long next_wanted;
  StageSpan spans[Config::stages];
  int ends[Config::stages];  // of tiles that come from the last to the first: see TileSpan
  // Of the rows of the last item that a consumer has ended, each warp's own: what a hook on outputs takes, or what outputs are
  // multiplied by.
  static constexpr bool hooked = Variant::facts.output.present;
  RowState states[hooked ? Config::block_m : 1];
  float scales[hooked ? 1 : Config::block_m];
  // The rows of Q that helpers copy next, in 16 bytes from the item's first.
  const char* source;
  int sources[Config::block_m];
  int zero;
  // Output vectors of which a channel needs others: one of each consumer warp.
  static constexpr int staged_vectors = Variant::facts.output.across ? 4 * Config::consumers : 1;
  alignas(16) float vectors[staged_vectors][Variant::facts.output.across ? Config::head_dim_v : 1];
  ItemSlot<Config, Variant> slots[Config::slots];
  alignas(16) char keys[(Variant::facts.has_key ? value_stages * Config::block_n : 1) * sizeof(typename Variant::Key)];
  int settled[value_stages];  // kSettled or 0: of the tile whose values these are
  alignas(16) char diagonals[(Variant::facts.has_diagonal ? value_stages * diagonal_capacity : 1) * sizeof(Diagonal)];
};

// The tiles that an item's ranges reach; of those, where the variant has a screen, what captured data leave.
template <class Config, class Variant>
__device__ __forceinline__ auto reached_tiles(const Launch& launch, const ItemSlot<Config, Variant>& slot) {
  constexpr Facts facts = Variant::facts;
  if constexpr (facts.has_screen)
    return TilesOf<facts.has_screen>::template walk<Config::block_n>(
        slot.ranges, screen_of<Config, Variant>(launch, slot.work), slot.work.col0, slot.col_end);
  else if constexpr (Softmaxes<Config, Variant>::descends)
    return DescendingTiles<Config::block_n, facts.num_ranges>(slot.ranges, slot.work.col0, slot.col_end);
  else
    return TileIterator<Config::block_n, facts.num_ranges>(slot.ranges, slot.work.col0, slot.col_end);
}

// The tiles of an item, one at least: where there is none, that of the columns from the end on, all masked.
template <class Config, class Variant>
struct ItemTiles {
  decltype(reached_tiles<Config, Variant>(Launch(), ItemSlot<Config, Variant>())) tiles;
  bool any = false;

  __device__ __forceinline__ ItemTiles(const Launch& launch, const ItemSlot<Config, Variant>& slot)
      : tiles(reached_tiles(launch, slot)) {}

  __device__ __forceinline__ bool next(TileSpan& span) {
    bool found = tiles.next(span);
    if (!found && !any) {
      span.col = tiles.col_end;
      span.partial = true;
      span.end = tiles.col_end;
      found = true;
    }
    any = true;
    return found;
  }
};

#endif  // ATTNCC_KERNELS

}  // namespace wgmma_sm90
}  // namespace attncc
