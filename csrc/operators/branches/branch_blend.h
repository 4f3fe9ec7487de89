#pragma once

// What se_scale and sk_select share on any device: branches mixed by weights that come
// from logits. operators/device.h says what Device is.

#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <vector>

#include "operators/branches/branch_layout.h"

namespace trajgru_ext {

template <typename Device>
struct BranchBlending {
  using Tensor = at::Tensor;

  static Tensor blend(Weighting weighting, at::TensorList branches,
                      const Tensor& logits) {
    const Tensor& first = branches[0];
    const typename Device::Guard guard(first.device());
    const PlainDispatch plain;
    const Branches<Device> in(branches);
    const Tensor output = empty_in_format(first.sizes(), first, in.format);
    if (output.numel() == 0) return output;
    dispatch_branches(first, [&]<typename scalar_t, typename T>() {
      const Tensor table = weights<T>(in.size, weighting, logits, first);
      BranchBlend<scalar_t, T> args{};
      args.size = in.size;
      in.show(args.branch);
      args.weights = data<const T>(table);
      args.output = branch_view<scalar_t>(output, in.format);
      Device::loop(args);
    });
    return output;
  }

  // Fills the gradients to the branches, where there are any, and returns that to the
  // logits.
  static Tensor blend_backward(Weighting weighting, const Tensor& grad_output,
                               at::TensorList branches, const Tensor& logits,
                               const std::vector<Tensor>& branch_grads,
                               bool logits_wanted) {
    const Tensor& first = branches[0];
    const typename Device::Guard guard(first.device());
    const PlainDispatch plain;
    const Branches<Device> in(branches);
    const Tensor grad = fit_branch<Device>(grad_output, in.format);
    if (first.numel() == 0 && logits_wanted) {
      return at::zeros(logits.sizes(), logits.options());
    }
    Tensor logits_grad = empty_result(logits);
    if (first.numel() == 0 || (branch_grads.empty() && !logits_wanted)) {
      return logits_grad;
    }
    dispatch_branches(first, [&]<typename scalar_t, typename T>() {
      const Tensor table = weights<T>(in.size, weighting, logits, first);
      BranchBlendBackward<scalar_t, T> args{};
      args.size = in.size;
      in.show(args.branch);
      args.grad = branch_view<const scalar_t>(grad, in.format);
      args.weights = data<const T>(table);
      for (size_t m = 0; m < branch_grads.size(); ++m) {
        args.branch_grad[m] = branch_view<scalar_t>(branch_grads[m], in.format);
      }
      Tensor sums;
      if (logits_wanted) {
        sums = empty_sums(in.size, first);
        args.sums = data<T>(sums);
      }
      Device::loop(args);
      if (!logits_wanted) return;
      const Tensor slopes = at::empty_like(table);
      Device::run(
          BranchSlopes<T>{in.size, weighting, args.weights, args.sums, data<T>(slopes)},
          in.size.batch * in.size.channels);
      logits_grad = slopes.to(logits.scalar_type());
    });
    return logits_grad;
  }

 private:
  template <typename T>
  static Tensor weights(const BranchSize& size, Weighting weighting,
                        const Tensor& logits, const Tensor& image) {
    const Tensor wide = logits.to(opmath_dtype(image)).contiguous();
    const Tensor found = at::empty_like(wide);
    Device::run(BranchWeights<T>{size, weighting, data<const T>(wide), data<T>(found)},
                size.batch * size.channels);
    return found;
  }
};

}  // namespace trajgru_ext
