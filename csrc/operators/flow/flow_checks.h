#pragma once

// Argument checks of flow_warp and flow_conv; see tensors/checks.h.

#include <optional>

#include "tensors/checks.h"

namespace trajgru_ext {

inline void check_flow(const char* op, const at::Tensor& image,
                       const at::Tensor& flow) {
  check_image(op, "flow", flow, image.device());
  const auto wanted = {image.size(0), int64_t(2), image.size(2), image.size(3)};
  TORCH_CHECK_VALUE(flow.sizes() == at::IntArrayRef(wanted), op,
                    ": flow must be [B, 2, H, W] = ", at::IntArrayRef(wanted),
                    " for an image of ", image.sizes(), ", got ", flow.sizes());
}

inline void check_flow_warp(const at::Tensor& input, const at::Tensor& flow) {
  check_image("flow_warp", "input", input, input.device());
  check_flow("flow_warp", input, flow);
}

inline void check_flow_warp_backward(const at::Tensor& grad,
                                     const std::optional<at::Tensor>& input,
                                     const at::Tensor& flow, bool flow_grad) {
  const char* op = "flow_warp_backward";
  check_image(op, "grad", grad, grad.device());
  check_flow(op, grad, flow);
  TORCH_CHECK_VALUE(!flow_grad || input.has_value(), op,
                    ": input must be given where flow_grad is True, got None");
  if (input.has_value()) {
    check_image(op, "input", *input, grad.device());
    TORCH_CHECK_VALUE(input->sizes() == grad.sizes(), op,
                      ": input must have the sizes of grad, ", grad.sizes(), ", got ",
                      input->sizes());
    TORCH_CHECK_TYPE(input->scalar_type() == grad.scalar_type(), op,
                     ": input must have the dtype of grad, ", grad.scalar_type(),
                     ", got ", input->scalar_type());
  }
}

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
                            const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias) {
  const char* op = "flow_conv";
  check_flow_conv_weight(op, input, flows, weight);
  if (bias.has_value()) {
    check_same_dtype(op, "bias", *bias, input);
    TORCH_CHECK_VALUE(bias->dim() == 1 && bias->size(0) == weight.size(0), op,
                      ": bias must be [O] = [", weight.size(0), "], got ",
                      bias->sizes());
  }
}

inline void check_flow_conv_backward(const at::Tensor& grad, const at::Tensor& input,
                                     const at::Tensor& flows,
                                     const at::Tensor& weight) {
  const char* op = "flow_conv_backward";
  check_flow_conv_weight(op, input, flows, weight);
  check_same_dtype(op, "grad", grad, input);
  const auto wanted = {input.size(0), weight.size(0), input.size(2), input.size(3)};
  TORCH_CHECK_VALUE(grad.sizes() == at::IntArrayRef(wanted), op,
                    ": grad must be [B, O, H, W] = ", at::IntArrayRef(wanted), ", got ",
                    grad.sizes());
}

}  // namespace trajgru_ext
