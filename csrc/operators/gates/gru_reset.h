#pragma once

// gru_reset on any device.

#include <torch/library.h>

#include <optional>
#include <tuple>

#include "math/gru_reset.h"
#include "operators/device.h"
#include "operators/gates/gru_operands.h"

namespace trajgru_ext {

template <typename Device>
struct GruResetOperators {
  using Tensor = at::Tensor;

  static void implement(torch::Library& m) {
    static_assert(GateDevice<Device>);
    m.impl("gru_reset", &forward);
    m.impl("gru_reset_backward", &backward);
  }

  template <typename D>
  static void fill(GruReset<D>& args, const GruOperands& in,
                   const GruOptions& options) {
    args.rows = in.layout.rows();
    in.layout.show(args.x_gates, in.x_gates);
    in.layout.show(args.h_gates, in.h_gates);
    in.layout.show(args.h, in.h);
    args.order = options.order;
  }

  static std::tuple<Tensor, Tensor> forward(const OptionalTensor& x_gates,
                                            const OptionalTensor& h_gates,
                                            const Tensor& h,
                                            at::ArrayRef<double> options) {
    const char* op = "gru_reset";
    check_gates(op, x_gates, h_gates, "h", h, 2);
    const GruOptions chosen = gru_options(op, options, 2);
    const typename Device::Guard guard(h.device());
    const PlainDispatch plain;
    const GruOperands in(x_gates, h_gates, h, std::nullopt, Device::kRowLength);
    const Tensor u = in.layout.empty(1, h, h.scalar_type());
    const Tensor reset = in.layout.empty(1, h, h.scalar_type());
    if (h.numel() == 0) return {u, reset};
    dispatch_gates(in.dtype, h, [&]<typename D>() {
      GruReset<D> args{};
      fill(args, in, chosen);
      in.layout.show(args.u, u);
      in.layout.show(args.reset, reset);
      Device::run(args);
    });
    return {u, reset};
  }

  static std::tuple<Tensor, Tensor> backward(
      const OptionalTensor& u_grad, const OptionalTensor& reset_grad,
      const OptionalTensor& x_gates, const OptionalTensor& h_gates, const Tensor& h,
      at::ArrayRef<double> options, bool gates_wanted, bool h_wanted) {
    const char* op = "gru_reset_backward";
    check_gates(op, x_gates, h_gates, "h", h, 2);
    const GruOptions chosen = gru_options(op, options, 2);
    if (u_grad.has_value()) check_like_state(op, "u_grad", *u_grad, "h", h);
    if (reset_grad.has_value()) check_like_state(op, "reset_grad", *reset_grad, "h", h);
    const typename Device::Guard guard(h.device());
    const PlainDispatch plain;
    const GruOperands in(x_gates, h_gates, h, std::nullopt, Device::kRowLength);
    const Tensor u_grad_output = in.layout.fit(u_grad, h.scalar_type());
    const Tensor reset_grad_output = in.layout.fit(reset_grad, h.scalar_type());
    Tensor gates_grad, h_grad;
    if (gates_wanted) gates_grad = in.layout.empty(2, h, in.dtype);
    if (h_wanted) h_grad = in.layout.empty(1, h, h.scalar_type());
    if (h.numel() > 0 && (gates_wanted || h_wanted)) {
      dispatch_gates(in.dtype, h, [&]<typename D>() {
        GruResetBackward<D> args{};
        fill<D>(args, in, chosen);
        in.layout.show(args.u_grad, u_grad_output);
        in.layout.show(args.reset_grad, reset_grad_output);
        in.layout.show(args.gates_grad, gates_grad);
        in.layout.show(args.h_grad, h_grad);
        Device::run(args);
      });
    }
    return {wanted_or_empty(gates_grad, h, gates_dtype(x_gates, h_gates)),
            wanted_or_empty(h_grad, h, h.scalar_type())};
  }
};

}  // namespace trajgru_ext
