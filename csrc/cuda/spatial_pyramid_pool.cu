#include "cuda/spatial_pyramid_pool.cuh"

#include "cuda/branch_device.h"
#include "tensors/library.h"
#include "operators/branches/spatial_pyramid_pool.h"

namespace trajgru_ext::cuda {

struct PyramidDevice : BranchDevice {
  template <typename scalar_t, typename T>
  static void run(const PyramidPool<scalar_t, T>& args) {
    const PyramidSize& size = args.size;
    BranchDevice::run(args, size.batch * size.channels * size.bins());
  }

  template <typename scalar_t, typename T>
  static void run(const PyramidPoolBackward<scalar_t, T>& args) {
    const PyramidSize& size = args.size;
    BranchDevice::run(args, size.batch * size.channels * size.pixels());
  }
};

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  PyramidOperators<PyramidDevice>::implement(m);
}

}  // namespace trajgru_ext::cuda
