#include "operators/conv/conv_sum.h"

#include "cuda/gate_device.h"
#include "tensors/library.h"

namespace trajgru_ext::cuda {

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  ConvSumOperators<CudaGateDevice>::implement(m);
}

}  // namespace trajgru_ext::cuda
