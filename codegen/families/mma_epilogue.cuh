// The end of an mma_sm80 item: rows from accumulators to global memory, as an output, or as a split's state. Owns who stores
// what; it may not know how the accumulators came about.
#pragma once
#include "families/mma_layout.cuh"

#ifdef ATTNCC_KERNELS
#include "device/async_copy.cuh"
#include "device/mma.cuh"
#include "device/reduction.cuh"
#include "device/vectors.cuh"
#include "families/merge.cuh"

namespace attncc {
namespace mma_sm80 {

// How an output row ends, beside its floats in shared memory.
struct RowEnd {
  char* target;  // its elements, or its state's floats, in global memory; null: not a row of the item
  Finished row;
};

// The value of another lane of the warp.
__device__ __forceinline__ float shuffle(float x, int lane) {
  return bits_to_float(unsigned(__shfl_sync(0xffffffffu, int(float_to_bits(x)), lane)));
}
__device__ __forceinline__ char* shuffle(char* x, int lane) {
  const unsigned long long bits = reinterpret_cast<unsigned long long>(x);
  const unsigned low = __shfl_sync(0xffffffffu, int(unsigned(bits)), lane);
  const unsigned high = __shfl_sync(0xffffffffu, int(unsigned(bits >> 32)), lane);
  return reinterpret_cast<char*>((unsigned long long)(high) << 32 | low);
}

// Ends an item: normalises its rows and stores them, with their lse; or, where the columns are split, the accumulators and
// the rows' states. `output` and `reduction` are this thread's share of all the item's columns. Every thread of the CTA
// calls it; it writes over the tiles in `smem`.
template <class Config, class Variant, class Reduction>
__device__ __forceinline__ void end_item(const typename Variant::Params& params, const Staged<Config, Variant>& staged,
                                         const Fragment<Config>& scores,
                                         const float (&output)[Fragment<Config, Config::head_dim_v>::values],
                                         Reduction& reduction, char* smem) {
  using Element = typename Config::Element;
  using Scores = Fragment<Config>;
  using Outputs = Fragment<Config, Config::head_dim_v>;
  using Layout = SharedLayout<Config>;
  using VTile = typename Layout::VTile;
  constexpr Facts facts = Variant::facts;
  const Launch& launch = params.launch;
  const auto& source = staged.source;
  const auto& row_at = staged.row_at;
  const auto* rows = reinterpret_cast<const typename Variant::Row*>(staged.rows);
  const auto& item = *reinterpret_cast<const typename Variant::Item*>(staged.item);
  const int lane = scores.lane;
  // The four lanes that share rows end one of them each.
  const Outputs outputs(threadIdx.x);
  constexpr int slots = Scores::rows;
  static_assert(slots <= 4, "a lane to a row");
  const bool split = launch.split_out != nullptr;
  RowState state = reduction.state(0);
#pragma unroll
  for (int slot = 1; slot < slots; ++slot) {
    const RowState other = reduction.state(slot);
    if (lane % slots == slot) state = other;
  }
  const int end_row = scores.row(lane % slots);
  char* target = nullptr;  // the row's elements, or its state's floats; null: not a row of the item
  Finished finished{};
  if (end_row < source.nrows) {
    const RowAt at = row_at[end_row];
    if (split) {
      const i64 place = source.slot * launch.split_tokens * launch.num_heads +
                        merge::state_index(launch, source.qo_base, source.b, at.row, at.h);
      target = reinterpret_cast<char*>(launch.split_out + place * Config::head_dim_v);
      launch.split_state[2 * place] = state.first;
      launch.split_state[2 * place + 1] = state.second;
    } else {
      finished = finish<Variant, Config::accuracy>(item, rows[end_row], state);
      const i64 token = source.qo_base + at.row;
      target = static_cast<char*>(launch.out) + 2 * (source.b * launch.out_stride.batch +
                                                     token * launch.out_stride.token + at.h * launch.out_stride.head);
      if (launch.lse != nullptr)
        launch.lse[source.b * launch.lse_stride.batch + token * launch.lse_stride.token +
                   at.h * launch.lse_stride.head] = finished.lse;
    }
  }
  wait_copies<0>();  // an item without tiles still has Q in flight
  __syncthreads();   // the output tile overwrites Q, K and V
  // Each warp writes and reads its own rows.
  const int first_row = outputs.warp * Outputs::warp_rows;
  if constexpr (Layout::out_elements && !facts.output.present) {
    if (split) {
#pragma unroll
      for (int slot = 0; slot < slots; ++slot) {
        float* row = reinterpret_cast<float*>(shuffle(target, (lane & 28) + slot));
        if (row == nullptr) continue;
        row += outputs.first_col();
#pragma unroll
        for (int n = 0; n < Outputs::row_values; n += 2) {
          const int i = Outputs::value(slot, n);
          *reinterpret_cast<float2*>(row + Outputs::step(i)) = float2{output[i], output[i + 1]};
        }
      }
      return;
    }
    const int own = VTile::offset(outputs.row(0), 0) + (lane & 3) * 4;
#pragma unroll
    for (int slot = 0; slot < slots; ++slot) {
      const float scale = shuffle(finished.scale, (lane & 28) + slot);
#pragma unroll
      for (int n = 0; n < Outputs::row_values; n += 2) {
        const int i = Outputs::value(slot, n);
        *reinterpret_cast<unsigned*>(smem + Layout::out + VTile::advance(own, n / 2) +
                                     ((slot >> 1) * 16 + (slot & 1) * 8) * VTile::row_bytes) =
            pack(output[i] * scale, output[i + 1] * scale, Element());
      }
    }
    __syncwarp();
    // A lane stores 16 bytes, neighbours the next: whole rows, side by side.
    constexpr int chunks = VTile::chunks, pass = 32 / chunks;
    constexpr bool all_lanes = 32 % chunks == 0;
    const int first = quotient<chunks>(lane), chunk = lane - first * chunks, left = source.nrows - first_row - first;
    const char* from = smem + Layout::out + first_row * VTile::row_bytes;
#pragma unroll
    for (int row = 0; row < Outputs::warp_rows; row += pass) {
      const bool inside = all_lanes || (first < pass && first + row < Outputs::warp_rows);
      const int mine = inside ? first + row : 0;
      char* to = shuffle(target, (mine & 7) * 4 + (mine >> 3)) + chunk * 16;  // from the lane that ended it
      const uint4 part = *reinterpret_cast<const uint4*>(from + VTile::offset(mine, chunk));
      store_global(to, part, inside && row < left);
    }
  } else {
    constexpr int row_floats = Layout::out_row_floats;
    float* vectors = reinterpret_cast<float*>(smem + Layout::out);
    const auto row_end = [&](int i) -> RowEnd& {
      return *reinterpret_cast<RowEnd*>(vectors + i * row_floats + Config::head_dim_v);
    };
    row_end(end_row) = RowEnd{target, finished};
    float* own = vectors + outputs.row(0) * row_floats + outputs.col(0);  // the others' distances are constants
#pragma unroll
    for (int i = 0; i < Outputs::values; i += 2) {
      const int slot = Outputs::slot(i);
      *reinterpret_cast<float2*>(own + ((slot >> 1) * 16 + (slot & 1) * 8) * row_floats + Outputs::step(i)) =
          float2{output[i], output[i + 1]};
    }
    __syncwarp();
    if constexpr (facts.output.present) {
      if (!split) {
#pragma unroll 1
        for (int i = first_row; i < first_row + Outputs::warp_rows; ++i) {
          const RowEnd& end = row_end(i);
          if (end.target == nullptr) break;
          const FloatVector x{vectors + i * row_floats, end.row.scale};
          const RowAt at = row_at[i];
          store_vector<Element>(
              end.target, lane,
              output_vector<Config, Variant>(params, item, x, lane, end.row.total, end.row.lse, at.row, at.h));
        }
        return;
      }
    }
    // A lane stores four channels at a time, neighbours the next four.
    constexpr int parts = Config::head_dim_v / 4, pass = parts < 32 ? 32 / parts : 1;
    constexpr int batch = 4;  // read together: the compiler cannot see that stores do not write what is read next
    static_assert(Outputs::warp_rows % (batch * pass) == 0, "whole batches");
    const int first = parts < 32 ? lane / parts : 0;
    if (first >= pass) return;
#pragma unroll 1
    for (int part = lane - first * parts; part < parts; part += 32) {
#pragma unroll 1
      for (int done = first_row + first; done < first_row + Outputs::warp_rows; done += batch * pass) {
        float4 values[batch];
        float scale[batch];
        char* to[batch];
#pragma unroll
        for (int j = 0; j < batch; ++j) {
          const int row = done + j * pass;
          values[j] = reinterpret_cast<const float4*>(vectors + row * row_floats)[part];
          scale[j] = row_end(row).row.scale;
          to[j] = row_end(row).target;
        }
        if (split) {
#pragma unroll
          for (int j = 0; j < batch; ++j) store_global(to[j] + 16 * part, values[j], to[j] != nullptr);
          continue;
        }
#pragma unroll
        for (int j = 0; j < batch; ++j) {
          const float4 x = values[j];
          const float by = scale[j];
          const uint2 packed{pack(x.x * by, x.y * by, Element()), pack(x.z * by, x.w * by, Element())};
          store_global(to[j] + 8 * part, packed, to[j] != nullptr);
        }
      }
    }
  }
}

}  // namespace mma_sm80
}  // namespace attncc
#endif  // ATTNCC_KERNELS
