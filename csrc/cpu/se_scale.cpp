#include "operators/branches/se_scale.h"

#include "cpu/branch_device.h"
#include "tensors/library.h"

namespace trajgru_ext {

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  SeScaleOperators<CpuBranchDevice>::implement(m);
}

}  // namespace trajgru_ext
