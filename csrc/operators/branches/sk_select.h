#pragma once

// sk_select on any device: the blend of branches, weighted by the softmax of their
// logits.

#include <torch/library.h>

#include <tuple>
#include <vector>

#include "operators/branches/branch_blend.h"
#include "operators/branches/branch_checks.h"

namespace trajgru_ext {

template <typename Device>
struct SkSelectOperators {
  using Tensor = at::Tensor;
  using Blending = BranchBlending<Device>;

  static Tensor select(at::TensorList branches, const Tensor& logits) {
    check("sk_select", branches, logits);
    return Blending::blend(Weighting::softmax, branches, logits);
  }

  static std::tuple<Tensor, Tensor> select_backward(const Tensor& grad,
                                                    at::TensorList branches,
                                                    const Tensor& logits,
                                                    bool branches_grad,
                                                    bool logits_grad) {
    const char* op = "sk_select_backward";
    check(op, branches, logits);
    const Tensor& first = branches[0];
    check_grad(op, grad, "[B, C, H, W]", first.sizes(), first);
    const Tensor to_branches =
        branches_grad ? empty_stack(static_cast<int64_t>(branches.size()),
                                    first.sizes(), first, memory_format(first))
                      : empty_result(first);
    std::vector<Tensor> wanted;
    if (branches_grad) wanted = to_branches.unbind();
    return {to_branches, Blending::blend_backward(Weighting::softmax, grad, branches,
                                                  logits, wanted, logits_grad)};
  }

  static void implement(torch::Library& m) {
    m.impl("sk_select", &select);
    m.impl("sk_select_backward", &select_backward);
  }

 private:
  static void check(const char* op, at::TensorList branches, const Tensor& logits) {
    check_branches(op, branches, 2);
    const Tensor& first = branches[0];
    const auto count = static_cast<int64_t>(branches.size());
    check_of_sizes(op, "logits", logits, "[B, M, C]",
                   {first.size(0), count, first.size(1)}, first);
  }
};

}  // namespace trajgru_ext
