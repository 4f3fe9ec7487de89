#pragma once

// Winograd's weights are packed once and kept for as long as the weights that they were
// made from live with the same contents. What was packed is found by a fingerprint of
// the contents, read at every use: whoever changes a weight, and however, gets what
// belongs to its new values, and equal weights share one packing.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

namespace trajgru_ext {

// As winograd_weights (cpu/conv/winograd_conv.h), of weights of any floating dtype.
at::Tensor packed_weights(at::TensorList weights, bool rotated, int64_t gates);

// f of the packing of one weight, which f may read while it runs. once: whether the
// weight's next contents will be others, so that it is kept only when they return.
void with_packed_weight(const at::Tensor& weight, bool rotated, bool once,
                        const std::function<void(const at::Tensor&)>& f);

// The most bytes that are kept, of the whole process; what was used longest ago goes
// first. With 0 every use packs.
int64_t packed_weights_limit();
void set_packed_weights_limit(int64_t bytes);

// How many are kept now, after those of weights that are gone have been dropped.
int64_t packed_weights_bytes();

}  // namespace trajgru_ext
