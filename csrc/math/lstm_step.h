#pragma once

// One step of an LSTM sequence: the update of lstm_gates.h, which overwrites the
// inputs' part of the gates with the gates, from which the backward step computes its
// gradients.

#include "math/gate_rows.h"
#include "math/gates.h"
#include "math/lstm_gates.h"
#include "math/with_bias.h"

namespace trajgru_ext {

template <typename D>
struct LstmStep {
  using Dtypes = D;
  using scalar_t = typename D::state_t;

  GateRows rows;
  GateView<scalar_t> gates;  // the inputs' part; then i, f, g and o
  bool has_inputs;           // else the inputs' part is 0, and is not read
  bool save_gates;           // else nothing is left for the gradient
  GateView<const scalar_t> h_gates, c;
  // To add to the two parts, where the device takes them (At::kAddsBias); null: none.
  GateView<const scalar_t> x_bias, h_bias;
  GateView<const scalar_t> h;                           // null without a mask
  GateView<const bool> mask;                            // true: the old states stay
  GateView<const typename D::math_t> w_ci, w_cf, w_co;  // all or none
  bool weight_per_row;                                  // one weight for all of a row
  LstmOrder order;
  typename D::math_t forget_bias;
  GateView<scalar_t> h_output, c_output;
};

template <typename D>
struct LstmStepBackward {
  using Dtypes = D;
  using scalar_t = typename D::state_t;

  GateRows rows;
  GateView<const scalar_t> gates, c, c_output, h_grad;  // of the gates i, f, g and o
  GateView<scalar_t> gates_grad;                        // may be the gates
  GateView<scalar_t> c_grad;          // to the new cell state; then to the old
  GateView<scalar_t> h_zoneout_grad;  // to h where it stayed; null without a mask
  GateView<const bool> mask;
  GateView<const typename D::math_t> w_ci, w_cf, w_co;
  bool weight_per_row;
  LstmOrder order;
  // The gradients to w_ci, w_cf and w_co are added to these.
  GateView<typename D::math_t> weight_grads;
};

template <typename D, typename At>
TRAJGRU_HOST_DEVICE void update(const LstmStep<D>& args, const At& at) {
  using V = typename At::Value;
  const LstmOrder& order = args.order;
  const auto sum = [&](int gate) {
    const V part = with_bias(at, V(at.load(args.h_gates, gate)), args.h_bias, gate);
    if (!args.has_inputs) return part;
    return with_bias(at, V(at.load(args.gates, gate)), args.x_bias, gate) + part;
  };
  const LstmGates<V> sums = {sum(order.i), sum(order.f) + V(args.forget_bias),
                             sum(order.g), sum(order.o)};
  const V c = at.load(args.c, 0);
  const auto parts = lstm_parts(sums, lstm_peephole<V>(args, at), c);
  const V fresh = parts.o * parts.t;
  if (args.mask.present()) {
    const V h = at.load(args.h, 0);
    at.store(args.h_output, 0, at.zoneout(args.mask, h, fresh));
  } else {
    at.store(args.h_output, 0, fresh);
  }
  at.store(args.c_output, 0, at.zoneout(args.mask, c, parts.memory.c));
  if (args.save_gates) {
    at.store(args.gates, order.i, parts.memory.i);
    at.store(args.gates, order.f, parts.memory.f);
    at.store(args.gates, order.g, parts.memory.g);
    at.store(args.gates, order.o, parts.o);
  }
}

template <typename D, typename At>
TRAJGRU_HOST_DEVICE void update(const LstmStepBackward<D>& args, const At& at) {
  using V = typename At::Value;
  const LstmOrder& order = args.order;
  LstmParts<V> parts;
  parts.memory = {at.load(args.gates, order.i), at.load(args.gates, order.f),
                  at.load(args.gates, order.g), at.load(args.c_output, 0)};
  parts.o = at.load(args.gates, order.o);
  parts.t = hyperbolic_tangent(parts.memory.c);
  const V c = at.load(args.c, 0);
  const V to_h = at.load(args.h_grad, 0), to_c = at.load(args.c_grad, 0);
  const auto grad = lstm_grad(parts, lstm_peephole<V>(args, at), c,
                              V(at.zoneout(args.mask, V(0), to_h)),
                              V(at.zoneout(args.mask, V(0), to_c)));
  at.store(args.gates_grad, order.i, grad.a.i);
  at.store(args.gates_grad, order.f, grad.a.f);
  at.store(args.gates_grad, order.g, grad.a.g);
  at.store(args.gates_grad, order.o, grad.a.o);
  at.store(args.c_grad, 0, at.zoneout(args.mask, to_c, grad.c));
  if (args.mask.present()) {
    at.store(args.h_zoneout_grad, 0, at.zoneout(args.mask, to_h, V(0)));
  }
  if (args.weight_grads.present()) {
    at.add(args.weight_grads, 0, grad.a.i * c);
    at.add(args.weight_grads, 1, grad.a.f * c);
    at.add(args.weight_grads, 2, grad.a.o * parts.memory.c);
  }
}

}  // namespace trajgru_ext
