#include "operators/branches/branch_operators.h"
#include "cuda/branch_device.h"
#include "tensors/library.h"

namespace trajgru_ext::cuda {

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  using Operators = BranchOperators<BranchDevice>;
  m.impl("sk_select", &Operators::select);
  m.impl("sk_select_backward", &Operators::select_backward);
}

}  // namespace trajgru_ext::cuda
