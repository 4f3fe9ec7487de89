#include "cuda/gate_device.h"
#include "tensors/library.h"
#include "operators/gates/lstm_gates.h"

namespace trajgru_ext::cuda {

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  LstmOperators<GateDevice>::implement(m);
}

}  // namespace trajgru_ext::cuda
