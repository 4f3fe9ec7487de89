#include "operators/branches/se_scale.h"

#include "cuda/branch_device.h"
#include "tensors/library.h"

namespace trajgru_ext::cuda {

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  SeScaleOperators<BranchDevice>::implement(m);
}

}  // namespace trajgru_ext::cuda
