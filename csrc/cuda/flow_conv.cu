#include "cuda/flow_conv.cuh"

#include <ATen/Dispatch.h>
#include <ATen/ops/sum.h>

#include <algorithm>
#include <tuple>

#include "cuda/flow_conv.h"
#include "cuda/flow_conv_fused.h"
#include "cuda/images.h"
#include "cuda/ordered_sums.h"
#include "cuda/row_products.h"
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

  Operands(const Tensor& input, const Tensor& flows, double flow_scale, int64_t outputs)
      : input(input.contiguous(at::MemoryFormat::ChannelsLast)),
        flows(flows.to(opmath_dtype(input))),
        flow_scale(flow_scale),
        links(flows.size(1) / 2),
        rows(pixels(input)),
        columns(links * input.size(1)),
        chunk(chunk_rows(columns * input.element_size(), outputs, chunk_limits())) {}

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

// The rows of an image [B, C, H, W] in channels last, a pixel each: a view.
Tensor rows_of(const Tensor& image) {
  return image.permute({0, 2, 3, 1}).view({pixels(image), image.size(1)});
}

}  // namespace

Tensor flow_conv(const Tensor& input, const Tensor& flows, const Tensor& weight,
                 const OptionalTensor& bias, double flow_scale) {
  check_flow_conv(input, flows, weight, bias);
  const DeviceGuard guard(input.device());
  const PlainDispatch plain;
  const Tensor output = empty_conv_output(input, weight.size(0));
  if (output.numel() == 0) return output;
  const Operands operands(input, flows, flow_scale, weight.size(0));
  const Tensor image = output.is_contiguous(at::MemoryFormat::ChannelsLast)
                           ? output
                           : empty_channels_last(input, weight.size(0));
  const Tensor whole = weight.contiguous();
  if (flow_conv_is_fused(operands.input, operands.flows, whole)) {
    flow_conv_fused(operands.input, operands.flows, whole, bias, flow_scale, image);
    return in_form_of(output, image);
  }
  const Tensor rows = rows_of(image), buffer = operands.buffer();
  const RowProducts products(whole);
  Tensor result = image;
  operands.for_chunks([&](int64_t first, int64_t count) {
    const Tensor warped = buffer.narrow(0, 0, count);
    gather(operands, first, count, warped);
    Tensor place = rows.narrow(0, first, count);
    const Tensor made = products.forward(warped, bias, place);
    if (made.is_same(place)) return;
    if (count == operands.rows) {
      result = made.as_strided(image.sizes(), image.strides());
    } else {
      place.copy_(made);
    }
  });
  return in_form_of(output, result);
}

namespace {

// The rows of the gradient to the output, copied where its channels do not lie
// together.
Tensor grad_rows_of(const Tensor& grad) {
  return grad.permute({0, 2, 3, 1}).reshape({pixels(grad), grad.size(1)});
}

// Where gradients go, undefined where they are not wanted, in the dtype of sums.
struct FlowConvGrads {
  Tensor input;   // is added to
  Tensor flows;   // is written
  Tensor weight;  // is added to, or written
  bool adds_weight;
};

void add_grads(const Operands& operands, const Tensor& grad_rows, const Tensor& weight,
               FlowConvGrads to) {
  const bool moves = to.input.defined() || to.flows.defined();
  if (!moves && !to.weight.defined()) return;
  const Tensor buffer = operands.buffer();
  const RowProducts products(weight.contiguous());
  const bool ordered = to.input.defined() && in_fixed_order();
  operands.for_chunks([&](int64_t first, int64_t count) {
    const Tensor tile_grad = grad_rows.narrow(0, first, count);
    Tensor tile = buffer.narrow(0, 0, count);
    if (moves) {
      tile = products.rows_grad(tile_grad, tile);
      if (ordered) {
        add_in_order({operands.flows, operands.flow_scale, Padding::zeros, first, tile},
                     to.input.permute({0, 2, 3, 1}));
      }
      pull_back(operands, first, count, tile, to.weight.defined(),
                ordered ? Tensor() : to.input, to.flows);
    } else {
      gather(operands, first, count, tile);
    }
    if (to.weight.defined()) {
      const bool writes = first == 0 && !to.adds_weight;
      products.add_weight_grad(to.weight, tile_grad, tile, writes);
    }
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> flow_conv_backward(
    const Tensor& grad, const Tensor& input, const Tensor& flows, const Tensor& weight,
    double flow_scale, bool input_grad, bool flows_grad, bool weight_grad,
    bool bias_grad) {
  const char* op = "flow_conv_backward";
  check_flow_conv_backward(op, grad, input, flows, weight);
  const DeviceGuard guard(input.device());
  const PlainDispatch plain;
  const Operands operands(input, flows, flow_scale, weight.size(0));
  const at::ScalarType sums = opmath_dtype(input);
  const Tensor grad_rows = grad_rows_of(grad);
  FlowConvGrads to{};
  if (input_grad) to.input = zero_sums(operands.input);
  if (flows_grad) to.flows = empty_image(flows, sums);
  if (weight_grad) to.weight = at::empty(weight.sizes(), weight.options().dtype(sums));
  if (weight_grad && operands.rows == 0) to.weight.zero_();
  add_grads(operands, grad_rows, weight, to);
  return {input_grad ? in_form_of(empty_image(input), to.input) : empty_result(input),
          flows_grad ? to.flows.to(flows.scalar_type()) : empty_result(flows),
          weight_grad ? to.weight.to(weight.scalar_type()) : empty_result(weight),
          bias_grad ? grad_rows.sum(0, false, sums).to(weight.scalar_type())
                    : empty_result(weight)};
}

// For the sequences, straight to the sums where these have their dtype.
void flow_conv_add_grads(const Tensor& grad, const Tensor& input, const Tensor& flows,
                         const Tensor& weight, double flow_scale,
                         const OptionalTensor& input_sum,
                         const OptionalTensor& flows_grad,
                         const OptionalTensor& weight_sum,
                         const OptionalTensor& bias_sum) {
  const char* op = "flow_conv_add_grads";
  check_flow_conv_backward(op, grad, input, flows, weight);
  const DeviceGuard guard(input.device());
  const PlainDispatch plain;
  const Operands operands(input, flows, flow_scale, weight.size(0));
  const at::ScalarType sums = opmath_dtype(input);
  const auto check_sum = [&](const char* name, const OptionalTensor& sum,
                             const Tensor& like, at::ScalarType dtype) {
    TORCH_CHECK_VALUE(!sum.has_value() ||
                          (sum->sizes() == like.sizes() && sum->scalar_type() == dtype),
                      op, ": ", name, " must be ", like.sizes(), " of ", dtype);
  };
  check_sum("input_sum", input_sum, input, input.scalar_type());
  check_sum("flows_grad", flows_grad, flows, sums);
  check_sum("weight_sum", weight_sum, weight, sums);
  const Tensor grad_rows = grad_rows_of(grad);
  FlowConvGrads to{};
  const bool directly = input_sum.has_value() && input.scalar_type() == sums &&
                        input_sum->is_contiguous(at::MemoryFormat::ChannelsLast);
  if (input_sum.has_value()) {
    to.input = directly ? *input_sum : zero_sums(operands.input);
  }
  to.flows = flows_grad.value_or(Tensor());
  to.weight = weight_sum.value_or(Tensor());
  to.adds_weight = true;
  add_grads(operands, grad_rows, weight, to);
  if (input_sum.has_value() && !directly) input_sum->add_(to.input);
  if (bias_sum.has_value()) bias_sum->add_(grad_rows.sum(0, false, sums));
}

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  m.impl("flow_conv", &flow_conv);
  m.impl("flow_conv_backward", &flow_conv_backward);
  m.impl("flow_conv_add_grads", &flow_conv_add_grads);
}

}  // namespace
}  // namespace trajgru_ext::cuda
