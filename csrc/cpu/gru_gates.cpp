#include "cpu/gate_device.h"
#include "gru_operators.h"
#include "library.h"

namespace trajgru_ext {
namespace {

using Gru = GruOperators<CpuGateDevice>;

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
