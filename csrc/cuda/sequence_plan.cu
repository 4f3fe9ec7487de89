#include "operators/conv/sequence_plan.h"

#include <limits>

#include "cuda/runtime.h"
#include "tensors/library.h"

namespace trajgru_ext::cuda {
namespace {

std::vector<double> plan_on_cuda(const at::Tensor&) {
  SequencePlan plan;
  plan.ahead_steps = plan.saved_steps = plan.again_steps =
      std::numeric_limits<int>::max();
  plan.ahead_bytes = plan.saved_bytes = kSequenceBytes;
  // Who has the gates computed again wants to save memory.
  plan.again_bytes = kSequenceBytes / 4;
  plan.at_once = plan.adds_biases = true;
  const OptionNumbers numbers = as_numbers(plan);
  return {numbers.begin(), numbers.end()};
}

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  m.impl("sequence_plan", &plan_on_cuda);
}

}  // namespace
}  // namespace trajgru_ext::cuda
