#pragma once

#include <cstdint>

#include "math/host_device.h"

namespace trajgru_ext {

// How many groups of `b` hold `a` things.
template <typename T>
TRAJGRU_HOST_DEVICE constexpr T divide_up(T a, T b) {
  return (a + b - 1) / b;
}

}  // namespace trajgru_ext
