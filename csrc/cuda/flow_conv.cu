#include "cuda/flow_conv.cuh"

#include <ATen/Dispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <tuple>

#include "cuda/images.h"
#include "cuda/ordered_sums.h"
#include "operators/flow/flow_conv.h"
#include "tensors/library.h"
#include "tensors/tensors.h"

namespace trajgru_ext::cuda {
namespace {

using at::Tensor;

// The arguments, brought into the form that the chunks are cut from.
struct Operands {
  Tensor input;  // channels last
  Tensor flows;  // of the coordinates' dtype
  double flow_scale;
  int64_t links, rows, columns, chunk;

  Operands(const Tensor& input, const Tensor& flows, double flow_scale)
      : input(input.contiguous(at::MemoryFormat::ChannelsLast)),
        flows(flows.to(opmath_dtype(input))),
        flow_scale(flow_scale),
        links(flows.size(1) / 2),
        rows(pixels(input)),
        columns(links * input.size(1)),
        chunk(std::max<int64_t>(
            1, kChunkBytes / std::max<int64_t>(columns * input.element_size(), 1))) {}

  // f(first, count) for the chunks of rows.
  template <typename F>
  void for_chunks(const F& f) const {
    for (int64_t first = 0; first < rows; first += chunk) {
      f(first, std::min(chunk, rows - first));
    }
  }

  Tensor buffer() const {
    return at::empty({std::min(chunk, rows), columns},
                     input.options().memory_format(at::MemoryFormat::Contiguous));
  }
};

template <typename scalar_t, typename index_t>
FlowConvChunk<scalar_t, index_t> chunk_of(const Operands& operands, int64_t first,
                                          int64_t count, int group) {
  using coord_t = at::opmath_type<scalar_t>;
  return {image_size<index_t>(operands.input),
          static_cast<index_t>(operands.links),
          static_cast<index_t>(first),
          static_cast<index_t>(count),
          image_view<const scalar_t, index_t>(operands.input),
          image_view<const coord_t, index_t>(operands.flows),
          static_cast<coord_t>(operands.flow_scale),
          group};
}

template <typename scalar_t, int kVector, typename index_t>
void gather(const Operands& operands, int64_t first, int64_t count, int group,
            const Tensor& warped) {
  launch(flow_conv_gather_kernel<scalar_t, kVector, index_t>,
         grid_size(count * operands.links << group), kBlock, 0, current_stream(),
         chunk_of<scalar_t, index_t>(operands, first, count, group),
         warped.mutable_data_ptr<scalar_t>());
}

void gather(const Operands& operands, int64_t first, int64_t count,
            const Tensor& warped) {
  const int64_t channels = operands.input.size(1);
  if (count * operands.columns == 0) return;
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kBFloat16, at::kHalf, operands.input.scalar_type(), "flow_conv", [&] {
        constexpr int kWide = kVectorBytes / sizeof(scalar_t);
        const bool wide = aligned(operands.input, kWide);
        const int group = group_log2(wide ? channels / kWide : channels);
        const bool narrow = fits_32_bits(count * operands.links << group,
                                         {operands.input, operands.flows, warped});
        const auto run = wide     ? narrow ? gather<scalar_t, kWide, int32_t>
                                           : gather<scalar_t, kWide, int64_t>
                             : narrow ? gather<scalar_t, 1, int32_t>
                                  : gather<scalar_t, 1, int64_t>;
        run(operands, first, count, group, warped);
      });
}

// To `sums` and `flows_grad`, as far as they are defined, from the gradient to the
// warped values; these take its place in `warped` where they are wanted.
template <typename scalar_t, int kVector, typename index_t>
void pull_back(const Operands& operands, int64_t first, int64_t count, int group,
               const Tensor& warped, bool keeps_warped, const Tensor& sums,
               const Tensor& flows_grad) {
  using coord_t = at::opmath_type<scalar_t>;
  ImageView<coord_t, index_t> sums_view{}, flows_view{};
  if (sums.defined()) sums_view = image_view<coord_t, index_t>(sums);
  if (flows_grad.defined()) flows_view = image_view<coord_t, index_t>(flows_grad);
  const auto kernel =
      keeps_warped ? flow_conv_backward_kernel<scalar_t, kVector, true, index_t>
                   : flow_conv_backward_kernel<scalar_t, kVector, false, index_t>;
  launch(kernel, grid_size(count * operands.links << group), kBlock, 0,
         current_stream(), chunk_of<scalar_t, index_t>(operands, first, count, group),
         warped.mutable_data_ptr<scalar_t>(), sums_view, flows_view);
}

void pull_back(const Operands& operands, int64_t first, int64_t count,
               const Tensor& warped, bool keeps_warped, const Tensor& sums,
               const Tensor& flows_grad) {
  const bool wanted = keeps_warped || sums.defined() || flows_grad.defined();
  if (!wanted || count * operands.links == 0) return;
  const int64_t channels = operands.input.size(1);
  const Tensor& sum = sums.defined() ? sums : operands.input;
  const Tensor& slopes = flows_grad.defined() ? flows_grad : operands.flows;
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kBFloat16, at::kHalf, operands.input.scalar_type(), "flow_conv", [&] {
        constexpr int kWide = kVectorBytes / sizeof(scalar_t);
        const bool wide = aligned(operands.input, kWide) && aligned(sum, kWide);
        const int group = group_log2(wide ? channels / kWide : channels);
        const bool narrow =
            fits_32_bits(count * operands.links << group,
                         {operands.input, operands.flows, warped, sum, slopes});
        const auto run = wide     ? narrow ? pull_back<scalar_t, kWide, int32_t>
                                           : pull_back<scalar_t, kWide, int64_t>
                             : narrow ? pull_back<scalar_t, 1, int32_t>
                                  : pull_back<scalar_t, 1, int64_t>;
        run(operands, first, count, group, warped, keeps_warped, sums, flows_grad);
      });
}

Tensor flow_conv(const Tensor& input, const Tensor& flows, const Tensor& weight,
                 const OptionalTensor& bias, double flow_scale) {
  check_flow_conv(input, flows, weight, bias);
  const DeviceGuard guard(input.device());
  const PlainDispatch plain;
  const Tensor output = empty_conv_output(input, weight.size(0));
  if (output.numel() == 0) return output;
  const Operands operands(input, flows, flow_scale);
  const Tensor offset =
      bias.has_value() ? *bias : at::zeros({weight.size(0)}, weight.options());
  const Tensor rows = at::empty({operands.rows, weight.size(0)}, weight.options());
  const Tensor buffer = operands.buffer();
  operands.for_chunks([&](int64_t first, int64_t count) {
    const Tensor warped = buffer.narrow(0, 0, count);
    gather(operands, first, count, warped);
    Tensor result = rows.narrow(0, first, count);
    at::addmm_out(result, offset, warped, weight.t());
  });
  const Tensor image =
      rows.view({input.size(0), input.size(2), input.size(3), weight.size(0)});
  return in_form_of(output, image.permute({0, 3, 1, 2}));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> flow_conv_backward(
    const Tensor& grad, const Tensor& input, const Tensor& flows, const Tensor& weight,
    double flow_scale, bool input_grad, bool flows_grad, bool weight_grad,
    bool bias_grad) {
  const char* op = "flow_conv_backward";
  check_flow_conv_backward(op, grad, input, flows, weight);
  const DeviceGuard guard(input.device());
  const PlainDispatch plain;
  const Operands operands(input, flows, flow_scale);
  const at::ScalarType sums = opmath_dtype(input);
  const Tensor grad_rows =
      grad.permute({0, 2, 3, 1}).reshape({operands.rows, weight.size(0)});
  Tensor to_input, to_flows, to_weight;
  if (input_grad) to_input = zero_sums(operands.input);
  if (flows_grad) to_flows = empty_image(flows, sums).zero_();
  if (weight_grad) to_weight = at::zeros(weight.sizes(), weight.options().dtype(sums));
  const bool ordered = input_grad && in_fixed_order();
  const Tensor buffer = operands.buffer();
  operands.for_chunks([&](int64_t first, int64_t count) {
    const Tensor tile_grad = grad_rows.narrow(0, first, count);
    Tensor tile = buffer.narrow(0, 0, count);
    if (input_grad || flows_grad) {
      at::mm_out(tile, tile_grad, weight);
      if (ordered) {
        add_in_order({operands.flows, flow_scale, Padding::zeros, first, tile},
                     to_input.permute({0, 2, 3, 1}));
      }
      pull_back(operands, first, count, tile, weight_grad,
                ordered ? Tensor() : to_input, to_flows);
    } else if (weight_grad) {
      gather(operands, first, count, tile);
    }
    // Rounded to the dtype once a chunk, and added up in the opmath type.
    if (weight_grad) to_weight.add_(at::mm(tile_grad.t(), tile));
  });
  return {input_grad ? in_form_of(empty_image(input), to_input) : empty_result(input),
          flows_grad ? to_flows.to(flows.scalar_type()) : empty_result(flows),
          weight_grad ? to_weight.to(weight.scalar_type()) : empty_result(weight),
          bias_grad ? grad_rows.sum(0, false, sums).to(weight.scalar_type())
                    : empty_result(weight)};
}

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  m.impl("flow_conv", &flow_conv);
  m.impl("flow_conv_backward", &flow_conv_backward);
}

}  // namespace
}  // namespace trajgru_ext::cuda
