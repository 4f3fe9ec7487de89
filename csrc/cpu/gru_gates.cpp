#include "cpu/gate_device.h"
#include "operators/gates/gru_operators.h"
#include "tensors/library.h"

namespace trajgru_ext {

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  GruOperators<CpuGateDevice>::implement(m);
}

}  // namespace trajgru_ext
