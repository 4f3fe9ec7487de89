#pragma once

// How a device wants the steps of a sequence taken together. On the CPU a few at once,
// while the cache has them, and in the torch operators that torch is fast at; on CUDA
// as many as fit into some memory, since each launch takes microseconds, and with what
// torch would do after a convolution in one kernel.

#include <ATen/core/Tensor.h>

#include <vector>

#include "tensors/options.h"

namespace trajgru_ext {

// Steps whose gates are computed at once: as many as have so many bytes of them.
struct SequencePlan {
  double ahead_bytes = 0;  // forward, of the inputs, where nothing is saved
  int64_t ahead_steps = 1;
  double saved_bytes = 0;  // backward, where the gates were saved
  int64_t saved_steps = 1;
  double again_bytes = 0;  // backward, where they are computed again
  int64_t again_steps = 1;
  // Whether all images of a sequence are brought into channels last, and out of it, at
  // once.
  bool at_once = false;
  // Whether gru_step and lstm_step take biases, and conv_sum and flow_conv_gru_step are
  // there.
  bool adds_biases = false;
  // Whether what is in bfloat16 or float16 is computed in float32 (sequences/floats.h).
  bool in_floats = false;

  template <typename F>
  void visit(const F& f) {
    f("ahead_bytes", ahead_bytes);
    f("ahead_steps", ahead_steps);
    f("saved_bytes", saved_bytes);
    f("saved_steps", saved_steps);
    f("again_bytes", again_bytes);
    f("again_steps", again_steps);
    f("at_once", at_once);
    f("adds_biases", adds_biases);
    f("in_floats", in_floats);
  }
};

// As numbers, for tensors on the device of one.
std::vector<double> sequence_plan(const at::Tensor& like);

}  // namespace trajgru_ext
