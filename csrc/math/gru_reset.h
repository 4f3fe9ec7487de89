#pragma once

// gru_reset: what it reads and writes at one place `at` of a row; see gru_gates.h.

#include "math/gate_rows.h"
#include "math/gates.h"

namespace trajgru_ext {

// u and r h
template <typename D>
struct GruReset {
  using Dtypes = D;

  GateRows rows;
  GateView<const typename D::gate_t> x_gates, h_gates;
  GateView<const typename D::state_t> h;
  GruOrder order;
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
  const auto r = sigma(at.sum(args.x_gates, args.h_gates, args.order.r));
  at.store(args.u, 0, sigma(at.sum(args.x_gates, args.h_gates, args.order.u)));
  at.store(args.reset, 0, r * at.load(args.h, 0));
}

template <typename D, typename At>
TRAJGRU_HOST_DEVICE void update(const GruResetBackward<D>& args, const At& at) {
  using V = typename At::Value;
  const V r = sigma(at.sum(args.x_gates, args.h_gates, args.order.r));
  const V u = sigma(at.sum(args.x_gates, args.h_gates, args.order.u));
  const V h = at.load(args.h, 0);
  const V to_u = args.u_grad.present() ? at.load(args.u_grad, 0) : V(0);
  const V to_reset = args.reset_grad.present() ? at.load(args.reset_grad, 0) : V(0);
  if (args.gates_grad.present()) {
    at.store(args.gates_grad, args.order.r, to_reset * h * sigma_slope(r));
    at.store(args.gates_grad, args.order.u, to_u * sigma_slope(u));
  }
  if (args.h_grad.present()) at.store(args.h_grad, 0, to_reset * r);
}

}  // namespace trajgru_ext
