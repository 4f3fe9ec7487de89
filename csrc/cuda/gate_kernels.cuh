#pragma once

// The gate updates on CUDA: one element a thread. Neighbouring threads have
// neighbouring elements of a row, in every tensor.

#include "cuda/runtime.h"
#include "math/gate_rows.h"

namespace trajgru_ext::cuda {

// The place that csrc/math/*_gates.h work at.
template <typename T>
struct PlaceOfThread {
  using Value = T;
  static constexpr bool kAddsBias = true;

  int64_t outer, inner, index;

  template <typename data_t>
  TRAJGRU_HOST_DEVICE T load(const GateView<data_t>& view, int gate) const {
    return static_cast<T>(*view.at(outer, inner, gate, index));
  }

  template <typename data_t>
  TRAJGRU_HOST_DEVICE void store(const GateView<data_t>& view, int gate,
                                 T value) const {
    *view.at(outer, inner, gate, index) = static_cast<data_t>(value);
  }

  template <typename data_t>
  TRAJGRU_HOST_DEVICE T sum(const GateView<data_t>& a, const GateView<data_t>& b,
                            int gate) const {
    if (!a.present()) return load(b, gate);
    return b.present() ? load(a, gate) + load(b, gate) : load(a, gate);
  }

  TRAJGRU_HOST_DEVICE T zoneout(const GateView<const bool>& mask, T old,
                                T fresh) const {
    return mask.present() && *mask.at(outer, inner, 0, index) ? old : fresh;
  }

  TRAJGRU_HOST_DEVICE T weight(const GateView<const T>& view, bool per_row) const {
    return *view.at(0, inner, 0, per_row ? 0 : index);
  }

  // A thread goes through the samples in order.
  TRAJGRU_HOST_DEVICE void accumulate(const GateView<T>& sums, int gate,
                                      T value) const {
    store(sums, gate, outer == 0 ? value : load(sums, gate) + value);
  }

  // Adds to what the buffer holds already.
  TRAJGRU_HOST_DEVICE void add(const GateView<T>& sums, int gate, T value) const {
    store(sums, gate, load(sums, gate) + value);
  }
};

// kSamples: a thread updates its element in all samples, one after the other. Rows
// have all one length here.
template <bool kSamples, typename Args>
__global__ void gates_kernel(Args args) {
  using Place = PlaceOfThread<typename Args::Dtypes::math_t>;
  const GateRows& rows = args.rows;
  const int64_t sample = rows.inner * rows.length;
  const int64_t items = kSamples ? sample : rows.outer * sample;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       item < items; item += step) {
    const int64_t row = item / rows.length, index = item - row * rows.length;
    int64_t first = 0;
    // Seldom both are more than one, and a division costs as much as a sigma.
    if (!kSamples && rows.outer > 1) first = rows.inner == 1 ? row : row / rows.inner;
    const int64_t last = kSamples ? rows.outer : first + 1;
    const int64_t inner = kSamples ? row : row - first * rows.inner;
    for (int64_t outer = first; outer < last; ++outer) {
      update(args, Place{outer, inner, index});
    }
  }
}

}  // namespace trajgru_ext::cuda
