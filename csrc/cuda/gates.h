#pragma once

// How CUDA runs the gate updates; see csrc/gru_operators.h for what Device is.

#include <limits>

#include "cuda/gates.cuh"
#include "gate_layout.h"

namespace trajgru_ext::cuda {

struct GateDevice {
  using Guard = DeviceGuard;

  // A sample's planes are one row.
  static constexpr int64_t kRowLength = std::numeric_limits<int64_t>::max();

  template <typename D, typename index_t, typename Build>
  static void start(const Build& build, bool sums_samples, int64_t items) {
    using T = at::opmath_type<typename D::state_t>;
    const auto args = build.template operator()<index_t>();
    using Args = std::remove_const_t<decltype(args)>;
    // Only the operators that sum over the samples have such a kernel.
    if constexpr (requires { args.weight_grads; }) {
      if (sums_samples) {
        launch(gates_kernel<true, T, index_t, Args>, grid_size(items), kBlock, 0,
               current_stream(), args);
        return;
      }
    }
    launch(gates_kernel<false, T, index_t, Args>, grid_size(items), kBlock, 0,
           current_stream(), args);
  }

  template <typename D, typename Build>
  static void run(const GateLayout& layout, const Build& build,
                  bool sums_samples = false) {
    const GateRows<int64_t> rows = layout.rows<int64_t>();
    const int64_t sample = rows.inner * rows.length;
    const int64_t items = sums_samples ? sample : rows.outer * sample;
    // 32 bits hold every offset, and one step of the grid beyond the last item.
    constexpr int64_t kLimit = int64_t(1) << 30;
    if (layout.extent() < kLimit && rows.outer * sample < kLimit) {
      start<D, int32_t>(build, sums_samples, items);
    } else {
      start<D, int64_t>(build, sums_samples, items);
    }
  }
};

}  // namespace trajgru_ext::cuda
