#pragma once

// This package's operators as the sequence operators call them.

#include "operators/conv/conv_sum.h"
#include "operators/conv/same_conv.h"
#include "operators/conv/sequence_plan.h"
#include "operators/conv/winograd_step.h"
#include "operators/copy_image.h"
#include "operators/gates/gru_output.h"
#include "operators/gates/gru_reset.h"
#include "operators/gates/gru_step.h"
#include "operators/gates/lstm_step.h"
#include "tensors/calls.h"

namespace trajgru_ext {

// What only the signatures of these are taken from: each device has its own.
struct AnyDevice;
at::Tensor flow_conv_kernel(const at::Tensor& input, const at::Tensor& flows,
                            const at::Tensor& weight, const OptionalTensor& bias,
                            double flow_scale);
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> flow_conv_backward_kernel(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& flows,
    const at::Tensor& weight, double flow_scale, bool input_grad, bool flows_grad,
    bool weight_grad, bool bias_grad);

// Adds the gradients to their sums, and writes that to the flows, where they are there.
void flow_conv_add_grads(const at::Tensor& grad, const at::Tensor& input,
                         const at::Tensor& flows, const at::Tensor& weight,
                         double flow_scale, const OptionalTensor& input_sum,
                         const OptionalTensor& flows_grad,
                         const OptionalTensor& weight_sum,
                         const OptionalTensor& bias_sum);

// gru_step of the gates whose state's part is flow_conv of the state h, in one kernel
// where that pays: a step of TrajGRU on devices that add biases in their steps
// (SequencePlan::adds_biases). h_bias: of the product; the others, and what becomes of
// them, as gru_step has them, but for the output, which is not h.
void flow_conv_gru_step(const at::Tensor& gates, const at::Tensor& h,
                        const at::Tensor& flows, const at::Tensor& weight,
                        double flow_scale, bool has_inputs,
                        at::ArrayRef<double> options, const OptionalTensor& mask,
                        const OptionalTensor& candidate, const at::Tensor& output,
                        const OptionalTensor& x_bias, const OptionalTensor& h_bias);

namespace call {
TRAJGRU_OPERATOR(flow_conv, flow_conv_kernel);
TRAJGRU_OPERATOR(flow_conv_gru_step, trajgru_ext::flow_conv_gru_step);
TRAJGRU_OPERATOR(flow_conv_add_grads, trajgru_ext::flow_conv_add_grads);
TRAJGRU_OPERATOR(flow_conv_backward, flow_conv_backward_kernel);
TRAJGRU_OPERATOR(gru_step, GruStepOperators<AnyDevice>::step);
TRAJGRU_OPERATOR(gru_step_backward, GruStepOperators<AnyDevice>::backward);
TRAJGRU_OPERATOR(gru_reset, GruResetOperators<AnyDevice>::forward);
TRAJGRU_OPERATOR(gru_reset_backward, GruResetOperators<AnyDevice>::backward);
TRAJGRU_OPERATOR(gru_output, GruOutputOperators<AnyDevice>::forward);
TRAJGRU_OPERATOR(gru_output_into, GruOutputOperators<AnyDevice>::forward_into);
TRAJGRU_OPERATOR(gru_output_backward, GruOutputOperators<AnyDevice>::backward);
TRAJGRU_OPERATOR(conv_sum, ConvSumOperators<AnyDevice>::add);
TRAJGRU_OPERATOR(sequence_plan, trajgru_ext::sequence_plan);
TRAJGRU_OPERATOR(lstm_step, LstmStepOperators<AnyDevice>::step);
TRAJGRU_OPERATOR(lstm_step_backward, LstmStepOperators<AnyDevice>::backward);
}  // namespace call

}  // namespace trajgru_ext
