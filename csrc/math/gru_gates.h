#pragma once

// gru_gates: what it reads and writes at one place `at` of a
// row. at.load(view, gate), at.store(view, gate, value), at.sum(x, h, gate), the sum of
// the two tensors of gates, and at.zoneout(mask, old, fresh), the old state where the
// mask is set, come from the loop around it.

#include "math/gate_rows.h"
#include "math/gates.h"

namespace trajgru_ext {

template <typename D>
struct GruGates {
  using Dtypes = D;

  GateRows rows;
  GateView<const typename D::gate_t> x_gates, h_gates;
  GateView<const typename D::state_t> h;
  GateView<const bool> mask;  // true: the old state stays
  GruOrder order;
  GruUpdate<typename D::math_t> update;
  GateView<typename D::state_t> output;  // null in the backward pass
};

template <typename D>
struct GruGatesBackward : GruGates<D> {
  GateView<const typename D::state_t> grad;
  GateView<typename D::gate_t> x_grad, h_gates_grad;
  GateView<typename D::state_t> h_grad;
};

template <typename V>
struct GruParts {
  V r, u, m, q, n, h;  // m: the h-part of the candidate
};

template <typename V, typename Args, typename At>
TRAJGRU_HOST_DEVICE GruParts<V> gru_parts(const Args& args, const At& at) {
  GruParts<V> parts;
  parts.r = sigma(at.sum(args.x_gates, args.h_gates, args.order.r));
  parts.u = sigma(at.sum(args.x_gates, args.h_gates, args.order.u));
  if (args.h_gates.present()) {
    parts.m = at.load(args.h_gates, args.order.n);
    parts.q = parts.r * parts.m;
    if (args.x_gates.present()) parts.q = at.load(args.x_gates, args.order.n) + parts.q;
  } else {
    parts.m = V(0);
    parts.q = at.load(args.x_gates, args.order.n);
  }
  parts.n = activate(args.update, parts.q);
  parts.h = at.load(args.h, 0);
  return parts;
}

template <typename D, typename At>
TRAJGRU_HOST_DEVICE void update(const GruGates<D>& args, const At& at) {
  using V = typename At::Value;
  const auto parts = gru_parts<V>(args, at);
  const V fresh = gru_state(args.update, parts.u, parts.n, parts.h);
  at.store(args.output, 0, at.zoneout(args.mask, parts.h, fresh));
}

template <typename D, typename At>
TRAJGRU_HOST_DEVICE void update(const GruGatesBackward<D>& args, const At& at) {
  using V = typename At::Value;
  const auto parts = gru_parts<V>(args, at);
  const V grad = at.load(args.grad, 0);
  const V fresh = at.zoneout(args.mask, V(0), grad);
  const auto to = gru_state_grad(args.update, parts.u, parts.n, parts.h, fresh);
  const V q = activation_grad(args.update, parts.q, parts.n, to.n);
  // Without an h-part the reset gate, which may be NaN, has none either.
  const V r = args.h_gates.present() ? q * parts.m * sigma_slope(parts.r) : V(0);
  const V u = to.u * sigma_slope(parts.u);
  if (args.x_grad.present()) {
    at.store(args.x_grad, args.order.r, r);
    at.store(args.x_grad, args.order.u, u);
    at.store(args.x_grad, args.order.n, q);
  }
  if (args.h_gates_grad.present()) {
    at.store(args.h_gates_grad, args.order.r, r);
    at.store(args.h_gates_grad, args.order.u, u);
    at.store(args.h_gates_grad, args.order.n, q * parts.r);
  }
  if (args.h_grad.present()) {
    at.store(args.h_grad, 0, at.zoneout(args.mask, grad, to.h));
  }
}

}  // namespace trajgru_ext
