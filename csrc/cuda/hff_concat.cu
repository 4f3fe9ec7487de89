#include "cuda/hff_concat.cuh"

#include "cuda/branch_device.h"
#include "operators/branches/hff_concat.h"
#include "tensors/library.h"

namespace trajgru_ext::cuda {

struct HffDevice : BranchDevice {
  template <typename Args>
  static void loop(const Args& args) {
    run(args, args.size.batch * args.size.channels * args.size.pixels);
  }

  template <typename scalar_t, typename T>
  static void loop(const HffAffineBackward<scalar_t, T>& args) {
    const BranchSize& size = args.of.size;
    run(args, size.batch * size.channels * size.pixels);
    sum(args, size);
  }
};

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  HffOperators<HffDevice>::implement(m);
}

}  // namespace trajgru_ext::cuda
