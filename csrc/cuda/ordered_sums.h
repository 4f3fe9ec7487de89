#pragma once

// The gradient to an image that was warped, added up in the same order in every run, as
// torch.use_deterministic_algorithms(True) asks for.

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>

#include "math/bilinear.h"

namespace trajgru_ext::cuda {

// Whether gradients are to be the same bits in every run. With warn_only, too: there is
// nothing to warn of.
inline bool in_fixed_order() {
  return at::globalContext().deterministicAlgorithms();
}

// Warps of some pixels along all links, and the gradient to what they gave.
struct WarpedRows {
  at::Tensor flows;  // [B, 2 links, H, W], of the coordinates' dtype
  double flow_scale;
  Padding padding;
  int64_t first;    // of the pixels, numbered through the batch
  at::Tensor grad;  // [pixels, links * channels], contiguous
};

// Adds the gradient to the image to sums [B, H, W, channels], contiguous, of the opmath
// type. Takes memory for kListedWarps at a time.
void add_in_order(const WarpedRows& rows, const at::Tensor& sums);

}  // namespace trajgru_ext::cuda
