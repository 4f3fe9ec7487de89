#include "operators/branches/branch_operators.h"
#include "cpu/branch_device.h"
#include "tensors/library.h"

namespace trajgru_ext {

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  using Operators = BranchOperators<CpuBranchDevice>;
  m.impl("sk_select", &Operators::select);
  m.impl("sk_select_backward", &Operators::select_backward);
}

}  // namespace trajgru_ext
