#pragma once

// This package's operators as the sequence operators call them.

#include "operators/conv/same_conv.h"
#include "operators/conv/winograd_step.h"
#include "operators/copy_image.h"
#include "operators/gates/gru_operators.h"
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

namespace call {
TRAJGRU_OPERATOR(flow_conv, flow_conv_kernel);
TRAJGRU_OPERATOR(flow_conv_backward, flow_conv_backward_kernel);
TRAJGRU_OPERATOR(gru_step, GruSteps<AnyDevice>::step);
TRAJGRU_OPERATOR(gru_step_backward, GruSteps<AnyDevice>::backward);
TRAJGRU_OPERATOR(gru_reset, GruOperators<AnyDevice>::reset);
TRAJGRU_OPERATOR(gru_reset_backward, GruOperators<AnyDevice>::reset_backward);
TRAJGRU_OPERATOR(gru_output, GruOperators<AnyDevice>::output);
TRAJGRU_OPERATOR(gru_output_backward, GruOperators<AnyDevice>::output_backward);
TRAJGRU_OPERATOR(lstm_step, LstmSteps<AnyDevice>::step);
TRAJGRU_OPERATOR(lstm_step_backward, LstmSteps<AnyDevice>::backward);
}  // namespace call

// The choices of a GRU's update; see gru_gates.
struct GruChoices {
  std::vector<int64_t> slots;
  int64_t activation;
  double negative_slope;
  bool keep;
};

// The choices of an LSTM's update; see lstm_gates.
struct LstmChoices {
  std::vector<int64_t> slots;
  double forget_bias = 0;
  OptionalTensor w_ci, w_cf, w_co;  // all or none
};

}  // namespace trajgru_ext
