#include "operators/gates/lstm_memory.h"

#include "cuda/gate_device.h"
#include "tensors/library.h"

namespace trajgru_ext::cuda {

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  LstmMemoryOperators<CudaGateDevice>::implement(m);
}

}  // namespace trajgru_ext::cuda
