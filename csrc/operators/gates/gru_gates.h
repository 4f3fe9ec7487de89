#pragma once

// gru_gates on any device.

#include <torch/library.h>

#include <optional>
#include <tuple>

#include "math/gru_gates.h"
#include "operators/device.h"
#include "operators/gates/gru_operands.h"

namespace trajgru_ext {

template <typename Device>
struct GruGatesOperators {
  using Tensor = at::Tensor;

  static void implement(torch::Library& m) {
    static_assert(GateDevice<Device>);
    m.impl("gru_gates", &forward);
    m.impl("gru_gates_backward", &backward);
  }

  template <typename D>
  static void fill(GruGates<D>& args, const GruOperands& in,
                   const GruOptions& options) {
    args.rows = in.layout.rows();
    in.layout.show(args.x_gates, in.x_gates);
    in.layout.show(args.h_gates, in.h_gates);
    in.layout.show(args.h, in.h);
    in.layout.show(args.mask, in.mask);
    args.order = options.order;
    args.update.set(options.update);
  }

  static Tensor forward(const OptionalTensor& x_gates, const OptionalTensor& h_gates,
                        const Tensor& h, at::ArrayRef<double> options,
                        const OptionalTensor& mask) {
    const char* op = "gru_gates";
    check_gates(op, x_gates, h_gates, "h", h, 3);
    check_zoneout_mask(op, mask, "h", h);
    const GruOptions chosen = gru_options(op, options, 3);
    const typename Device::Guard guard(h.device());
    const PlainDispatch plain;
    const GruOperands in(x_gates, h_gates, h, mask, Device::kRowLength);
    const Tensor output = in.layout.empty(1, h, h.scalar_type());
    if (output.numel() == 0) return output;
    dispatch_gates(in.dtype, h, [&]<typename D>() {
      GruGates<D> args{};
      fill(args, in, chosen);
      in.layout.show(args.output, output);
      Device::run(args);
    });
    return output;
  }

  static std::tuple<Tensor, Tensor, Tensor> backward(
      const Tensor& grad, const OptionalTensor& x_gates, const OptionalTensor& h_gates,
      const Tensor& h, at::ArrayRef<double> options, const OptionalTensor& mask,
      bool x_wanted, bool h_gates_wanted, bool h_wanted) {
    const char* op = "gru_gates_backward";
    check_gates(op, x_gates, h_gates, "h", h, 3);
    check_zoneout_mask(op, mask, "h", h);
    check_like_state(op, "grad", grad, "h", h);
    const GruOptions chosen = gru_options(op, options, 3);
    const typename Device::Guard guard(h.device());
    const PlainDispatch plain;
    const GruOperands in(x_gates, h_gates, h, mask, Device::kRowLength);
    const Tensor grad_output = in.layout.fit(grad, h.scalar_type());
    Tensor x_grad, h_gates_grad, h_grad;
    if (x_wanted && x_gates.has_value()) x_grad = in.layout.empty(3, h, in.dtype);
    if (h_gates_wanted && h_gates.has_value()) {
      h_gates_grad = in.layout.empty(3, h, in.dtype);
    }
    if (h_wanted) h_grad = in.layout.empty(1, h, h.scalar_type());
    if (h.numel() > 0 && (x_wanted || h_gates_wanted || h_wanted)) {
      dispatch_gates(in.dtype, h, [&]<typename D>() {
        GruGatesBackward<D> args{};
        fill<D>(args, in, chosen);
        in.layout.show(args.grad, grad_output);
        in.layout.show(args.x_grad, x_grad);
        in.layout.show(args.h_gates_grad, h_gates_grad);
        in.layout.show(args.h_grad, h_grad);
        Device::run(args);
      });
    }
    return {wanted_or_empty(x_grad, h, (x_gates ? *x_gates : h).scalar_type()),
            wanted_or_empty(h_gates_grad, h, (h_gates ? *h_gates : h).scalar_type()),
            wanted_or_empty(h_grad, h, h.scalar_type())};
  }
};

}  // namespace trajgru_ext
