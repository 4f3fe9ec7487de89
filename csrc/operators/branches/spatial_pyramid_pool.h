#pragma once

// spatial_pyramid_pool on any device; operators/device.h says what Device is. Here its
// run(args) fills the result of args.

#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <limits>
#include <tuple>

#include "operators/branches/branch_checks.h"
#include "operators/branches/branch_layout.h"
#include "math/spatial_pyramid_pool.h"

namespace trajgru_ext {

inline void check_pyramid(const char* op, int64_t height, int64_t width,
                          int64_t levels) {
  TORCH_CHECK_VALUE(
      height > 0 && width > 0 && height <= std::numeric_limits<int32_t>::max() / width,
      op, ": input must have 1 to 2^31 - 1 pixels, got ", height, " x ", width);
  constexpr int64_t kMost = 1024;  // so that no count of bins overflows
  TORCH_CHECK_VALUE(levels >= 1 && levels <= kMost, op, ": levels must be 1 to ", kMost,
                    ", got ", levels);
}

template <typename Device>
struct PyramidOperators {
  using Tensor = at::Tensor;

  static std::tuple<Tensor, Tensor> pool(const Tensor& input, int64_t levels,
                                         bool largest) {
    const char* op = "spatial_pyramid_pool";
    check_image(op, "input", input, input.device());
    check_pyramid(op, input.size(2), input.size(3), levels);
    const typename Device::Guard guard(input.device());
    const PlainDispatch plain;
    const PyramidSize size = sizes(input, levels, largest);
    const Tensor output =
        at::empty({size.batch, size.channels * size.bins()}, input.options());
    const Tensor places = largest ? at::empty_like(output, at::kInt)
                                  : at::empty({0}, input.options().dtype(at::kInt));
    if (output.numel() == 0) return {output, places};
    const at::MemoryFormat format = memory_format(input);
    const Tensor image = fit_branch<Device>(input, format);
    dispatch_branches(input, [&]<typename scalar_t, typename T>() {
      Device::run(PyramidPool<scalar_t, T>{
          size, branch_view<const scalar_t>(image, format), data<scalar_t>(output),
          largest ? data<int32_t>(places) : nullptr});
    });
    return {output, places};
  }

  static Tensor pool_backward(const Tensor& grad_output, const Tensor& places,
                              int64_t height, int64_t width, int64_t levels,
                              bool largest, bool channels_last) {
    const char* op = "spatial_pyramid_pool_backward";
    check_tensor(op, "grad", grad_output, grad_output.device());
    check_pyramid(op, height, width, levels);
    const int64_t bins = bins_below(levels + 1);
    TORCH_CHECK_VALUE(grad_output.dim() == 2 && grad_output.size(1) % bins == 0, op,
                      ": grad must be [B, C * ", bins, "], got ", grad_output.sizes());
    TORCH_CHECK_VALUE(!largest || (places.scalar_type() == at::kInt &&
                                   places.device() == grad_output.device() &&
                                   places.sizes() == grad_output.sizes()),
                      op, ": places must be int32 of the sizes of grad, ",
                      grad_output.sizes(), ", got ", places.scalar_type(), " of ",
                      places.sizes());
    const typename Device::Guard guard(grad_output.device());
    const PlainDispatch plain;
    const at::MemoryFormat format =
        channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
    const Tensor input_grad = empty_in_format(
        {grad_output.size(0), grad_output.size(1) / bins, height, width}, grad_output,
        format);
    if (input_grad.numel() == 0) return input_grad;
    const Tensor grad = grad_output.contiguous(), pixels = places.contiguous();
    dispatch_branches(grad, [&]<typename scalar_t, typename T>() {
      Device::run(PyramidPoolBackward<scalar_t, T>{
          sizes(input_grad, levels, largest), data<const scalar_t>(grad),
          largest ? data<const int32_t>(pixels) : nullptr,
          branch_view<scalar_t>(input_grad, format)});
    });
    return input_grad;
  }

  static void implement(torch::Library& m) {
    m.impl("spatial_pyramid_pool", &pool);
    m.impl("spatial_pyramid_pool_backward", &pool_backward);
  }

 private:
  static PyramidSize sizes(const Tensor& image, int64_t levels, bool largest) {
    return {image.size(0),
            image.size(1),
            image.size(2),
            image.size(3),
            static_cast<int>(levels),
            largest};
  }
};

}  // namespace trajgru_ext
