#pragma once

// How the CPU runs the gate updates: rows in parallel.

#include <ATen/ops/sum.h>

#include "cpu/gate_kernels.h"
#include "cpu/images.h"
#include "cpu/parallel.h"
#include "operators/gates/gate_layout.h"

namespace trajgru_ext {

struct CpuGateDevice {
  struct Guard {
    explicit Guard(const at::Device&) {}
    ~Guard() {}
  };

  static constexpr bool kAddsBiases = false;

  // Elements: enough for a thread's loop to run, few enough for small states to have
  // rows for all threads.
  static constexpr int64_t kRowLength = 2048;

  // sums_samples: a thread takes a row of all samples, one after the other.
  template <typename Args>
  static void run(const Args& args, bool sums_samples = false) {
    const GateRows& rows = args.rows;
    const auto loop = gate_kernels<Args>(rows.length).loop;
    const int64_t together = sums_samples ? rows.outer : 1;
    const int64_t values = together * std::max<int64_t>(rows.length, 1);
    at::parallel_for(0, rows.outer * rows.inner / together,
                     divide_up(kGrainValues, 4 * values),
                     [&](int64_t begin, int64_t end) {
                       loop(args, begin * together, end * together);
                     });
  }

  // Of [N, F, H, W] over the pixels, each of the N by one thread.
  static at::Tensor sum_pixels(const at::Tensor& sums) {
    const at::Tensor totals =
        at::empty({sums.size(0), sums.size(1), 1, 1}, sums.options());
    for_items(sums.size(0), kProductsOfSum * sums.numel(),
              [&](int64_t begin, int64_t end) {
                for (int64_t n = begin; n < end; ++n) {
                  at::Tensor total = totals.narrow(0, n, 1);
                  at::sum_out(total, sums.narrow(0, n, 1), {2, 3}, /*keepdim=*/true);
                }
              });
    return totals;
  }
};

}  // namespace trajgru_ext
