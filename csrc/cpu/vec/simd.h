#pragma once

// A SIMD block: some registers, with the operators of one number, so that the formulas
// of csrc/math, which are templates over the type of a number, work on all its lanes.

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <type_traits>

#include "cpu/vec/exponential.h"
#include "cpu/vec/wide.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

// N registers of T, float or double. Two of float are one of bfloat16 or float16.
template <typename T, int N>
struct Simd {
  using Element = T;
  using Vec = at::vec::Vectorized<T>;
  static constexpr int64_t kSize = N * Vec::size();

  Vec v[N];

  Simd() = default;
  explicit Simd(T value) {
    for (auto& vec : v) vec = Vec(value);
  }

  template <typename F>
  static Simd map(const F& f) {
    Simd r;
    for (int i = 0; i < N; ++i) r.v[i] = f(i);
    return r;
  }

  template <typename data_t>
  static Simd load(const data_t* data) {
    if constexpr (std::is_same_v<data_t, T>) {
      return map([&](int i) { return Vec::loadu(data + i * Vec::size()); });
    } else {
      static_assert(N % 2 == 0);
      Simd r;
      for (int i = 0; i < N; i += 2) {
        const auto narrow = at::vec::Vectorized<data_t>::loadu(data + i * Vec::size());
        std::tie(r.v[i], r.v[i + 1]) = at::vec::convert_to_float<data_t>(narrow);
      }
      return r;
    }
  }

  template <typename data_t>
  void store(data_t* data) const {
    if constexpr (std::is_same_v<data_t, T>) {
      for (int i = 0; i < N; ++i) v[i].store(data + i * Vec::size());
    } else {
      static_assert(N % 2 == 0);
      for (int i = 0; i < N; i += 2) {
        at::vec::convert_from_float<data_t>(v[i], v[i + 1])
            .store(data + i * Vec::size());
      }
    }
  }

  // The first `count` lanes, by way of a whole block; the other lanes are zero.
  template <typename data_t>
  static Simd load(const data_t* data, int64_t count) {
    data_t whole[kSize] = {};
    std::copy_n(data, count, whole);
    return load(whole);
  }

  template <typename data_t>
  void store(data_t* data, int64_t count) const {
    data_t whole[kSize];
    store(whole);
    std::copy_n(whole, count, data);
  }

  // Partial sums, added up later: a block of fewer registers goes to the first ones.
  template <int M>
  void operator+=(const Simd<T, M>& other) {
    static_assert(M <= N);
    for (int i = 0; i < M; ++i) v[i] = v[i] + other.v[i];
  }
  friend Simd operator+(const Simd& a, const Simd& b) {
    return map([&](int i) { return a.v[i] + b.v[i]; });
  }
  friend Simd operator-(const Simd& a, const Simd& b) {
    return map([&](int i) { return a.v[i] - b.v[i]; });
  }
  friend Simd operator*(const Simd& a, const Simd& b) {
    return map([&](int i) { return a.v[i] * b.v[i]; });
  }
  friend Simd operator/(const Simd& a, const Simd& b) {
    return map([&](int i) { return a.v[i] / b.v[i]; });
  }
  friend Simd operator-(const Simd& a) {
    return map([&](int i) { return a.v[i].neg(); });
  }
  friend Simd exponential(const Simd& a) {
    return map([&](int i) { return CPU_CAPABILITY::exponential(a.v[i]); });
  }
  friend Simd hyperbolic_tangent(const Simd& a) {
    return map([&](int i) { return CPU_CAPABILITY::hyperbolic_tangent(a.v[i]); });
  }
  friend Simd where_positive(const Simd& x, const Simd& a, const Simd& b) {
    return map([&](int i) { return Vec::blendv(b.v[i], a.v[i], x.v[i] > Vec(T(0))); });
  }
};

template <typename T, int N>
T sum_of_lanes(const Simd<T, N>& block) {
  auto total = block.v[0];
  for (int i = 1; i < N; ++i) total = total + block.v[i];
  return sum_of_lanes(total);
}

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
