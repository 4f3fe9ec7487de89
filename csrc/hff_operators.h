#pragma once

// hff_concat on any device; see branch_operators.h for what Device is.

#include <ATen/Dispatch.h>
#include <torch/library.h>

#include <optional>
#include <vector>

#include "branch_checks.h"
#include "branch_layout.h"
#include "math/hff_concat.h"

namespace trajgru_ext {

inline void check_skipped(const char* op, int64_t skipped, int64_t branches) {
  TORCH_CHECK_VALUE(skipped >= 0 && skipped < branches, op, ": skipped must be 0 to ",
                    branches - 1, ", below the number of ", "branches, got ", skipped);
}

template <typename Device>
struct HffOperators {
  using Tensor = at::Tensor;
  using OptionalTensor = std::optional<Tensor>;

  static Tensor concat(at::TensorList branches, int64_t skipped,
                       const OptionalTensor& scale, const OptionalTensor& shift,
                       const OptionalTensor& slope) {
    const char* op = "hff_concat";
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
    const typename Device::Guard guard(first.device());
    const PlainDispatch plain;
    const at::MemoryFormat format = memory_format(first);
    const Tensor output = empty_in_format(
        {first.size(0), channels, first.size(2), first.size(3)}, first, format);
    if (output.numel() == 0) return output;
    AT_DISPATCH_FLOATING_TYPES_AND2(
        at::kBFloat16, at::kHalf, first.scalar_type(), "hff_concat", [&] {
          using T = at::opmath_type<scalar_t>;
          HffConcat<scalar_t, T> args{};
          args.size = sizes(first, format, count);
          args.skipped = static_cast<int>(skipped);
          std::vector<Tensor> kept;  // until the loop has been
          for (size_t i = 0; i < branches.size(); ++i) {
            kept.push_back(fit_branch(branches[i], format));
            args.branch[i] = branch_view<const scalar_t>(kept[i], format);
          }
          const auto numbers = [&](const OptionalTensor& weight) -> const T* {
            if (!weight.has_value()) return nullptr;
            kept.push_back(weight->to(opmath_dtype(first)).contiguous());
            return kept.back().template const_data_ptr<T>();
          };
          args.affine = {numbers(scale), numbers(shift), numbers(slope)};
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
    const Tensor seed = fit_branch(grad, format);
    const auto shape = {grad.size(0), grad.size(1) / (branches - skipped), grad.size(2),
                        grad.size(3)};
    const Tensor stack = empty_stack(branches, shape, grad, format);
    if (stack.numel() == 0) return stack;
    const std::vector<Tensor> grads = stack.unbind();
    AT_DISPATCH_FLOATING_TYPES_AND2(
        at::kBFloat16, at::kHalf, grad.scalar_type(), "hff_concat_backward", [&] {
          HffConcatBackward<scalar_t, at::opmath_type<scalar_t>> args{};
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

  static void implement(torch::Library& m) {
    m.impl("hff_concat", &concat);
    m.impl("hff_concat_backward", &concat_backward);
  }

 private:
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
