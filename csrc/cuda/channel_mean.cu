#include "branch_operators.h"
#include "cuda/branches.h"
#include "library.h"

namespace trajgru_ext::cuda {

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  using Operators = BranchOperators<BranchDevice>;
  m.impl("channel_mean", &Operators::mean);
}

}  // namespace trajgru_ext::cuda
