#include "cuda/gate_device.h"
#include "operators/gates/gru_operators.h"
#include "tensors/library.h"

namespace trajgru_ext::cuda {

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  GruOperators<GateDevice>::implement(m);
}

}  // namespace trajgru_ext::cuda
