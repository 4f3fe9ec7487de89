#pragma once

// gru_gates, gru_reset and gru_output: what they read and write at one place `at` of a
// row. at.load(view, gate), at.store(view, gate, value), at.sum(x, h, gate), the sum of
// the two tensors of gates, and at.zoneout(mask, old, fresh), the old state where the
// mask is set, come from the loop around it.

#include "math/gate_rows.h"
#include "math/gates.h"

namespace trajgru_ext {

struct GruSlots {
  int r, u, n;  // where each gate's slice lies
};

template <typename D>
struct GruGates {
  using Dtypes = D;

  GateRows rows;
  GateView<const typename D::gate_t> x_gates, h_gates;
  GateView<const typename D::state_t> h;
  GateView<const bool> mask;  // true: the old state stays
  GruSlots slots;
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
  parts.r = sigma(at.sum(args.x_gates, args.h_gates, args.slots.r));
  parts.u = sigma(at.sum(args.x_gates, args.h_gates, args.slots.u));
  if (args.h_gates.present()) {
    parts.m = at.load(args.h_gates, args.slots.n);
    parts.q = parts.r * parts.m;
    if (args.x_gates.present()) parts.q = at.load(args.x_gates, args.slots.n) + parts.q;
  } else {
    parts.m = V(0);
    parts.q = at.load(args.x_gates, args.slots.n);
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
    at.store(args.x_grad, args.slots.r, r);
    at.store(args.x_grad, args.slots.u, u);
    at.store(args.x_grad, args.slots.n, q);
  }
  if (args.h_gates_grad.present()) {
    at.store(args.h_gates_grad, args.slots.r, r);
    at.store(args.h_gates_grad, args.slots.u, u);
    at.store(args.h_gates_grad, args.slots.n, q * parts.r);
  }
  if (args.h_grad.present()) {
    at.store(args.h_grad, 0, at.zoneout(args.mask, grad, to.h));
  }
}

// (u, r h)
template <typename D>
struct GruReset {
  using Dtypes = D;

  GateRows rows;
  GateView<const typename D::gate_t> x_gates, h_gates;
  GateView<const typename D::state_t> h;
  GruSlots slots;
  GateView<typename D::state_t> u, reset;  // null in the backward pass
};

template <typename D>
struct GruResetBackward : GruReset<D> {
  GateView<const typename D::state_t> u_grad, reset_grad;  // null: zero
  GateView<typename D::gate_t> gates_grad;
  GateView<typename D::state_t> h_grad;
};

template <typename D, typename At>
TRAJGRU_HOST_DEVICE void update(const GruReset<D>& args, const At& at) {
  const auto r = sigma(at.sum(args.x_gates, args.h_gates, args.slots.r));
  at.store(args.u, 0, sigma(at.sum(args.x_gates, args.h_gates, args.slots.u)));
  at.store(args.reset, 0, r * at.load(args.h, 0));
}

template <typename D, typename At>
TRAJGRU_HOST_DEVICE void update(const GruResetBackward<D>& args, const At& at) {
  using V = typename At::Value;
  const V r = sigma(at.sum(args.x_gates, args.h_gates, args.slots.r));
  const V u = sigma(at.sum(args.x_gates, args.h_gates, args.slots.u));
  const V h = at.load(args.h, 0);
  const V to_u = args.u_grad.present() ? at.load(args.u_grad, 0) : V(0);
  const V to_reset = args.reset_grad.present() ? at.load(args.reset_grad, 0) : V(0);
  if (args.gates_grad.present()) {
    at.store(args.gates_grad, args.slots.r, to_reset * h * sigma_slope(r));
    at.store(args.gates_grad, args.slots.u, to_u * sigma_slope(u));
  }
  if (args.h_grad.present()) at.store(args.h_grad, 0, to_reset * r);
}

// h' from u and the candidate before its activation
template <typename D>
struct GruOutput {
  using Dtypes = D;

  GateRows rows;
  GateView<const typename D::gate_t> candidate;
  GateView<const typename D::state_t> u, h;
  GateView<const bool> mask;  // true: the old state stays
  GruUpdate<typename D::math_t> update;
  GateView<typename D::state_t> output;  // null in the backward pass
};

template <typename D>
struct GruOutputBackward : GruOutput<D> {
  GateView<const typename D::state_t> grad;
  GateView<typename D::gate_t> candidate_grad;
  GateView<typename D::state_t> u_grad, h_grad;
};

template <typename D, typename At>
TRAJGRU_HOST_DEVICE void update(const GruOutput<D>& args, const At& at) {
  using V = typename At::Value;
  const V h = at.load(args.h, 0);
  const V n = activate(args.update, at.load(args.candidate, 0));
  const V fresh = gru_state(args.update, at.load(args.u, 0), n, h);
  at.store(args.output, 0, at.zoneout(args.mask, h, fresh));
}

template <typename D, typename At>
TRAJGRU_HOST_DEVICE void update(const GruOutputBackward<D>& args, const At& at) {
  using V = typename At::Value;
  const V q = at.load(args.candidate, 0), n = activate(args.update, q);
  const V grad = at.load(args.grad, 0);
  const V fresh = at.zoneout(args.mask, V(0), grad);
  const auto to =
      gru_state_grad(args.update, at.load(args.u, 0), n, at.load(args.h, 0), fresh);
  if (args.candidate_grad.present()) {
    at.store(args.candidate_grad, 0, activation_grad(args.update, q, n, to.n));
  }
  if (args.u_grad.present()) at.store(args.u_grad, 0, to.u);
  if (args.h_grad.present()) {
    at.store(args.h_grad, 0, at.zoneout(args.mask, grad, to.h));
  }
}

}  // namespace trajgru_ext
