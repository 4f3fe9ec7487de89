// Every operator's schema, one line each. The implementations register themselves
// beside their code: csrc/cpu/<operator>.cpp and csrc/cuda/<operator>.cu.

#include "library.h"

// clang-format off
TRAJGRU_LIBRARY(m) {
  m.def("flow_warp(Tensor input, Tensor flow, float flow_scale=1.0) -> Tensor");
  m.def("flow_warp_backward(Tensor grad, Tensor? input, Tensor flow, float flow_scale, bool input_grad, bool flow_grad) -> (Tensor, Tensor)");
  m.def("flow_conv(Tensor input, Tensor flows, Tensor weight, Tensor? bias=None, float flow_scale=1.0) -> Tensor");
  m.def("flow_conv_backward(Tensor grad, Tensor input, Tensor flows, Tensor weight, float flow_scale, bool input_grad, bool flows_grad, bool weight_grad, bool bias_grad) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("gru_gates(Tensor? x_gates, Tensor? h_gates, Tensor h, int[] slots, int activation, float negative_slope, bool keep, Tensor? zoneout_mask) -> Tensor");
  m.def("gru_gates_backward(Tensor grad, Tensor? x_gates, Tensor? h_gates, Tensor h, int[] slots, int activation, float negative_slope, bool keep, Tensor? zoneout_mask, bool x_gates_grad, bool h_gates_grad, bool h_grad) -> (Tensor, Tensor, Tensor)");
  m.def("gru_reset(Tensor? x_gates, Tensor? h_gates, Tensor h, int[] slots) -> (Tensor, Tensor)");
  m.def("gru_reset_backward(Tensor? u_grad, Tensor? reset_grad, Tensor? x_gates, Tensor? h_gates, Tensor h, int[] slots, bool gates_grad, bool h_grad) -> (Tensor, Tensor)");
  m.def("gru_output(Tensor u, Tensor candidate, Tensor h, int activation, float negative_slope, bool keep, Tensor? zoneout_mask) -> Tensor");
  m.def("gru_output_backward(Tensor grad, Tensor u, Tensor candidate, Tensor h, int activation, float negative_slope, bool keep, Tensor? zoneout_mask, bool u_grad, bool candidate_grad, bool h_grad) -> (Tensor, Tensor, Tensor)");
  m.def("gru_step(Tensor(a!) gates, Tensor h_gates, Tensor h, bool has_inputs, int[] slots, int activation, float negative_slope, bool keep, Tensor? zoneout_mask, Tensor(b!)? candidate, Tensor(c!) output) -> ()");
  m.def("gru_step_backward(Tensor(a!) gates, Tensor candidate, Tensor h, Tensor grad, int[] slots, int activation, float negative_slope, bool keep, Tensor? zoneout_mask, Tensor(b!) h_gates_grad, Tensor(c!) h_grad) -> ()");
  m.def("lstm_gates(Tensor? x_gates, Tensor? h_gates, Tensor c, Tensor? w_ci, Tensor? w_cf, Tensor? w_co, int[] slots, float forget_bias) -> (Tensor, Tensor)");
  m.def("lstm_gates_backward(Tensor? h_grad, Tensor? c_grad, Tensor? x_gates, Tensor? h_gates, Tensor c, Tensor? w_ci, Tensor? w_cf, Tensor? w_co, int[] slots, float forget_bias, bool gates_grad, bool c_input_grad, bool peephole_grad) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("traj_gru(Tensor? inputs, Tensor? h, Tensor?[] parameters, int steps, int activation, float negative_slope, Tensor? zoneout_mask, int kept) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("traj_gru_backward(Tensor grad, Tensor? flows_grad, Tensor? inputs, Tensor? h, Tensor?[] parameters, int activation, float negative_slope, Tensor? zoneout_mask, Tensor outputs, Tensor flows, Tensor hidden, Tensor gates, Tensor candidates, int kept, bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("traj_gru_backward_(Tensor grad, Tensor? flows_grad, Tensor? inputs, Tensor? h, Tensor?[] parameters, int activation, float negative_slope, Tensor? zoneout_mask, Tensor outputs, Tensor flows, Tensor hidden, Tensor(a!) gates, Tensor candidates, int kept, bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}
// clang-format on
