#pragma once

// lstm_gates on any device.

#include <torch/library.h>

#include <optional>
#include <tuple>

#include "operators/gates/gate_checks.h"
#include "operators/gates/gate_layout.h"
#include "operators/gates/lstm_options.h"
#include "math/lstm_gates.h"
#include "operators/device.h"

namespace trajgru_ext {

// Whether the weights are one a channel, where there is more than one pixel.
inline bool one_weight_a_channel(const std::optional<at::Tensor>& weight,
                                 const at::Tensor& state) {
  return weight.has_value() && weight->size(2) * weight->size(3) == 1 &&
         state.size(2) * state.size(3) != 1;
}

// The operands in rows.
struct LstmOperands {
  bool per_channel;  // one weight a channel
  GateLayout layout;
  at::ScalarType dtype;  // of the gates as they are read
  at::Tensor x_gates, h_gates, c, w_ci, w_cf, w_co;

  LstmOperands(const OptionalTensor& x, const OptionalTensor& hg,
               const at::Tensor& state, const OptionalTensor& ci,
               const OptionalTensor& cf, const OptionalTensor& co, int64_t row_length)
      : per_channel(one_weight_a_channel(ci, state)),
        layout(x.has_value() ? *x : *hg, state, row_length, ci.has_value(),
               per_channel),
        dtype(read_dtype(gates_dtype(x, hg), state)),
        x_gates(layout.fit(x, dtype)),
        h_gates(layout.fit(hg, dtype)),
        c(layout.fit(state, state.scalar_type())),
        w_ci(layout.fit_weights(ci, opmath_dtype(state))),
        w_cf(layout.fit_weights(cf, opmath_dtype(state))),
        w_co(layout.fit_weights(co, opmath_dtype(state))) {}
};

template <typename Device>
struct LstmGatesOperators {
  using Tensor = at::Tensor;

  template <typename D>
  static void fill(LstmGatesForward<D>& args, const LstmOperands& in,
                   const LstmOptions& options) {
    const GateLayout& layout = in.layout;
    args.rows = layout.rows();
    layout.show(args.x_gates, in.x_gates);
    layout.show(args.h_gates, in.h_gates);
    layout.show(args.c, in.c);
    layout.show_weights(args.w_ci, in.w_ci, in.per_channel);
    layout.show_weights(args.w_cf, in.w_cf, in.per_channel);
    layout.show_weights(args.w_co, in.w_co, in.per_channel);
    args.weight_per_row = in.per_channel && layout.planes();
    args.order = options.order;
    args.forget_bias = static_cast<typename D::math_t>(options.forget_bias);
  }

  static std::tuple<Tensor, Tensor> forward(const OptionalTensor& x_gates,
                                            const OptionalTensor& h_gates,
                                            const Tensor& c, const OptionalTensor& w_ci,
                                            const OptionalTensor& w_cf,
                                            const OptionalTensor& w_co,
                                            at::ArrayRef<double> options) {
    const char* op = "lstm_gates";
    check_gates(op, x_gates, h_gates, "c", c, 4);
    const LstmOptions chosen = lstm_options(op, options);
    check_peephole(op, w_ci, w_cf, w_co, c.sizes(), c.device());
    const typename Device::Guard guard(c.device());
    const PlainDispatch plain;
    const LstmOperands in(x_gates, h_gates, c, w_ci, w_cf, w_co, Device::kRowLength);
    const Tensor h_output = in.layout.empty(1, c, c.scalar_type());
    const Tensor c_output = in.layout.empty(1, c, c.scalar_type());
    if (c.numel() == 0) return {h_output, c_output};
    dispatch_gates(in.dtype, c, [&]<typename D>() {
      LstmGatesForward<D> args{};
      fill(args, in, chosen);
      in.layout.show(args.h_output, h_output);
      in.layout.show(args.c_output, c_output);
      Device::run(args);
    });
    return {h_output, c_output};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
      const OptionalTensor& h_grad, const OptionalTensor& c_grad,
      const OptionalTensor& x_gates, const OptionalTensor& h_gates, const Tensor& c,
      const OptionalTensor& w_ci, const OptionalTensor& w_cf,
      const OptionalTensor& w_co, at::ArrayRef<double> options, bool gates_wanted,
      bool c_wanted, bool peephole_wanted) {
    const char* op = "lstm_gates_backward";
    check_gates(op, x_gates, h_gates, "c", c, 4);
    const LstmOptions chosen = lstm_options(op, options);
    check_peephole(op, w_ci, w_cf, w_co, c.sizes(), c.device());
    if (h_grad.has_value()) check_like_state(op, "h_grad", *h_grad, "c", c);
    if (c_grad.has_value()) check_like_state(op, "c_grad", *c_grad, "c", c);
    const typename Device::Guard guard(c.device());
    const PlainDispatch plain;
    const LstmOperands in(x_gates, h_gates, c, w_ci, w_cf, w_co, Device::kRowLength);
    const Tensor h_grad_output = in.layout.fit(h_grad, c.scalar_type());
    const Tensor c_grad_output = in.layout.fit(c_grad, c.scalar_type());
    Tensor gates_grad, c_input_grad, sums;
    if (gates_wanted) gates_grad = in.layout.empty(4, c, in.dtype);
    if (c_wanted) c_input_grad = in.layout.empty(1, c, c.scalar_type());
    if (peephole_wanted && w_ci.has_value()) {
      sums = in.layout.empty_sums(3, c, opmath_dtype(c));
      if (c.numel() == 0) sums.zero_();
    }
    if (c.numel() > 0 && (gates_wanted || c_wanted || sums.defined())) {
      dispatch_gates(in.dtype, c, [&]<typename D>() {
        LstmGatesBackward<D> args{};
        fill<D>(args, in, chosen);
        in.layout.show(args.h_grad, h_grad_output);
        in.layout.show(args.c_grad, c_grad_output);
        in.layout.show(args.gates_grad, gates_grad);
        in.layout.show(args.c_input_grad, c_input_grad);
        in.layout.show_sums(args.weight_grads, sums);
        Device::run(args, /*sums_samples=*/sums.defined());
      });
    }
    if (sums.defined() && in.per_channel) sums = Device::sum_pixels(sums);
    // In the sizes and the dtype of the weight.
    const auto weight_grad = [&](const OptionalTensor& weight, int64_t number) {
      const Tensor& like = weight.has_value() ? *weight : c;
      if (!sums.defined()) return wanted_or_empty({}, c, like.scalar_type());
      const Tensor grad = at::empty(
          like.sizes(), like.options().memory_format(at::MemoryFormat::Contiguous));
      return grad.copy_(sums.narrow(0, number, 1));
    };
    return {wanted_or_empty(gates_grad, c, gates_dtype(x_gates, h_gates)),
            wanted_or_empty(c_input_grad, c, c.scalar_type()), weight_grad(w_ci, 0),
            weight_grad(w_cf, 1), weight_grad(w_co, 2)};
  }

  static void implement(torch::Library& m) {
    static_assert(GateDevice<Device>);
    m.impl("lstm_gates", &forward);
    m.impl("lstm_gates_backward", &backward);
  }
};

}  // namespace trajgru_ext
