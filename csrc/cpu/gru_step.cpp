#include "gru_step.h"

#include "cpu/gate_device.h"
#include "library.h"

namespace trajgru_ext {
namespace {

struct Chooser {
  template <typename D>
  static auto loop(const CpuGates<GruStep, D>& args) {
    return gru_step_kernels<D>(args.rows.length).step;
  }
  template <typename D>
  static auto loop(const CpuGates<GruStepBackward, D>& args) {
    return gru_step_kernels<D>(args.rows.length).backward;
  }
};

using Steps = GruSteps<CpuGateDevice<Chooser>>;

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  m.impl("gru_step", &Steps::step);
  m.impl("gru_step_backward", &Steps::backward);
}

}  // namespace
}  // namespace trajgru_ext
