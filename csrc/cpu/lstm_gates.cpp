#include "cpu/gate_device.h"
#include "library.h"
#include "lstm_operators.h"

namespace trajgru_ext {
namespace {

using Lstm = LstmOperators<CpuGateDevice>;

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  m.impl("lstm_gates", &Lstm::gates);
  m.impl("lstm_gates_backward", &Lstm::gates_backward);
}

}  // namespace
}  // namespace trajgru_ext
