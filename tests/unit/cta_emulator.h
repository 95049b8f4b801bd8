// A CTA on the CPU: one fiber per thread, and the instructions that mma_sm80 uses, as the PTX ISA describes them. Copies
// land only when waited for, shared memory starts as NaN, ldmatrix counts bank conflicts: a kernel body that misses a
// wait, reads what it never wrote or swizzles badly is caught without a GPU.
#pragma once
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <vector>

#include "device/types.cuh"

#define __shared__ static

struct alignas(8) float2 {
  float x, y;
};

struct alignas(16) float4 {
  float x, y, z, w;
};

struct uint2 {
  unsigned x, y;
};

struct uint4 {
  unsigned x, y, z, w;
};

namespace emulator {

constexpr int kMaxThreads = 512, kStack = 256 * 1024;
constexpr unsigned kBase = 1024;  // where dynamic shared memory begins in the shared address space

struct Copy {
  unsigned target;
  const void* source;
  bool valid;
};

struct Barrier {
  int arrived = 0;
  unsigned generation = 0;
};

struct Fiber {
  ucontext_t context;
  bool done = false;
  unsigned collectives = 0;
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};

struct Exchange {  // double-buffered: one barrier a collective is enough
  unsigned words[2][32][6];
};

inline ucontext_t scheduler;
inline Fiber fibers[kMaxThreads];
inline Barrier cta_barrier, warp_barriers[kMaxThreads / 32];
inline Exchange exchanges[kMaxThreads / 32];
inline int current, threads;
inline long conflicts;
alignas(128) inline char memory[232 * 1024];
inline std::size_t memory_bytes;
inline std::function<void()> body;
inline std::function<void()> begin, between;  // of a CTA; after every thread has had its turn

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulator: %s (thread %d)\n", what, current);
  std::abort();
}

inline void yield() { swapcontext(&fibers[current].context, &scheduler); }

inline void wait(Barrier& barrier, int count) {
  const unsigned generation = barrier.generation;
  if (++barrier.arrived == count) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  while (barrier.generation == generation) yield();
}

inline char* at(unsigned address, unsigned bytes) {
  if (address < kBase || address - kBase + bytes > memory_bytes) fail("shared address out of bounds");
  return memory + (address - kBase);
}

// Publishes this lane's words; returns the warp's.
inline const unsigned (*collect(std::initializer_list<unsigned> words))[6] {
  const int warp = current / 32;
  auto& slot = exchanges[warp].words[fibers[current].collectives++ & 1];
  int i = 0;
  for (unsigned word : words) slot[current % 32][i++] = word;
  wait(warp_barriers[warp], 32);
  return slot;
}

inline void entry() {
  body();
  fibers[current].done = true;
  while (true) yield();
}

// Runs one CTA to its end. Returns the number of bank conflicts met by ldmatrix.
inline long run(int count, std::size_t shared_bytes, std::function<void()> work) {
  static std::vector<char> stacks(std::size_t(kMaxThreads) * kStack);
  if (count > kMaxThreads || shared_bytes > sizeof memory) fail("too large a CTA");
  threads = count;
  memory_bytes = shared_bytes;
  body = std::move(work);
  conflicts = 0;
  std::memset(memory, 0xff, sizeof memory);
  cta_barrier = Barrier();
  if (begin) begin();
  for (auto& barrier : warp_barriers) barrier = Barrier();
  for (int i = 0; i < count; ++i) {
    fibers[i] = Fiber();
    getcontext(&fibers[i].context);
    fibers[i].context.uc_stack.ss_sp = stacks.data() + std::size_t(i) * kStack;
    fibers[i].context.uc_stack.ss_size = kStack;
    fibers[i].context.uc_link = nullptr;
    makecontext(&fibers[i].context, entry, 0);
  }
  int left = count;
  while (left > 0) {
    left = 0;
    for (current = 0; current < count; ++current) {
      if (fibers[current].done) continue;
      swapcontext(&scheduler, &fibers[current].context);
      left += !fibers[current].done;
    }
    if (between) between();
  }
  for (int i = 0; i < count; ++i)
    if (!fibers[i].open.empty()) fail("copies left uncommitted");
  return conflicts;
}

struct ThreadIndex {
  struct {
    operator unsigned() const { return unsigned(current); }
  } x;
};

struct Three {
  unsigned x, y, z;
};

inline float half_bits_to_float(unsigned bits, attncc::f16) { return attncc::to_value(attncc::f16{(unsigned short)bits}); }
inline float half_bits_to_float(unsigned bits, attncc::bf16) { return attncc::to_value(attncc::bf16{(unsigned short)bits}); }

// Round to nearest even.
inline unsigned to_bits(float x, attncc::bf16) {
  unsigned bits;
  std::memcpy(&bits, &x, 4);
  if (x != x) return 0x7fffu;
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}
inline unsigned to_bits(float x, attncc::f16) {
  const unsigned sign = std::signbit(x) ? 0x8000u : 0u;
  const float magnitude = std::fabs(x);
  if (x != x) return 0x7fffu;
  if (magnitude >= 65520.0f) return sign | 0x7c00u;
  if (magnitude == 0.0f) return sign;
  const int exponent = std::ilogb(magnitude) < -14 ? -14 : std::ilogb(magnitude);
  const unsigned steps = unsigned(std::nearbyint(std::ldexp(double(magnitude), 10 - exponent)));  // < 1024: subnormal
  return sign | (unsigned(exponent + 14) * 1024u + steps);
}

}  // namespace emulator

inline emulator::ThreadIndex threadIdx;
inline emulator::Three blockIdx, gridDim;

inline void __syncthreads() { emulator::wait(emulator::cta_barrier, emulator::threads); }
inline void __syncwarp() { emulator::collect({}); }
inline unsigned __shfl_xor_sync(unsigned, unsigned x, int mask) {
  return emulator::collect({x})[(emulator::current % 32) ^ mask][0];
}
inline int __all_sync(unsigned, int x) {
  const auto votes = emulator::collect({unsigned(x != 0)});
  unsigned all = 1;
  for (int lane = 0; lane < 32; ++lane) all &= votes[lane][0];
  return int(all);
}
inline int __any_sync(unsigned mask, int x) { return !__all_sync(mask, !x); }
inline int __shfl_sync(unsigned, int x, int lane) { return int(emulator::collect({unsigned(x)})[lane][0]); }
inline float __shfl_xor_sync(unsigned, float x, int mask) {
  unsigned bits;
  std::memcpy(&bits, &x, 4);
  return attncc::bits_to_float(emulator::collect({bits})[(emulator::current % 32) ^ mask][0]);
}
inline int __shfl_xor_sync(unsigned, int x, int mask) {
  return int(emulator::collect({unsigned(x)})[(emulator::current % 32) ^ mask][0]);
}
inline void atomicMin(int* x, int y) { *x = y < *x ? y : *x; }
inline void atomicMax(int* x, int y) { *x = y > *x ? y : *x; }
inline unsigned atomicAdd(unsigned* x, unsigned y) {
  const unsigned old = *x;
  *x += y;
  return old;
}
inline unsigned atomicInc(unsigned* x, unsigned last) {
  const unsigned old = *x;
  *x = old >= last ? 0 : old + 1;
  return old;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __reduce_max_sync(unsigned, int x) {
  const auto* words = emulator::collect({unsigned(x)});
  int most = x;
  for (int lane = 0; lane < 32; ++lane) most = int(words[lane][0]) > most ? int(words[lane][0]) : most;
  return most;
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  const auto* words = emulator::collect({unsigned(predicate != 0)});
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= words[lane][0] << lane;
  return bits;
}

namespace attncc {

inline unsigned shared_address(const void* pointer) {
  return unsigned(static_cast<const char*>(pointer) - emulator::memory) + emulator::kBase;
}

inline void prefetch(const void*) {}
inline void prefetch_l2(const void*) {}
template <class T>
inline void store_global(void* target, T value, bool valid) {
  if (valid) *static_cast<T*>(target) = value;
}

inline void copy_async(unsigned target, const void* source, bool valid) {
  if (target % 16 || (valid && reinterpret_cast<std::size_t>(source) % 16)) emulator::fail("cp.async is misaligned");
  emulator::fibers[emulator::current].open.push_back({target, source, valid});
}

inline void commit_copies() {
  auto& fiber = emulator::fibers[emulator::current];
  fiber.groups.push_back(std::move(fiber.open));
  fiber.open.clear();
}

template <int Pending>
inline void wait_copies() {
  auto& groups = emulator::fibers[emulator::current].groups;
  while (groups.size() > Pending) {
    for (const auto& copy : groups.front()) {
      char* target = emulator::at(copy.target, 16);
      if (copy.valid)
        std::memcpy(target, copy.source, 16);
      else
        std::memset(target, 0, 16);
    }
    groups.pop_front();
  }
}

template <bool Transposed>
inline void load_matrices_as(unsigned (&r)[4], unsigned address) {
  if (address % 16) emulator::fail("ldmatrix is misaligned");
  const auto* addresses = emulator::collect({address});
  const int lane = emulator::current % 32;
  for (int j = 0; j < 4; ++j) {
    unsigned columns = 0;
    for (int row = 0; row < 8; ++row) columns |= 1u << (addresses[j * 8 + row][0] / 16 % 8);
    emulator::conflicts += columns != 0xffu;
    unsigned short pair[2];
    for (int half = 0; half < 2; ++half) {
      const int row = Transposed ? 2 * (lane % 4) + half : lane / 4, col = Transposed ? lane / 4 : 2 * (lane % 4) + half;
      std::memcpy(&pair[half], emulator::at(addresses[j * 8 + row][0], 16) + col * 2, 2);
    }
    r[j] = pair[0] | unsigned(pair[1]) << 16;
  }
}
inline void load_matrices(unsigned (&r)[4], unsigned address) { load_matrices_as<false>(r, address); }
inline void load_matrices_transposed(unsigned (&r)[4], unsigned address) { load_matrices_as<true>(r, address); }

template <class T>
inline void mma(float* c, const unsigned (&a)[4], unsigned b0, unsigned b1, T type) {
  const auto* words = emulator::collect({a[0], a[1], a[2], a[3], b0, b1});
  const int lane = emulator::current % 32;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + (i / 2) * 8, col = 2 * (lane % 4) + i % 2;
    for (int k = 0; k < 16; ++k) {
      const unsigned left = words[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], right = words[col * 4 + k % 8 / 2][4 + k / 8];
      const unsigned shift = k % 2 * 16;
      c[i] += emulator::half_bits_to_float(left >> shift, type) * emulator::half_bits_to_float(right >> shift, type);
    }
  }
}

template <class T>
inline unsigned pack(float low, float high, T type) {
  return emulator::to_bits(low, type) | emulator::to_bits(high, type) << 16;
}

}  // namespace attncc
