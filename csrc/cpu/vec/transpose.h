#pragma once

// Rows of pixels (channels last) to planes of channels and, the roles exchanged, back.

#include <utility>

#include "cpu/vec/simd_rows.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

// The baseline's registers are arrays, and a shuffle goes through them one by one.
#ifdef CPU_CAPABILITY_DEFAULT
constexpr bool kShuffles = false;
#else
constexpr bool kShuffles = true;
#endif

// A square of N registers. A perfect shuffle of each register r with r + N / 2 turns
// the bits of r N + i, which number i of register r comes from, by one; after log2(N)
// of them r and i have changed places.
template <typename Vec>
[[gnu::always_inline]] inline void transpose(Vec (&rows)[Vec::size()]) {
  constexpr int kSize = Vec::size();
#pragma GCC unroll 4
  for (int length = 1; length < kSize; length *= 2) {
    Vec mixed[kSize];
#pragma GCC unroll 8
    for (int r = 0; r < kSize / 2; ++r) {
      std::tie(mixed[2 * r], mixed[2 * r + 1]) =
          at::vec::interleave2(rows[r], rows[r + kSize / 2]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kSize; ++r) rows[r] = mixed[r];
  }
}

// A block of as many pixels and channels as V has lanes.
template <typename V, typename from_t, typename to_t>
[[gnu::flatten]] void transpose_block(const from_t* rows, int64_t row, to_t* planes,
                                      int64_t plane) {
  using Vec = typename V::Vec;
  constexpr int kSize = Vec::size(), kVecs = V::kSize / kSize;
  Vec block[kVecs][kVecs][kSize];  // of channels, of pixels
  for (int m = 0; m < kVecs; ++m) {
#pragma GCC unroll 16
    for (int i = 0; i < kSize; ++i) {
      const V values = V::load(rows + (m * kSize + i) * row);
      for (int k = 0; k < kVecs; ++k) block[k][m][i] = values.v[k];
    }
  }
  for (int k = 0; k < kVecs; ++k) {
    for (int m = 0; m < kVecs; ++m) transpose(block[k][m]);
#pragma GCC unroll 16
    for (int i = 0; i < kSize; ++i) {
      V values;
      for (int m = 0; m < kVecs; ++m) values.v[m] = block[k][m][i];
      values.store(planes + (k * kSize + i) * plane);
    }
  }
}

// planes[c * plane + p] = rows[p * row + c].
template <typename from_t, typename to_t>
void transpose(const from_t* rows, int64_t row, int64_t pixels, int64_t channels,
               to_t* planes, int64_t plane) {
  using V = SimdOf<to_t>;
  const auto one_by_one = [&](int64_t c, int64_t p, int64_t channels, int64_t pixels) {
    for (int64_t i = 0; i < channels; ++i) {
      for (int64_t k = 0; k < pixels; ++k) {
        planes[(c + i) * plane + p + k] =
            static_cast<to_t>(rows[(p + k) * row + c + i]);
      }
    }
  };
  const int64_t whole = channels - channels % V::kSize;
  for (int64_t p = 0; p < pixels; p += V::kSize) {
    const int64_t some = std::min(V::kSize, pixels - p);
    for (int64_t c = 0; c < whole; c += V::kSize) {
      if (kShuffles && some == V::kSize) {
        transpose_block<V>(rows + p * row + c, row, planes + c * plane + p, plane);
      } else {
        one_by_one(c, p, V::kSize, some);
      }
    }
    one_by_one(whole, p, channels - whole, some);
  }
}

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
