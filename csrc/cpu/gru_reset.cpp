#include "operators/gates/gru_reset.h"

#include "cpu/gate_device.h"
#include "tensors/library.h"

namespace trajgru_ext {

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  GruResetOperators<CpuGateDevice>::implement(m);
}

}  // namespace trajgru_ext
