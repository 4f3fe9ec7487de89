#pragma once

// gru_output: what it reads and writes at one place `at` of a row; see gru_gates.h.

#include "math/gate_rows.h"
#include "math/gates.h"

namespace trajgru_ext {

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
