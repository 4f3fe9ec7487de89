#include "cuda/flow_warp.cuh"

#include <ATen/Dispatch.h>

#include "cuda/images.h"
#include "cuda/ordered_sums.h"
#include "operators/flow/flow_warp.h"
#include "tensors/library.h"
#include "tensors/tensors.h"

namespace trajgru_ext::cuda {
namespace {

using at::Tensor;

template <typename scalar_t, int kVector, typename index_t>
void forward(const Tensor& input, const Tensor& flow, double flow_scale,
             Padding padding, const Tensor& output, int group) {
  using coord_t = at::opmath_type<scalar_t>;
  const FlowWarpForward<scalar_t, index_t> args{
      image_size<index_t>(input),
      image_view<const scalar_t, index_t>(input),
      image_view<const coord_t, index_t>(flow),
      static_cast<coord_t>(flow_scale),
      image_view<scalar_t, index_t>(output),
      group};
  const auto kernel =
      padding == Padding::border
          ? flow_warp_kernel<scalar_t, kVector, Padding::border, index_t>
          : flow_warp_kernel<scalar_t, kVector, Padding::zeros, index_t>;
  launch(kernel, grid_size(pixels(input) << group), kBlock, 0, current_stream(), args);
}

template <typename scalar_t, int kVector>
void forward(const Tensor& input, const Tensor& flow, double flow_scale,
             Padding padding, const Tensor& output) {
  const int group = channels_last(input) ? group_log2(input.size(1) / kVector) : 0;
  if (fits_32_bits(pixels(input) << group, {input, flow, output})) {
    forward<scalar_t, kVector, int32_t>(input, flow, flow_scale, padding, output,
                                        group);
  } else {
    forward<scalar_t, kVector, int64_t>(input, flow, flow_scale, padding, output,
                                        group);
  }
}

template <typename scalar_t, int kVector, typename index_t>
void backward(const FlowWarpGrads& to, int group) {
  using coord_t = at::opmath_type<scalar_t>;
  FlowWarpBackward<scalar_t, index_t> args{};
  args.size = image_size<index_t>(to.grad_output);
  args.grad = image_view<const scalar_t, index_t>(to.grad_output);
  args.flow = image_view<const coord_t, index_t>(to.flow);
  args.flow_scale = static_cast<coord_t>(to.flow_scale);
  args.group = group;
  if (to.input_grad.defined()) {
    args.input_grad = image_view<coord_t, index_t>(to.input_grad);
  }
  if (to.flow_grad.defined()) {
    args.input = image_view<const scalar_t, index_t>(to.input);
    args.flow_grad = image_view<coord_t, index_t>(to.flow_grad);
  }
  const auto kernel =
      to.padding == Padding::border
          ? flow_warp_backward_kernel<scalar_t, kVector, Padding::border, index_t>
          : flow_warp_backward_kernel<scalar_t, kVector, Padding::zeros, index_t>;
  launch(kernel, grid_size(pixels(to.grad_output) << group), kBlock, 0,
         current_stream(), args);
}

struct FlowWarpDevice {
  using Guard = DeviceGuard;

  static void forward(const Tensor& input, const Tensor& flow, double flow_scale,
                      Padding padding, const Tensor& output) {
    AT_DISPATCH_FLOATING_TYPES_AND2(
        at::kBFloat16, at::kHalf, input.scalar_type(), "flow_warp", [&] {
          constexpr int kVector = kVectorBytes / sizeof(scalar_t);
          if (aligned(input, kVector) && aligned(output, kVector)) {
            cuda::forward<scalar_t, kVector>(input, flow, flow_scale, padding, output);
          } else {
            cuda::forward<scalar_t, 1>(input, flow, flow_scale, padding, output);
          }
        });
  }

  static Tensor empty_input_grad(const char*, const Tensor& input) {
    return zero_sums(input);
  }

  static void backward(const FlowWarpGrads& to) {
    if (to.input_grad.defined() && in_fixed_order()) {
      backward_in_order(to);
    } else {
      backward_at_once(to);
    }
  }

 private:
  static void backward_in_order(FlowWarpGrads to) {
    const auto as_rows = [](const Tensor& image) {
      return image.permute({0, 2, 3, 1}).contiguous();
    };
    const Tensor grad = as_rows(to.grad_output), sums = as_rows(to.input_grad);
    add_in_order({to.flow, to.flow_scale, to.padding, 0, grad.flatten(0, 2)}, sums);
    if (sums.data_ptr() != to.input_grad.data_ptr()) {
      to.input_grad.copy_(sums.permute({0, 3, 1, 2}));
    }
    to.input_grad = Tensor();
    if (to.flow_grad.defined()) backward_at_once(to);
  }

  static void backward_at_once(const FlowWarpGrads& to) {
    const Tensor& grad = to.grad_output;
    const auto or_grad = [&](const Tensor& one) { return one.defined() ? one : grad; };
    const Tensor input = or_grad(to.input), sums = or_grad(to.input_grad);
    AT_DISPATCH_FLOATING_TYPES_AND2(
        at::kBFloat16, at::kHalf, grad.scalar_type(), "flow_warp_backward", [&] {
          constexpr int kWide = kVectorBytes / sizeof(scalar_t);
          const bool wide =
              aligned(grad, kWide) && aligned(input, kWide) && aligned(sums, kWide);
          const int64_t parts = wide ? grad.size(1) / kWide : grad.size(1);
          // By what is read and added to four times as often as the gradient is read.
          const bool along_channels =
              channels_last(to.input_grad.defined() ? sums : input);
          const int group = along_channels ? group_log2(parts) : 0;
          const bool narrow =
              fits_32_bits(pixels(grad) << group,
                           {grad, to.flow, input, sums, or_grad(to.flow_grad)});
          const auto run = wide     ? narrow ? cuda::backward<scalar_t, kWide, int32_t>
                                             : cuda::backward<scalar_t, kWide, int64_t>
                               : narrow ? cuda::backward<scalar_t, 1, int32_t>
                                    : cuda::backward<scalar_t, 1, int64_t>;
          run(to, group);
        });
  }
};

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  FlowWarpOperators<FlowWarpDevice>::implement(m);
}

}  // namespace
}  // namespace trajgru_ext::cuda
