#pragma once

// Steps of cells as those inside a sequence: the convolution of input and state updates
// the gates in cache. For what autograd does not record; nothing where that does not
// pay, or the kernels cannot.

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>
#include <vector>

#include "tensors/tensors.h"

namespace trajgru_ext {

// A convolution of stride 1 that keeps the size: its weight, bias, padding, dilation.
using CellConv =
    std::tuple<at::Tensor, OptionalTensor, std::vector<int64_t>, std::vector<int64_t>>;

// As lstm_cell, gru_cell_after and gru_cell_before (autograd/cells.h).
std::optional<std::vector<at::Tensor>> winograd_lstm_cell(
    const OptionalTensor& input, const at::Tensor& h, const at::Tensor& c,
    const CellConv& conv, const std::vector<OptionalTensor>& peephole,
    const std::vector<double>& options);

std::optional<at::Tensor> winograd_gru_cell_after(const OptionalTensor& input,
                                                  const at::Tensor& h,
                                                  const std::optional<CellConv>& i2h,
                                                  const CellConv& h2h,
                                                  const std::vector<double>& options,
                                                  const OptionalTensor& mask);

std::optional<at::Tensor> winograd_gru_cell_before(const OptionalTensor& input,
                                                   const at::Tensor& h,
                                                   const CellConv& conv_gates,
                                                   const CellConv& conv_can,
                                                   const std::vector<double>& options,
                                                   const OptionalTensor& mask);

}  // namespace trajgru_ext
