#include "cuda/spatial_pyramid_pool.cuh"

#include "cuda/branch_device.h"
#include "tensors/library.h"
#include "operators/branches/spatial_pyramid_pool.h"

namespace trajgru_ext::cuda {

struct PyramidDevice : BranchDevice {
  template <typename scalar_t, typename T>
  static void run(const PyramidPool<scalar_t, T>& args) {
    const PyramidSize& size = args.size;
    if (args.input.pixel == 1) {
      warps(args, size.batch * size.channels * rows_below(size.levels + 1));
      return;
    }
    const int64_t all = tiles(size.levels);
    blocks(pyramid_channels_last_kernel<scalar_t, T>, groups(size) * all, args, all);
  }

  template <typename scalar_t, typename T>
  static void run(const PyramidPoolBackward<scalar_t, T>& args) {
    const PyramidSize& size = args.size;
    if (args.input_grad.pixel == 1) {
      BranchDevice::run(args, size.batch * size.channels * size.pixels());
      return;
    }
    blocks(pyramid_channels_last_backward_kernel<scalar_t, T>,
           groups(size) * divide_up(size.pixels(), kPyramidPixels), args);
  }

 private:
  // 32 channels of a sample each.
  static int64_t groups(const PyramidSize& size) {
    return size.batch * channel_groups(size.channels);
  }

  // A block an item.
  template <typename Kernel, typename... Args>
  static void blocks(Kernel kernel, int64_t items, const Args&... args) {
    launch(kernel, grid_size(items * kBlock), kPyramidBlock, 0, current_stream(),
           args..., items);
  }
};

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  PyramidOperators<PyramidDevice>::implement(m);
}

}  // namespace trajgru_ext::cuda
