#pragma once

// A pack of numbers with the operators of one, and the loop over rows of them. See
// flow_warp.cpp for what files of this folder may use.

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <type_traits>

#include "cpu/gate_kernels.h"
#include "cpu/vec/exponential.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

// N registers of T, float or double. Two of float are one of bfloat16 or float16.
template <typename T, int N>
struct Lanes {
  using Element = T;
  using Vec = at::vec::Vectorized<T>;
  static constexpr int64_t kSize = N * Vec::size();

  Vec v[N];

  Lanes() = default;
  explicit Lanes(T value) {
    for (auto& vec : v) vec = Vec(value);
  }

  template <typename F>
  static Lanes map(const F& f) {
    Lanes r;
    for (int i = 0; i < N; ++i) r.v[i] = f(i);
    return r;
  }

  template <typename data_t>
  static Lanes load(const data_t* data) {
    if constexpr (std::is_same_v<data_t, T>) {
      return map([&](int i) { return Vec::loadu(data + i * Vec::size()); });
    } else {
      static_assert(N % 2 == 0);
      Lanes r;
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

  // The first `count` of them, by way of a whole pack.
  template <typename data_t>
  static Lanes load(const data_t* data, int64_t count) {
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

  // Sums that are added up later: fewer registers go to the first ones.
  template <int M>
  void operator+=(const Lanes<T, M>& other) {
    static_assert(M <= N);
    for (int i = 0; i < M; ++i) v[i] = v[i] + other.v[i];
  }
  friend Lanes operator+(const Lanes& a, const Lanes& b) {
    return map([&](int i) { return a.v[i] + b.v[i]; });
  }
  friend Lanes operator-(const Lanes& a, const Lanes& b) {
    return map([&](int i) { return a.v[i] - b.v[i]; });
  }
  friend Lanes operator*(const Lanes& a, const Lanes& b) {
    return map([&](int i) { return a.v[i] * b.v[i]; });
  }
  friend Lanes operator/(const Lanes& a, const Lanes& b) {
    return map([&](int i) { return a.v[i] / b.v[i]; });
  }
  friend Lanes operator-(const Lanes& a) {
    return map([&](int i) { return a.v[i].neg(); });
  }
  friend Lanes exponential(const Lanes& a) {
    return map([&](int i) { return CPU_CAPABILITY::exponential(a.v[i]); });
  }
  friend Lanes hyperbolic_tangent(const Lanes& a) {
    return map([&](int i) { return CPU_CAPABILITY::hyperbolic_tangent(a.v[i]); });
  }
  friend Lanes where_positive(const Lanes& x, const Lanes& a, const Lanes& b) {
    return map([&](int i) { return Vec::blendv(b.v[i], a.v[i], x.v[i] > Vec(T(0))); });
  }
};

// Some consecutive elements of a row: the place that csrc/math/*_gates.h work at.
// kWhole: a whole pack of them.
template <typename D, bool kWhole>
struct PlaceInRow {
  using T = typename D::math_t;
  static constexpr bool kNarrow =
      sizeof(typename D::gate_t) < 4 || sizeof(typename D::state_t) < 4;
  using Value = Lanes<T, kNarrow ? 2 : 1>;

  int64_t outer, inner, index, count;

  template <typename data_t>
  Value load(const GateView<data_t>& view, int number) const {
    const auto* data = view.at(outer, inner, number, index);
    return kWhole ? Value::load(data) : Value::load(data, count);
  }

  template <typename data_t>
  void store(const GateView<data_t>& view, int number, const Value& value) const {
    data_t* data = view.at(outer, inner, number, index);
    kWhole ? value.store(data) : value.store(data, count);
  }

  template <typename data_t>
  Value sum(const GateView<data_t>& a, const GateView<data_t>& b, int number) const {
    if (!a.present()) return load(b, number);
    return b.present() ? load(a, number) + load(b, number) : load(a, number);
  }

  Value kept(const GateView<const bool>& mask, const Value& old,
             const Value& fresh) const {
    if (!mask.present()) return fresh;
    T keeps[Value::kSize] = {};
    const bool* from = mask.at(outer, inner, 0, index);
    for (int64_t k = 0; k < (kWhole ? Value::kSize : count); ++k)
      keeps[k] = from[k] ? 1 : 0;
    return where_positive(Value::load(keeps), old, fresh);
  }

  Value weight(const GateView<const T>& view, bool per_row) const {
    return per_row ? Value(*view.at(0, inner, 0, 0)) : load(view, 0);
  }

  // Rows come with the samples in order.
  void accumulate(const GateView<T>& sums, int number, const Value& value) const {
    store(sums, number, outer == 0 ? value : load(sums, number) + value);
  }

  // The same to what is there.
  void add(const GateView<T>& sums, int number, const Value& value) const {
    store(sums, number, load(sums, number) + value);
  }
};

// All whole packs of a row; the place comes back at what is left. Flattened, since a
// call for every load and sigma would cost as much as their work.
template <typename Place, typename Args>
[[gnu::flatten]] void update_packs(const Args& arguments, Place& at, int64_t length) {
  const Args args = arguments;  // a copy that no store can reach stays in registers
  Place place = at;
  for (; place.index + Place::Value::kSize <= length;
       place.index += Place::Value::kSize) {
    update(args, place);
  }
  at.index = place.index;
}

// begin, end: rows.
template <typename Args>
void update_rows(const Args& args, int64_t begin, int64_t end) {
  using D = typename Args::Dtypes;
  const GateRows& rows = args.rows;
  for (int64_t number = begin; number < end; ++number) {
    PlaceInRow<D, true> at{number % rows.outer, number / rows.outer, 0, 0};
    const int64_t length = at.inner + 1 == rows.inner ? rows.last : rows.length;
    update_packs(args, at, length);
    if (at.index < length) {
      update(args,
             PlaceInRow<D, false>{at.outer, at.inner, at.index, length - at.index});
    }
  }
}

}  // namespace

template <typename Args>
const GateKernels<Args>& gate_kernels() {
  static constexpr GateKernels<Args> kernels = {update_rows<Args>};
  return kernels;
}

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
