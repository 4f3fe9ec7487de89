#pragma once

// The loop over a row of numbers: whole SIMD blocks, then what is left of the row.

#include <cstdint>

#include "cpu/vec/simd.h"
#include "cpu/vec/stream.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

// One register of scalar_t, in its opmath type.
template <typename scalar_t, typename T = at::opmath_type<scalar_t>>
using SimdOf = Simd<T, std::is_same_v<scalar_t, T> ? 1 : 2>;

// The widest block of a loop: its lanes share what a step costs beside them, and the
// sums in its registers do not wait for each other. The baseline of x86 has arrays for
// registers, of which more would only be more code.
#if defined(CPU_CAPABILITY_DEFAULT) && defined(TRAJGRU_X86)
constexpr int kMostRegisters = 2;
#else
constexpr int kMostRegisters = 4;
#endif
template <typename V>
using WideSimd = Simd<typename V::Element, kMostRegisters>;

template <typename V>
struct WholeBlock {
  using Value = V;

  template <typename data_t>
  V load(const data_t* data) const {
    return V::load(data);
  }
  template <typename data_t>
  void store(data_t* data, const V& value) const {
    value.store(data);
  }
  template <typename data_t>
  void stream(data_t* data, const V& value) const {
    constexpr int64_t kSize = V::Vec::size();
    if constexpr (std::is_same_v<data_t, typename V::Element>) {
      for (int64_t i = 0; i < V::kSize / kSize; ++i) {
        CPU_CAPABILITY::stream(data + i * kSize, value.v[i]);
      }
    } else {
      for (int64_t i = 0; i < V::kSize / kSize; i += 2) {
        const auto narrow =
            at::vec::convert_from_float<data_t>(value.v[i], value.v[i + 1]);
        CPU_CAPABILITY::stream(data + i * kSize, narrow);
      }
    }
  }
};

// Lanes beyond `count` are zero when loaded, and are not stored.
template <typename V>
struct PartialBlock {
  using Value = V;

  int64_t count;

  template <typename data_t>
  V load(const data_t* data) const {
    return V::load(data, count);
  }
  template <typename data_t>
  void store(data_t* data, const V& value) const {
    value.store(data, count);
  }
  template <typename data_t>
  void stream(data_t* data, const V& value) const {
    store(data, value);
  }
};

// f(index, block) along a row of this length, block::Value being from V to WideSimd<V>.
template <typename V, typename F>
[[gnu::always_inline]] inline void for_blocks(int64_t length, const F& f) {
  using Wide = WideSimd<V>;
  using Half = Simd<typename V::Element, 2>;
  int64_t i = 0;
  for (; i + Wide::kSize <= length; i += Wide::kSize) f(i, WholeBlock<Wide>{});
  if constexpr (Half::kSize < Wide::kSize) {
    if (i + Half::kSize <= length) {
      f(i, WholeBlock<Half>{});
      i += Half::kSize;
    }
  }
  if constexpr (V::kSize < Half::kSize) {
    if (i + V::kSize <= length) {
      f(i, WholeBlock<V>{});
      i += V::kSize;
    }
  }
  if (i < length) f(i, PartialBlock<V>{length - i});
}

template <typename Block>
using ValueOf = typename std::decay_t<Block>::Value;

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
