#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

#include "tensors.h"

namespace trajgru_ext {

// Runs f(begin, end) over items that call torch's own operators each. These must not
// use threads of their own, or their rounding would depend on how many there are: with
// a second, empty item at::parallel_for always opens a parallel region where it can.
template <typename F>
void for_items(int64_t items, const F& f) {
  at::parallel_for(0, std::max<int64_t>(items, 2), 1, [&](int64_t begin, int64_t end) {
    const PlainDispatch plain;
    if (begin < items) f(begin, std::min(end, items));
  });
}

}  // namespace trajgru_ext
