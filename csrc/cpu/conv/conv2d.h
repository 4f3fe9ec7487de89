#pragma once

#include <ATen/core/Tensor.h>

namespace trajgru_ext {

// Whether the operator conv2d (operators/conv/conv2d.h) takes less time than torch's.
bool conv2d_pays(const at::Tensor& input, const at::Tensor& weight,
                 at::IntArrayRef padding);

}  // namespace trajgru_ext
