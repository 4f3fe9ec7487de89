#include "cuda/gru_step.h"

#include "cuda/gate_device.h"
#include "operators/gates/gru_step.h"
#include "tensors/library.h"

namespace trajgru_ext::cuda {

void gru_step(const at::Tensor& gates, const at::Tensor& h_gates, const at::Tensor& h,
              bool has_inputs, at::ArrayRef<double> options, const OptionalTensor& mask,
              const OptionalTensor& candidate, const at::Tensor& output,
              const OptionalTensor& x_bias, const OptionalTensor& h_bias) {
  GruStepOperators<CudaGateDevice>::step(gates, h_gates, h, has_inputs, options, mask,
                                         candidate, output, x_bias, h_bias);
}

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  GruStepOperators<CudaGateDevice>::implement(m);
}

}  // namespace trajgru_ext::cuda
