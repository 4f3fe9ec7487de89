#pragma once

// One step of a GRU sequence whose reset gate comes after the convolution: the update
// of gru_gates.h, which overwrites the inputs' part of the gates with the gates, from
// which the backward step computes its gradients.

#include "math/gate_rows.h"
#include "math/gates.h"
#include "math/gru_gates.h"
#include "math/with_bias.h"

namespace trajgru_ext {

template <typename D>
struct GruStep {
  using Dtypes = D;
  using scalar_t = typename D::state_t;

  GateRows rows;
  GateView<scalar_t> gates;  // the inputs' part; then r, u and n
  bool has_inputs;           // else the inputs' part is 0, and is not read
  GateView<const scalar_t> h_gates, h;
  // To add to the two parts, where the device takes them (At::kAddsBias); null: none.
  GateView<const scalar_t> x_bias, h_bias;
  GateView<const bool> mask;     // true: the old state stays
  GateView<scalar_t> candidate;  // to hold the h-part of the candidate; null: neither
                                 // it nor the gates are saved for backward
  GateView<scalar_t> output;
  GruOrder order;
  GruUpdate<typename D::math_t> update;
};

template <typename D>
struct GruStepBackward {
  using Dtypes = D;
  using scalar_t = typename D::state_t;

  GateRows rows;
  GateView<const scalar_t> gates, candidate, h, grad;  // of the gates r, u and n
  GateView<const bool> mask;
  GateView<scalar_t> gates_grad, h_gates_grad, h_grad;  // the first may be the gates
  GruOrder order;
  GruUpdate<typename D::math_t> update;
};

template <typename D, typename At>
TRAJGRU_HOST_DEVICE void update(const GruStep<D>& args, const At& at) {
  using V = typename At::Value;
  const auto x_part = [&](int gate) {
    return with_bias(at, V(at.load(args.gates, gate)), args.x_bias, gate);
  };
  const auto h_part = [&](int gate) {
    return with_bias(at, V(at.load(args.h_gates, gate)), args.h_bias, gate);
  };
  V r = h_part(args.order.r), u = h_part(args.order.u);
  const V m = h_part(args.order.n), h = at.load(args.h, 0);
  if (args.has_inputs) {
    r = x_part(args.order.r) + r;
    u = x_part(args.order.u) + u;
  }
  r = sigma(r);
  u = sigma(u);
  V n = r * m;
  if (args.has_inputs) n = x_part(args.order.n) + n;
  n = activate(args.update, n);
  at.store(args.output, 0, at.zoneout(args.mask, h, gru_state(args.update, u, n, h)));
  if (args.candidate.present()) {
    at.store(args.gates, args.order.r, r);
    at.store(args.gates, args.order.u, u);
    at.store(args.gates, args.order.n, n);
    at.store(args.candidate, 0, m);
  }
}

template <typename D, typename At>
TRAJGRU_HOST_DEVICE void update(const GruStepBackward<D>& args, const At& at) {
  using V = typename At::Value;
  const V r = at.load(args.gates, args.order.r), u = at.load(args.gates, args.order.u);
  const V n = at.load(args.gates, args.order.n), m = at.load(args.candidate, 0);
  const V grad = at.load(args.grad, 0);
  const V fresh = at.zoneout(args.mask, V(0), grad);
  const auto to = gru_state_grad(args.update, u, n, V(at.load(args.h, 0)), fresh);
  // An activation has the sign of its argument, so n tells the slope at q too.
  const V q_grad = activation_grad(args.update, n, n, to.n);
  const V r_grad = q_grad * m * sigma_slope(r), u_grad = to.u * sigma_slope(u);
  at.store(args.gates_grad, args.order.r, r_grad);
  at.store(args.gates_grad, args.order.u, u_grad);
  at.store(args.gates_grad, args.order.n, q_grad);
  at.store(args.h_gates_grad, args.order.r, r_grad);
  at.store(args.h_gates_grad, args.order.u, u_grad);
  at.store(args.h_gates_grad, args.order.n, q_grad * r);
  at.store(args.h_grad, 0, at.zoneout(args.mask, grad, to.h));
}

}  // namespace trajgru_ext
