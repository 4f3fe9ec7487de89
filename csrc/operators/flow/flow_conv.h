#pragma once

// Argument checks of flow_conv. Each device cuts its work in its own way, so that
// nothing else is shared.

#include <ATen/core/Tensor.h>

#include "tensors/checks.h"
#include "tensors/tensors.h"

namespace trajgru_ext {

inline void check_flow_conv_weight(const char* op, const at::Tensor& input,
                                   const at::Tensor& flows, const at::Tensor& weight) {
  check_image(op, "input", input, input.device());
  check_image(op, "flows", flows, input.device());
  TORCH_CHECK_VALUE(flows.size(0) == input.size(0) && flows.size(1) % 2 == 0 &&
                        flows.size(2) == input.size(2) &&
                        flows.size(3) == input.size(3),
                    op, ": flows must be [B, 2 * links, H, W] for an input of ",
                    input.sizes(), ", got ", flows.sizes());
  check_same_dtype(op, "weight", weight, input);
  const int64_t columns = flows.size(1) / 2 * input.size(1);
  TORCH_CHECK_VALUE(weight.dim() == 2 && weight.size(1) == columns, op,
                    ": weight must be [O, links * C] = [O, ", columns,
                    "] (or with two more dimensions of 1), got ", weight.sizes());
}

inline void check_flow_conv(const at::Tensor& input, const at::Tensor& flows,
                            const at::Tensor& weight, const OptionalTensor& bias) {
  const char* op = "flow_conv";
  check_flow_conv_weight(op, input, flows, weight);
  if (bias.has_value()) {
    check_same_dtype(op, "bias", *bias, input);
    TORCH_CHECK_VALUE(bias->dim() == 1 && bias->size(0) == weight.size(0), op,
                      ": bias must be [O] = [", weight.size(0), "], got ",
                      bias->sizes());
  }
}

inline void check_flow_conv_backward(const char* op, const at::Tensor& grad,
                                     const at::Tensor& input, const at::Tensor& flows,
                                     const at::Tensor& weight) {
  check_flow_conv_weight(op, input, flows, weight);
  check_same_dtype(op, "grad", grad, input);
  const auto wanted = {input.size(0), weight.size(0), input.size(2), input.size(3)};
  TORCH_CHECK_VALUE(grad.sizes() == at::IntArrayRef(wanted), op,
                    ": grad must be [B, O, H, W] = ", at::IntArrayRef(wanted), ", got ",
                    grad.sizes());
}

}  // namespace trajgru_ext
