#pragma once

// hff_concat on any device; see branch_operators.h for what Device is.

#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <optional>
#include <tuple>
#include <vector>

#include "operators/branches/branch_checks.h"
#include "operators/branches/branch_layout.h"
#include "math/hff_concat.h"

namespace trajgru_ext {

inline void check_skipped(const char* op, int64_t skipped, int64_t branches) {
  TORCH_CHECK_VALUE(skipped >= 0 && skipped < branches, op, ": skipped must be 0 to ",
                    branches - 1, ", below the number of ", "branches, got ", skipped);
}

template <typename Device>
struct HffOperators {
  using Tensor = at::Tensor;

  static Tensor concat(at::TensorList branches, int64_t skipped,
                       const OptionalTensor& scale, const OptionalTensor& shift,
                       const OptionalTensor& slope) {
    const char* op = "hff_concat";
    const int64_t channels = check_concat(op, branches, skipped, scale, shift, slope);
    const Tensor& first = branches[0];
    const typename Device::Guard guard(first.device());
    const PlainDispatch plain;
    const at::MemoryFormat format = memory_format(first);
    const Tensor output = empty_in_format(
        {first.size(0), channels, first.size(2), first.size(3)}, first, format);
    if (output.numel() == 0) return output;
    dispatch_branches(first, [&]<typename scalar_t, typename T>() {
      std::vector<Tensor> kept;  // until the loop has been
      auto args = arguments<scalar_t, T>(branches, skipped, scale, shift, slope, kept);
      args.output = branch_view<scalar_t>(output, format);
      Device::loop(args);
    });
    return output;
  }

  static Tensor concat_backward(const Tensor& grad, int64_t branches, int64_t skipped) {
    const char* op = "hff_concat_backward";
    check_image(op, "grad", grad, grad.device());
    TORCH_CHECK_VALUE(branches >= 1 && branches <= kMostBranches, op,
                      ": branches must be 1 to ", kMostBranches, ", got ", branches);
    check_skipped(op, skipped, branches);
    TORCH_CHECK_VALUE(grad.size(1) % (branches - skipped) == 0, op, ": grad must have ",
                      branches - skipped, " times a branch's channels, got ",
                      grad.sizes());
    const typename Device::Guard guard(grad.device());
    const PlainDispatch plain;
    const at::MemoryFormat format = memory_format(grad);
    const Tensor seed = fit_branch<Device>(grad, format);
    const auto shape = {grad.size(0), grad.size(1) / (branches - skipped), grad.size(2),
                        grad.size(3)};
    const Tensor stack = empty_stack(branches, shape, grad, format);
    if (stack.numel() == 0) return stack;
    const std::vector<Tensor> grads = stack.unbind();
    dispatch_branches(grad, [&]<typename scalar_t, typename T>() {
      HffConcatBackward<scalar_t, T> args{};
      args.size = sizes(grads[0], format, branches);
      args.skipped = static_cast<int>(skipped);
      args.grad = branch_view<const scalar_t>(seed, format);
      for (int64_t i = 0; i < branches; ++i) {
        args.branch_grad[i] = branch_view<scalar_t>(grads[i], format);
      }
      Device::loop(args);
    });
    return stack;
  }

  // The gradients to the branches from `skipped` on, stacked (those before have that of
  // the first), and to scale, shift and slope, empty where there is none.
  static std::tuple<Tensor, Tensor, Tensor, Tensor> affine_backward(
      const Tensor& grad, at::TensorList branches, int64_t skipped,
      const OptionalTensor& scale, const OptionalTensor& shift,
      const OptionalTensor& slope) {
    const char* op = "hff_concat_affine_backward";
    const int64_t channels = check_concat(op, branches, skipped, scale, shift, slope);
    const Tensor& first = branches[0];
    check_grad(op, grad, "[B, (k - skipped) * C, H, W]",
               {first.size(0), channels, first.size(2), first.size(3)}, first);
    const typename Device::Guard guard(first.device());
    const PlainDispatch plain;
    const at::MemoryFormat format = memory_format(first);
    const auto slices = static_cast<int64_t>(branches.size()) - skipped;
    const Tensor stack = empty_stack(slices, first.sizes(), first, format);
    Tensor numbers =
        at::zeros({3, channels}, first.options()
                                     .dtype(opmath_dtype(first))
                                     .memory_format(at::MemoryFormat::Contiguous));
    if (stack.numel() > 0) {
      const std::vector<Tensor> grads = stack.unbind();
      const Tensor seed = fit_branch<Device>(grad, format);
      dispatch_branches(first, [&]<typename scalar_t, typename T>() {
        std::vector<Tensor> kept;
        HffAffineBackward<scalar_t, T> args{
            arguments<scalar_t, T>(branches, skipped, scale, shift, slope, kept)};
        args.grad = branch_view<const scalar_t>(seed, format);
        for (int64_t k = 0; k < slices; ++k) {
          args.slice_grad[k] = branch_view<scalar_t>(grads[k], format);
        }
        const BranchSize size = args.sums_size();
        const Tensor sums =
            at::empty({size.batch, size.chunks(), size.branches, size.channels},
                      numbers.options());
        args.sums = sums.template mutable_data_ptr<T>();
        Device::loop(args);
        Device::run(
            HffNumbers<T>{size, args.sums, numbers.template mutable_data_ptr<T>()},
            numbers.numel());
      });
    }
    const auto found = [&](const OptionalTensor& weight, int64_t row) {
      if (!weight.has_value())
        return at::empty({0},
                         first.options().memory_format(at::MemoryFormat::Contiguous));
      return numbers[row].to(weight->scalar_type(), /*non_blocking=*/false,
                             /*copy=*/true);
    };
    return {stack, found(scale, 0), found(shift, 1), found(slope, 2)};
  }

  static void implement(torch::Library& m) {
    m.impl("hff_concat", &concat);
    m.impl("hff_concat_backward", &concat_backward);
    m.impl("hff_concat_affine_backward", &affine_backward);
  }

 private:
  // Returns the channels of the result.
  static int64_t check_concat(const char* op, at::TensorList branches, int64_t skipped,
                              const OptionalTensor& scale, const OptionalTensor& shift,
                              const OptionalTensor& slope) {
    check_branches(op, branches, 1);
    const Tensor& first = branches[0];
    const auto count = static_cast<int64_t>(branches.size());
    check_skipped(op, skipped, count);
    const int64_t channels = (count - skipped) * first.size(1);
    check_weight(op, "scale", scale, channels, first);
    check_weight(op, "shift", shift, channels, first);
    check_weight(op, "slope", slope, channels, first);
    TORCH_CHECK_VALUE(scale.has_value() == shift.has_value(), op,
                      ": scale and shift must be given together");
    return channels;
  }

  // Of what the arguments point to, `kept` holds what is made here.
  template <typename scalar_t, typename T>
  static HffConcat<scalar_t, T> arguments(at::TensorList branches, int64_t skipped,
                                          const OptionalTensor& scale,
                                          const OptionalTensor& shift,
                                          const OptionalTensor& slope,
                                          std::vector<Tensor>& kept) {
    const Tensor& first = branches[0];
    const at::MemoryFormat format = memory_format(first);
    HffConcat<scalar_t, T> args{};
    args.size = sizes(first, format, static_cast<int64_t>(branches.size()));
    args.skipped = static_cast<int>(skipped);
    for (size_t i = 0; i < branches.size(); ++i) {
      kept.push_back(fit_branch<Device>(branches[i], format));
      args.branch[i] = branch_view<const scalar_t>(kept[i], format);
    }
    const auto numbers = [&](const OptionalTensor& weight) -> const T* {
      if (!weight.has_value()) return nullptr;
      kept.push_back(weight->to(opmath_dtype(first)).contiguous());
      return kept.back().template const_data_ptr<T>();
    };
    args.affine = {numbers(scale), numbers(shift), numbers(slope)};
    return args;
  }

  static BranchSize sizes(const Tensor& branch, at::MemoryFormat format,
                          int64_t count) {
    BranchSize size = branch_size(branch, format);
    size.branches = static_cast<int>(count);
    size.chunk = Device::chunk(size.planes, size.channels, size.pixels);
    return size;
  }

  static void check_weight(const char* op, const char* name,
                           const OptionalTensor& weight, int64_t channels,
                           const Tensor& first) {
    if (weight.has_value()) {
      check_of_sizes(op, name, *weight, "[channels of the result]", {channels}, first);
    }
  }
};

}  // namespace trajgru_ext
