#include "gru_step.h"

#include "cuda/gates.h"
#include "library.h"

namespace trajgru_ext::cuda {
namespace {

using Steps = GruSteps<GateDevice>;

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  m.impl("gru_step", &Steps::step);
  m.impl("gru_step_backward", &Steps::backward);
}

}  // namespace
}  // namespace trajgru_ext::cuda
