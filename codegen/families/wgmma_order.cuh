// The order of a launch's items, and how blocks take them: whoever is free takes the next one, so that no block waits at the end
// for another that had longer ones. An item is a row tile of a KV head of a request, and of each split of the columns; what
// a block does with it is not known here.
//
// Items come in sections. In a section the last row tiles come first: under a mask they are the longest as a rule, and short
// ones at the end leave little to wait for. Where row tiles are alike, or few, a section has as many heads of as many requests
// as there are blocks for all of their row tiles at once: keys and values are read from device memory at an even pace, and
// by all blocks that need them while they are in the L2. Else it has as many as the L2 keeps the keys and values of; so has
// the last one under a mask, and every one where requests differ, as a section is not to be passed over for every item. A
// request has no item where it has no rows, and no time is spent on one: a warp knows by a ballot which requests have a tile.
#pragma once
#include "device/joint.cuh"
#include "device/pairs.cuh"

#ifdef ATTNCC_KERNELS

namespace attncc {
namespace wgmma_sm90 {

constexpr float kCacheBytes = 32 << 20;  // of keys and values that the L2 keeps: an H200's has 50 MB
constexpr int kFewTiles = 4;             // row tiles of a head, as at 512 rows: measured with a mask

// The items of a launch in their order. A whole warp has it; lane i looks after request b0 + i of a section.
template <class Config, class Variant>
struct ItemOrder {
  const Launch& launch;
  int lane;
  bool packed;         // a tile packs the group's heads; else it has one, as tables kept by head hold so many
  int copies;          // items of a row tile: for each split, and for each head of the group where it is not packed
  int kept, at_once;    // parts that the L2 keeps; whose tiles are as many as blocks
  int requests, heads;  // of the section
  int b0 = 0, hk0 = 0, level, tiles;  // the section's first request and head; a row tile; how many the lane's request has
  unsigned passed = 0;  // items before those of the level

  __device__ __forceinline__ ItemOrder(const Launch& launch, unsigned blocks, int lane)
      : launch(launch), lane(lane), packed(packs_group<Variant>(launch)) {
    copies = (packed ? 1 : launch.group) * splits();
    const float bytes = float(launch.max_kv_len) * (2 * (Config::head_dim + Config::head_dim_v));
    const int parts = launch.num_kv_heads * launch.batch;
    kept = bytes * parts <= kCacheBytes ? parts : int(kCacheBytes / bytes);
    const int row_tiles = (launch.max_qo_len * (packed ? launch.group : 1) + Config::block_m - 1) / Config::block_m;
    const bool alike = launch.qo_indptr == nullptr && launch.qo_lens == nullptr;
    at_once = kept;
    if (alike && (!Variant::facts.has_mask || row_tiles <= kFewTiles))
      at_once = int(blocks) / ((row_tiles > 1 ? row_tiles : 1) * copies);
    open();
  }

  __device__ __forceinline__ int splits() const { return launch.num_splits > 1 ? launch.num_splits : 1; }

  // A section's requests and its longest one's last tile.
  __device__ __forceinline__ void open() {
    const bool ends = Variant::facts.has_mask && (launch.batch - b0) * launch.num_kv_heads - hk0 <= kept;
    const int parts = ends || kept < at_once ? kept : at_once;
    heads = parts < 1 ? 1 : (parts < launch.num_kv_heads ? parts : launch.num_kv_heads);
    requests = hk0 == 0 ? parts / launch.num_kv_heads : 1;
    requests = requests < 1 ? 1 : (requests < 32 ? requests : 32);
    const int b = b0 + lane, pack = packed ? launch.group : 1;
    tiles = 0;
    if (lane < requests && b < launch.batch)
      tiles = (geometry(launch, b).qo_len * pack + Config::block_m - 1) / Config::block_m;
    level = __reduce_max_sync(0xffffffffu, tiles) - 1;
  }

  // Item `unit` of all; no less than at the call before. nrows is 0 behind the last. Row tiles that the same requests have are
  // passed over together.
  __device__ __forceinline__ Work at(unsigned unit) {
#pragma unroll 1
    while (b0 < launch.batch) {
      const int left = launch.num_kv_heads - hk0;
      const unsigned across = (left < heads ? left : heads) * copies, on = unit - passed;
      const bool has = level >= 0 && tiles > level;
      const unsigned having = __ballot_sync(0xffffffffu, has), count = __popc(having) * across;
      const int lowest = __reduce_max_sync(0xffffffffu, has ? 0 : tiles);  // below, there is a request more
      if (on < count * (level + 1 - lowest)) {
        const unsigned levels = on / count, of_level = on - levels * count;
        const unsigned nth = of_level / across, of_tile = of_level - nth * across;
        level -= levels;
        passed += levels * count;
        const unsigned found = __ballot_sync(0xffffffffu, has && __popc(having & ((1u << lane) - 1)) == int(nth));
        return work(b0 + __ffs(int(found)) - 1, of_tile / copies, of_tile % copies);
      }
      passed += count * (level + 1 - lowest);
      level = lowest - 1;
      if (level < 0) {
        hk0 += heads;
        if (hk0 >= launch.num_kv_heads) {
          hk0 = 0;
          b0 += requests;
        }
        open();
      }
    }
    return Work{};
  }

  __device__ __forceinline__ Work work(int b, int head, unsigned copy) const {
    const unsigned of_group = copy / splits();
    Work work{};
    work.slot = copy - of_group * splits();
    work.b = b;
    work.hk = hk0 + head;
    work.h0 = work.hk * launch.group + of_group;
    work.pack = packed ? launch.group : 1;
    work.geometry = geometry(launch, b);
    work.row0 = level * Config::block_m;
    const int left = work.geometry.qo_len * work.pack - work.row0;
    work.nrows = left < Config::block_m ? left : Config::block_m;
    work.ncols = work.geometry.kv_len;
    if (launch.num_splits > 1) {
      work.col0 = work.slot * launch.split_cols;
      work.ncols = launch.split_cols;
    }
    return work;
  }
};

// The number of the next item that nobody has taken; the first `blocks` are the blocks' own.
__device__ __forceinline__ unsigned take_item(const Launch& launch, unsigned blocks) {
  return blocks + atomicAdd(launch.counters, 1u);
}

// A block takes no more. The last one leaves the counters as they were: for the next launch.
__device__ __forceinline__ void end_items(const Launch& launch, unsigned blocks) {
  if (atomicInc(launch.counters + 1, blocks - 1) == blocks - 1) launch.counters[0] = 0;
}

}  // namespace wgmma_sm90
}  // namespace attncc
#endif  // ATTNCC_KERNELS
