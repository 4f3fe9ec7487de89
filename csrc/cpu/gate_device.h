#pragma once

// How the CPU runs the gate updates: rows in parallel.

#include <ATen/Parallel.h>

#include "cpu/gates.h"
#include "cpu/images.h"
#include "gate_layout.h"

namespace trajgru_ext {

// Chooser: calls the loop of a table that takes these arguments.
template <typename Chooser>
struct CpuGateDevice {
  struct Guard {
    explicit Guard(const at::Device&) {}
    ~Guard() {}
  };

  // Elements: enough for a thread's loop to run, few enough for small states to have
  // rows for all threads.
  static constexpr int64_t kRowLength = 2048;

  // sums_samples: a thread takes a row of all samples, one after the other.
  template <typename D, typename Build>
  static void run(const GateLayout& layout, const Build& build,
                  bool sums_samples = false) {
    const auto args = build.template operator()<int64_t>();
    const auto loop = Chooser::template loop<D>(args);
    const GateRows<int64_t> rows = layout.rows<int64_t>();
    const int64_t together = sums_samples ? rows.outer : 1;
    const int64_t values = together * std::max<int64_t>(rows.length, 1);
    at::parallel_for(0, rows.outer * rows.inner / together,
                     divide_up(kGrainValues, 4 * values),
                     [&](int64_t begin, int64_t end) {
                       loop(args, begin * together, end * together);
                     });
  }
};

}  // namespace trajgru_ext
