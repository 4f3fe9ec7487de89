#include "operators/branches/sk_select.h"

#include "cpu/branch_device.h"
#include "tensors/library.h"

namespace trajgru_ext {

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  SkSelectOperators<CpuBranchDevice>::implement(m);
}

}  // namespace trajgru_ext
