#pragma once

// From Tensors to the rows that the gate updates work on, on any device.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <initializer_list>
#include <optional>

#include "math/gate_rows.h"
#include "tensors/tensors.h"

namespace trajgru_ext {

// Everything is brought into the memory format of one tensor of gates, the largest
// there is, and results have it.
class GateLayout {
 public:
  // row_length: the most elements of a row of planes. by_sample: rows of different
  // samples must not be mixed, since weights belong to places in a sample.
  // weight_per_row: a row has one weight, in planes.
  GateLayout(const at::Tensor& gates, const at::Tensor& state, int64_t row_length,
             bool by_sample = false, bool weight_per_row = false)
      : format_(memory_format(gates)),
        sizes_(state.sizes().vec()),
        by_sample_(by_sample) {
    const int64_t batch = sizes_[0];
    if (planes()) {
      const int64_t all = sample();
      const int64_t length = weight_per_row ? pixels() : std::min(row_length, all);
      const int64_t inner = length == 0 ? 0 : divide_up(all, length);
      rows_ = {batch, inner, length, all - (inner - 1) * length};
    } else if (by_sample) {
      rows_ = {batch, pixels(), features(), features()};
    } else {
      rows_ = {1, batch * pixels(), features(), features()};
    }
  }

  bool planes() const { return format_ == at::MemoryFormat::Contiguous; }
  int64_t features() const { return sizes_[1]; }
  int64_t pixels() const { return sizes_[2] * sizes_[3]; }
  int64_t sample() const { return features() * pixels(); }

  // A new tensor for some gates, or a state.
  at::Tensor empty(int64_t gates, const at::Tensor& like, at::ScalarType dtype) const {
    return at::empty(
        {sizes_[0], gates * features(), sizes_[2], sizes_[3]},
        at::TensorOptions().dtype(dtype).device(like.device()).memory_format(format_));
  }

  // The tensor in the dtype, in rows: itself where it is.
  at::Tensor fit(const at::Tensor& tensor, at::ScalarType dtype) const {
    const at::Tensor cast = tensor.to(dtype);
    return in_rows(cast) ? cast : cast.contiguous(format_);
  }

  // Whether a tensor, of gates or of a state, can be written in rows where it is.
  bool holds(const at::Tensor& tensor) const { return in_rows(tensor); }

  at::Tensor fit(const std::optional<at::Tensor>& tensor, at::ScalarType dtype) const {
    return tensor.has_value() ? fit(*tensor, dtype) : at::Tensor();
  }

  const GateRows& rows() const { return rows_; }

  // Lets the view see a tensor from empty() or fit(); an undefined one leaves it
  // absent.
  template <typename T>
  void show(GateView<T>& view, const at::Tensor& tensor) const {
    if (!tensor.defined()) return;
    const int64_t inner = planes() ? rows_.length : pixel_stride(tensor);
    const int64_t outer = planes() || by_sample_ ? tensor.stride(0) : 0;
    view = {data<T>(tensor), outer, inner, planes() ? sample() : features()};
  }

  // Weights [1, F, H, W] or [1, F, 1, 1] in the dtype of the sums.
  at::Tensor fit_weights(const std::optional<at::Tensor>& weights,
                         at::ScalarType dtype) const {
    if (!weights.has_value()) return {};
    return weights->to(dtype).contiguous(format_);
  }

  template <typename T>
  void show_weights(GateView<const T>& view, const at::Tensor& weights,
                    bool per_channel) const {
    if (!weights.defined()) return;
    int64_t inner = planes() ? rows_.length : features();
    if (per_channel) inner = planes() ? 1 : 0;
    view = {data<const T>(weights), 0, inner, 0};
  }

  // A bias [gates * F], one number a channel; of planes where these are one pixel.
  bool takes_bias() const { return !planes() || pixels() == 1; }

  template <typename T>
  void show_bias(GateView<const T>& view, const std::optional<at::Tensor>& bias) const {
    if (bias.has_value()) view = {data<const T>(*bias), 0, 0, features()};
  }

  // Sums over the samples, `count` for each of a sample's elements.
  at::Tensor empty_sums(int64_t count, const at::Tensor& like,
                        at::ScalarType dtype) const {
    return at::empty(
        {count, features(), sizes_[2], sizes_[3]},
        at::TensorOptions().dtype(dtype).device(like.device()).memory_format(format_));
  }

  template <typename T>
  void show_sums(GateView<T>& view, const at::Tensor& sums) const {
    if (sums.defined()) view = {data<T>(sums), 0, rows_.length, sample()};
  }

 private:
  // From one pixel to the next, in whichever dimension there is a next.
  static int64_t pixel_stride(const at::Tensor& tensor) {
    for (const int64_t d : {3, 2, 0}) {
      if (tensor.size(d) > 1) return tensor.stride(d);
    }
    return tensor.size(1);
  }

  bool in_rows(const at::Tensor& tensor) const {
    const auto has = [&](int64_t d, int64_t stride) {
      return has_stride(tensor, d, stride);
    };
    const int64_t height = tensor.size(2), width = tensor.size(3);
    if (planes()) return has(3, 1) && has(2, width) && has(1, height * width);
    const int64_t pixel = pixel_stride(tensor);
    return has(1, 1) && has(3, pixel) && has(2, width * pixel) &&
           has(0, height * width * pixel);
  }

  at::MemoryFormat format_;
  std::vector<int64_t> sizes_;  // of the state
  bool by_sample_;
  GateRows rows_;
};

// Buffers that are written must be dense, as all others here are.
inline void check_buffers(const char* op, const GateLayout& layout,
                          at::ScalarType dtype,
                          std::initializer_list<at::Tensor> buffers) {
  for (const at::Tensor& buffer : buffers) {
    TORCH_CHECK_VALUE(buffer.scalar_type() == dtype && layout.holds(buffer), op,
                      ": all tensors must be dense in one memory format and dtype, ",
                      "got strides ", buffer.strides(), " for ", buffer.sizes());
  }
}

// A bias for so many channels, dense and in the dtype and on the device of a tensor.
inline void check_bias(const char* op, const GateLayout& layout,
                       const std::optional<at::Tensor>& bias, int64_t channels,
                       const at::Tensor& like) {
  if (!bias.has_value()) return;
  TORCH_CHECK_VALUE(
      layout.takes_bias() && bias->dim() == 1 && bias->size(0) == channels &&
          bias->is_contiguous() && bias->scalar_type() == like.scalar_type() &&
          bias->device() == like.device(),
      op, ": a bias must be dense [", channels, "] of ", like.scalar_type(), " on ",
      like.device(), ", beside channels last, got ", bias->sizes(), " of ",
      bias->scalar_type(), " on ", bias->device());
}

// Those of the two parts of a step's gates, on a device that adds them.
template <typename Device>
void check_step_biases(const char* op, const GateLayout& layout,
                       const std::optional<at::Tensor>& x_bias,
                       const std::optional<at::Tensor>& h_bias,
                       const at::Tensor& gates) {
  TORCH_CHECK_VALUE(Device::kAddsBiases || !(x_bias.has_value() || h_bias.has_value()),
                    op, ": biases are not for tensors on ", gates.device());
  check_bias(op, layout, x_bias, gates.size(1), gates);
  check_bias(op, layout, h_bias, gates.size(1), gates);
}

// The common dtype of the gates that are given.
inline at::ScalarType gates_dtype(const std::optional<at::Tensor>& x_gates,
                                  const std::optional<at::Tensor>& h_gates) {
  if (!x_gates.has_value()) return h_gates->scalar_type();
  if (!h_gates.has_value()) return x_gates->scalar_type();
  return c10::promoteTypes(x_gates->scalar_type(), h_gates->scalar_type());
}

// The dtype that the loops read gates in: low ones beside float32, else the state's.
inline at::ScalarType read_dtype(at::ScalarType gates, const at::Tensor& state) {
  return state.scalar_type() == at::kFloat ? gates : state.scalar_type();
}

// f.operator()<GateDtypes>() for the gates' and the state's dtype.
template <typename F>
void dispatch_gates(at::ScalarType gates, const at::Tensor& state, const F& f) {
  const at::ScalarType dtype = state.scalar_type();
  if (dtype == at::kDouble) {
    f.template operator()<GateDtypes<double, double>>();
  } else if (dtype == at::kBFloat16) {
    f.template operator()<GateDtypes<at::BFloat16, at::BFloat16>>();
  } else if (dtype == at::kHalf) {
    f.template operator()<GateDtypes<at::Half, at::Half>>();
  } else if (gates == at::kBFloat16) {
    f.template operator()<GateDtypes<at::BFloat16, float>>();
  } else if (gates == at::kHalf) {
    f.template operator()<GateDtypes<at::Half, float>>();
  } else {
    f.template operator()<GateDtypes<float, float>>();
  }
}

// What an operator returns where a result is not wanted, else the result in its dtype.
inline at::Tensor wanted_or_empty(const at::Tensor& result, const at::Tensor& like,
                                  at::ScalarType dtype) {
  if (result.defined()) return result.to(dtype);
  return at::empty({0}, at::TensorOptions().dtype(dtype).device(like.device()));
}

}  // namespace trajgru_ext
