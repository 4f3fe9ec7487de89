#include "operators/gates/lstm_memory.h"

#include "cpu/gate_device.h"
#include "tensors/library.h"

namespace trajgru_ext {

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  LstmMemoryOperators<CpuGateDevice>::implement(m);
}

}  // namespace trajgru_ext
