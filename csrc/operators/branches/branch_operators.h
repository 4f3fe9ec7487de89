#pragma once

// channel_mean, se_scale and sk_select on any device. Device says how loops run there:
//
//   Device::Guard(device)                     makes the device current
//   Device::chunk(planes, channels, pixels)   pixels that are summed up in one go
//   Device::run(args, items)                  compute(args, item) for every item
//   Device::loop(args)                        the loop over all pixels of args

#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <limits>
#include <tuple>
#include <vector>

#include "operators/branches/branch_checks.h"
#include "operators/branches/branch_layout.h"

namespace trajgru_ext {

template <typename Device>
struct BranchOperators {
  using Tensor = at::Tensor;

  static Tensor mean(at::TensorList branches) {
    const char* op = "channel_mean";
    check_branches(op, branches, 1);
    const typename Device::Guard guard(branches[0].device());
    const PlainDispatch plain;
    const Branches in(branches);
    const Tensor& first = branches[0];
    const Tensor means = at::empty({first.size(0), first.size(1)},
                                   first.options().memory_format(kPlain));
    if (first.numel() == 0) {
      return means.fill_(std::numeric_limits<double>::quiet_NaN());
    }
    dispatch_branches(first, [&]<typename scalar_t, typename T>() {
      BranchSums<scalar_t, T> args{};
      args.size = in.size;
      args.size.branches = 1;
      args.branches = in.size.branches;
      in.show(args.branch);
      const Tensor sums = empty_sums(args.size, first);
      args.sums = sums.template mutable_data_ptr<T>();
      Device::loop(args);
      const BranchMeans<scalar_t, T> rest{args.size, args.sums,
                                          means.template mutable_data_ptr<scalar_t>()};
      Device::run(rest, means.numel());
    });
    return means;
  }

  static Tensor scale(const Tensor& input, const Tensor& logits) {
    const char* op = "se_scale";
    check_scale(op, input, logits);
    return blend(Weighting::sigma, input, logits);
  }

  static std::tuple<Tensor, Tensor> scale_backward(const Tensor& grad,
                                                   const Tensor& input,
                                                   const Tensor& logits,
                                                   bool input_grad, bool logits_grad) {
    const char* op = "se_scale_backward";
    check_scale(op, input, logits);
    check_grad(op, grad, "[B, C, H, W]", input.sizes(), input);
    const Tensor to_input =
        input_grad ? empty_in_format(input.sizes(), input, memory_format(input))
                   : at::empty({0}, input.options().memory_format(kPlain));
    std::vector<Tensor> wanted;
    if (input_grad) wanted.push_back(to_input);
    return {to_input,
            blend_backward(Weighting::sigma, grad, input, logits, wanted, logits_grad)};
  }

  static Tensor select(at::TensorList branches, const Tensor& logits) {
    const char* op = "sk_select";
    check_select(op, branches, logits);
    return blend(Weighting::softmax, branches, logits);
  }

  static std::tuple<Tensor, Tensor> select_backward(const Tensor& grad,
                                                    at::TensorList branches,
                                                    const Tensor& logits,
                                                    bool branches_grad,
                                                    bool logits_grad) {
    const char* op = "sk_select_backward";
    check_select(op, branches, logits);
    const Tensor& first = branches[0];
    check_grad(op, grad, "[B, C, H, W]", first.sizes(), first);
    const Tensor to_branches =
        branches_grad ? empty_stack(static_cast<int64_t>(branches.size()),
                                    first.sizes(), first, memory_format(first))
                      : at::empty({0}, first.options().memory_format(kPlain));
    std::vector<Tensor> wanted;
    if (branches_grad) wanted = to_branches.unbind();
    return {to_branches, blend_backward(Weighting::softmax, grad, branches, logits,
                                        wanted, logits_grad)};
  }

 private:
  static constexpr at::MemoryFormat kPlain = at::MemoryFormat::Contiguous;

  // The branches in one format.
  struct Branches {
    at::MemoryFormat format;
    BranchSize size;
    std::vector<Tensor> tensors;

    explicit Branches(at::TensorList branches)
        : format(memory_format(branches[0])), size(branch_size(branches[0], format)) {
      size.branches = static_cast<int>(branches.size());
      size.chunk = Device::chunk(size.planes, size.channels, size.pixels);
      for (const Tensor& one : branches)
        tensors.push_back(fit_branch<Device>(one, format));
    }

    template <typename scalar_t>
    void show(BranchView<const scalar_t>* views) const {
      for (size_t m = 0; m < tensors.size(); ++m) {
        views[m] = branch_view<const scalar_t>(tensors[m], format);
      }
    }
  };

  static void check_scale(const char* op, const Tensor& input, const Tensor& logits) {
    check_image(op, "input", input, input.device());
    check_of_sizes(op, "logits", logits, "[B, C]", {input.size(0), input.size(1)},
                   input);
  }

  static void check_select(const char* op, at::TensorList branches,
                           const Tensor& logits) {
    check_branches(op, branches, 2);
    const Tensor& first = branches[0];
    const auto count = static_cast<int64_t>(branches.size());
    check_of_sizes(op, "logits", logits, "[B, M, C]",
                   {first.size(0), count, first.size(1)}, first);
  }

  static Tensor empty_sums(const BranchSize& size, const Tensor& like) {
    return at::empty({size.batch, size.chunks(), size.branches, size.channels},
                     like.options().dtype(opmath_dtype(like)).memory_format(kPlain));
  }

  template <typename T>
  static Tensor weights(const BranchSize& size, Weighting weighting,
                        const Tensor& logits, const Tensor& image) {
    const Tensor wide = logits.to(opmath_dtype(image)).contiguous();
    const Tensor found = at::empty_like(wide);
    Device::run(BranchWeights<T>{size, weighting, wide.template const_data_ptr<T>(),
                                 found.template mutable_data_ptr<T>()},
                size.batch * size.channels);
    return found;
  }

  static Tensor blend(Weighting weighting, at::TensorList branches,
                      const Tensor& logits) {
    const Tensor& first = branches[0];
    const typename Device::Guard guard(first.device());
    const PlainDispatch plain;
    const Branches in(branches);
    const Tensor output = empty_in_format(first.sizes(), first, in.format);
    if (output.numel() == 0) return output;
    dispatch_branches(first, [&]<typename scalar_t, typename T>() {
      const Tensor table = weights<T>(in.size, weighting, logits, first);
      BranchBlend<scalar_t, T> args{};
      args.size = in.size;
      in.show(args.branch);
      args.weights = table.template const_data_ptr<T>();
      args.output = branch_view<scalar_t>(output, in.format);
      Device::loop(args);
    });
    return output;
  }

  // Fills the branches' gradients, where there are any, and returns the logits'.
  static Tensor blend_backward(Weighting weighting, const Tensor& grad,
                               at::TensorList branches, const Tensor& logits,
                               const std::vector<Tensor>& branch_grads,
                               bool logits_wanted) {
    const Tensor& first = branches[0];
    const typename Device::Guard guard(first.device());
    const PlainDispatch plain;
    const Branches in(branches);
    const Tensor seed = fit_branch<Device>(grad, in.format);
    const auto options = logits.options().memory_format(kPlain);
    Tensor logits_grad = at::empty({0}, options);
    if (first.numel() == 0 && logits_wanted) return at::zeros(logits.sizes(), options);
    if (first.numel() == 0 || (branch_grads.empty() && !logits_wanted)) {
      return logits_grad;
    }
    dispatch_branches(first, [&]<typename scalar_t, typename T>() {
      const Tensor table = weights<T>(in.size, weighting, logits, first);
      BranchBlendBackward<scalar_t, T> args{};
      args.size = in.size;
      in.show(args.branch);
      args.grad = branch_view<const scalar_t>(seed, in.format);
      args.weights = table.template const_data_ptr<T>();
      for (size_t m = 0; m < branch_grads.size(); ++m) {
        args.branch_grad[m] = branch_view<scalar_t>(branch_grads[m], in.format);
      }
      Tensor sums;
      if (logits_wanted) {
        sums = empty_sums(in.size, first);
        args.sums = sums.template mutable_data_ptr<T>();
      }
      Device::loop(args);
      if (!logits_wanted) return;
      const Tensor slopes = at::empty_like(table);
      Device::run(BranchSlopes<T>{in.size, weighting, args.weights, args.sums,
                                  slopes.template mutable_data_ptr<T>()},
                  in.size.batch * in.size.channels);
      logits_grad = slopes.to(logits.scalar_type());
    });
    return logits_grad;
  }
};

}  // namespace trajgru_ext
