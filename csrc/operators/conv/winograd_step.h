#pragma once

// Steps that a device may compute in one: the convolution of one or two images (the
// step's input and the state) to the sums of gates, and the update of these, in cache.
// A sequence asks for winograd_step_weights; where it gets none, it computes the
// convolution and the update one after the other. Only the CPU has them
// (csrc/cpu/conv/winograd_step.cpp), for channels-last images of float32.
//
// images: [B, C, H, W] each, whose channels follow one another; weights: of all of
// them, from winograd_step_weights; bias: of all outputs, or none; taps: 3 or 5.

#include <ATen/core/Tensor.h>

#include "tensors/calls.h"
#include "tensors/tensors.h"

namespace trajgru_ext {

// The weights of both convolutions (or of the state's alone), packed for one of all
// gates; empty where the device has no such step, or is faster without.
at::Tensor winograd_step_weights(const OptionalTensor& x_weight,
                                 const at::Tensor& h_weight, at::IntArrayRef x_dilation,
                                 at::IntArrayRef h_dilation, int64_t height,
                                 int64_t width, int64_t gates);

// lstm_step of the sums of all gates. gates: where it leaves what the gradient is
// computed from, if anywhere.
void winograd_lstm_step(at::TensorList images, const at::Tensor& weights,
                        const OptionalTensor& bias, int64_t taps,
                        const OptionalTensor& h, const at::Tensor& c,
                        const OptionalTensor& w_ci, const OptionalTensor& w_cf,
                        const OptionalTensor& w_co, at::ArrayRef<double> options,
                        const OptionalTensor& mask, const OptionalTensor& gates,
                        const at::Tensor& h_output, const at::Tensor& c_output);

// gru_step of the sums, which are the state's part of the gates.
void winograd_gru_step(at::TensorList images, const at::Tensor& weights,
                       const OptionalTensor& bias, int64_t taps,
                       const at::Tensor& gates, const at::Tensor& h, bool has_inputs,
                       at::ArrayRef<double> options, const OptionalTensor& mask,
                       const OptionalTensor& candidate, const at::Tensor& output);

// gru_reset of the sums of reset and update gate. sums: where these are left, if
// anywhere.
void winograd_gru_reset(at::TensorList images, const at::Tensor& weights,
                        const OptionalTensor& bias, int64_t taps, const at::Tensor& h,
                        at::ArrayRef<double> options, const OptionalTensor& sums,
                        const at::Tensor& u, const at::Tensor& reset);

// gru_output of the candidate's sums.
void winograd_gru_output(at::TensorList images, const at::Tensor& weights,
                         const OptionalTensor& bias, int64_t taps, const at::Tensor& u,
                         const at::Tensor& h, at::ArrayRef<double> options,
                         const OptionalTensor& mask, const OptionalTensor& sums,
                         const at::Tensor& output);

namespace call {
TRAJGRU_OPERATOR(winograd_step_weights, trajgru_ext::winograd_step_weights);
TRAJGRU_OPERATOR(winograd_lstm_step, trajgru_ext::winograd_lstm_step);
TRAJGRU_OPERATOR(winograd_gru_step, trajgru_ext::winograd_gru_step);
TRAJGRU_OPERATOR(winograd_gru_reset, trajgru_ext::winograd_gru_reset);
TRAJGRU_OPERATOR(winograd_gru_output, trajgru_ext::winograd_gru_output);
}  // namespace call

}  // namespace trajgru_ext
