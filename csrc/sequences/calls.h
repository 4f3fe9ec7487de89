#pragma once

// This package's operators as the sequence operators call them: by way of the
// dispatcher, which finds the device's.

#include <ATen/core/dispatch/Dispatcher.h>

#include <string>
#include <vector>

#include "tensors/library.h"
#include "tensors/tensors.h"

namespace trajgru_ext {

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

// u and what the reset gate lets through, from the sums of the gates.
inline std::tuple<at::Tensor, at::Tensor> gru_reset(const at::Tensor& gates,
                                                    const at::Tensor& h,
                                                    at::IntArrayRef slots) {
  using Signature = std::tuple<at::Tensor, at::Tensor>(
      const OptionalTensor&, const OptionalTensor&, const at::Tensor&, at::IntArrayRef);
  const auto op = find_operator<Signature>("gru_reset");
  return op.call(gates, std::nullopt, h, slots);
}

// The gradients to the gates and, where wanted, to h.
inline std::tuple<at::Tensor, at::Tensor> gru_reset_backward(
    const at::Tensor& u_grad, const OptionalTensor& reset_grad, const at::Tensor& gates,
    const at::Tensor& h, at::IntArrayRef slots, bool h_wanted) {
  using Signature = std::tuple<at::Tensor, at::Tensor>(
      const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
      const OptionalTensor&, const at::Tensor&, at::IntArrayRef, bool, bool);
  const auto op = find_operator<Signature>("gru_reset_backward");
  return op.call(u_grad, reset_grad, gates, std::nullopt, h, slots, true, h_wanted);
}

inline at::Tensor gru_output(const at::Tensor& u, const at::Tensor& candidate,
                             const at::Tensor& h, const GruChoices& choices,
                             const OptionalTensor& mask) {
  using Signature = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                               int64_t, double, bool, const OptionalTensor&);
  const auto op = find_operator<Signature>("gru_output");
  return op.call(u, candidate, h, choices.activation, choices.negative_slope,
                 choices.keep, mask);
}

// The gradients to u, the candidate and h.
inline std::tuple<at::Tensor, at::Tensor, at::Tensor> gru_output_backward(
    const at::Tensor& grad, const at::Tensor& u, const at::Tensor& candidate,
    const at::Tensor& h, const GruChoices& choices, const OptionalTensor& mask) {
  using Signature = std::tuple<at::Tensor, at::Tensor, at::Tensor>(
      const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
      int64_t, double, bool, const OptionalTensor&, bool, bool, bool);
  const auto op = find_operator<Signature>("gru_output_backward");
  return op.call(grad, u, candidate, h, choices.activation, choices.negative_slope,
                 choices.keep, mask, true, true, true);
}

// The choices of an LSTM's update; see lstm_gates.
struct LstmChoices {
  std::vector<int64_t> slots;
  double forget_bias = 0;
  OptionalTensor w_ci, w_cf, w_co;  // all or none
};

inline void lstm_step(const at::Tensor& gates, const at::Tensor& h_gates,
                      const OptionalTensor& h, const at::Tensor& c, bool has_inputs,
                      const LstmChoices& choices, const OptionalTensor& mask,
                      bool leaves, const at::Tensor& h_output,
                      const at::Tensor& c_output) {
  using Signature =
      void(const at::Tensor&, const at::Tensor&, const OptionalTensor&,
           const at::Tensor&, bool, const OptionalTensor&, const OptionalTensor&,
           const OptionalTensor&, at::IntArrayRef, double, const OptionalTensor&, bool,
           const at::Tensor&, const at::Tensor&);
  const auto op = find_operator<Signature>("lstm_step");
  op.call(gates, h_gates, h, c, has_inputs, choices.w_ci, choices.w_cf, choices.w_co,
          choices.slots, choices.forget_bias, mask, leaves, h_output, c_output);
}

inline void lstm_step_backward(const at::Tensor& gates, const at::Tensor& c,
                               const at::Tensor& c_output, const at::Tensor& h_grad,
                               const LstmChoices& choices, const OptionalTensor& mask,
                               const at::Tensor& c_grad,
                               const OptionalTensor& h_kept_grad,
                               const OptionalTensor& weight_grads) {
  using Signature =
      void(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
           const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
           at::IntArrayRef, const OptionalTensor&, const at::Tensor&,
           const OptionalTensor&, const OptionalTensor&);
  const auto op = find_operator<Signature>("lstm_step_backward");
  op.call(gates, c, c_output, h_grad, choices.w_ci, choices.w_cf, choices.w_co,
          choices.slots, mask, c_grad, h_kept_grad, weight_grads);
}

// Of those that only a CPU has; the emulation has none.
inline bool has_cpu_operators() {
  static const bool found =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow(TRAJGRU_NAMESPACE_NAME "::copy_image", "")
          .hasKernelForDispatchKey(c10::DispatchKey::CPU);
  return found;
}

// to.copy_(from), between memory formats.
inline void copy_image(const at::Tensor& to, const at::Tensor& from) {
  if (!to.is_cpu() || !has_cpu_operators()) {
    to.copy_(from);
    return;
  }
  using Signature = void(const at::Tensor&, const at::Tensor&);
  const auto op = find_operator<Signature>("copy_image");
  op.call(to, from);
}

// weights: of images whose channels follow one another, packed for winograd_conv; of
// the gradient to the image where `rotated`.
inline at::Tensor winograd_weights(at::TensorList weights, bool rotated,
                                   int64_t gates = 1) {
  using Signature = at::Tensor(at::TensorList, bool, int64_t);
  const auto op = find_operator<Signature>("winograd_weights");
  return op.call(weights, rotated, gates);
}

// A convolution of one or two images, packed for Winograd's.
struct JointConv {
  at::Tensor weights;
  OptionalTensor bias;
  int64_t taps;
};

// output: with the channels of a pixel together.
inline void winograd_conv(at::TensorList images, const JointConv& conv,
                          const at::Tensor& output) {
  using Signature = void(at::TensorList, const at::Tensor&, const OptionalTensor&,
                         int64_t, const at::Tensor&);
  const auto op = find_operator<Signature>("winograd_conv");
  op.call(images, conv.weights, conv.bias, conv.taps, output);
}

inline at::Tensor winograd_weights_grad(const at::Tensor& grad, const at::Tensor& image,
                                        int64_t taps) {
  using Signature = at::Tensor(const at::Tensor&, const at::Tensor&, int64_t);
  const auto op = find_operator<Signature>("winograd_weights_grad");
  return op.call(grad, image, taps);
}

// lstm_step after a convolution to all gates; gates: where they are left, if anywhere.
inline void winograd_lstm_step(at::TensorList images, const JointConv& conv,
                               const OptionalTensor& h, const at::Tensor& c,
                               const LstmChoices& choices, const OptionalTensor& mask,
                               const OptionalTensor& gates, const at::Tensor& h_output,
                               const at::Tensor& c_output) {
  using Signature =
      void(at::TensorList, const at::Tensor&, const OptionalTensor&, int64_t,
           const OptionalTensor&, const at::Tensor&, const OptionalTensor&,
           const OptionalTensor&, const OptionalTensor&, at::IntArrayRef, double,
           const OptionalTensor&, const OptionalTensor&, const at::Tensor&,
           const at::Tensor&);
  const auto op = find_operator<Signature>("winograd_lstm_step");
  op.call(images, conv.weights, conv.bias, conv.taps, h, c, choices.w_ci, choices.w_cf,
          choices.w_co, choices.slots, choices.forget_bias, mask, gates, h_output,
          c_output);
}

// gru_step after the convolution of the state, gru_reset and gru_output after those of
// inputs and state; sums: where those of the gates are left, if anywhere.
inline void winograd_gru_step(at::TensorList images, const JointConv& conv,
                              const at::Tensor& gates, const at::Tensor& h,
                              bool has_inputs, const GruChoices& choices,
                              const OptionalTensor& mask,
                              const OptionalTensor& candidate,
                              const at::Tensor& output) {
  using Signature =
      void(at::TensorList, const at::Tensor&, const OptionalTensor&, int64_t,
           const at::Tensor&, const at::Tensor&, bool, at::IntArrayRef, int64_t, double,
           bool, const OptionalTensor&, const OptionalTensor&, const at::Tensor&);
  const auto op = find_operator<Signature>("winograd_gru_step");
  op.call(images, conv.weights, conv.bias, conv.taps, gates, h, has_inputs,
          choices.slots, choices.activation, choices.negative_slope, choices.keep, mask,
          candidate, output);
}

inline void winograd_gru_reset(at::TensorList images, const JointConv& conv,
                               const at::Tensor& h, at::IntArrayRef slots,
                               const OptionalTensor& sums, const at::Tensor& u,
                               const at::Tensor& reset) {
  using Signature = void(at::TensorList, const at::Tensor&, const OptionalTensor&,
                         int64_t, const at::Tensor&, at::IntArrayRef,
                         const OptionalTensor&, const at::Tensor&, const at::Tensor&);
  const auto op = find_operator<Signature>("winograd_gru_reset");
  op.call(images, conv.weights, conv.bias, conv.taps, h, slots, sums, u, reset);
}

inline void winograd_gru_output(at::TensorList images, const JointConv& conv,
                                const at::Tensor& u, const at::Tensor& h,
                                const GruChoices& choices, const OptionalTensor& mask,
                                const OptionalTensor& sums, const at::Tensor& output) {
  using Signature =
      void(at::TensorList, const at::Tensor&, const OptionalTensor&, int64_t,
           const at::Tensor&, const at::Tensor&, int64_t, double, bool,
           const OptionalTensor&, const OptionalTensor&, const at::Tensor&);
  const auto op = find_operator<Signature>("winograd_gru_output");
  op.call(images, conv.weights, conv.bias, conv.taps, u, h, choices.activation,
          choices.negative_slope, choices.keep, mask, sums, output);
}

}  // namespace trajgru_ext
