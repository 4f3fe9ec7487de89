#pragma once

// lstm_gates on any device; see gru_operators.h for what Device is.

#include <ATen/ops/zeros.h>

#include <array>
#include <optional>
#include <tuple>

#include "gate_checks.h"
#include "gate_layout.h"
#include "math/lstm_gates.h"

namespace trajgru_ext {

// The operands in rows.
struct LstmOperands {
  using OptionalTensor = std::optional<at::Tensor>;

  bool per_channel;  // one weight a channel
  GateLayout layout;
  at::ScalarType dtype;  // of the gates as they are read
  at::Tensor x_gates, h_gates, c, w_ci, w_cf, w_co;

  LstmOperands(const OptionalTensor& x, const OptionalTensor& hg,
               const at::Tensor& state, const OptionalTensor& ci,
               const OptionalTensor& cf, const OptionalTensor& co, int64_t row_length)
      : per_channel(ci.has_value() && ci->size(2) * ci->size(3) == 1 &&
                    state.size(2) * state.size(3) != 1),
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
struct LstmOperators {
  using Tensor = at::Tensor;
  using OptionalTensor = std::optional<at::Tensor>;

  template <typename D, typename T, typename index_t>
  static void fill(LstmGatesForward<D, T, index_t>& args, const LstmOperands& in,
                   at::IntArrayRef slots, double forget_bias) {
    using gate_t = const typename D::gate_t;
    const GateLayout& layout = in.layout;
    args.rows = layout.rows<index_t>();
    args.x_gates = layout.view<gate_t, index_t>(in.x_gates);
    args.h_gates = layout.view<gate_t, index_t>(in.h_gates);
    args.c = layout.view<const typename D::state_t, index_t>(in.c);
    args.w_ci = layout.weights_view<const T, index_t>(in.w_ci, in.per_channel);
    args.w_cf = layout.weights_view<const T, index_t>(in.w_cf, in.per_channel);
    args.w_co = layout.weights_view<const T, index_t>(in.w_co, in.per_channel);
    args.weight_per_row = in.per_channel && layout.planes();
    args.slots = {static_cast<int>(slots[0]), static_cast<int>(slots[1]),
                  static_cast<int>(slots[2]), static_cast<int>(slots[3])};
    args.forget_bias = static_cast<T>(forget_bias);
  }

  static std::tuple<Tensor, Tensor> gates(const OptionalTensor& x_gates,
                                          const OptionalTensor& h_gates,
                                          const Tensor& c, const OptionalTensor& w_ci,
                                          const OptionalTensor& w_cf,
                                          const OptionalTensor& w_co,
                                          at::IntArrayRef slots, double forget_bias) {
    const char* op = "lstm_gates";
    check_gates(op, x_gates, h_gates, "c", c, slots, 4);
    check_peephole(op, w_ci, w_cf, w_co, c);
    const typename Device::Guard guard(c.device());
    LstmOperands in(x_gates, h_gates, c, w_ci, w_cf, w_co, Device::kRowLength);
    const Tensor h_output = in.layout.empty(1, c, c.scalar_type());
    const Tensor c_output = in.layout.empty(1, c, c.scalar_type());
    if (c.numel() == 0) return {h_output, c_output};
    dispatch_gates(in.dtype, c, [&]<typename D, typename T>() {
      using state_t = typename D::state_t;
      Device::template run<D>(in.layout, [&]<typename index_t>() {
        LstmGatesForward<D, T, index_t> args{};
        fill(args, in, slots, forget_bias);
        args.h_output = in.layout.template view<state_t, index_t>(h_output);
        args.c_output = in.layout.template view<state_t, index_t>(c_output);
        return args;
      });
    });
    return {h_output, c_output};
  }

  // sums: over the samples, for each place. The rest of the sum, where a channel has
  // one weight; in the sizes and the dtype of the weight.
  static Tensor weight_grad(const Tensor& sums, int64_t number, const Tensor& weight,
                            bool per_channel) {
    const Tensor grad = at::empty(
        weight.sizes(), weight.options().memory_format(at::MemoryFormat::Contiguous));
    Tensor sum = sums.narrow(0, number, 1);
    if (per_channel) sum = sum.sum({2, 3}, /*keepdim=*/true);
    return grad.copy_(sum);
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gates_backward(
      const OptionalTensor& h_grad, const OptionalTensor& c_grad,
      const OptionalTensor& x_gates, const OptionalTensor& h_gates, const Tensor& c,
      const OptionalTensor& w_ci, const OptionalTensor& w_cf,
      const OptionalTensor& w_co, at::IntArrayRef slots, double forget_bias,
      bool gates_wanted, bool c_wanted, bool peephole_wanted) {
    const char* op = "lstm_gates_backward";
    check_gates(op, x_gates, h_gates, "c", c, slots, 4);
    check_peephole(op, w_ci, w_cf, w_co, c);
    if (h_grad.has_value()) check_like_state(op, "h_grad", *h_grad, "c", c);
    if (c_grad.has_value()) check_like_state(op, "c_grad", *c_grad, "c", c);
    const typename Device::Guard guard(c.device());
    LstmOperands in(x_gates, h_gates, c, w_ci, w_cf, w_co, Device::kRowLength);
    const Tensor h_seed = in.layout.fit(h_grad, c.scalar_type());
    const Tensor c_seed = in.layout.fit(c_grad, c.scalar_type());
    Tensor gates_grad, c_input_grad, sums;
    if (gates_wanted) gates_grad = in.layout.empty(4, c, in.dtype);
    if (c_wanted) c_input_grad = in.layout.empty(1, c, c.scalar_type());
    if (peephole_wanted && w_ci.has_value()) {
      sums = in.layout.empty_sums(3, c, opmath_dtype(c));
      if (c.numel() == 0) sums.zero_();
    }
    if (c.numel() > 0 && (gates_wanted || c_wanted || sums.defined())) {
      dispatch_gates(in.dtype, c, [&]<typename D, typename T>() {
        using state_t = typename D::state_t;
        Device::template run<D>(
            in.layout,
            [&]<typename index_t>() {
              LstmGatesBackward<D, T, index_t> args{};
              fill<D, T, index_t>(args, in, slots, forget_bias);
              args.h_grad = in.layout.template view<const state_t, index_t>(h_seed);
              args.c_grad = in.layout.template view<const state_t, index_t>(c_seed);
              args.gates_grad =
                  in.layout.template view<typename D::gate_t, index_t>(gates_grad);
              args.c_input_grad =
                  in.layout.template view<state_t, index_t>(c_input_grad);
              args.weight_grads = in.layout.template sums_view<T, index_t>(sums);
              return args;
            },
            /*sums_samples=*/sums.defined());
      });
    }
    std::array<Tensor, 3> weight_grads;
    const std::array<const OptionalTensor*, 3> weights = {&w_ci, &w_cf, &w_co};
    for (int k = 0; k < 3; ++k) {
      const Tensor& like = weights[k]->has_value() ? **weights[k] : c;
      weight_grads[k] = sums.defined() ? weight_grad(sums, k, like, in.per_channel)
                                       : wanted_or_empty({}, c, like.scalar_type());
    }
    return {wanted_or_empty(gates_grad, c, gates_dtype(x_gates, h_gates)),
            wanted_or_empty(c_input_grad, c, c.scalar_type()), weight_grads[0],
            weight_grads[1], weight_grads[2]};
  }
};

}  // namespace trajgru_ext
