#include "operators/branches/channel_mean.h"

#include "cuda/branch_device.h"
#include "tensors/library.h"

namespace trajgru_ext::cuda {

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  ChannelMeanOperators<BranchDevice>::implement(m);
}

}  // namespace trajgru_ext::cuda
