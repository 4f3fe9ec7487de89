#pragma once

// How CUDA runs the operators on branches; see operators/device.h.

#include <ATen/core/Tensor.h>

#include "cuda/branch_kernels.cuh"

namespace trajgru_ext::cuda {

struct BranchDevice {
  using Guard = DeviceGuard;

  static at::Tensor contiguous(const at::Tensor& image, at::MemoryFormat format) {
    return image.contiguous(format);
  }

  // Eight rounds of a warp's loads in planes; in channels last, where a lane goes
  // through all pixels of a chunk alone, enough chunks for many warps.
  static int64_t chunk(bool planes, int64_t, int64_t pixels) {
    constexpr int64_t kAlong = 1024, kAlone = 64;
    return std::min(planes ? kAlong : kAlone, std::max<int64_t>(pixels, 1));
  }

  template <typename Args>
  static void run(const Args& args, int64_t items) {
    launch(branch_items_kernel<Args>, grid_size(items), kBlock, 0, current_stream(),
           args, items);
  }

  template <typename scalar_t, typename T>
  static void loop(const BranchBlend<scalar_t, T>& args) {
    run(args, args.size.batch * args.size.channels * args.size.pixels);
  }

  template <typename Args>
  static void loop(const Args& args) {
    sum(args, args.size);
  }

 protected:
  template <typename Args>
  static void sum(const Args& args, const BranchSize& size) {
    warps(args, size.batch * BranchLane::groups(size) * size.chunks());
  }

  // A warp an item.
  template <typename Args>
  static void warps(const Args& args, int64_t items) {
    launch(branch_sums_kernel<Args>, grid_size(items * kWarpThreads), kBlock, 0,
           current_stream(), args, items);
  }
};

}  // namespace trajgru_ext::cuda
