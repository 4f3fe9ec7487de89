#pragma once

// flow_warp on any device; operators/device.h says what Device is. Here it has
//
//   Device::forward(input, flow, flow_scale, padding, output)
//   Device::empty_input_grad(op, input)   where the gradient to the input is summed up
//   Device::backward(FlowWarpGrads)
//
// each with a flow in the dtype of the arithmetic, and something to do.

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <tuple>

#include "math/bilinear.h"
#include "tensors/checks.h"
#include "tensors/tensors.h"

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

inline void check_flow_warp_backward(const char* op, const at::Tensor& grad,
                                     const OptionalTensor& input,
                                     const at::Tensor& flow, bool flow_grad) {
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

// The enumerator of the number that stands for it in the schemas.
inline Padding padding_of(const char* op, int64_t number) {
  TORCH_CHECK_VALUE(number == 0 || number == 1, op,
                    ": padding must be 0 (zeros) or 1 (border), got ", number);
  return static_cast<Padding>(number);
}

// What the backward pass reads, and fills where it is defined.
struct FlowWarpGrads {
  at::Tensor grad_output, input, flow;  // input: defined where flow_grad is
  double flow_scale;
  Padding padding;
  at::Tensor input_grad, flow_grad;
};

template <typename Device>
struct FlowWarpOperators {
  using Tensor = at::Tensor;

  static Tensor warp(const Tensor& input, const Tensor& flow, double flow_scale,
                     int64_t padding_number) {
    check_flow_warp(input, flow);
    const Padding padding = padding_of("flow_warp", padding_number);
    const typename Device::Guard guard(input.device());
    const Tensor output = empty_image(input);
    if (output.numel() > 0) {
      Device::forward(input, flow.to(opmath_dtype(input)), flow_scale, padding, output);
    }
    return output;
  }

  static std::tuple<Tensor, Tensor> warp_backward(const Tensor& grad,
                                                  const OptionalTensor& input,
                                                  const Tensor& flow, double flow_scale,
                                                  int64_t padding, bool input_grad,
                                                  bool flow_grad) {
    const char* op = "flow_warp_backward";
    check_flow_warp_backward(op, grad, input, flow, flow_grad);
    const typename Device::Guard guard(grad.device());
    FlowWarpGrads args{grad, {}, {}, flow_scale, padding_of(op, padding), {}, {}};
    if (input_grad) args.input_grad = Device::empty_input_grad(op, grad);
    if (flow_grad) args.flow_grad = empty_image(flow, opmath_dtype(grad));
    if (grad.numel() == 0) {
      if (flow_grad) args.flow_grad.zero_();
    } else if (input_grad || flow_grad) {
      if (flow_grad) args.input = *input;
      args.flow = flow.to(opmath_dtype(grad));
      Device::backward(args);
    }
    return {input_grad ? args.input_grad.to(grad.scalar_type()) : empty_result(grad),
            flow_grad ? args.flow_grad.to(flow.scalar_type()) : empty_result(flow)};
  }

  static void implement(torch::Library& m) {
    m.impl("flow_warp", &warp);
    m.impl("flow_warp_backward", &warp_backward);
  }
};

}  // namespace trajgru_ext
