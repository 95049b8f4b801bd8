// A bias by key as the channels of K that products add: a key's pieces, and where they lie in launch.biases, which an entry before
// `main` fills (families/biases.cuh). Owns both, and the scale by which a bias is divided and scores are multiplied. It may not know
// a product.
#pragma once
#include "device/joint.cuh"
#include "device/math.cuh"
#include "device/pieces.cuh"

namespace attncc {

constexpr float kLeastScale = 0x1p-60f;  // of scores beside a bias by key, which is divided by it
constexpr float kLargestBias = 0x1p31f;  // beyond, it is this: weights against it would be rounded by more than 2^64

// What scores beside a bias are multiplied by, given their factor: its magnitude, which must be positive. The sign goes into Q, and
// so does a 0.
__device__ __forceinline__ float bias_scale(float factor) {
  const float scale = ::fabsf(factor);
  return scale == 0.0f ? 1.0f : scale < kLeastScale ? kLeastScale : scale;
}

// What products add to a pair's score, in pieces: a key's bias divided by what scores are multiplied by, `inverse` being 1 / scale.
// An infinity or a NaN is the first of them, whatever the others.
__device__ __forceinline__ Pieces bias_pieces(float bias, float scale, float inverse) {
  const float x = ::fminf(::fmaxf(bias, -kLargestBias), kLargestBias), quotient = x * inverse;
  Pieces made = pieces(::fmaf(::fmaf(-quotient, scale, x), inverse, quotient));
  if (!(::fabsf(bias) < infinity())) made.first = (made.first & 0xffff0000u) | float_to_bits(bias) >> 16;
  return made;
}

// A key's eight channels, of which five are 0; a tile of columns is copied as it lies.
struct alignas(16) KeyChannels {
  Pieces bias;
  unsigned zeros[2];
};

// Those of a KV head's keys, in the order of tokens in storage: [num_kv_heads or 1, kv_tokens]. Behind the last there is room for
// the rest of a tile; channels of tokens that belong to no request may hold anything, and so may what a tile has past a request's end.
template <class Variant>
__device__ __forceinline__ KeyChannels* key_channels(const Launch& launch, int hk) {
  return static_cast<KeyChannels*>(launch.biases) + (Variant::facts.key_adds_per_head ? hk * launch.kv_tokens : 0);
}

}  // namespace attncc
