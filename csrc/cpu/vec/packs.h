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

// As many as a loop goes through in one step, where there are: what a step costs beside
// them is shared, and their sums do not wait for each other.
template <typename V>
using WidePack = Lanes<typename V::Element, 4>;

template <typename V>
struct WholePack {
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

// The rest of what is loaded is zero.
template <typename V>
struct PartOfPack {
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

// f(index, pack) along a row of this length, pack::Value being from V to WidePack<V>.
template <typename V, typename F>
[[gnu::always_inline]] inline void for_packs(int64_t length, const F& f) {
  using Wide = WidePack<V>;
  using Half = Lanes<typename V::Element, 2>;
  int64_t i = 0;
  for (; i + Wide::kSize <= length; i += Wide::kSize) f(i, WholePack<Wide>{});
  if (i + Half::kSize <= length) {
    f(i, WholePack<Half>{});
    i += Half::kSize;
  }
  if (V::kSize < Half::kSize && i + V::kSize <= length) {
    f(i, WholePack<V>{});
    i += V::kSize;
  }
  if (i < length) f(i, PartOfPack<V>{length - i});
}

template <typename Pack>
using ValueOf = typename std::decay_t<Pack>::Value;

template <typename T, int N>
T sum_of_pack(const Lanes<T, N>& pack) {
  auto total = pack.v[0];
  for (int i = 1; i < N; ++i) total = total + pack.v[i];
  return sum_of_lanes(total);
}

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
