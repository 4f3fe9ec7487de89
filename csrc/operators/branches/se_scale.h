#pragma once

// se_scale on any device: the blend of one branch, weighted by the sigma of its logit.

#include <torch/library.h>

#include <tuple>
#include <vector>

#include "operators/branches/branch_blend.h"
#include "operators/branches/branch_checks.h"

namespace trajgru_ext {

template <typename Device>
struct SeScaleOperators {
  using Tensor = at::Tensor;
  using Blending = BranchBlending<Device>;

  static Tensor scale(const Tensor& input, const Tensor& logits) {
    check("se_scale", input, logits);
    return Blending::blend(Weighting::sigma, input, logits);
  }

  static std::tuple<Tensor, Tensor> scale_backward(const Tensor& grad,
                                                   const Tensor& input,
                                                   const Tensor& logits,
                                                   bool input_grad, bool logits_grad) {
    const char* op = "se_scale_backward";
    check(op, input, logits);
    check_grad(op, grad, "[B, C, H, W]", input.sizes(), input);
    const Tensor to_input = input_grad ? empty_image(input) : empty_result(input);
    std::vector<Tensor> wanted;
    if (input_grad) wanted.push_back(to_input);
    return {to_input, Blending::blend_backward(Weighting::sigma, grad, input, logits,
                                               wanted, logits_grad)};
  }

  static void implement(torch::Library& m) {
    m.impl("se_scale", &scale);
    m.impl("se_scale_backward", &scale_backward);
  }

 private:
  static void check(const char* op, const Tensor& input, const Tensor& logits) {
    check_image(op, "input", input, input.device());
    check_of_sizes(op, "logits", logits, "[B, C]", {input.size(0), input.size(1)},
                   input);
  }
};

}  // namespace trajgru_ext
