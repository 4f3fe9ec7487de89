#pragma once

// How the CPU runs the operators on branches; see operators/device.h.

#include "cpu/branch_kernels.h"
#include "cpu/images.h"

namespace trajgru_ext {

struct CpuBranchDevice {
  struct Guard {
    explicit Guard(const at::Device&) {}
    ~Guard() {}
  };

  static at::Tensor contiguous(const at::Tensor& image, at::MemoryFormat format) {
    return trajgru_ext::contiguous(image, format);
  }

  // A chunk's gradient stays in the first-level cache while the branches pass by; in
  // channels last in the second, since its sums, one a channel, must be few beside it.
  static int64_t chunk(bool planes, int64_t channels, int64_t pixels) {
    constexpr int64_t kOfPlane = 1 << 12, kOfAll = 1 << 14, kFewest = 16;
    const int64_t wanted =
        planes ? kOfPlane : std::max(kFewest, kOfAll / std::max<int64_t>(channels, 1));
    return std::min(wanted, std::max<int64_t>(pixels, 1));
  }

  template <typename Args>
  static void run(const Args& args, int64_t items) {
    // Of an exponential or sums of chunks: fewer take no longer than to wake a thread.
    constexpr int64_t kGrain = 1 << 12;
    const int64_t grain = divide_up(kGrain, args.size.chunks());
    at::parallel_for(0, items, grain, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) compute(args, item);
    });
  }

  template <typename scalar_t, typename T>
  static void loop(const BranchSums<scalar_t, T>& args) {
    for_chunks(args.size, [&](int64_t row, int64_t begin, int64_t end) {
      branch_kernels<scalar_t>(row).sums(args, begin, end);
    });
  }

  template <typename scalar_t, typename T>
  static void loop(const BranchBlend<scalar_t, T>& args) {
    for_chunks(args.size, [&](int64_t row, int64_t begin, int64_t end) {
      branch_kernels<scalar_t>(row).blend(args, begin, end);
    });
  }

  template <typename scalar_t, typename T>
  static void loop(const BranchBlendBackward<scalar_t, T>& args) {
    for_chunks(args.size, [&](int64_t row, int64_t begin, int64_t end) {
      branch_kernels<scalar_t>(row).backward(args, begin, end);
    });
  }

 protected:
  // f(elements of a row in memory, first item, end of items).
  template <typename F>
  static void for_chunks(const BranchSize& size, const F& f) {
    const int64_t rows = size.batch * (size.planes ? size.channels : 1);
    const int64_t values = size.chunk * (size.planes ? 1 : size.channels);
    at::parallel_for(0, rows * size.chunks(),
                     divide_up(kGrainValues, values * size.branches),
                     [&](int64_t begin, int64_t end) {
                       f(size.planes ? size.pixels : size.channels, begin, end);
                     });
  }
};

}  // namespace trajgru_ext
