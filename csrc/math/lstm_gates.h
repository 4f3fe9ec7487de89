#pragma once

// lstm_gates: what it reads and writes at one place `at` of a row. Beside what
// gru_gates.h names, at.weight(view, per_row) loads a peephole's weight, and
// at.accumulate(sums, gate, value) adds up over the samples, which come in order.

#include "math/gate_rows.h"
#include "math/gates.h"

namespace trajgru_ext {

template <typename D>
struct LstmGatesForward {
  using Dtypes = D;

  GateRows rows;
  GateView<const typename D::gate_t> x_gates, h_gates;
  GateView<const typename D::state_t> c;
  GateView<const typename D::math_t> w_ci, w_cf, w_co;  // all or none
  bool weight_per_row;                                  // one weight for all of a row
  LstmOrder order;
  typename D::math_t forget_bias;
  GateView<typename D::state_t> h_output, c_output;  // null in backward
};

template <typename D>
struct LstmGatesBackward : LstmGatesForward<D> {
  GateView<const typename D::state_t> h_grad, c_grad;  // null: zero
  GateView<typename D::gate_t> gates_grad;
  GateView<typename D::state_t> c_input_grad;
  // The gradients to w_ci, w_cf and w_co, summed over the samples, not the pixels.
  GateView<typename D::math_t> weight_grads;
};

template <typename V, typename Args, typename At>
TRAJGRU_HOST_DEVICE LstmGates<V> lstm_inputs(const Args& args, const At& at) {
  const LstmOrder& order = args.order;
  return {at.sum(args.x_gates, args.h_gates, order.i),
          at.sum(args.x_gates, args.h_gates, order.f) + V(args.forget_bias),
          at.sum(args.x_gates, args.h_gates, order.g),
          at.sum(args.x_gates, args.h_gates, order.o)};
}

template <typename V, typename Args, typename At>
TRAJGRU_HOST_DEVICE Peephole<V> lstm_peephole(const Args& args, const At& at) {
  if (!args.w_ci.present()) return {false, V(0), V(0), V(0)};
  return {true, at.weight(args.w_ci, args.weight_per_row),
          at.weight(args.w_cf, args.weight_per_row),
          at.weight(args.w_co, args.weight_per_row)};
}

template <typename D, typename At>
TRAJGRU_HOST_DEVICE void update(const LstmGatesForward<D>& args, const At& at) {
  using V = typename At::Value;
  const auto parts = lstm_parts(lstm_inputs<V>(args, at), lstm_peephole<V>(args, at),
                                V(at.load(args.c, 0)));
  at.store(args.c_output, 0, parts.memory.c);
  at.store(args.h_output, 0, parts.o * parts.t);
}

template <typename D, typename At>
TRAJGRU_HOST_DEVICE void update(const LstmGatesBackward<D>& args, const At& at) {
  using V = typename At::Value;
  const V c = at.load(args.c, 0);
  const auto w = lstm_peephole<V>(args, at);
  const auto parts = lstm_parts(lstm_inputs<V>(args, at), w, c);
  const V to_h = args.h_grad.present() ? at.load(args.h_grad, 0) : V(0);
  const V to_c = args.c_grad.present() ? at.load(args.c_grad, 0) : V(0);
  const auto grad = lstm_grad(parts, w, c, to_h, to_c);
  if (args.gates_grad.present()) {
    at.store(args.gates_grad, args.order.i, grad.a.i);
    at.store(args.gates_grad, args.order.f, grad.a.f);
    at.store(args.gates_grad, args.order.g, grad.a.g);
    at.store(args.gates_grad, args.order.o, grad.a.o);
  }
  if (args.c_input_grad.present()) at.store(args.c_input_grad, 0, grad.c);
  if (args.weight_grads.present()) {
    at.accumulate(args.weight_grads, 0, grad.a.i * c);
    at.accumulate(args.weight_grads, 1, grad.a.f * c);
    at.accumulate(args.weight_grads, 2, grad.a.o * parts.memory.c);
  }
}

}  // namespace trajgru_ext
