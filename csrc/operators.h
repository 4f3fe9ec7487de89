#pragma once

// This package's operators as the sequence operators call them: by way of the
// dispatcher, which finds the device's.

#include <ATen/core/dispatch/Dispatcher.h>

#include <string>

#include "library.h"

namespace trajgru_ext {

using OptionalTensor = std::optional<at::Tensor>;

template <typename Signature>
auto find_operator(const char* name) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow((std::string(TRAJGRU_NAMESPACE_NAME) + "::" + name).c_str(),
                         "")
      .typed<Signature>();
}

// The choices of a GRU's update; see gru_gates.
struct GruChoices {
  std::vector<int64_t> slots;
  int64_t activation;
  double negative_slope;
  bool keep;
};

inline at::Tensor flow_conv(const at::Tensor& input, const at::Tensor& flows,
                            const at::Tensor& weight, const OptionalTensor& bias,
                            double flow_scale) {
  using Signature = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                               const OptionalTensor&, double);
  const auto op = find_operator<Signature>("flow_conv");
  return op.call(input, flows, weight, bias, flow_scale);
}

// wanted: of the gradients to input, flows, weight and bias.
inline std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> flow_conv_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& flows,
    const at::Tensor& weight, double flow_scale, std::array<bool, 4> wanted) {
  using Signature = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>(
      const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
      double, bool, bool, bool, bool);
  const auto op = find_operator<Signature>("flow_conv_backward");
  return op.call(grad, input, flows, weight, flow_scale, wanted[0], wanted[1],
                 wanted[2], wanted[3]);
}

inline void gru_step(const at::Tensor& gates, const at::Tensor& h_gates,
                     const at::Tensor& h, bool has_inputs, const GruChoices& choices,
                     const OptionalTensor& mask, const OptionalTensor& candidate,
                     const at::Tensor& output) {
  using Signature = void(const at::Tensor&, const at::Tensor&, const at::Tensor&, bool,
                         at::IntArrayRef, int64_t, double, bool, const OptionalTensor&,
                         const OptionalTensor&, const at::Tensor&);
  const auto op = find_operator<Signature>("gru_step");
  op.call(gates, h_gates, h, has_inputs, choices.slots, choices.activation,
          choices.negative_slope, choices.keep, mask, candidate, output);
}

inline void gru_step_backward(const at::Tensor& gates, const at::Tensor& candidate,
                              const at::Tensor& h, const at::Tensor& grad,
                              const GruChoices& choices, const OptionalTensor& mask,
                              const at::Tensor& h_gates_grad,
                              const at::Tensor& h_grad) {
  using Signature = void(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                         const at::Tensor&, at::IntArrayRef, int64_t, double, bool,
                         const OptionalTensor&, const at::Tensor&, const at::Tensor&);
  const auto op = find_operator<Signature>("gru_step_backward");
  op.call(gates, candidate, h, grad, choices.slots, choices.activation,
          choices.negative_slope, choices.keep, mask, h_gates_grad, h_grad);
}

}  // namespace trajgru_ext
