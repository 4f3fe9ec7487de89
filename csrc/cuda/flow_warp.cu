#include "cuda/flow_warp.cuh"

#include <ATen/Context.h>
#include <ATen/Dispatch.h>

#include <tuple>

#include "operators/flow/flow_checks.h"
#include "cuda/images.h"
#include "tensors/library.h"
#include "tensors/tensors.h"

namespace trajgru_ext::cuda {
namespace {

using at::Tensor;

template <typename scalar_t, int kVector, typename index_t>
void forward(const Tensor& input, const Tensor& flow, double flow_scale,
             const Tensor& output, int group) {
  using coord_t = at::opmath_type<scalar_t>;
  const FlowWarpForward<scalar_t, index_t> args{
      image_size<index_t>(input),
      image_view<const scalar_t, index_t>(input),
      image_view<const coord_t, index_t>(flow),
      static_cast<coord_t>(flow_scale),
      image_view<scalar_t, index_t>(output),
      group};
  launch(flow_warp_kernel<scalar_t, kVector, index_t>,
         grid_size(pixels(input) << group), kBlock, 0, current_stream(), args);
}

template <typename scalar_t, int kVector>
void forward(const Tensor& input, const Tensor& flow, double flow_scale,
             const Tensor& output) {
  const int group = channels_last(input) ? group_log2(input.size(1) / kVector) : 0;
  if (fits_32_bits(pixels(input) << group, {input, flow, output})) {
    forward<scalar_t, kVector, int32_t>(input, flow, flow_scale, output, group);
  } else {
    forward<scalar_t, kVector, int64_t>(input, flow, flow_scale, output, group);
  }
}

Tensor flow_warp(const Tensor& input, const Tensor& flow, double flow_scale) {
  check_flow_warp(input, flow);
  const DeviceGuard guard(input.device());
  const Tensor output = empty_image(input);
  if (output.numel() == 0) return output;
  const Tensor coordinates = flow.to(opmath_dtype(input));
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kBFloat16, at::kHalf, input.scalar_type(), "flow_warp", [&] {
        constexpr int kVector = kVectorBytes / sizeof(scalar_t);
        if (aligned(input, kVector) && aligned(output, kVector)) {
          forward<scalar_t, kVector>(input, coordinates, flow_scale, output);
        } else {
          forward<scalar_t, 1>(input, coordinates, flow_scale, output);
        }
      });
  return output;
}

template <typename scalar_t, typename index_t>
void backward(const Tensor& grad, const std::optional<Tensor>& input,
              const Tensor& flow, double flow_scale, const Tensor& input_grad,
              const Tensor& flow_grad, int group) {
  using coord_t = at::opmath_type<scalar_t>;
  FlowWarpBackward<scalar_t, index_t> args{};
  args.size = image_size<index_t>(grad);
  args.grad = image_view<const scalar_t, index_t>(grad);
  args.flow = image_view<const coord_t, index_t>(flow);
  args.flow_scale = static_cast<coord_t>(flow_scale);
  args.group = group;
  if (input_grad.defined()) {
    args.input_grad = image_view<coord_t, index_t>(input_grad);
  }
  if (flow_grad.defined()) {
    args.input = image_view<const scalar_t, index_t>(*input);
    args.flow_grad = image_view<coord_t, index_t>(flow_grad);
  }
  launch(flow_warp_backward_kernel<scalar_t, index_t>, grid_size(pixels(grad) << group),
         kBlock, 0, current_stream(), args);
}

std::tuple<Tensor, Tensor> flow_warp_backward(const Tensor& grad,
                                              const std::optional<Tensor>& input,
                                              const Tensor& flow, double flow_scale,
                                              bool input_grad, bool flow_grad) {
  check_flow_warp_backward(grad, input, flow, flow_grad);
  if (input_grad) {
    // Atomic additions come in any order.
    at::globalContext().alertNotDeterministic("flow_warp_backward on CUDA");
  }
  const DeviceGuard guard(grad.device());
  const at::ScalarType sums = opmath_dtype(grad);
  Tensor grad_input, grad_flow;
  if (input_grad) grad_input = empty_image(grad, sums).zero_();
  if (flow_grad) grad_flow = empty_image(flow, sums);
  if (grad.numel() == 0) {
    if (flow_grad) grad_flow.zero_();
  } else if (input_grad || flow_grad) {
    const Tensor coordinates = flow.to(sums);
    const int group = channels_last(grad) ? group_log2(grad.size(1)) : 0;
    const Tensor& image = flow_grad ? *input : grad;
    const Tensor& sum = input_grad ? grad_input : grad;
    const Tensor& slope = flow_grad ? grad_flow : coordinates;
    const bool narrow =
        fits_32_bits(pixels(grad) << group, {grad, image, coordinates, sum, slope});
    AT_DISPATCH_FLOATING_TYPES_AND2(
        at::kBFloat16, at::kHalf, grad.scalar_type(), "flow_warp_backward", [&] {
          const auto run =
              narrow ? backward<scalar_t, int32_t> : backward<scalar_t, int64_t>;
          run(grad, input, coordinates, flow_scale, grad_input, grad_flow, group);
        });
  }
  return {
      input_grad ? grad_input.to(grad.scalar_type()) : at::empty({0}, grad.options()),
      flow_grad ? grad_flow.to(flow.scalar_type()) : at::empty({0}, flow.options())};
}

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  m.impl("flow_warp", &flow_warp);
  m.impl("flow_warp_backward", &flow_warp_backward);
}

}  // namespace
}  // namespace trajgru_ext::cuda
