#pragma once

// What follows a convolution in a sequence, at one place `at` of a row:
//
//   to = act(to + part + bias + offset)
//
// each of the four where it is there.

#include "math/gate_rows.h"
#include "math/gates.h"

namespace trajgru_ext {

template <typename D>
struct ConvSum {
  using Dtypes = D;
  using scalar_t = typename D::state_t;

  GateRows rows;
  GateView<scalar_t> to;
  bool adds;                      // else `to` is not read
  GateView<const scalar_t> part;  // null: 0, as the others
  GateView<const scalar_t> bias, offset;
  bool activates;
  GruUpdate<typename D::math_t> update;
};

template <typename D, typename At>
TRAJGRU_HOST_DEVICE void update(const ConvSum<D>& args, const At& at) {
  using V = typename At::Value;
  V sum = args.part.present() ? at.load(args.part, 0) : V(0);
  if (args.adds) sum = at.load(args.to, 0) + sum;
  if (args.bias.present()) sum = sum + at.load(args.bias, 0);
  if (args.offset.present()) sum = sum + at.load(args.offset, 0);
  at.store(args.to, 0, args.activates ? activate(args.update, sum) : sum);
}

}  // namespace trajgru_ext
