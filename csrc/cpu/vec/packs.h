#pragma once

// Rows of numbers in whole packs and the part that is left. See flow_warp.cpp for what
// files of this folder may use.

#include <cstdint>

#include "cpu/vec/lanes.h"
#include "cpu/vec/stream.h"
#include "cpu/vec/wide.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

// One register of scalar_t, in its opmath type.
template <typename scalar_t, typename T = at::opmath_type<scalar_t>>
using PackOf = Lanes<T, std::is_same_v<scalar_t, T> ? 1 : 2>;

template <typename V>
struct WholePack {
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
    if constexpr (std::is_same_v<V, Lanes<data_t, 1>>) {
      CPU_CAPABILITY::stream(data, value.v[0]);
    } else {
      const auto narrow = at::vec::convert_from_float<data_t>(value.v[0], value.v[1]);
      CPU_CAPABILITY::stream(data, narrow);
    }
  }
};

// The rest of what is loaded is zero.
template <typename V>
struct PartOfPack {
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

// f(index, pack) along a row of this length.
template <typename V, typename F>
[[gnu::always_inline]] inline void for_packs(int64_t length, const F& f) {
  int64_t i = 0;
  for (; i + V::kSize <= length; i += V::kSize) f(i, WholePack<V>{});
  if (i < length) f(i, PartOfPack<V>{length - i});
}

template <typename T, int N>
T sum_of_pack(const Lanes<T, N>& pack) {
  auto total = pack.v[0];
  for (int i = 1; i < N; ++i) total = total + pack.v[i];
  return sum_of_lanes(total);
}

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
