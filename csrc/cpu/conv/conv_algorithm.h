#pragma once

// How the convolutions of the sequence operators are computed: directly, by torch, or
// by Winograd's convolution (csrc/cpu/conv/winograd.cpp), which has fewer products: it
// is faster and rounds more.

#include <ATen/core/Tensor.h>

#include "tensors/tensors.h"

namespace trajgru_ext {

enum class ConvAlgorithm { automatic, direct, winograd };

// Of the whole process.
ConvAlgorithm conv_algorithm();
void set_conv_algorithm(ConvAlgorithm algorithm);

// What the choice depends on. Of the images these are their height and width alone, so
// that neither the count of samples and steps nor that of threads changes a bit of the
// result.
struct ConvProblem {
  const at::Tensor& weight;  // [O, C, k, k'] in the dtype of the images
  at::IntArrayRef dilation;
  int64_t height, width;  // of the result
};

// Whether Winograd's is used for a convolution and its gradient to the image; for the
// gradient to the weight.
bool use_winograd(const ConvProblem& conv);
bool use_winograd_weight_grad(const ConvProblem& conv);

// The same of conv2d (operators/conv/conv2d.h), which has kernels of one row or column
// too and makes floats of shorter dtypes.
bool use_winograd_conv2d(const ConvProblem& conv);
bool use_winograd_conv2d_weight_grad(const ConvProblem& conv);

// Whether what is in this dtype, bfloat16 or float16, is multiplied in float32; whether
// sequences are.
bool convolved_in_floats(at::ScalarType dtype);
bool sequences_in_floats(at::ScalarType dtype);

// Whether it is used for a convolution of the state, and perhaps one of the inputs, as
// one, whose results are gates that are updated tile by tile.
bool use_winograd_gates(const OptionalTensor& x_weight, at::IntArrayRef x_dilation,
                        const ConvProblem& h_conv);

}  // namespace trajgru_ext
