#include "cpu/gate_device.h"
#include "library.h"
#include "lstm_operators.h"

namespace trajgru_ext {
namespace {

struct Chooser {
  template <typename D>
  static auto loop(const CpuGates<LstmGatesForward, D>& args) {
    return lstm_gates_kernels<D>(args.rows.length).gates;
  }
  template <typename D>
  static auto loop(const CpuGates<LstmGatesBackward, D>& args) {
    return lstm_gates_kernels<D>(args.rows.length).gates_backward;
  }
};

using Lstm = LstmOperators<CpuGateDevice<Chooser>>;

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  m.impl("lstm_gates", &Lstm::gates);
  m.impl("lstm_gates_backward", &Lstm::gates_backward);
}

}  // namespace
}  // namespace trajgru_ext
