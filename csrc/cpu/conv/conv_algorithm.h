#pragma once

// How the convolutions of the sequence operators are computed: directly, by torch, or
// by Winograd's few products (csrc/cpu/conv/winograd.cpp), which are faster and round
// more.

#include <ATen/core/Tensor.h>

#include "sequences/convolution.h"

namespace trajgru_ext {

enum class ConvAlgorithm { automatic, direct, winograd };

// Of the whole process.
ConvAlgorithm conv_algorithm();
void set_conv_algorithm(ConvAlgorithm algorithm);

// Whether few products serve a convolution of such an image and its gradient to the
// image, and the gradient to the weight. It depends on nothing else of the image than
// its height and width, so that neither the count of samples and steps nor that of
// threads changes a bit of the result.
bool winograd_serves(const at::Tensor& image, const Conv& conv);
bool winograd_serves_weights_grad(const at::Tensor& image, const Conv& conv);

// The same for a convolution of the inputs (which may have no weight) and one of the
// state as one, whose results are gates that are updated tile by tile.
bool winograd_serves_gates(const at::Tensor& image, const Conv& x_conv,
                           const Conv& h_conv);

}  // namespace trajgru_ext
