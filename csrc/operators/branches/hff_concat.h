#pragma once

// hff_concat on any device; operators/device.h says what Device is.

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
                    branches - 1, ", below the number of branches, got ", skipped);
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
    const Branches<Device> in(branches);
    const Tensor output = empty_in_format(
        {first.size(0), channels, first.size(2), first.size(3)}, first, in.format);
    if (output.numel() == 0) return output;
    dispatch_branches(first, [&]<typename scalar_t, typename T>() {
      const Numbers<T> numbers(scale, shift, slope, first);
      auto args = arguments<scalar_t>(in, skipped, numbers);
      args.output = branch_view<scalar_t>(output, in.format);
      Device::loop(args);
    });
    return output;
  }

  static Tensor concat_backward(const Tensor& grad_output, int64_t branches,
                                int64_t skipped) {
    const char* op = "hff_concat_backward";
    check_image(op, "grad", grad_output, grad_output.device());
    TORCH_CHECK_VALUE(branches >= 1 && branches <= kMostBranches, op,
                      ": branches must be 1 to ", kMostBranches, ", got ", branches);
    check_skipped(op, skipped, branches);
    TORCH_CHECK_VALUE(grad_output.size(1) % (branches - skipped) == 0, op,
                      ": grad must have ", branches - skipped,
                      " times a branch's channels, got ", grad_output.sizes());
    const typename Device::Guard guard(grad_output.device());
    const PlainDispatch plain;
    const at::MemoryFormat format = memory_format(grad_output);
    const Tensor grad = fit_branch<Device>(grad_output, format);
    const auto shape = {grad.size(0), grad.size(1) / (branches - skipped), grad.size(2),
                        grad.size(3)};
    const Tensor stack = empty_stack(branches, shape, grad, format);
    if (stack.numel() == 0) return stack;
    const std::vector<Tensor> grads = stack.unbind();
    dispatch_branches(grad, [&]<typename scalar_t, typename T>() {
      HffConcatBackward<scalar_t, T> args{};
      args.size = branch_size<Device>(grads[0], grads.size(), format);
      args.skipped = static_cast<int>(skipped);
      args.grad = branch_view<const scalar_t>(grad, format);
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
      const Tensor& grad_output, at::TensorList branches, int64_t skipped,
      const OptionalTensor& scale, const OptionalTensor& shift,
      const OptionalTensor& slope) {
    const char* op = "hff_concat_affine_backward";
    const int64_t channels = check_concat(op, branches, skipped, scale, shift, slope);
    const Tensor& first = branches[0];
    check_grad(op, grad_output, "[B, (k - skipped) * C, H, W]",
               {first.size(0), channels, first.size(2), first.size(3)}, first);
    const typename Device::Guard guard(first.device());
    const PlainDispatch plain;
    const Branches<Device> in(branches);
    const auto slices = static_cast<int64_t>(branches.size()) - skipped;
    const Tensor stack = empty_stack(slices, first.sizes(), first, in.format);
    const Tensor numbers_grad =
        at::zeros({3, channels}, first.options().dtype(opmath_dtype(first)));
    if (stack.numel() > 0) {
      const std::vector<Tensor> grads = stack.unbind();
      const Tensor grad = fit_branch<Device>(grad_output, in.format);
      dispatch_branches(first, [&]<typename scalar_t, typename T>() {
        const Numbers<T> numbers(scale, shift, slope, first);
        HffAffineBackward<scalar_t, T> args{};
        args.of = arguments<scalar_t>(in, skipped, numbers);
        args.grad = branch_view<const scalar_t>(grad, in.format);
        for (int64_t k = 0; k < slices; ++k) {
          args.slice_grad[k] = branch_view<scalar_t>(grads[k], in.format);
        }
        const BranchSize size = args.sums_size();
        const Tensor sums = empty_sums(size, first);
        args.sums = data<T>(sums);
        Device::loop(args);
        Device::run(HffNumbers<T>{size, args.sums, data<T>(numbers_grad)},
                    numbers_grad.numel());
      });
    }
    const auto found = [&](const OptionalTensor& weight, int64_t row) {
      if (!weight.has_value()) return empty_result(first);
      return numbers_grad[row].to(weight->scalar_type(), /*non_blocking=*/false,
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

  // A number for each channel of the result, where there are any, as the loops read
  // them.
  template <typename T>
  struct Numbers {
    OptionalTensor scale, shift, slope;

    Numbers(const OptionalTensor& scale, const OptionalTensor& shift,
            const OptionalTensor& slope, const Tensor& branch)
        : scale(wide(scale, branch)),
          shift(wide(shift, branch)),
          slope(wide(slope, branch)) {}

    HffAffine<T> view() const {
      return {pointer(scale), pointer(shift), pointer(slope)};
    }

   private:
    static OptionalTensor wide(const OptionalTensor& weight, const Tensor& branch) {
      if (!weight.has_value()) return std::nullopt;
      return weight->to(opmath_dtype(branch)).contiguous();
    }
    static const T* pointer(const OptionalTensor& weight) {
      return weight.has_value() ? data<const T>(*weight) : nullptr;
    }
  };

  template <typename scalar_t, typename T>
  static HffConcat<scalar_t, T> arguments(const Branches<Device>& in, int64_t skipped,
                                          const Numbers<T>& numbers) {
    HffConcat<scalar_t, T> args{};
    args.size = in.size;
    args.skipped = static_cast<int>(skipped);
    in.show(args.branch);
    args.affine = numbers.view();
    return args;
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
