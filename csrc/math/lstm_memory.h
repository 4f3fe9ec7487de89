#pragma once

// lstm_memory: what it reads and writes at one place `at` of a row; see gru_gates.h.

#include "math/gate_rows.h"
#include "math/gates.h"

namespace trajgru_ext {

template <typename D>
struct LstmMemoryForward {
  using Dtypes = D;

  GateRows rows;
  GateView<const typename D::gate_t> x_gates, h_gates;
  GateView<const typename D::state_t> c;
  LstmOrder order;  // of i, f and g alone
  typename D::math_t forget_bias;
  GateView<typename D::state_t> output;  // null in the backward pass
};

template <typename D>
struct LstmMemoryBackward : LstmMemoryForward<D> {
  GateView<const typename D::state_t> grad;
  GateView<typename D::gate_t> gates_grad;
  GateView<typename D::state_t> c_grad;
};

template <typename V, typename Args, typename At>
TRAJGRU_HOST_DEVICE LstmMemory<V> lstm_memory_at(const Args& args, const At& at, V c) {
  const LstmOrder& order = args.order;
  return lstm_memory(
      V(at.sum(args.x_gates, args.h_gates, order.i)),
      V(at.sum(args.x_gates, args.h_gates, order.f) + V(args.forget_bias)),
      V(at.sum(args.x_gates, args.h_gates, order.g)), c);
}

template <typename D, typename At>
TRAJGRU_HOST_DEVICE void update(const LstmMemoryForward<D>& args, const At& at) {
  using V = typename At::Value;
  at.store(args.output, 0, lstm_memory_at<V>(args, at, at.load(args.c, 0)).c);
}

template <typename D, typename At>
TRAJGRU_HOST_DEVICE void update(const LstmMemoryBackward<D>& args, const At& at) {
  using V = typename At::Value;
  const V c = at.load(args.c, 0);
  const auto to =
      lstm_memory_grad(lstm_memory_at<V>(args, at, c), c, V(at.load(args.grad, 0)));
  if (args.gates_grad.present()) {
    at.store(args.gates_grad, args.order.i, to.i);
    at.store(args.gates_grad, args.order.f, to.f);
    at.store(args.gates_grad, args.order.g, to.g);
  }
  if (args.c_grad.present()) at.store(args.c_grad, 0, to.c);
}

}  // namespace trajgru_ext
