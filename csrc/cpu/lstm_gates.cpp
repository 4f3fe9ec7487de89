#include "cpu/gate_device.h"
#include "tensors/library.h"
#include "operators/gates/lstm_gates.h"

namespace trajgru_ext {

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  LstmOperators<CpuGateDevice>::implement(m);
}

}  // namespace trajgru_ext
