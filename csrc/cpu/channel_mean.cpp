#include "operators/branches/branch_operators.h"
#include "cpu/branch_device.h"
#include "tensors/library.h"

namespace trajgru_ext {

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  using Operators = BranchOperators<CpuBranchDevice>;
  m.impl("channel_mean", &Operators::mean);
}

}  // namespace trajgru_ext
