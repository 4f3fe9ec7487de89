#pragma once

// The loop over rows of gates (math/gate_rows.h): whole SIMD blocks of a row, then what
// is left of it.

#include <algorithm>
#include <cstdint>

#include "cpu/gate_kernels.h"
#include "cpu/vec/simd.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

// Some consecutive elements of a row: the place that csrc/math/*_gates.h work at.
// kWhole: a whole block of them.
template <typename D, bool kWhole>
struct PlaceInRow {
  using T = typename D::math_t;
  static constexpr bool kNarrow =
      sizeof(typename D::gate_t) < 4 || sizeof(typename D::state_t) < 4;
  using Value = Simd<T, kNarrow ? 2 : 1>;

  int64_t outer, inner, index, count;

  template <typename data_t>
  Value load(const GateView<data_t>& view, int gate) const {
    const auto* data = view.at(outer, inner, gate, index);
    return kWhole ? Value::load(data) : Value::load(data, count);
  }

  template <typename data_t>
  void store(const GateView<data_t>& view, int gate, const Value& value) const {
    data_t* data = view.at(outer, inner, gate, index);
    kWhole ? value.store(data) : value.store(data, count);
  }

  template <typename data_t>
  Value sum(const GateView<data_t>& a, const GateView<data_t>& b, int gate) const {
    if (!a.present()) return load(b, gate);
    return b.present() ? load(a, gate) + load(b, gate) : load(a, gate);
  }

  Value zoneout(const GateView<const bool>& mask, const Value& old,
                const Value& fresh) const {
    if (!mask.present()) return fresh;
    T masked[Value::kSize] = {};
    const bool* from = mask.at(outer, inner, 0, index);
    for (int64_t k = 0; k < (kWhole ? Value::kSize : count); ++k)
      masked[k] = from[k] ? 1 : 0;
    return where_positive(Value::load(masked), old, fresh);
  }

  Value weight(const GateView<const T>& view, bool per_row) const {
    return per_row ? Value(*view.at(0, inner, 0, 0)) : load(view, 0);
  }

  // Rows come with the samples in order.
  void accumulate(const GateView<T>& sums, int gate, const Value& value) const {
    store(sums, gate, outer == 0 ? value : load(sums, gate) + value);
  }

  // Adds to what the buffer holds already.
  void add(const GateView<T>& sums, int gate, const Value& value) const {
    store(sums, gate, load(sums, gate) + value);
  }
};

// The whole blocks of a row; the place comes back at what is left. Flattened, since a
// call for every load and every sigma would cost as much as their work.
template <typename Place, typename Args>
[[gnu::flatten]] void update_blocks(const Args& arguments, Place& at, int64_t length) {
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
    update_blocks(args, at, length);
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
