// The instructions that wgmma_sm90 uses, beside those of cta_emulator.h, as the PTX ISA describes them. What is asynchronous
// happens as late as it may, or as early, as `early` says: a missing wait shows in one of the two. TMA and wgmma apply the
// swizzle to addresses, as the hardware does, so that layouts written elsewhere are checked. Proxies are not modelled.
#pragma once
#include <map>

#include "cta_emulator.h"
#include "device/wgmma.cuh"

namespace emulator {

struct Phase {
  int expected = 0, arrived = 0;
  long bytes = 0;  // owed by copies
  unsigned parity = 0;
};
struct Named {
  int arrived = 0;
  unsigned generation = 0;
};
struct Landing {
  unsigned barrier, bytes;
  std::function<void()> write;
};
struct WarpProducts {
  std::vector<std::function<void()>> open;
  std::deque<std::vector<std::function<void()>>> groups;
};

inline std::map<unsigned, Phase> phases;
inline Named named[16];
inline std::deque<Landing> landings;
inline WarpProducts products[kMaxThreads];
inline bool early;
inline unsigned chance = 1;  // where a jittered kernel dawdles: another place with every CTA
inline long idle;

inline Phase& phase(unsigned barrier) {
  const auto found = phases.find(barrier);
  if (found == phases.end()) fail("mbarrier not initialised");
  return found->second;
}

inline void settle(Phase& phase) {
  if (phase.arrived > phase.expected) fail("more arrivals than a phase expects");
  if (phase.arrived < phase.expected || phase.bytes != 0) return;
  phase.arrived = 0;
  phase.parity ^= 1;
  idle = 0;
}

inline void land() {
  if (landings.empty()) return;
  const Landing landing = landings.front();
  landings.pop_front();
  landing.write();
  phase(landing.barrier).bytes -= landing.bytes;
  settle(phase(landing.barrier));
}

inline void reset_sm90() {
  phases.clear();
  landings.clear();
  for (auto& barrier : named) barrier = Named();
  for (auto& each : products) each = WarpProducts();
  idle = 0;
  begin = reset_sm90;
  between = [] {
    if (++idle > 100000) fail("nobody goes on");
    land();
  };
}

inline unsigned swizzled(unsigned address) { return address ^ ((address >> 7 & 7u) << 4); }

inline float element(unsigned address, attncc::f16 type) {
  unsigned short bits;
  std::memcpy(&bits, at(address, 2), 2);
  return half_bits_to_float(bits, type);
}
inline float element(unsigned address, attncc::bf16 type) {
  unsigned short bits;
  std::memcpy(&bits, at(address, 2), 2);
  return half_bits_to_float(bits, type);
}

// PTX ISA 9.7.15.5.1: element (row, k) of a K-major operand, (k, column) of an MN-major one, 128-byte swizzle; or of a K-major
// one without a swizzle, of core matrices of 8 rows of 16 bytes.
struct Operand {
  unsigned start, leading, stride;
  bool plain;

  explicit Operand(unsigned long long descriptor)
      : start(unsigned(descriptor & 0x3fff) << 4), leading(unsigned(descriptor >> 16 & 0x3fff) << 4),
        stride(unsigned(descriptor >> 32 & 0x3fff) << 4), plain(descriptor >> 62 == 0) {
    if (descriptor >> 62 > 1 || (descriptor >> 49 & 7) != 0) fail("not a descriptor of the 128-byte swizzle or of none");
  }
  unsigned k_major(int row, int k) const {
    if (plain) return start + row / 8 * stride + row % 8 * 16 + k / 8 * leading + k % 8 * 2;
    return swizzled(start + row / 8 * stride + row % 8 * 128 + k * 2);
  }
  unsigned mn_major(int k, int col) const {
    if (plain) fail("an MN-major operand without a swizzle");
    return swizzled(start + col / 64 * leading + k / 8 * stride + k % 8 * 128 + col % 64 * 2);
  }
};

inline void issue(std::function<void()> product) {
  if (early)
    product();
  else
    products[current].open.push_back(std::move(product));
}

}  // namespace emulator

namespace attncc {

inline void init_barrier(unsigned barrier, int arrivals) {
  if (barrier % 8) emulator::fail("mbarrier is misaligned");
  emulator::phases[barrier] = emulator::Phase{arrivals, 0, 0, 0};
}
inline void fence_barriers() {}
inline void stop_kernel() { emulator::fail("stopped"); }
inline void arrive(unsigned barrier) {
  auto& phase = emulator::phase(barrier);
  ++phase.arrived;
  emulator::settle(phase);
}
inline void arrive_warp(unsigned barrier, unsigned counts = 1) {
  __syncwarp();
  if ((threadIdx.x & 31) == 0 && counts) arrive(barrier);
}

inline void arrive_expecting(unsigned barrier, int bytes) {
  emulator::phase(barrier).bytes += bytes;
  arrive(barrier);
}
template <bool Checked>
inline void wait(unsigned barrier, unsigned parity) {
  while (emulator::phase(barrier).parity == (parity & 1)) emulator::yield();
}

struct TensorMap;

// The words of an emulated map: address, four sizes, three strides in bytes, the box's two sizes.
inline void load_box(unsigned target, const TensorMap* map, unsigned barrier, int c0, int c1, int c2, int c3) {
  unsigned long long words[10];
  std::memcpy(words, static_cast<const void*>(map), sizeof words);
  if (target % 1024) emulator::fail("a swizzled box is misaligned");
  for (int axis = 1; axis <= 4; ++axis)
    if (words[axis] == 0) emulator::fail("a descriptor of nothing");
  const int columns = int(words[8]), rows = int(words[9]);
  std::vector<unsigned long long> copy(words, words + 10);
  const auto write = [=] {
    for (int row = 0; row < rows; ++row)
      for (int col = 0; col < columns; ++col) {
        const long long at[4] = {c0 + col, c1 + row, c2, c3};
        bool inside = true;
        for (int axis = 0; axis < 4; ++axis) inside = inside && at[axis] >= 0 && at[axis] < (long long)copy[1 + axis];
        unsigned short bits = 0;
        if (inside)
          std::memcpy(&bits, reinterpret_cast<const char*>(copy[0]) + 2 * at[0] + at[1] * (long long)copy[5] +
                                 at[2] * (long long)copy[6] + at[3] * (long long)copy[7],
                      2);
        std::memcpy(emulator::at(emulator::swizzled(target + row * 128 + col * 2), 2), &bits, 2);
      }
  };
  emulator::landings.push_back({barrier, unsigned(rows * columns * 2), write});
  if (emulator::early) emulator::land();
}

inline void load_bytes(unsigned target, const void* source, int bytes, unsigned barrier) {
  if (target % 16 || reinterpret_cast<std::size_t>(source) % 16 || bytes % 16) emulator::fail("a bulk copy is misaligned");
  const auto write = [=] { std::memcpy(emulator::at(target, bytes), source, bytes); };
  emulator::landings.push_back({barrier, unsigned(bytes), write});
  if (emulator::early) emulator::land();
}

template <int Threads>
inline void arrive_named(int barrier) {
  auto& named = emulator::named[barrier];
  if (++named.arrived == Threads) {
    named.arrived = 0;
    ++named.generation;
    emulator::idle = 0;
  }
}
template <int Threads>
inline void sync_named(int barrier) {
  auto& named = emulator::named[barrier];
  const unsigned generation = named.generation;
  arrive_named<Threads>(barrier);
  while (named.generation == generation) emulator::yield();
}
inline void fence_proxy() {}
template <bool Wanted>
inline void jitter() {
  if constexpr (Wanted) {
    emulator::chance = emulator::chance * 1664525u + 1013904223u;
    if (emulator::chance >> 30 == 0)
      for (unsigned turns = emulator::chance >> 24 & 31u; turns > 0; --turns) emulator::yield();
  }
}
template <int Count>
inline void give_registers() {}
template <int Count>
inline void take_registers() {}

// One step of a product: m64, N columns, k16.
template <int N, class Element>
struct Step {
  template <class A>
  static void add_up(float (&c)[N / 2], bool add, A a, bool k_major, u64 b) {
    const emulator::Operand right(b);
    const int thread = emulator::current % 128, lane = thread % 32;
    for (int i = 0; i < N / 2; ++i) {
      const int row = thread / 32 * 16 + i / 2 % 2 * 8 + lane / 4, col = i / 4 * 8 + lane % 4 * 2 + i % 2;
      float sum = add ? c[i] : 0.0f;
      for (int k = 0; k < 16; ++k)
        sum += a(row, k) * emulator::element(k_major ? right.k_major(col, k) : right.mn_major(k, col), Element());
      c[i] = sum;
    }
  }
  static void from_shared(float (&c)[N / 2], u64 a, u64 b, bool add) {
    float* target = c;
    emulator::issue([=] {
      const emulator::Operand left(a);
      add_up(*reinterpret_cast<float(*)[N / 2]>(target), add,
             [&](int row, int k) { return emulator::element(left.k_major(row, k), Element()); }, true, b);
    });
  }
  static void from_registers(float (&c)[N / 2], const unsigned (&a)[4], u64 b, bool add) {
    const auto* words = emulator::collect({a[0], a[1], a[2], a[3]});
    std::vector<unsigned> left;
    for (int lane = 0; lane < 32; ++lane) left.insert(left.end(), words[lane], words[lane] + 4);
    float* target = c;
    emulator::issue([=] {
      add_up(*reinterpret_cast<float(*)[N / 2]>(target), add,
             [&](int row, int k) {
               const unsigned pair = left[(row % 8 * 4 + k % 8 / 2) * 4 + row % 16 / 8 + k / 8 * 2];
               return emulator::half_bits_to_float((pair >> (k % 2 * 16)) & 0xffffu, Element());
             },
             false, b);
    });
  }
};
template <class Config>
struct Products {
  using Element = typename Config::Element;
  static constexpr int columns = Config::block_n, channels = Config::head_dim_v;
  using QTile = SwizzledTile<Config::block_m, Config::head_dim>;
  using KTile = SwizzledTile<columns, Config::head_dim>;

  static void scores(float (&c)[columns / 2], u64 q, u64 k) {
    for (int step = 0; step < Config::head_dim / 16; ++step)
      Step<columns, Element>::from_shared(c, q + column_step<QTile>(step), k + column_step<KTile>(step), step != 0);
  }
  static void scores_added(float (&c)[columns / 2], u64 q, u64 k, u64 ones, u64 added) {
    scores(c, q, k);
    Step<columns, Element>::from_shared(c, ones, added, true);
  }
  static void outputs(float (&c)[channels / 2], const unsigned (&p)[columns / 16][4], u64 v, bool add) {
    for (int step = 0; step < columns / 16; ++step)
      Step<channels, Element>::from_registers(c, p[step], v + row_step(step), add || step != 0);
  }
};
inline void fence_products() {}
inline void commit_products() {
  auto& mine = emulator::products[emulator::current];
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
}
template <int Pending>
inline void wait_products() {
  auto& groups = emulator::products[emulator::current].groups;
  while (groups.size() > Pending) {
    for (const auto& product : groups.front()) product();
    groups.pop_front();
  }
}
template <int Count>
inline void pin(float (&)[Count]) {}
template <int Count>
inline void pin(unsigned (&)[Count]) {}

}  // namespace attncc
