#include "operators/branches/channel_mean.h"

#include "cpu/branch_device.h"
#include "tensors/library.h"

namespace trajgru_ext {

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  ChannelMeanOperators<CpuBranchDevice>::implement(m);
}

}  // namespace trajgru_ext
