#include "cpu/gate_device.h"
#include "gru_operators.h"
#include "library.h"

namespace trajgru_ext {

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  GruOperators<CpuGateDevice>::implement(m);
}

}  // namespace trajgru_ext
