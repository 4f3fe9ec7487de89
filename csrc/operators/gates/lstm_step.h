#pragma once

// lstm_step and its gradient on any device, for the sequence operators: in buffers that
// the caller has made, all in one dtype and memory format. See operators/device.h
// for what Device is.

#include <ATen/Dispatch.h>

#include <optional>

#include "operators/gates/gate_checks.h"
#include "operators/gates/gate_layout.h"
#include "operators/gates/lstm_gates.h"
#include "math/lstm_step.h"
#include "operators/device.h"

namespace trajgru_ext {

// What both have beside the buffers.
struct LstmStepOperands {
  bool per_channel;  // one weight a channel
  GateLayout layout;
  at::Tensor mask, w_ci, w_cf, w_co;

  LstmStepOperands(const at::Tensor& gates, const at::Tensor& c,
                   const OptionalTensor& zoneout, const OptionalTensor& ci,
                   const OptionalTensor& cf, const OptionalTensor& co,
                   int64_t row_length)
      : per_channel(one_weight_a_channel(ci, c)),
        layout(gates, c, row_length, ci.has_value(), per_channel),
        mask(layout.fit(zoneout, at::kBool)),
        w_ci(layout.fit_weights(ci, opmath_dtype(c))),
        w_cf(layout.fit_weights(cf, opmath_dtype(c))),
        w_co(layout.fit_weights(co, opmath_dtype(c))) {}

  template <typename Args>
  void fill(Args& args, const LstmOptions& options) const {
    args.rows = layout.rows();
    layout.show(args.mask, mask);
    layout.show_weights(args.w_ci, w_ci, per_channel);
    layout.show_weights(args.w_cf, w_cf, per_channel);
    layout.show_weights(args.w_co, w_co, per_channel);
    args.weight_per_row = per_channel && layout.planes();
    args.order = options.order;
  }
};

template <typename Device>
struct LstmStepOperators {
  using Tensor = at::Tensor;

  static void implement(torch::Library& m) {
    static_assert(GateDevice<Device>);
    m.impl("lstm_step", &step);
    m.impl("lstm_step_backward", &backward);
  }

  // Everything but the gates.
  static void check_step(const char* op, const OptionalTensor& h, const Tensor& c,
                         const OptionalTensor& w_ci, const OptionalTensor& w_cf,
                         const OptionalTensor& w_co, const OptionalTensor& mask,
                         const Tensor& h_output, const Tensor& c_output) {
    check_image(op, "c", c, c.device());
    check_peephole(op, w_ci, w_cf, w_co, c.sizes(), c.device());
    check_zoneout_mask(op, mask, "c", c);
    TORCH_CHECK_VALUE(!mask.has_value() || h.has_value(), op,
                      ": h must be given with a mask, got None");
    if (h.has_value()) check_like_state(op, "h", *h, "c", c);
    check_like_state(op, "h_output", h_output, "c", c);
    check_like_state(op, "c_output", c_output, "c", c);
  }

  // The buffers, each [B, ., H, W], and until when the caller keeps them:
  //
  //   gates     4F  the inputs' part, not read without inputs; with save_gates it
  //                 becomes i, f, g and o                   until the step back
  //   h_gates   4F  the state's part                        the step
  //   h          F  the old h, for a mask alone             the step
  //   c          F  the old c                               until the step back
  //   h_output   F  becomes the new h; may be h             the results
  //   c_output   F  becomes the new c; may be c where nothing goes back
  //                                                         until the step back
  //
  // x_bias, h_bias: [4F], to add to both parts; for devices that do
  // (SequencePlan::adds_biases).
  static void step(const Tensor& gates, const Tensor& h_gates, const OptionalTensor& h,
                   const Tensor& c, bool has_inputs, const OptionalTensor& w_ci,
                   const OptionalTensor& w_cf, const OptionalTensor& w_co,
                   at::ArrayRef<double> options, const OptionalTensor& mask,
                   bool save_gates, const Tensor& h_output, const Tensor& c_output,
                   const OptionalTensor& x_bias, const OptionalTensor& h_bias) {
    static constexpr const char* op = "lstm_step";
    const LstmOptions chosen = lstm_options(op, options);
    check_gates(op, gates, h_gates, "c", c, 4);
    check_step(op, h, c, w_ci, w_cf, w_co, mask, h_output, c_output);
    const typename Device::Guard guard(c.device());
    const PlainDispatch plain;
    const LstmStepOperands in(h_gates, c, mask, w_ci, w_cf, w_co, Device::kRowLength);
    const at::ScalarType dtype = c.scalar_type();
    const Tensor read = in.layout.fit(h_gates, dtype), state = in.layout.fit(c, dtype);
    const Tensor old = in.layout.fit(mask.has_value() ? h : OptionalTensor(), dtype);
    check_buffers(op, in.layout, dtype, {gates, h_output, c_output});
    check_step_biases<Device>(op, in.layout, x_bias, h_bias, gates);
    if (c.numel() == 0) return;
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, dtype, op, [&] {
      LstmStep<GateDtypes<scalar_t, scalar_t>> args{};
      in.fill(args, chosen);
      args.has_inputs = has_inputs;
      args.save_gates = save_gates;
      in.layout.show(args.gates, gates);
      in.layout.show(args.h_gates, read);
      in.layout.show_bias(args.x_bias, x_bias);
      in.layout.show_bias(args.h_bias, h_bias);
      in.layout.show(args.h, old);
      in.layout.show(args.c, state);
      in.layout.show(args.h_output, h_output);
      in.layout.show(args.c_output, c_output);
      args.forget_bias = static_cast<decltype(args.forget_bias)>(chosen.forget_bias);
      Device::run(args);
    });
  }

  // As step left them, gates, c and c_output; and
  //
  //   h_grad          F  to the new h
  //   gates_grad     4F  becomes that to both parts; may be gates; until the gradients
  //                      to the weights
  //   c_grad          F  to the new c; becomes that to the old, which the step before
  //                      reads
  //   h_zoneout_grad  F  becomes what goes to the old h where it stayed, for a mask
  //                      alone; may be h_grad
  //   weight_grads       [3, F, H, W], for peepholes alone: is added to, step by step
  static void backward(const Tensor& gates, const Tensor& c, const Tensor& c_output,
                       const Tensor& h_grad, const OptionalTensor& w_ci,
                       const OptionalTensor& w_cf, const OptionalTensor& w_co,
                       at::ArrayRef<double> options, const OptionalTensor& mask,
                       const Tensor& gates_grad, const Tensor& c_grad,
                       const OptionalTensor& h_zoneout_grad,
                       const OptionalTensor& weight_grads) {
    static constexpr const char* op = "lstm_step_backward";
    const LstmOptions chosen = lstm_options(op, options);
    check_gates(op, gates, std::nullopt, "c", c, 4);
    check_gate_tensor(op, "gates_grad", gates_grad, "c", c, 4);
    check_peephole(op, w_ci, w_cf, w_co, c.sizes(), c.device());
    check_zoneout_mask(op, mask, "c", c);
    check_like_state(op, "c_output", c_output, "c", c);
    check_like_state(op, "h_grad", h_grad, "c", c);
    check_like_state(op, "c_grad", c_grad, "c", c);
    TORCH_CHECK_VALUE(!mask.has_value() || h_zoneout_grad.has_value(), op,
                      ": h_zoneout_grad must be given with a mask, got None");
    if (h_zoneout_grad.has_value()) {
      check_like_state(op, "h_zoneout_grad", *h_zoneout_grad, "c", c);
    }
    const typename Device::Guard guard(c.device());
    const PlainDispatch plain;
    const LstmStepOperands in(gates, c, mask, w_ci, w_cf, w_co, Device::kRowLength);
    const at::ScalarType dtype = c.scalar_type();
    const Tensor state = in.layout.fit(c, dtype);
    const Tensor fresh = in.layout.fit(c_output, dtype);
    const Tensor grad_output = in.layout.fit(h_grad, dtype);
    check_buffers(op, in.layout, dtype, {gates, gates_grad, c_grad});
    if (mask.has_value()) check_buffers(op, in.layout, dtype, {*h_zoneout_grad});
    if (weight_grads.has_value()) {
      const Tensor like = in.layout.empty_sums(3, c, opmath_dtype(c));
      TORCH_CHECK_VALUE(w_ci.has_value() && weight_grads->device() == c.device() &&
                            weight_grads->scalar_type() == like.scalar_type() &&
                            weight_grads->sizes() == like.sizes() &&
                            in.layout.holds(*weight_grads),
                        op, ": weight_grads must be dense ", like.sizes(), " of ",
                        like.scalar_type(), " beside a peephole, got ",
                        weight_grads->sizes(), " of ", weight_grads->scalar_type());
    }
    if (c.numel() == 0) return;
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, dtype, op, [&] {
      LstmStepBackward<GateDtypes<scalar_t, scalar_t>> args{};
      in.fill(args, chosen);
      in.layout.show(args.gates, gates);
      in.layout.show(args.c, state);
      in.layout.show(args.c_output, fresh);
      in.layout.show(args.h_grad, grad_output);
      in.layout.show(args.gates_grad, gates_grad);
      in.layout.show(args.c_grad, c_grad);
      if (mask.has_value()) in.layout.show(args.h_zoneout_grad, *h_zoneout_grad);
      if (weight_grads.has_value()) {
        in.layout.show_sums(args.weight_grads, *weight_grads);
      }
      Device::run(args, /*sums_samples=*/weight_grads.has_value());
    });
  }
};

}  // namespace trajgru_ext
