#pragma once

// The products of flow_conv: of rows, a pixel each, and the weights. They stand for a
// 1x1 convolution, so float32 is rounded to TF32 where torch's convolutions may be.
// cuBLAS goes by another flag, that of products of matrices. Where the two flags agree,
// it multiplies; where only products may round, this thread's are kept from it. Where
// only convolutions may, which is how torch begins, a 1x1 convolution it is: to set the
// other flag here would round the products of all other threads.

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/mm.h>

#include <array>
#include <optional>
#include <tuple>

#include "cuda/runtime.h"
#include "tensors/tensors.h"
#include "tensors/tf32.h"

namespace trajgru_ext::cuda {

class RowProducts {
 public:
  // weight: [O, K].
  explicit RowProducts(const at::Tensor& weight) : weight_(weight) {
    if (weight.scalar_type() != at::kFloat) return;
    const bool convolutions = convolutions_take_tf32();
    const bool products = products_take_tf32();
    convolves_ = convolutions && !products && weight.numel() > 0;
    if (products && !convolutions) ieee_.emplace();
  }

  // The result [n, O] of rows [n, K], rows x weight^T + bias. buffer: for it to be
  // written to, unless a convolution makes it.
  at::Tensor forward(const at::Tensor& rows, const OptionalTensor& bias,
                     at::Tensor& buffer) const {
    if (convolves_) {
      return as_rows(at::convolution(as_image(rows), kernel(), bias, {1, 1}, {0, 0},
                                     {1, 1}, false, {0, 0}, 1))
          .contiguous();
    }
    if (bias.has_value() && !ieee_.has_value()) {
      return at::addmm_out(buffer, *bias, rows, weight_.t());
    }
    // With a bias torch may call cuBLASLt, which goes by the flag alone.
    at::mm_out(buffer, rows, weight_.t());
    return bias.has_value() ? buffer.add_(*bias) : buffer;
  }

  // The gradient to the rows from that to the result: grad x weight. buffer: as above.
  at::Tensor rows_grad(const at::Tensor& grad, at::Tensor& buffer) const {
    if (!convolves_) return at::mm_out(buffer, grad, weight_);
    return as_rows(std::get<0>(gradients(grad, buffer, {true, false, false})))
        .contiguous();
  }

  // Adds to the gradient to the weight, whose dtype is that of sums, grad^T x rows; the
  // first part is written. Half types are multiplied to sums of float32, too, so that
  // nothing is rounded before the end.
  void add_weight_grad(at::Tensor& sum, const at::Tensor& grad, const at::Tensor& rows,
                       bool first) const {
    if (convolves_) {
      const at::Tensor part =
          std::get<1>(gradients(grad, rows, {false, true, false})).view(sum.sizes());
      first ? sum.copy_(part) : sum.add_(part);
      return;
    }
    const at::Tensor left = grad.t();
    const at::ScalarType dtype = sum.scalar_type();
    if (rows.scalar_type() == dtype) {
      first ? at::mm_out(sum, left, rows) : at::addmm_out(sum, sum, left, rows);
    } else if (widens(rows.scalar_type())) {
      first ? at::mm_out(sum, left, rows, dtype)
            : at::addmm_out(sum, sum, left, rows, dtype);
    } else {
      const at::Tensor wide = left.to(dtype), other = rows.to(dtype);
      first ? at::mm_out(sum, wide, other) : at::addmm_out(sum, sum, wide, other);
    }
  }

 private:
  // Whether torch multiplies a half type to sums of float32.
  static bool widens(at::ScalarType dtype) {
    return dtype == at::kHalf ? !at::globalContext().allowFP16AccumulationCuBLAS()
                              : compute_capability() >= 80;
  }

  // Rows [n, K] as an image [1, K, n, 1] in channels last, and back; the weight as that
  // of a convolution: views.
  static at::Tensor as_image(const at::Tensor& rows) {
    return rows.view({1, rows.size(0), 1, rows.size(1)}).permute({0, 3, 1, 2});
  }
  static at::Tensor as_rows(const at::Tensor& image) {
    return image.permute({0, 2, 3, 1}).reshape({image.size(2), image.size(1)});
  }
  at::Tensor kernel() const {
    return weight_.view({weight_.size(0), weight_.size(1), 1, 1});
  }

  std::tuple<at::Tensor, at::Tensor, at::Tensor> gradients(
      const at::Tensor& grad, const at::Tensor& rows,
      std::array<bool, 3> wanted) const {
    return at::convolution_backward(as_image(grad), as_image(rows), kernel(),
                                    at::OptionalIntArrayRef(), {1, 1}, {0, 0}, {1, 1},
                                    false, {0, 0}, 1, wanted);
  }

  const at::Tensor weight_;
  bool convolves_ = false;
  std::optional<at::NoTF32Guard> ieee_;
};

}  // namespace trajgru_ext::cuda
