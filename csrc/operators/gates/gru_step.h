#pragma once

// gru_step and its gradient on any device, for the sequence operators: in buffers that
// the caller has made, all in one dtype and memory format. See operators/device.h
// for what Device is.

#include <ATen/Dispatch.h>

#include <optional>

#include "operators/gates/gate_checks.h"
#include "operators/gates/gate_layout.h"
#include "operators/gates/gru_operands.h"
#include "math/gru_step.h"
#include "operators/device.h"

namespace trajgru_ext {

// What both have beside the buffers.
struct GruStepOperands {
  GateLayout layout;
  at::Tensor h, mask;

  GruStepOperands(const at::Tensor& like, const at::Tensor& state,
                  const OptionalTensor& zoneout, int64_t row_length)
      : layout(like, state, row_length),
        h(layout.fit(state, state.scalar_type())),
        mask(layout.fit(zoneout, at::kBool)) {}

  template <typename Args>
  void fill(Args& args, const GruOptions& options) const {
    args.rows = layout.rows();
    layout.show(args.h, h);
    layout.show(args.mask, mask);
    args.order = options.order;
    args.update.set(options.update);
  }
};

template <typename Device>
struct GruStepOperators {
  using Tensor = at::Tensor;

  static void implement(torch::Library& m) {
    static_assert(GateDevice<Device>);
    m.impl("gru_step", &step);
    m.impl("gru_step_backward", &backward);
  }

  static void check_step(const char* op, const Tensor& gates,
                         const OptionalTensor& h_gates, const Tensor& h,
                         const OptionalTensor& mask, const OptionalTensor& candidate,
                         const Tensor& output) {
    check_gates(op, gates, h_gates, "h", h, 3);
    check_zoneout_mask(op, mask, "h", h);
    check_like_state(op, "output", output, "h", h);
    if (candidate.has_value()) check_like_state(op, "candidate", *candidate, "h", h);
  }

  // The buffers, each [B, ., H, W], and until when the caller keeps them:
  //
  //   gates      3F  the inputs' part, not read without inputs; with a candidate it
  //                  becomes r, u and n                     until the step back
  //   h_gates    3F  the state's part                       the step
  //   h           F  the old state                          until the step back
  //   candidate   F  becomes the state's part of n; none where nothing goes back
  //                                                         until the step back
  //   output      F  becomes the new state; may be h        until the step back
  //
  // x_bias, h_bias: [3F], to add to both parts; for devices that do
  // (SequencePlan::adds_biases).
  static void step(const Tensor& gates, const Tensor& h_gates, const Tensor& h,
                   bool has_inputs, at::ArrayRef<double> options,
                   const OptionalTensor& mask, const OptionalTensor& candidate,
                   const Tensor& output, const OptionalTensor& x_bias,
                   const OptionalTensor& h_bias) {
    with_step("gru_step", gates, h_gates, h, has_inputs, options, mask, candidate,
              output, x_bias, h_bias, [](const auto& args) { Device::run(args); });
  }

  // f(args) of a step, checked. Without h_gates, f has that part of the gates.
  template <typename F>
  static void with_step(const char* op, const Tensor& gates,
                        const OptionalTensor& h_gates, const Tensor& h, bool has_inputs,
                        at::ArrayRef<double> options, const OptionalTensor& mask,
                        const OptionalTensor& candidate, const Tensor& output,
                        const OptionalTensor& x_bias, const OptionalTensor& h_bias,
                        const F& f) {
    check_step(op, gates, h_gates, h, mask, candidate, output);
    const GruOptions chosen = gru_options(op, options, 3);
    const typename Device::Guard guard(h.device());
    const PlainDispatch plain;
    const GruStepOperands in(gates, h, mask, Device::kRowLength);
    const GateLayout& layout = in.layout;
    const at::ScalarType dtype = h.scalar_type();
    const Tensor read = layout.fit(h_gates, dtype);
    const Tensor left = candidate.value_or(Tensor());
    check_buffers(op, layout, dtype, {gates, output});
    if (left.defined()) check_buffers(op, layout, dtype, {left});
    check_step_biases<Device>(op, layout, x_bias, h_bias, gates);
    if (h.numel() == 0) return;
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, dtype, "gru_step", [&] {
      GruStep<GateDtypes<scalar_t, scalar_t>> args{};
      in.fill(args, chosen);
      args.has_inputs = has_inputs;
      layout.show(args.gates, gates);
      layout.show(args.h_gates, read);
      layout.show_bias(args.x_bias, x_bias);
      layout.show_bias(args.h_bias, h_bias);
      layout.show(args.candidate, left);
      layout.show(args.output, output);
      f(args);
    });
  }

  // As step left them, gates, candidate and h; and
  //
  //   grad          F  to the new state
  //   gates_grad   3F  becomes that to the inputs' part; may be gates; until the
  //                    gradients to the inputs' weights
  //   h_gates_grad 3F  becomes that to the state's part; until those to the state's
  //   h_grad        F  becomes what goes to the old state past the convolution; may be
  //                    grad; the step before reads it
  static void backward(const Tensor& gates, const Tensor& candidate, const Tensor& h,
                       const Tensor& grad, at::ArrayRef<double> options,
                       const OptionalTensor& mask, const Tensor& gates_grad,
                       const Tensor& h_gates_grad, const Tensor& h_grad) {
    static constexpr const char* op = "gru_step_backward";
    check_gates(op, gates, h_gates_grad, "h", h, 3);
    check_gate_tensor(op, "gates_grad", gates_grad, "h", h, 3);
    check_zoneout_mask(op, mask, "h", h);
    check_like_state(op, "candidate", candidate, "h", h);
    check_like_state(op, "grad", grad, "h", h);
    check_like_state(op, "h_grad", h_grad, "h", h);
    const GruOptions chosen = gru_options(op, options, 3);
    const typename Device::Guard guard(h.device());
    const PlainDispatch plain;
    const GruStepOperands in(gates, h, mask, Device::kRowLength);
    const GateLayout& layout = in.layout;
    const at::ScalarType dtype = h.scalar_type();
    const Tensor grad_output = layout.fit(grad, dtype);
    check_buffers(op, layout, dtype,
                  {gates, candidate, gates_grad, h_gates_grad, h_grad});
    if (h.numel() == 0) return;
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, dtype, op, [&] {
      GruStepBackward<GateDtypes<scalar_t, scalar_t>> args{};
      in.fill(args, chosen);
      layout.show(args.gates, gates);
      layout.show(args.candidate, candidate);
      layout.show(args.grad, grad_output);
      layout.show(args.gates_grad, gates_grad);
      layout.show(args.h_gates_grad, h_gates_grad);
      layout.show(args.h_grad, h_grad);
      Device::run(args);
    });
  }
};

}  // namespace trajgru_ext
