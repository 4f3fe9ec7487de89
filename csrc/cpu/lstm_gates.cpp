#include "cpu/gate_device.h"
#include "library.h"
#include "lstm_operators.h"

namespace trajgru_ext {

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  LstmOperators<CpuGateDevice>::implement(m);
}

}  // namespace trajgru_ext
