#pragma once

// A register of scalar_t, widened to the dtype of its sums: one vector for float and
// double, two of float for bfloat16 and float16.

#include <ATen/OpMathType.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <cstdint>
#include <type_traits>

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

template <typename scalar_t>
struct Wide {
  using T = at::opmath_type<scalar_t>;
  using Vec = at::vec::Vectorized<T>;
  static constexpr bool kNarrow = !std::is_same_v<scalar_t, T>;
  static constexpr int kVecs = kNarrow ? 2 : 1;
  static constexpr int64_t kSize = kVecs * Vec::size();

  Vec v[kVecs];

  static Wide zero() {
    Wide r;
    for (auto& vec : r.v) vec = Vec(T(0));
    return r;
  }

  // data_t: scalar_t, or its opmath type.
  template <typename data_t>
  static Wide load(const data_t* data) {
    Wide r;
    if constexpr (std::is_same_v<data_t, T>) {
      for (int i = 0; i < kVecs; ++i) r.v[i] = Vec::loadu(data + i * Vec::size());
    } else {
      const auto narrow = at::vec::Vectorized<scalar_t>::loadu(data);
      std::tie(r.v[0], r.v[1]) = at::vec::convert_to_float<scalar_t>(narrow);
    }
    return r;
  }

  template <typename data_t>
  void store(data_t* data) const {
    if constexpr (std::is_same_v<data_t, T>) {
      for (int i = 0; i < kVecs; ++i) v[i].store(data + i * Vec::size());
    } else {
      at::vec::convert_from_float<scalar_t>(v[0], v[1]).store(data);
    }
  }

  // this += a * b
  void add_product(const Vec& a, const Wide& b) {
    for (int i = 0; i < kVecs; ++i) v[i] = at::vec::fmadd(a, b.v[i], v[i]);
  }

  void add_product(const Wide& a, const Wide& b) {
    for (int i = 0; i < kVecs; ++i) v[i] = at::vec::fmadd(a.v[i], b.v[i], v[i]);
  }

  // The partial sums of all lanes in one vector.
  Vec folded() const {
    Vec total = v[0];
    for (int i = 1; i < kVecs; ++i) total = total + v[i];
    return total;
  }
};

template <typename T>
T sum_of_lanes(const at::vec::Vectorized<T>& vec) {
  using Vec = at::vec::Vectorized<T>;
  return at::vec::vec_reduce_all<T>([](const Vec& a, const Vec& b) { return a + b; },
                                    vec);
}

}  // namespace
}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
