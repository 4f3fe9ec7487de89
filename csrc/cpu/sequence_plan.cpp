#include "operators/conv/sequence_plan.h"

#include <limits>

#include "cpu/conv/conv_algorithm.h"
#include "tensors/library.h"

namespace trajgru_ext {
namespace {

std::vector<double> plan_on_cpu(const at::Tensor& like) {
  constexpr double kAnySize = std::numeric_limits<double>::infinity();
  SequencePlan plan;
  // Larger blocks are taken from the system and paged in each time.
  plan.ahead_bytes = 16 << 20;
  plan.ahead_steps = 4;
  plan.saved_bytes = plan.again_bytes = kAnySize;
  plan.saved_steps = 4;
  plan.again_steps = 1;
  plan.in_floats = sequences_in_floats(like.scalar_type());
  const OptionNumbers numbers = as_numbers(plan);
  return {numbers.begin(), numbers.end()};
}

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  m.impl("sequence_plan", &plan_on_cpu);
}

}  // namespace
}  // namespace trajgru_ext
