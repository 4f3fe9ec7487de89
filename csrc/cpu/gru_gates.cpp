#include "cpu/gate_device.h"
#include "gru_operators.h"
#include "library.h"

namespace trajgru_ext {
namespace {

struct Chooser {
  template <typename D>
  static auto loop(const CpuGates<GruGates, D>& args) {
    return gru_gates_kernels<D>(args.rows.length).gates;
  }
  template <typename D>
  static auto loop(const CpuGates<GruGatesBackward, D>& args) {
    return gru_gates_kernels<D>(args.rows.length).gates_backward;
  }
  template <typename D>
  static auto loop(const CpuGates<GruReset, D>& args) {
    return gru_gates_kernels<D>(args.rows.length).reset;
  }
  template <typename D>
  static auto loop(const CpuGates<GruResetBackward, D>& args) {
    return gru_gates_kernels<D>(args.rows.length).reset_backward;
  }
  template <typename D>
  static auto loop(const CpuGates<GruOutput, D>& args) {
    return gru_gates_kernels<D>(args.rows.length).output;
  }
  template <typename D>
  static auto loop(const CpuGates<GruOutputBackward, D>& args) {
    return gru_gates_kernels<D>(args.rows.length).output_backward;
  }
};

using Gru = GruOperators<CpuGateDevice<Chooser>>;

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  m.impl("gru_gates", &Gru::gates);
  m.impl("gru_gates_backward", &Gru::gates_backward);
  m.impl("gru_reset", &Gru::reset);
  m.impl("gru_reset_backward", &Gru::reset_backward);
  m.impl("gru_output", &Gru::output);
  m.impl("gru_output_backward", &Gru::output_backward);
}

}  // namespace
}  // namespace trajgru_ext
