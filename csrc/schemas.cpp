// Every operator's schema, one line each. The implementations register themselves
// beside their code: csrc/cpu/<operator>.cpp and csrc/cuda/<operator>.cu.

#include "tensors/library.h"

// clang-format off
TRAJGRU_LIBRARY(m) {
  m.def("flow_warp(Tensor input, Tensor flow, float flow_scale=1.0, int padding=0) -> Tensor");
  m.def("flow_warp_backward(Tensor grad, Tensor? input, Tensor flow, float flow_scale, int padding, bool input_grad, bool flow_grad) -> (Tensor, Tensor)");
  m.def("flow_conv(Tensor input, Tensor flows, Tensor weight, Tensor? bias=None, float flow_scale=1.0) -> Tensor");
  m.def("flow_conv_backward(Tensor grad, Tensor input, Tensor flows, Tensor weight, float flow_scale, bool input_grad, bool flows_grad, bool weight_grad, bool bias_grad) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("flow_conv_add_grads(Tensor grad, Tensor input, Tensor flows, Tensor weight, float flow_scale, Tensor(a!)? input_sum, Tensor(b!)? flows_grad, Tensor(c!)? weight_sum, Tensor(d!)? bias_sum) -> ()");
  m.def("gru_gates(Tensor? x_gates, Tensor? h_gates, Tensor h, float[] options, Tensor? zoneout_mask) -> Tensor");
  m.def("gru_gates_backward(Tensor grad, Tensor? x_gates, Tensor? h_gates, Tensor h, float[] options, Tensor? zoneout_mask, bool x_gates_grad, bool h_gates_grad, bool h_grad) -> (Tensor, Tensor, Tensor)");
  m.def("gru_reset(Tensor? x_gates, Tensor? h_gates, Tensor h, float[] options) -> (Tensor, Tensor)");
  m.def("gru_reset_backward(Tensor? u_grad, Tensor? reset_grad, Tensor? x_gates, Tensor? h_gates, Tensor h, float[] options, bool gates_grad, bool h_grad) -> (Tensor, Tensor)");
  m.def("gru_output(Tensor u, Tensor candidate, Tensor h, float[] options, Tensor? zoneout_mask) -> Tensor");
  m.def("gru_output_into(Tensor u, Tensor candidate, Tensor h, float[] options, Tensor? zoneout_mask, Tensor(a!) output) -> ()");
  m.def("gru_output_backward(Tensor grad, Tensor u, Tensor candidate, Tensor h, float[] options, Tensor? zoneout_mask, bool u_grad, bool candidate_grad, bool h_grad) -> (Tensor, Tensor, Tensor)");
  m.def("gru_step(Tensor(a!) gates, Tensor h_gates, Tensor h, bool has_inputs, float[] options, Tensor? zoneout_mask, Tensor(b!)? candidate, Tensor(c!) output, Tensor? x_bias, Tensor? h_bias) -> ()");
  m.def("flow_conv_gru_step(Tensor(a!) gates, Tensor h, Tensor flows, Tensor weight, float flow_scale, bool has_inputs, float[] options, Tensor? zoneout_mask, Tensor(b!)? candidate, Tensor(c!) output, Tensor? x_bias, Tensor? h_bias) -> ()");
  m.def("gru_step_backward(Tensor gates, Tensor candidate, Tensor h, Tensor grad, float[] options, Tensor? zoneout_mask, Tensor(a!) gates_grad, Tensor(b!) h_gates_grad, Tensor(c!) h_grad) -> ()");
  m.def("lstm_gates(Tensor? x_gates, Tensor? h_gates, Tensor c, Tensor? w_ci, Tensor? w_cf, Tensor? w_co, float[] options) -> (Tensor, Tensor)");
  m.def("lstm_gates_backward(Tensor? h_grad, Tensor? c_grad, Tensor? x_gates, Tensor? h_gates, Tensor c, Tensor? w_ci, Tensor? w_cf, Tensor? w_co, float[] options, bool gates_grad, bool c_input_grad, bool peephole_grad) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("lstm_memory(Tensor? x_gates, Tensor? h_gates, Tensor c, float[] options) -> Tensor");
  m.def("lstm_memory_backward(Tensor grad, Tensor? x_gates, Tensor? h_gates, Tensor c, float[] options, bool gates_grad, bool c_grad) -> (Tensor, Tensor)");
  m.def("lstm_step(Tensor(a!) gates, Tensor h_gates, Tensor? h, Tensor c, bool has_inputs, Tensor? w_ci, Tensor? w_cf, Tensor? w_co, float[] options, Tensor? mask, bool save_gates, Tensor(b!) h_output, Tensor(c!) c_output, Tensor? x_bias, Tensor? h_bias) -> ()");
  m.def("lstm_step_backward(Tensor gates, Tensor c, Tensor c_output, Tensor h_grad, Tensor? w_ci, Tensor? w_cf, Tensor? w_co, float[] options, Tensor? mask, Tensor(a!) gates_grad, Tensor(b!) c_grad, Tensor(c!)? h_zoneout_grad, Tensor(d!)? weight_grads) -> ()");
  m.def("traj_gru(Tensor? inputs, Tensor? h, Tensor?[] parameters, SymInt steps, float[] options, Tensor? zoneout_mask, Tensor? flow_offset, int saved) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("traj_gru_backward(Tensor grad, Tensor? flows_grad, Tensor? inputs, Tensor? h, Tensor?[] parameters, float[] options, Tensor? zoneout_mask, Tensor? flow_offset, Tensor outputs, Tensor flows, Tensor hidden, Tensor gates, Tensor candidates, int saved, bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("conv_gru(Tensor? inputs, Tensor? h, Tensor? x_weight, Tensor? x_bias, Tensor h_weight, Tensor? h_bias, SymInt steps, int[] x_dilation, int[] h_dilation, float[] options, Tensor? mask, bool save_gates) -> (Tensor, Tensor, Tensor)");
  m.def("conv_gru_backward(Tensor grad, Tensor? inputs, Tensor? h, Tensor? x_weight, Tensor? x_bias, Tensor h_weight, Tensor? h_bias, int[] x_dilation, int[] h_dilation, float[] options, Tensor? mask, Tensor outputs, Tensor gates, Tensor candidates, bool gates_saved, bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("conv_lstm(Tensor? inputs, Tensor? h, Tensor? x_weight, Tensor? x_bias, Tensor h_weight, Tensor? h_bias, Tensor? c, Tensor? w_ci, Tensor? w_cf, Tensor? w_co, SymInt steps, int[] x_dilation, int[] h_dilation, float[] options, Tensor? mask, bool save_cells, bool save_gates) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("conv_lstm_backward(Tensor? grad, Tensor? c_grad, Tensor? inputs, Tensor? h, Tensor? x_weight, Tensor? x_bias, Tensor h_weight, Tensor? h_bias, Tensor? c, Tensor? w_ci, Tensor? w_cf, Tensor? w_co, int[] x_dilation, int[] h_dilation, float[] options, Tensor? mask, Tensor outputs, Tensor cells, Tensor gates, bool gates_saved, bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("sequence_plan(Tensor like) -> float[]");
  m.def("conv_sum(Tensor(a!) to, Tensor? part, Tensor? bias, Tensor? offset, bool adds, float[] options, bool activates) -> ()");
  m.def("conv2d(Tensor input, Tensor weight, Tensor? bias, int[2] padding) -> Tensor");
  m.def("conv2d_backward(Tensor grad, Tensor input, Tensor weight, int[2] padding, bool[3] wanted) -> (Tensor, Tensor, Tensor)");
  m.def("same_conv(Tensor image, Tensor weight, Tensor? bias, int[] dilation, Tensor packed) -> Tensor");
  m.def("same_conv_packed(Tensor weight, int[] dilation, int height, int width, bool image_grad) -> Tensor");
  m.def("same_conv_image_grad(Tensor grad, Tensor image, Tensor weight, int[] dilation, Tensor packed) -> Tensor");
  m.def("same_conv_add_grads(Tensor grad, Tensor image, Tensor weight, int[] dilation, Tensor(a!)? weight_sum, Tensor(b!)? bias_sum) -> ()");
  m.def("pixel_sums(Tensor images) -> Tensor");
  m.def("winograd_step_weights(Tensor? x_weight, Tensor h_weight, int[] x_dilation, int[] h_dilation, int height, int width, int gates) -> Tensor");
  m.def("winograd_weights(Tensor[] weights, bool rotated, int gates=1) -> Tensor");
  m.def("winograd_conv(Tensor[] images, Tensor weights, Tensor? bias, int[2] taps, int[2] padding, Tensor(a!) output) -> ()");
  m.def("winograd_lstm_step(Tensor[] images, Tensor weights, Tensor? bias, int taps, Tensor? h, Tensor c, Tensor? w_ci, Tensor? w_cf, Tensor? w_co, float[] options, Tensor? mask, Tensor(a!)? gates, Tensor(b!) h_output, Tensor(c!) c_output) -> ()");
  m.def("winograd_gru_step(Tensor[] images, Tensor weights, Tensor? bias, int taps, Tensor(a!) gates, Tensor h, bool has_inputs, float[] options, Tensor? mask, Tensor(b!)? candidate, Tensor(c!) output) -> ()");
  m.def("winograd_gru_reset(Tensor[] images, Tensor weights, Tensor? bias, int taps, Tensor h, float[] options, Tensor(a!)? sums, Tensor(b!) u, Tensor(c!) reset) -> ()");
  m.def("winograd_gru_output(Tensor[] images, Tensor weights, Tensor? bias, int taps, Tensor u, Tensor h, float[] options, Tensor? mask, Tensor(a!)? sums, Tensor(b!) output) -> ()");
  m.def("winograd_weights_grad(Tensor grad, Tensor image, int[2] taps, int[2] padding) -> Tensor");
  m.def("copy_image(Tensor(a!) to, Tensor from) -> ()");
  m.def("channel_mean(Tensor[] branches) -> Tensor");
  m.def("hff_concat(Tensor[] branches, int skipped=0, Tensor? scale=None, Tensor? shift=None, Tensor? slope=None) -> Tensor");
  m.def("hff_concat_backward(Tensor grad, int branches, int skipped) -> Tensor");
  m.def("hff_concat_affine_backward(Tensor grad, Tensor[] branches, int skipped, Tensor? scale, Tensor? shift, Tensor? slope) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("se_scale(Tensor input, Tensor logits) -> Tensor");
  m.def("se_scale_backward(Tensor grad, Tensor input, Tensor logits, bool input_grad, bool logits_grad) -> (Tensor, Tensor)");
  m.def("sk_select(Tensor[] branches, Tensor logits) -> Tensor");
  m.def("sk_select_backward(Tensor grad, Tensor[] branches, Tensor logits, bool branches_grad, bool logits_grad) -> (Tensor, Tensor)");
  m.def("spatial_pyramid_pool(Tensor input, int levels, bool largest) -> (Tensor, Tensor)");
  m.def("spatial_pyramid_pool_backward(Tensor grad, Tensor places, SymInt height, SymInt width, int levels, bool largest, bool channels_last) -> Tensor");
}
// clang-format on
