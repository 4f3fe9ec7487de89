#pragma once

#include "math/gate_rows.h"

namespace trajgru_ext {

// A value and its channel's bias, on a device whose loops add one: there
// At::kAddsBias is.
template <typename At, typename V, typename T>
TRAJGRU_HOST_DEVICE V with_bias(const At& at, V value, const GateView<const T>& bias,
                                int gate) {
  if constexpr (requires { At::kAddsBias; }) {
    return bias.present() ? value + at.load(bias, gate) : value;
  } else {
    return value;
  }
}

}  // namespace trajgru_ext
