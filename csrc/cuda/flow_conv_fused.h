#pragma once

// flow_conv in one kernel, where nothing of all links' warped values goes to memory.

#include <ATen/core/Tensor.h>

#include "math/gru_step.h"
#include "tensors/tensors.h"

namespace trajgru_ext::cuda {

// Whether the kernel takes it, and pays. input: in channels last; flows: of the
// coordinates' dtype; weight: [O, L C], contiguous.
bool flow_conv_is_fused(const at::Tensor& input, const at::Tensor& flows,
                        const at::Tensor& weight);

// Writes the output [B, O, H, W], in channels last.
void flow_conv_fused(const at::Tensor& input, const at::Tensor& flows,
                     const at::Tensor& weight, const OptionalTensor& bias,
                     double flow_scale, const at::Tensor& output);

// Whether the kernel can update a GRU's gates, too, of the state h.
bool flow_conv_updates_gates(const at::Tensor& h, const at::Tensor& flows,
                             const at::Tensor& weight);

// gru_step without h_gates, which are flow_conv's sums; its buffers are channels last,
// and the output is not h, of which other blocks still read.
template <typename scalar_t>
using Step = GruStep<GateDtypes<scalar_t, scalar_t>>;
template <typename scalar_t>
void flow_conv_gru_step(const at::Tensor& h, const at::Tensor& flows,
                        const at::Tensor& weight, double flow_scale,
                        const Step<scalar_t>& step);

}  // namespace trajgru_ext::cuda
