#pragma once

// Steps of recurrent cells in one call from Python: the convolutions by conv2d and the
// gates' operators, with their derivatives. What a step takes in Python beside them is
// as long as a small step.

#include <ATen/core/Tensor.h>

#include <vector>

#include "cpu/conv/winograd_cells.h"
#include "tensors/tensors.h"

namespace trajgru_ext {

// The new (h, c) by lstm_gates; conv: of [input, h].
std::vector<at::Tensor> lstm_cell(const OptionalTensor& input, const at::Tensor& h,
                                  const at::Tensor& c, const CellConv& conv,
                                  const std::vector<OptionalTensor>& peephole,
                                  const std::vector<double>& options);

// The new state by gru_gates; i2h: of the input, where there is one.
at::Tensor gru_cell_after(const OptionalTensor& input, const at::Tensor& h,
                          const std::optional<CellConv>& i2h, const CellConv& h2h,
                          const std::vector<double>& options,
                          const OptionalTensor& mask);

// The new state by gru_reset and gru_output; both convolutions: of [input, state].
at::Tensor gru_cell_before(const OptionalTensor& input, const at::Tensor& h,
                           const CellConv& conv_gates, const CellConv& conv_can,
                           const std::vector<double>& options,
                           const OptionalTensor& mask);

// The new state by flow_conv and gru_gates; i2h, i2f: of the input, where there is one;
// ret: [3F, L F, 1, 1]. All images are channels last within it.
at::Tensor traj_gru_cell(const OptionalTensor& input, const at::Tensor& h,
                         const std::optional<CellConv>& i2h,
                         const std::optional<CellConv>& i2f, const CellConv& h2f,
                         const CellConv& flows_conv, const CellConv& ret,
                         const std::vector<double>& options,
                         const OptionalTensor& mask);

}  // namespace trajgru_ext
