#pragma once

// How CUDA runs the gate updates.

#include <ATen/ops/sum.h>

#include <limits>

#include "cuda/gate_kernels.cuh"
#include "operators/gates/gate_layout.h"

namespace trajgru_ext::cuda {

struct CudaGateDevice {
  using Guard = DeviceGuard;

  static constexpr bool kAddsBiases = true;

  // A sample's planes are one row.
  static constexpr int64_t kRowLength = std::numeric_limits<int64_t>::max();

  template <bool kSamples, typename Args>
  static void start(const Args& args, int64_t items) {
    launch(gates_kernel<kSamples, Args>, grid_size(items), kBlock, 0, current_stream(),
           args);
  }

  template <typename Args>
  static void run(const Args& args, bool sums_samples = false) {
    const int64_t sample = args.rows.inner * args.rows.length;
    // Only the operators that sum over the samples have such a kernel.
    if constexpr (requires { args.weight_grads; }) {
      if (sums_samples) return start<true>(args, sample);
    }
    start<false>(args, args.rows.outer * sample);
  }

  static at::Tensor sum_pixels(const at::Tensor& sums) {
    return sums.sum({2, 3}, /*keepdim=*/true);
  }
};

}  // namespace trajgru_ext::cuda
